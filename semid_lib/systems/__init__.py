"""Named systems: which encoder, quantizer and recommender, with which settings."""

from semid_lib._lazy import lazy

_HOMES = {
    "BRANCHING": "trees", "Cut": "cuts", "ENCODERS": "combining", "FLOORS": "registry",
    "GENERATORS": "combining", "NoText": "system", "OF_ITEMS": "combining", "Plan": "planning",
    "Preset": "system", "QUANTIZERS": "combining", "ROLES": "system", "SWEEPS": "registry",
    "SYSTEMS": "registry", "Settings": "system", "Stage": "planning", "System": "system",
    "TOKENIZERS": "registry", "Variant": "system", "branching": "trees", "combine": "combining",
    "plan": "planning", "sentences": "cuts", "sweep_of": "registry",
    "system_printed_as": "registry", "title": "registry",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
