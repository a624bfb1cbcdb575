"""Datasets: one in-memory form, named sources, splits, and a synthetic catalogue."""

from semid_lib.data.interactions import Interactions
from semid_lib.data.splits import Split, leave_one_out

__all__ = ["Interactions", "Split", "leave_one_out"]
