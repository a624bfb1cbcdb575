"""Floors, against hand-worked counts, scikit-learn, and a plain loop over real data."""

import gzip
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics.pairwise import cosine_similarity

from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import CheckpointError, EmptyHistoryError, InputError, NotFittedError
from semid_lib.evaluation import evaluate
from semid_lib.recommenders import ItemKNN, MarkovChain, Popularity, floors
from semid_lib.storage import load_tensors, save_tensors

FLOORS = [Popularity(), MarkovChain(), ItemKNN(), ItemKNN(neighbours=2, shrinkage=1.5)]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def split_of(sequences, num_items, **more):
    return leave_one_out(
        Interactions(
            user=np.repeat(np.arange(len(sequences)), [len(s) for s in sequences]),
            item=np.concatenate(sequences).astype(np.int64),
            num_users=len(sequences),
            num_items=num_items,
            **more,
        )
    )


# Each user's last two are held out, so the train part is 0 1 2 | 0 1 | 1 2, and item 3 is cold.
SMALL = split_of([[0, 1, 2, 3, 0], [0, 1, 3, 3], [1, 2, 3, 1]], 4)


def test_popularity_of_a_worked_example():
    model = Popularity().fit(SMALL)
    assert model.score_items([[0], [3]]).tolist() == [[2, 3, 2, 0]] * 2
    assert model.recommend([[]], k=1).tolist() == [[1]]


def test_markov_of_a_worked_example():
    # Pairs: 0>1 twice, 1>2 twice; nothing crosses users (2>0, 1>1 do not count). M = 7.
    model = MarkovChain().fit(SMALL)
    popularity = np.array([2, 3, 2, 0]) / 8
    np.testing.assert_allclose(model.score_items([[0]])[0], popularity + [0, 2, 0, 0])
    np.testing.assert_allclose(model.score_items([[0, 1]])[0], popularity + [0, 0, 2, 0])
    np.testing.assert_allclose(model.score_items([[1, 2], [3]]), [popularity] * 2)
    assert model.recommend([[0, 1]], k=2).tolist() == [[2, 1]]


def test_markov_count_beats_any_popularity():
    # 500 users take item 0; one pair 2 > 1 still ranks item 1 first after item 2.
    sequences = [[0, 3, 3]] * 500 + [[2, 1, 3, 3]]
    model = MarkovChain().fit(split_of(sequences, 4))
    scores = model.score_items([[2]])[0]
    assert scores.argmax() == 1 and scores[0] < 1 < scores[1]


def test_item_knn_of_a_worked_example():
    # Users' train sets {0,1,2}, {0,1}, {1,2}: n = 2, 3, 2, 0; n01 = 2, n02 = 1, n12 = 2.
    a, b = 2 / np.sqrt(6), 1 / 2
    model = ItemKNN().fit(SMALL)
    np.testing.assert_allclose(
        model.score_items([[0], [0, 1], [3]]),
        [[0, a, b, 0], [a, a, a + b, 0], [0, 0, 0, 0]],
        atol=1e-11,
    )
    shrunk = ItemKNN(shrinkage=2.0).fit(SMALL).score_items([[0]])[0]
    np.testing.assert_allclose(shrunk, [0, 2 / (np.sqrt(6) + 2), 1 / 4, 0], atol=1e-11)
    nearest = ItemKNN(neighbours=1).fit(SMALL)
    np.testing.assert_allclose(nearest.score_items([[0]])[0], [0, a, 0, 0], atol=1e-11)
    # Item 1 is equally near to 0 and 2: both stay, whatever their index.
    np.testing.assert_allclose(nearest.score_items([[1]])[0], [a, 0, a, 0], atol=1e-11)


def random_split(seed=0, num_items=30):
    rng = np.random.default_rng(seed)
    return split_of([rng.integers(0, num_items, rng.integers(3, 12)) for _ in range(80)], num_items)


def test_item_knn_equals_sklearn():
    split = random_split()
    taken = np.zeros((80, 30))
    for user, sequence in enumerate(split.train_sequences()):
        taken[user, sequence] = 1
    similar = cosine_similarity(taken.T)
    np.fill_diagonal(similar, 0)
    histories = split.histories("test")
    truth = [similar[history].sum(axis=0) for history in histories]
    np.testing.assert_allclose(ItemKNN().fit(split).score_items(histories), truth, atol=1e-10)


def test_item_knn_scores_alike_however_dense_the_similarities(monkeypatch):
    split = random_split()
    model = ItemKNN().fit(split)
    assert model.similarity_.nnz > 0.1 * 30**2
    histories = split.histories("test")
    dense = model.score_items(histories)
    monkeypatch.setattr(floors, "_SMALL", 0)
    np.testing.assert_array_equal(dense, model.score_items(histories))


