"""Filters, and what a dataset is like: counts, cold targets, days, popularity buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from semid_lib.data.interactions import MISSING, Interactions
from semid_lib.data.splits import Split, check_part, leave_one_out
from semid_lib.errors import DataError, InputError

DAY = 86_400
BUCKETS = ("0-5", "6-10", "11-15", "16-20", "21-inf")
BUCKET_ENDS = (5, 10, 15, 20)


def k_core(data: Interactions | pd.DataFrame, k: int = 5) -> Interactions | pd.DataFrame:
    """Drop users and items with fewer than k interactions, until none is left to drop.

    Source: the "5-core" of all three papers (ReSID 4.1, ACERec 3.1). The result is the largest set
    of rows in which every user and item has at least k; the order of dropping does not matter.

    Args:
        data: `Interactions`, or a table with columns `user` and `item` of any ids.
        k: least number of interactions.

    Returns:
        The same kind. A table keeps its ids, order and columns. `Interactions` are renumbered
        from 0; `item_ids` and `user_ids` say who they were.

    Raises:
        InputError: k is below 1. DataError: nothing is left, or the table lacks a column.

    Cost: O(M) per round, few rounds.
    """
    if not isinstance(data, pd.DataFrame):
        return _take_rows(data, core_rows(data.user, data.item, k))
    if not {"user", "item"} <= set(data.columns):
        raise DataError(f"a k-core needs columns user and item, not {list(data.columns)}")
    return data[core_rows(pd.factorize(data["user"])[0], pd.factorize(data["item"])[0], k)]


def core_rows(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """`[M]` bool: the rows of the k-core; of users and items numbered from 0, -1 is dropped."""
    if k < 1:
        raise InputError(f"k is {k}, but a user needs at least 1 interaction to exist")
    keep = (user >= 0) & (item >= 0)
    while keep.any():
        enough = np.bincount(user[keep])[user[keep]] >= k
        enough &= np.bincount(item[keep])[item[keep]] >= k
        if enough.all():
            return keep
        keep[np.flatnonzero(keep)[~enough]] = False
    raise DataError(f"no {k}-core: every user or item ends up with fewer than {k} interactions")


def drop_incomplete_items(data: Interactions, fields: Sequence[str] | None = None) -> Interactions:
    """Drop the items that lack any of `fields` (all of them by default), with their interactions.

    Source: ReSID's filter, "items lacking store or any of 3 category levels" (section 4.1).
    """
    whole = np.ones(data.num_items, dtype=bool)
    for name in data.fields if fields is None else fields:
        if name not in data.fields:
            raise DataError(f"no field {name!r}; {data.name!r} has {list(data.fields)}")
        whole &= data.fields[name] != MISSING
    return _take_rows(data, whole[data.item])


def _take_rows(data: Interactions, keep: np.ndarray) -> Interactions:
    """Keep the rows where `keep` `[M]` is True, and renumber users and items from 0 in order."""
    if not keep.any():
        raise DataError(f"no interaction of {data.name!r} is left after the filter")
    columns = {name: getattr(data, name) for name in ("user", "item", "timestamp", "rating")}
    data = replace(data, **{n: c if c is None else c[keep] for n, c in columns.items()})
    users, user = np.unique(data.user, return_inverse=True)
    items, item = np.unique(data.item, return_inverse=True)
    fields, values = {}, {}
    for name, codes in data.fields.items():
        left, new = np.unique(codes[items], return_inverse=True)
        absent = int(MISSING in left)  # it sorts first
        fields[name] = new.astype(np.int64) - absent
        if name in data.field_values:
            values[name] = [data.field_values[name][code] for code in left[absent:]]
    if len(items) < data.num_items or len(users) < data.num_users:
        item_ids = items if data.item_ids is None else data.item_ids[items]
        user_ids = users if data.user_ids is None else data.user_ids[users]
        data = replace(data, item_ids=item_ids, user_ids=user_ids)
    return replace(
        data,
        user=user.astype(np.int64), item=item.astype(np.int64), num_users=len(users),
        num_items=len(items), fields=fields, field_values=values,
        items=None if data.items is None else data.items.iloc[items].reset_index(drop=True),
    )  # fmt: skip


def held_out_rows(user: np.ndarray) -> np.ndarray:
    """`[M]` bool: each user's last two rows, for users with at least 3 (rows sorted by user)."""
    _, first, count = np.unique(user, return_index=True, return_counts=True)
    end = (first + count)[count >= 3]
    held = np.zeros(len(user), dtype=bool)
    held[end - 1] = held[end - 2] = True
    return held


def same_day_users(data: Interactions) -> np.ndarray:
    """`[U]` bool: users whose last two interactions carry the same UTC day.

    Their test item does not provably follow their validation item. Raises DataError without
    timestamps.
    """
    if data.timestamp is None:
        raise DataError(f"{data.name!r} has no timestamps, so days cannot be compared")
    day = data.timestamp // DAY
    begin, end = data.indptr[:-1], data.indptr[1:]
    pairs = np.flatnonzero(end - begin >= 2)
    same = np.zeros(data.num_users, dtype=bool)
    same[pairs] = day[end[pairs] - 1] == day[end[pairs] - 2]
    return same


def bucket_shares(split: Split, part: str = "test") -> dict[str, float]:
    """Percentage of the targets of `part` in each of `BUCKETS`, by their count in the train part.

    Source: ACERec Table 6. Counting a target once per evaluated user, by how often its item occurs
    in the train part, reproduces the printed percentages to the two printed digits.
    """
    check_part(part)
    bucket = np.searchsorted(BUCKET_ENDS, split.train_counts()[split.targets[part]])
    counts = np.bincount(bucket, minlength=len(BUCKETS))
    return dict(zip(BUCKETS, (100 * counts / counts.sum()).tolist()))


def describe(data: Interactions) -> dict:
    """Count what papers print about a dataset, and what the protocol does to it.

    Lengths are per user, `density` is the share of user-item pairs. For ordered data also
    `evaluated_users` (at least 3 interactions), `train_interactions`, `cold_validation` and
    `cold_test` (targets that never occur in the train part; they are ranked all the same); with
    timestamps `same_day_share` (evaluated users whose last two interactions fall on one day).
    """
    lengths = np.bincount(data.user, minlength=data.num_users)
    fields = {}
    for name, codes in data.fields.items():
        missing = float((codes == MISSING).mean())
        fields[name] = {"values": int(codes.max(initial=MISSING)) + 1, "missing_share": missing}
    about = {
        "name": data.name, "users": data.num_users, "items": data.num_items,
        "interactions": data.num_interactions, "density": data.density,
        "mean_length": float(lengths.mean()), "min_length": int(lengths.min()),
        "max_length": int(lengths.max()),
        "min_item_count": int(np.bincount(data.item, minlength=data.num_items).min()),
        "ordered": data.ordered, "fields": fields,
    }  # fmt: skip
    if data.ordered:
        split = leave_one_out(data)
        about["evaluated_users"] = len(split.users)
        about["train_interactions"] = len(split.items)
        for part in ("validation", "test"):
            about[f"cold_{part}"] = int(split.cold_targets(part).sum())
        if data.timestamp is not None and len(split.users):
            about["same_day_share"] = float(same_day_users(data)[split.users].mean())
    return about
