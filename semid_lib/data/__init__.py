"""Datasets: one in-memory form, named sources, splits, and a synthetic catalogue."""

from semid_lib._lazy import lazy

_HOMES = {
    "BUCKETS": "preprocess", "MISSING": "interactions", "CatalogueTruth": "synthetic",
    "DatasetInfo": "sources", "Interactions": "interactions", "Split": "splits",
    "bucket_shares": "preprocess", "describe": "preprocess", "drop_incomplete_items": "preprocess",
    "fetch": "sources", "k_core": "preprocess", "leave_one_out": "splits",
    "list_datasets": "sources", "load_dataset": "sources", "read_amazon": "amazon",
    "same_day_users": "preprocess", "synthetic_catalogue": "synthetic",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
