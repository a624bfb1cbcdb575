"""Named systems: which encoder, quantizer and recommender, with which settings."""

from semid_lib._lazy import lazy

_HOMES = {
    "BRANCHING": "planning", "FLOORS": "planning", "Plan": "planning", "ROLES": "planning",
    "SWEEPS": "planning", "SYSTEMS": "planning", "Settings": "planning", "Stage": "planning",
    "System": "planning", "TOKENIZERS": "planning", "branching": "planning", "plan": "planning",
    "system_printed_as": "planning", "title": "planning",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
