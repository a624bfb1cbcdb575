"""Encoders: from item fields, text or behaviour to one vector per item."""

from semid_lib._lazy import lazy

_HOMES = {"ALS": "behaviour", "FAMAE": "famae", "TextEncoder": "text"}
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
