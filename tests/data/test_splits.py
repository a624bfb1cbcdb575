"""Leave-one-out by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import DataError, InputError, UnorderedError


def build(*sequences, num_items=None, ordered=True):
    user = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    item = np.array([i for s in sequences for i in s], dtype=np.int64)
    return Interactions(
        user.astype(np.int64), item, len(sequences), num_items or int(item.max()) + 1, ordered
    )


@pytest.fixture
def split():
    # user 0: train 0 1 2 | 3 | 4; user 1 is too short to be evaluated; user 2: train 1 | 5 | 0
    return leave_one_out(build([0, 1, 2, 3, 4], [4, 2], [1, 5, 0], num_items=7))


def test_last_is_test_and_the_one_before_is_validation(split):
    assert split.users.tolist() == [0, 2] and split.num_items == 7
    assert split.targets["validation"].tolist() == [3, 5]
    assert split.targets["test"].tolist() == [4, 0]
    assert [s.tolist() for s in split.train_sequences()] == [[0, 1, 2], [4, 2], [1]]
    assert split.train_counts().tolist() == [1, 2, 2, 0, 1, 0, 0]


def test_histories_hold_everything_before_the_target(split):
    assert [h.tolist() for h in split.histories("validation")] == [[0, 1, 2], [1]]
    assert [h.tolist() for h in split.histories("test")] == [[0, 1, 2, 3], [1, 5]]
    assert [h.tolist() for h in split.histories("test", 2)] == [[2, 3], [1, 5]]


def test_cold_targets_are_those_without_a_train_interaction(split):
    assert split.cold_targets("validation").tolist() == [True, True]
    assert split.cold_targets("test").tolist() == [False, False]


def test_windows_by_hand(split):
    def samples(*args):
        start, target = split.windows(*args)
        return [(split.items[s:t].tolist(), int(split.items[t])) for s, t in zip(start, target)]

    assert samples(10) == [([0], 1), ([0, 1], 2), ([4], 2)]
    assert samples(1) == [([0], 1), ([1], 2), ([4], 2)]
    assert samples(10, 2) == [([0, 1], 2)]
    assert samples(10, 0)[0] == ([], 0) and len(samples(10, 0)) == 6


def test_no_held_out_item_enters_a_training_sample(split):
    start, target = split.windows(50)
    rows = {r for s, t in zip(start, target) for r in range(s, t + 1)}
    assert {int(split.items[r]) for r in rows} == {0, 1, 2, 4}  # 4 only through user 1, who trains


def test_refusals(split):
    with pytest.raises(DataError, match="unknown part 'train'"):
        split.histories("train")
    with pytest.raises(DataError, match="unknown part"):
        split.cold_targets("all")
    with pytest.raises(InputError, match="max_history is 0"):
        split.histories("test", 0)
    with pytest.raises(InputError, match="max_history is 0"):
        split.windows(0)
    with pytest.raises(UnorderedError, match="no time order"):
        leave_one_out(build([0, 1, 2], ordered=False))


def test_users_without_any_row_are_skipped():
    data = Interactions(np.array([1, 1, 1]), np.array([0, 1, 2]), 3, 3)
    split = leave_one_out(data)
    assert split.users.tolist() == [1]
    assert [s.tolist() for s in split.train_sequences()] == [[], [0], []]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=9), min_size=1, max_size=6),
       st.integers(1, 5), st.integers(0, 3))  # fmt: skip
def test_windows_equal_a_plain_loop(sequences, longest, shortest):
    split = leave_one_out(build(*sequences, num_items=9))
    truth = []
    for sequence in sequences:
        train = sequence[:-2] if len(sequence) >= 3 else sequence
        for t in range(shortest, len(train)):
            truth.append((train[max(0, t - longest) : t], train[t]))
    start, target = split.windows(longest, shortest)
    found = [(split.items[s:t].tolist(), int(split.items[t])) for s, t in zip(start, target)]
    assert found == truth


def test_a_table_in_memory_goes_all_the_way():
    table = pd.DataFrame({"user": list("aaab"), "item": [9, 5, 7, 9], "timestamp": [3, 1, 2, 0]})
    data = Interactions.from_frame(table)
    split = leave_one_out(data)
    assert data.item_ids[split.targets["test"]].tolist() == [9]
    assert data.item_ids[split.targets["validation"]].tolist() == [7]
