"""Datasets: one in-memory form, named sources, splits, and a synthetic catalogue."""

from semid_lib.data.amazon import read_amazon
from semid_lib.data.click_data import Clicks, clicks, coldest
from semid_lib.data.interactions import MISSING, Interactions
from semid_lib.data.preprocess import (
    BUCKETS,
    bucket_shares,
    describe,
    drop_incomplete_items,
    k_core,
    same_day_users,
)
from semid_lib.data.sources import DatasetInfo, fetch, list_datasets, load_dataset
from semid_lib.data.splits import Split, leave_one_out
from semid_lib.data.synthetic import CatalogueTruth, synthetic_catalogue

__all__ = [
    "BUCKETS", "MISSING", "CatalogueTruth", "Clicks", "DatasetInfo", "Interactions", "Split",
    "bucket_shares", "clicks", "coldest", "describe", "drop_incomplete_items", "fetch",
    "k_core", "leave_one_out", "list_datasets", "load_dataset", "read_amazon", "same_day_users",
    "synthetic_catalogue",
]  # fmt: skip
