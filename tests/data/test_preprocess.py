"""Filters and statistics, by hand, by brute force, and against ACERec's printed Table 6."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib.data import (
    BUCKETS,
    Interactions,
    bucket_shares,
    describe,
    drop_incomplete_items,
    k_core,
    leave_one_out,
    load_dataset,
    same_day_users,
)
from semid_lib.errors import DataError, InputError

# ACERec, Table 6: percentage of test items by their frequency in training, as printed
TABLE_6 = {
    "sports": (27.98, 19.15, 10.66, 7.26, 34.95),
    "beauty": (27.71, 19.05, 11.35, 6.84, 35.05),
    "toys": (32.19, 20.66, 11.47, 7.49, 28.19),
    "instruments": (38.84, 24.28, 12.53, 5.67, 18.68),
    "office": (28.38, 15.11, 9.42, 6.79, 40.30),
}


@pytest.fixture
def data():
    """Three users, four items; item 3 lacks a brand, user 2 is short."""
    table = pd.DataFrame(
        {
            "user": [0, 0, 0, 0, 1, 1, 1, 2, 2],
            "item": [0, 1, 2, 3, 1, 2, 0, 3, 1],
            "timestamp": [0, 86_399, 86_400, 86_401, 5, 86_399, 86_400, 7, 8],
            "rating": [1, 2, 3, 4, 5, 1, 2, 3, 4],
        }
    )
    items = pd.DataFrame(
        {"item": range(4), "title": ["A", "B", "", "D"], "brand": ["x", "y", "x", None]}
    )
    return Interactions.from_frame(table, items, ["brand"], name="small")


def core_one_by_one(pairs, k):
    """The k-core by dropping a single poor user or item at a time, in any order."""
    left = set(pairs)
    while left:
        for side in (0, 1):
            counts = {}
            for pair in left:
                counts[pair[side]] = counts.get(pair[side], 0) + 1
            poor = [who for who, count in counts.items() if count < k]
            if poor:
                left = {pair for pair in left if pair[side] != poor[0]}
                break
        else:
            return left
    return left


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1), st.integers(1, 4))
def test_k_core_is_that_of_a_plain_loop(pairs, k):
    truth = core_one_by_one(pairs, k)
    table = pd.DataFrame(sorted(pairs), columns=["user", "item"])
    data = Interactions.from_frame(table, ordered=True)
    if not truth:
        for form in (table, data):
            with pytest.raises(DataError, match=f"no {k}-core"):
                k_core(form, k)
        return
    assert set(k_core(table, k).itertuples(index=False, name=None)) == truth
    core = k_core(data, k)
    assert (core.num_users, core.num_items) == tuple(len({p[s] for p in truth}) for s in (0, 1))
    users = np.arange(core.num_users) if core.user_ids is None else core.user_ids
    items = np.arange(core.num_items) if core.item_ids is None else core.item_ids
    assert set(zip(users[core.user].tolist(), items[core.item].tolist())) == truth


def test_k_core_renumbers_fields_and_items_and_remembers_ids():
    table = pd.DataFrame({"user": list("aaabbbc"), "item": list("wxywxzz"), "position": range(7)})
    items = pd.DataFrame({"item": list("zyxw"), "brand": ["p", "q", "r", "q"]})
    core = k_core(Interactions.from_frame(table, items, ["brand"]), 2)
    assert [s.tolist() for s in core.sequences()] == [[1, 0], [1, 0]]
    assert core.item_ids.tolist() == ["x", "w"] and core.user_ids.tolist() == ["a", "b"]
    assert core.items["brand"].tolist() == ["r", "q"]
    assert core.fields["brand"].tolist() == [1, 0] and core.field_values["brand"] == ["q", "r"]
    again = k_core(core, 2)
    assert again.item_ids.tolist() == ["x", "w"]
    with pytest.raises(InputError, match="k is 0"):
        k_core(core, 0)


def test_k_core_of_a_table_keeps_its_columns():
    table = pd.DataFrame({"user": list("aabbc"), "item": [1, 2, 1, 2, 1], "note": range(5)})
    assert k_core(table, 2)["note"].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="columns user and item"):
        k_core(table.drop(columns="user"), 2)


def test_incomplete_items_are_dropped_with_their_rows(data):
    whole = drop_incomplete_items(data)
    assert whole.num_items == 3 and whole.num_interactions == 7
    assert [s.tolist() for s in whole.sequences()] == [[0, 1, 2], [1, 2, 0], [1]]
    assert whole.item_ids.tolist() == [0, 1, 2] and whole.timestamp.tolist()[-1] == 8
    with pytest.raises(DataError, match="no field 'store'"):
        drop_incomplete_items(data, ["store"])


def test_a_filter_that_leaves_nothing_says_so(data):
    bare = Interactions.from_frame(
        pd.DataFrame({"user": [0], "item": [0]}), pd.DataFrame({"item": [0], "f": [None]}), ["f"]
    )
    with pytest.raises(DataError, match="no interaction .* is left"):
        drop_incomplete_items(bare)


def test_describe_by_hand(data):
    about = describe(data)
    assert about == {
        "name": "small", "users": 3, "items": 4, "interactions": 9, "density": 0.75,
        "mean_length": 3.0, "min_length": 2, "max_length": 4, "min_item_count": 2, "ordered": True,
        "fields": {"brand": {"values": 2, "missing_share": 0.25}},
        "evaluated_users": 2,  # user 2 has only two
        "train_interactions": 5,  # user 0: items 0 1, user 1: item 1, user 2: items 3 1
        "cold_validation": 2,  # both validation targets are item 2, never in the train part
        "cold_test": 0,  # items 3 and 0
        "same_day_share": 0.5,  # user 0: 86400 and 86401; user 1: 86399 and 86400
    }  # fmt: skip


def test_same_day_users(data):
    assert same_day_users(data).tolist() == [True, False, True]
    with pytest.raises(DataError, match="no timestamps"):
        same_day_users(Interactions(data.user, data.item, 3, 4))


def test_describe_without_order():
    about = describe(Interactions(np.array([0, 0]), np.array([0, 1]), 1, 2, ordered=False))
    assert "cold_test" not in about and "same_day_share" not in about and not about["ordered"]


def test_buckets_at_their_edges():
    """Items 0..7 occur 0, 1, 5, 6, 10, 11, 20 and 21 times in training; each is a target once."""
    counts = [0, 1, 5, 6, 10, 11, 20, 21]
    trainers = [[item] for item, count in enumerate(counts) for _ in range(count)]
    sequences = trainers + [[7, 7, item] for item in range(8)]
    user = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    data = Interactions(user, np.concatenate(sequences).astype(np.int64), len(sequences), 8)
    split = leave_one_out(data)
    counts[7] += 8  # each evaluated user's first item is a training item
    assert split.train_counts().tolist() == counts
    assert list(bucket_shares(split).values()) == [37.5, 25, 12.5, 12.5, 12.5]
    assert list(bucket_shares(split, "validation").values()) == [0, 0, 0, 0, 100]
    with pytest.raises(DataError, match="unknown part"):
        bucket_shares(split, "train")


@pytest.mark.parametrize("name", TABLE_6)
def test_acerec_table_6_is_recomputed(name, shared_data, monkeypatch):
    """Office's last bucket is 40.306 and printed 40.30; all others round to the printed digits."""
    monkeypatch.setenv("SEMID_DATA", str(shared_data))
    shares = bucket_shares(leave_one_out(load_dataset(name)))
    assert tuple(shares) == BUCKETS
    np.testing.assert_allclose(list(shares.values()), TABLE_6[name], rtol=0, atol=0.0061)
    assert sum(shares.values()) == pytest.approx(100)


def test_day_ties_of_instruments(shared_data, monkeypatch):
    """The data's own description says 47% of adjacent pairs fall on one day."""
    monkeypatch.setenv("SEMID_DATA", str(shared_data))
    data = load_dataset("instruments")
    same_user = np.diff(data.user) == 0
    assert (np.diff(data.timestamp) == 0)[same_user].mean() == pytest.approx(0.47, abs=0.005)
    assert 0 < describe(data)["same_day_share"] < 1
