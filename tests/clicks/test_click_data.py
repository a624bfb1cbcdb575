"""Clicks against a row-by-row reading of the definition."""

import numpy as np
import pytest

from semid_lib.clicks import clicks, coldest
from semid_lib.data import Interactions
from semid_lib.errors import DataError, InputError, UnorderedError


def make_data(seed=0, times=True, **more):
    rng = np.random.default_rng(seed)
    sizes = np.array([1, 2, 5, 9, 10, 11, 0, 23])
    user = np.repeat(np.arange(8), sizes)
    item = rng.integers(6, size=len(user))
    time = np.cumsum(rng.integers(0, 2, size=len(user))) if times else None
    rating = rng.integers(1, 6, size=len(user)).astype(np.float32)
    keep = dict(timestamp=time, rating=rating) | more
    return Interactions(user, item, 8, 6, **keep)


@pytest.mark.parametrize("times", [True, False])
def test_parts_and_histories_row_by_row(times):
    data = make_data(times=times)
    shown = clicks(data, threshold=3, max_history=4)
    names = ("train", "validation", "test")
    seen = {name: shown.rows(name).tolist() for name in names}
    for u in range(8):
        rows = np.flatnonzero(data.user == u).tolist()
        n = len(rows)
        ends = int(np.ceil(0.8 * n - 1e-9)), int(np.ceil(0.9 * n - 1e-9))
        parts = dict(zip(names, (rows[: ends[0]], rows[ends[0] : ends[1]], rows[ends[1] :])))
        before = []
        for name in names:
            assert [r for r in seen[name] if data.user[r] == u] == parts[name]
            for row in parts[name]:
                known = before if name != "train" else [r for r in parts["train"] if r < row]
                if times:
                    known = [r for r in known if data.timestamp[r] < data.timestamp[row]]
                wanted = [data.item[r] for r in known if data.rating[r] >= 3][-4:]
                assert shown.clicked[shown.start[row] : shown.end[row]].tolist() == wanted
            before += parts[name]
    np.testing.assert_array_equal(shown.label, data.rating >= 3)


def test_what_the_train_part_holds():
    shown = clicks(make_data(), threshold=3)
    train = shown.rows("train")
    for of in ("item", "user"):
        column = getattr(shown.data, of)[train]
        wanted = [(column == n).sum() for n in range(6 if of == "item" else 8)]
        assert shown.train_counts(of).tolist() == wanted
    split = shown.train_split()
    for u, items in enumerate(split.train_sequences()):
        mine = train[(shown.data.user[train] == u) & shown.label[train]]
        assert items.tolist() == shown.data.item[mine].tolist()
    assert len(split.users) == 0 and "train" in repr(shown)


def test_coldest_keeps_equal_counts_together():
    counts = np.array([0, 1, 1, 5, 5, 5, 9, 20, 20, 34])
    assert coldest(counts, 0.1).tolist() == [True] + [False] * 9
    assert coldest(counts, 0.3).tolist() == [True] * 3 + [False] * 7
    assert coldest(counts, 0.59).tolist() == [True] * 3 + [False] * 7  # not half of the fives
    assert coldest(counts, 0.05).sum() == 1  # at least the lowest count
    assert coldest(counts, 0.17, by="impressions").sum() == 6  # 17 of 100 impressions
    with pytest.raises(InputError, match="by='rows'"):
        coldest(counts, by="rows")
    with pytest.raises(InputError, match="share=1"):
        coldest(counts, 1)


def test_bad_input():
    with pytest.raises(UnorderedError, match="no time order"):
        clicks(make_data(ordered=False))
    with pytest.raises(DataError, match="has no ratings"):
        clicks(make_data(rating=None))
    rating = make_data().rating.copy()
    rating[7] = np.nan
    with pytest.raises(DataError, match="row 7"):
        clicks(make_data(rating=rating))
    for wrong in ((8, 1), (0, 1, 1), (0.8, 0.1, 0.1), (8, -1, 1)):
        with pytest.raises(InputError, match="shares"):
            clicks(make_data(), shares=wrong)
    with pytest.raises(InputError, match="max_history"):
        clicks(make_data(), max_history=0)
    with pytest.raises(DataError, match="unknown part"):
        clicks(make_data()).rows("dev")