@pytest.mark.parametrize("model", FLOORS, ids=str)
def test_relabelling_items_changes_nothing(model):
    split = random_split()
    relabel = np.random.default_rng(1).permutation(30)
    moved = split_of([relabel[s] for s in split.data.sequences()], 30)
    before, after = (
        evaluate(model.fit(s), s, "test", ks=(1, 5)).metrics("unseen") for s in (split, moved)
    )
    assert before == pytest.approx(after, abs=1e-12)


@pytest.mark.parametrize("model", FLOORS, ids=str)
def test_only_the_train_part_is_read(model):
    split = random_split()
    changed = [s.copy() for s in split.data.sequences()]
    for sequence in changed:
        sequence[-2:] = 29 - sequence[-2:]
    other = split_of(changed, 30)
    histories = [[3, 4], [7]]
    before = model.fit(split).score_items(histories)
    assert (before == model.fit(other).score_items(histories)).all()


@pytest.mark.parametrize("model", FLOORS, ids=str)
def test_save_and_load(model, tmp_path):
    split = split_of(
        random_split().data.sequences(), 30, item_ids=np.array([f"i{n}" for n in range(30)])
    )
    path = model.fit(split).save(tmp_path / "floor.safetensors")
    again = type(model).load(path)
    assert again.get_params() == model.get_params()
    histories = [["i3", "i4"], ["i7"]]
    assert (again.score_items(histories) == model.score_items(histories)).all()
    assert (again.recommend(histories, k=5) == model.recommend(histories, k=5)).all()
    other = Popularity if not isinstance(model, Popularity) else MarkovChain
    with pytest.raises(CheckpointError, match="file of another model"):
        other.load(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cut short"):
        type(model).load(path)


def test_a_file_with_foreign_indices_is_refused(tmp_path):
    path = MarkovChain().fit(SMALL).save(tmp_path / "chain.safetensors")
    tensors, meta = load_tensors(path)
    tensors["indices"][:] = 10**6
    save_tensors(path, tensors, meta)
    with pytest.raises(CheckpointError, match="sparse matrix"):
        MarkovChain.load(path)
    del tensors["backoff"]
    save_tensors(path, tensors, meta)
    with pytest.raises(CheckpointError, match="lacks 'backoff'"):
        MarkovChain.load(path)


def test_errors():
    with pytest.raises(InputError, match="neighbours is 0"):
        ItemKNN(neighbours=0).fit(SMALL)
    with pytest.raises(InputError, match="shrinkage is -1"):
        ItemKNN(shrinkage=-1).fit(SMALL)
    for model in (MarkovChain(), ItemKNN()):
        with pytest.raises(NotFittedError, match="call fit"):
            model.recommend([[0]], k=1)
        with pytest.raises(EmptyHistoryError, match="Use Popularity"):
            model.fit(SMALL).recommend([[]], k=1)


@pytest.fixture(scope="module")
def beauty():
    path = SHARED / "beauty" / "interactions.csv.gz"
    if not path.is_file():
        pytest.skip("needs ../shared/data")
    sequences = defaultdict(list)
    with gzip.open(path, "rt") as file:
        next(file)
        for line in file:
            user, item, position = map(int, line.split(","))
            assert position == len(sequences[user])
            sequences[user].append(item)
    return [sequences[user] for user in range(len(sequences))]


def test_markov_on_beauty_equals_a_plain_loop(beauty):
    """Counts of adjacent pairs reach about TIGER's printed Recall@10, 0.0648 (SPEC 14)."""
    follows, popularity = defaultdict(Counter), Counter()
    for sequence in beauty:
        popularity.update(sequence[:-2])
        for a, b in zip(sequence[:-3], sequence[1:-2]):
            follows[a][b] += 1
    everyone = sorted(popularity[i] for i in range(12101))
    hits = []
    for sequence in beauty:
        target, counts = sequence[-1], follows[sequence[-2]]
        own = counts[target], popularity[target]
        above = sum((n, popularity[i]) > own for i, n in counts.items())
        equal = sum((n, popularity[i]) == own for i, n in counts.items())
        if own[0] == 0:  # the items that never followed stand by popularity
            low, high = bisect_left(everyone, own[1]), bisect_right(everyone, own[1])
            above += 12101 - high - sum(popularity[i] > own[1] for i in counts)
            equal += high - low - sum(popularity[i] == own[1] for i in counts)
        hits.append(min(1.0, max(0.0, (10 - above) / equal)))
    split = split_of(beauty, 12101)
    result = evaluate(MarkovChain().fit(split), split, "test")
    np.testing.assert_allclose(result.values("recall@10"), hits, atol=1e-12)
    assert 0.055 < result.metrics()["recall@10"] < 0.075
    floor = evaluate(Popularity().fit(split), split, "test").metrics()["recall@10"]
    assert 0.008 < floor < 0.015


def test_state_is_sparse():
    assert sparse.issparse(MarkovChain().fit(SMALL).counts_)
    assert sparse.issparse(ItemKNN().fit(SMALL).similarity_)
