"""The click model: impressions, DIN, AUC, recorded runs."""

from semid_lib._lazy import lazy

_HOMES = {
    "ClickEntry": "runs", "ClickModel": "base", "Clicks": "data", "DIN": "din", "PARTS": "data",
    "click_entries": "runs", "clicks": "data", "coldest": "data", "record_clicks": "runs",
    "uauc": "auc", "user_auc": "auc",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
