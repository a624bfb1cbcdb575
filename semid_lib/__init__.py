"""Semantic IDs for generative recommendation: from item fields to ranked items."""

from semid_lib._lazy import lazy

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy(__name__, {"setup": "reports"})
