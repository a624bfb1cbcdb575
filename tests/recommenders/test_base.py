"""What every recommender shares: errors at the boundary, ids, ties, files."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import semid_lib.recommenders
from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import (
    CheckpointError,
    DataError,
    EmptyHistoryError,
    InputError,
    NotFittedError,
    UnknownItemError,
)
from semid_lib.recommenders.base import PADDING, Recommender
from semid_lib.storage import load_tensors, save_tensors


class Linear(Recommender):
    """Scores of item j: weight_j, the same for all."""

    def __init__(self, slope=1.0):
        self.slope = slope

    def fit(self, split, sids=None):
        import torch

        self.remember(split)
        self.weight_ = torch.arange(split.num_items, dtype=torch.float64) * self.slope
        return self

    def scores(self, histories):
        return np.tile(self.weight_.numpy(), (len(histories), 1))

    def state(self):
        return {"weight": self.weight_}

    def restore(self, tensors):
        self.weight_ = tensors["weight"]


class Writer(Recommender):
    """Writes items 0, 1, 2 and no more."""

    scores_all_items = False

    def fit(self, split, sids=None):
        self.remember(split)
        return self

    def generate(self, histories, k, exclude_history):
        row = np.where(np.arange(k) < 3, np.arange(k), PADDING)
        scores = np.where(row >= 0, -np.arange(k, dtype=float), -np.inf)
        return np.tile(row, (len(histories), 1)), np.tile(scores, (len(histories), 1))


def split_of(num_items=6, item_ids=None):
    items = np.arange(num_items)
    return leave_one_out(
        Interactions(np.zeros(num_items, int), items, 1, num_items, item_ids=item_ids)
    )


NAMES = np.array(["a", "b", "c", "d", "e", "f"])


def test_ranking_of_a_worked_example():
    model = Linear().fit(split_of())
    items, scores = model.recommend([[0], [5, 1]], k=3, return_scores=True)
    assert items.tolist() == [[5, 4, 3]] * 2 and scores.tolist() == [[5, 4, 3]] * 2
    assert items.dtype == np.int64
    assert model.recommend([[0], [5, 4]], k=2, exclude_history=True).tolist() == [[5, 4], [3, 2]]


def test_too_few_items_are_padded():
    items, scores = (
        Linear()
        .fit(split_of())
        .recommend([[0, 1, 2, 3]], k=4, exclude_history=True, return_scores=True)
    )
    assert items.tolist() == [[5, 4, PADDING, PADDING]]
    assert np.isneginf(scores[0, 2:]).all()


def test_ties_stand_in_a_fixed_order_that_is_not_the_index():
    data = Interactions(np.zeros(200, int), np.arange(200), 1, 200)
    model = Linear(slope=0.0).fit(leave_one_out(data))
    first = model.recommend([[0]], k=200)[0]
    assert (first == model.recommend([[1], [2]], k=200)[1]).all()
    assert sorted(first) == list(range(200))
    assert abs(np.corrcoef(first, np.arange(200))[0, 1]) < 0.3


@pytest.mark.parametrize("k", [0, -1, 7])
def test_k_outside_the_catalogue(k):
    with pytest.raises(InputError, match=rf"k is {k}, but must lie in 1\.\.6"):
        Linear().fit(split_of()).recommend([[0]], k=k)


@pytest.mark.parametrize("k", [0, 3])
def test_not_fitted(k, tmp_path):
    with pytest.raises(NotFittedError, match="Linear is not fitted"):
        Linear().recommend([[0]], k=k)
    with pytest.raises(NotFittedError):
        Linear().score_items([[0]])
    with pytest.raises(NotFittedError):
        Linear().save(tmp_path / "x")


def test_empty_history():
    with pytest.raises(EmptyHistoryError, match="history 1 is empty.*Popularity"):
        Linear().fit(split_of()).recommend([[0], []], k=1)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([0, 6], r"item 6 of history 1 is outside the catalogue 0\.\.5"),
        ([-1], r"item -1 of history 1"),
        ([1.0], r"history 1 holds .*1\.0.*integers"),
        (["a"], r"integers 0..N-1 here"),
        ([True], r"integers"),
        (np.array([2**64 - 1], dtype=np.uint64), "outside the catalogue"),
    ],
)
def test_unknown_items(history, message):
    with pytest.raises(UnknownItemError, match=message):
        Linear().fit(split_of()).recommend([[0], history], k=1)


def test_original_ids_go_in_and_come_out():
    model = Linear().fit(split_of(item_ids=NAMES))
    assert model.recommend([["a"], ["f", "b"]], k=2, exclude_history=True).tolist() == [
        ["f", "e"],
        ["e", "d"],
    ]
    with pytest.raises(UnknownItemError, match="'z' of history 0 is not in the catalogue of 6"):
        model.recommend([["z"]], k=1)
    with pytest.raises(UnknownItemError):
        model.recommend([[0]], k=1)


def test_original_integer_ids_are_not_positions():
    model = Linear().fit(split_of(item_ids=np.array([60, 50, 40, 30, 20, 10])))
    assert model.recommend([[60]], k=2).tolist() == [[10, 20]]
    with pytest.raises(UnknownItemError, match="item 0 of history 0"):
        model.recommend([[0]], k=1)


def test_padding_of_original_ids_is_none():
    items = Writer().fit(split_of(item_ids=NAMES)).recommend([["a"]], k=4)
    assert items.tolist() == [["a", "b", "c", None]]


def test_generators_do_not_score():
    model = Writer().fit(split_of())
    assert not model.scores_all_items and Linear().scores_all_items
    assert model.recommend([[0]], k=4).tolist() == [[0, 1, 2, PADDING]]
    with pytest.raises(TypeError, match="Writer generates items"):
        model.score_items([[0]])


def test_save_and_load(tmp_path):
    model = Linear(slope=2.0).fit(split_of(item_ids=NAMES))
    again = Linear.load(model.save(tmp_path / "model.safetensors"))
    assert again.slope == 2.0 and again.num_items_ == 6
    assert again.recommend([["a"]], k=2).tolist() == [["f", "e"]]


def test_a_file_of_another_model(tmp_path):
    class Other(Linear):
        pass

    path = Linear().fit(split_of()).save(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="'Linear', not a 'Other'"):
        Other.load(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="40 bytes"):
        Linear.load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        Linear.load(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [{"params": {"slope": 1.0, "steep": 2}}, {"params": 3}, {"num_items": None}, {"tensor": 0}],
)
def test_a_file_that_lacks_something_or_holds_more_is_refused(change, tmp_path):
    path = Linear().fit(split_of()).save(tmp_path / "model.safetensors")
    tensors, meta = load_tensors(path)
    if "tensor" in change:
        tensors = {"other": tensors["weight"]}
    elif change.get("num_items", 1) is None:
        del meta["num_items"]
    else:
        meta |= change
    save_tensors(path, tensors, meta)
    with pytest.raises(CheckpointError, match="does not hold what a Linear is made of"):
        Linear.load(path)


@pytest.mark.parametrize("k", [1.5, None, True, "3", [3]])
def test_a_k_that_is_no_integer_is_refused(k):
    with pytest.raises(InputError, match="k is "):
        Linear().fit(split_of()).recommend([[0]], k)


@pytest.mark.parametrize(
    "histories, error",
    [([None], InputError), (None, InputError), (5, InputError), (["01"], InputError),
     ([[[0, 1]]], UnknownItemError), ([[[0], [1, 2]]], UnknownItemError),
     ([[{}]], UnknownItemError), ([[1.5]], UnknownItemError)],
)  # fmt: skip
@pytest.mark.parametrize("ids", [None, list("abcdef")])
def test_histories_that_are_none_are_refused(histories, error, ids):
    model = Linear().fit(split_of(item_ids=None if ids is None else np.array(ids, object)))
    with pytest.raises(error):
        model.recommend(histories, 2)


def test_numbers_of_numpy_as_settings_are_saved(tmp_path):
    path = Linear(slope=np.float64(2)).fit(split_of()).save(tmp_path / "model")
    assert Linear.load(path).get_params() == {"slope": 2.0}
    path = Linear(slope=np.int64(2)).fit(split_of()).save(tmp_path / "model")
    assert Linear.load(path).get_params() == {"slope": 2}


def objects(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    "ids",
    [objects(1, "a", 2, "b", "3", 3), objects(*(np.int64(i) for i in (5, 7, 9, 11, 13, 15))),
     objects("a\0", "b", "", "é", " ", "a"), objects(2**70, 1, 2, 3, 4, 5), np.arange(6) * 10,
     np.array(list("abcdef"))],
)  # fmt: skip
def test_ids_come_back_exactly(ids, tmp_path):
    model = Linear().fit(split_of(item_ids=ids))
    again = Linear.load(model.save(tmp_path / "model"))
    given = [item.item() if isinstance(item, np.generic) else item for item in ids.tolist()]
    for one in (model, again):
        assert one.item_ids_.tolist() == given
        assert [type(item) for item in one.item_ids_.tolist()] == [type(item) for item in given]
        assert one.recommend([[given[0]], given], 6).tolist() == [given[::-1]] * 2


@pytest.mark.parametrize("item", [pd.Timestamp("2020-01-01"), b"a", 1.5, True, None, (1, 2)])
def test_ids_that_could_not_come_back_are_refused_before_anything(item):
    with pytest.raises(DataError, match="ids must be whole numbers or text"):
        split_of(item_ids=objects("a", "b", "c", "d", "e", item))


def test_the_subpackage_imports_nothing_heavy():
    code = (
        "import sys, semid_lib.recommenders;"
        "print(*{'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_names_of_the_subpackage():
    assert semid_lib.recommenders.Recommender is Recommender
    assert set(dir(semid_lib.recommenders)) >= {"Popularity", "MarkovChain", "ItemKNN", "SASRec"}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        semid_lib.recommenders.Nothing  # noqa: B018
