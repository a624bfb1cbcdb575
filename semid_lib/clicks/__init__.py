"""The click model: impressions, DIN, AUC."""

from semid_lib._lazy import lazy

_HOMES = {
    "Clicks": "data", "DIN": "din", "PARTS": "data", "clicks": "data", "coldest": "data",
    "uauc": "auc", "user_auc": "auc",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
