"""Overlap, communities, purity and the bound, against loops, planted structure and exact cases."""

import subprocess
import sys
import tracemalloc

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors

from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions, leave_one_out, synthetic_catalogue
from semid_lib.diagnostics import (
    chance_purity,
    cluster_nmi,
    co_occurrence,
    code_overlap,
    information_bound,
    louvain,
    neighbour_purity,
)
from semid_lib.errors import CodesError, DataError, InputError


def split_of(sequences):
    """A split of whole sequences, oldest first; the last two items of each are the targets."""
    rows = [(u, i, t) for u, items in enumerate(sequences) for t, i in enumerate(items)]
    frame = pd.DataFrame(rows, columns=["user", "item", "position"])
    return leave_one_out(Interactions.from_frame(frame))


@pytest.fixture(scope="module")
def planted():
    data, truth = synthetic_catalogue(num_items=144, num_users=400, random_state=1)
    return leave_one_out(data), truth


@st.composite
def sequences(draw):
    items = draw(st.integers(4, 8))
    histories = st.lists(st.integers(0, items - 1), min_size=3, max_size=9)
    return [list(range(items)), *draw(st.lists(histories, min_size=1, max_size=6))]


# ------------------------------------------------------------------ overlap


def test_code_overlap_of_a_worked_example():
    # validation target 3 after 0, 1, 2, then 1 after 3; test targets 0 and 2
    split = split_of([[0, 1, 2, 3, 0], [3, 1, 2]])
    codes = [[0, 5], [0, 6], [1, 5], [1, 5]]
    # user 0: item 2 shares c_1 with 3, items 0 and 2 share c_2; user 1: nothing
    assert code_overlap(split, codes).tolist() == pytest.approx([(1 / 3 + 0) / 2, (2 / 3 + 0) / 2])
    assert code_overlap(split, codes, max_history=1).tolist() == pytest.approx([0.5, 0.5])
    # test: (0, 1, 2, 3) before 0, and (3, 1) before 2
    assert code_overlap(split, codes, "test").tolist() == pytest.approx(
        [(2 / 4 + 1 / 2) / 2, (3 / 4 + 1 / 2) / 2]
    )


@given(sequences(), st.sampled_from(["validation", "test"]), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_code_overlap_equals_the_loop(users, part, max_history, seed):
    split = split_of(users)
    codes = np.random.default_rng(seed).integers(0, 3, size=(split.num_items, 2))
    back, cases = (1 if part == "test" else 2), []
    for items in users:
        history, target = items[:-back][-max_history:], items[-back]
        cases.append(np.mean([codes[i] == codes[target] for i in history], axis=0))
    found = code_overlap(split, SemanticIds(codes), part, max_history)
    np.testing.assert_allclose(found, np.mean(cases, axis=0), atol=1e-12)


def test_code_overlap_input():
    split = split_of([[0, 1, 2], [2, 1, 0]])
    with pytest.raises(CodesError, match="codes of 2 items for 3 items"):
        code_overlap(split, [[0], [1]])
    with pytest.raises(DataError, match="unknown part 'train'"):
        code_overlap(split, [[0], [1], [2]], "train")
    with pytest.raises(InputError, match="max_history is 0"):
        code_overlap(split, [[0], [1], [2]], max_history=0)
    with pytest.raises(DataError, match="no user with a target"):
        code_overlap(split_of([[0, 1], [1, 0]]), [[0], [1]])


# ------------------------------------------------------------------ co-occurrence, communities


@given(sequences(), st.none() | st.integers(1, 10))
@settings(max_examples=80, deadline=None)
def test_co_occurrence_equals_the_loop_over_users(users, window):
    split = split_of(users)
    truth = np.zeros((split.num_items,) * 2, dtype=int)
    for items in users:
        train, pairs = items[:-2], set()
        for s, a in enumerate(train):
            for t, b in enumerate(train):
                if a != b and (window is None or abs(s - t) <= window):
                    pairs.add((a, b))
        for pair in pairs:
            truth[pair] += 1
    found = co_occurrence(split, window)
    assert isinstance(found, sparse.csr_array) and found.dtype == np.int64
    np.testing.assert_array_equal(found.toarray(), truth)


def test_co_occurrence_window():
    with pytest.raises(InputError, match="window is 0"):
        co_occurrence(split_of([[0, 1, 2]]), 0)


def block_graph(sizes, inside, across, seed=0):
    """Edges of weight 2 with these chances, and the block of every item."""
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(blocks[:, None] == blocks, inside, across)
    edges = np.triu(np.random.default_rng(seed).random(chance.shape) < chance, k=1) * 2
    return edges + edges.T, blocks


def test_louvain_recovers_planted_blocks():
    graph, blocks = block_graph((30, 50, 40), 0.4, 0.01)
    order = np.random.default_rng(0).permutation(120)
    labels = louvain(sparse.csr_array(graph[np.ix_(order, order)]))
    # numbered by size: 50 items, 40 items, 30 items
    np.testing.assert_array_equal(labels, np.array([2, 0, 1])[blocks[order]])
    assert labels.dtype == np.int64


def test_louvain_recovers_the_planted_communities(planted):
    split, truth = planted
    labels = louvain(co_occurrence(split))
    seen = labels >= 0
    table = np.zeros((labels.max() + 1, truth.community.max() + 1))
    np.add.at(table, (labels[seen], truth.community[seen]), 1)
    assert table.max(axis=1).sum() / seen.sum() > 0.9


def test_louvain_is_as_modular_as_the_known_optimum_of_the_karate_club():
    club = nx.karate_club_graph()
    labels = louvain(nx.to_scipy_sparse_array(club, weight=None), min_weight=1)
    parts = [set(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)]
    # Brandes et al. (2008): the optimum is 0.4198
    assert nx.community.modularity(club, parts, weight=None) > 0.41


def test_louvain_drops_weak_edges_and_numbers_by_size():
    pairs = [(0, 1, 1), (1, 2, 3), (3, 4, 2), (4, 5, 2), (3, 5, 2), (7, 8, 2)]
    graph = np.zeros((9, 9))
    for a, b, weight in pairs:
        graph[a, b] = graph[b, a] = weight
    assert louvain(graph).tolist() == [-1, 1, 1, 0, 0, 0, -1, 2, 2]
    assert louvain(graph, min_weight=1).tolist() == [0, 0, 0, 1, 1, 1, -1, 2, 2]
    assert louvain(graph, min_weight=4).tolist() == [-1] * 9
    assert louvain(graph, resolution=50).max() == 6  # everything apart


def test_louvain_gives_the_same_for_a_seed():
    graph, _ = block_graph((40, 40), 0.2, 0.12)  # faint: seeds differ
    first = louvain(graph, random_state=3)
    np.testing.assert_array_equal(first, louvain(sparse.coo_array(graph), random_state=3))
    assert any((louvain(graph, random_state=s) != first).any() for s in range(4, 8))


@pytest.mark.parametrize(
    "graph", [[[0, 1]], [[0, 1], [0, 0]], [[0, -1], [-1, 0]], [[0, np.nan], [np.nan, 0]]]
)
def test_louvain_of_what_is_no_graph(graph):
    with pytest.raises(InputError, match="square, symmetric, finite and not negative"):
        louvain(np.array(graph))


@pytest.mark.parametrize("bad", [{"resolution": 0}, {"min_weight": 0}, {"random_state": -1}])
def test_louvain_settings(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        louvain(np.zeros((2, 2)), **bad)


# ------------------------------------------------------------------ purity, NMI


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbour_purity_equals_sklearns_neighbours(metric, dtype):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(300, 6)) + 3).astype(dtype)
    labels = rng.integers(-1, 4, size=300)
    z[labels == 2] += [1, 0, 0, 0, 0, 0]
    kept = labels >= 0
    search = NearestNeighbors(n_neighbors=7, metric=metric).fit(z[kept].astype(np.float64))
    near = search.kneighbors(return_distance=False)  # without the point itself
    truth = (labels[kept][near] == labels[kept][:, None]).mean()
    assert neighbour_purity(z, labels, 7, metric) == pytest.approx(truth, abs=1e-12)
    assert truth > chance_purity(labels)


def test_neighbour_purity_does_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(200, 5)), rng.integers(0, 3, size=200)
    whole = neighbour_purity(z, labels, 20)
    monkeypatch.setattr("semid_lib.diagnostics.behaviour._BLOCK", 700)
    assert neighbour_purity(z, labels, 20) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbour_purity_shares_places_among_ties(dtype):
    # On a line, k = 2. Seen from 0: 1 is first, and -2 and 2 tie for the second place.
    z = np.array([[0], [1], [2], [-2]], dtype=dtype)
    labels = [0, 1, 0, 1]
    # 0: (0 + 1/2) / 2; 1: {0, 2} tie for both places, 0; 2: 1 first, 0 second: 1/2;
    # -2: 0 first, 1 second: 1/2
    assert neighbour_purity(z, labels, 2, "euclidean") == pytest.approx(
        (1 / 4 + 0 + 1 / 2 + 1 / 2) / 4
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbour_purity_of_equal_vectors_is_chance(metric):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    z = np.tile(np.random.default_rng(1).normal(size=33).astype(np.float32), (100, 1))
    assert neighbour_purity(z, labels, 5, metric) == pytest.approx(chance_purity(labels))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbour_purity_shares_places_among_vectors_that_rounding_parts(metric):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 8, size=400)  # eight vectors, each of many items
    z, labels = rng.normal(size=(8, 30))[kind], rng.integers(0, 3, size=400)
    shares = []  # by hand: 20 neighbours, all among the items of one's own vector
    for i in range(400):
        others = np.delete(labels[kind == kind[i]], np.flatnonzero(kind == kind[i]) == i)
        shares.append((others == labels[i]).mean())
    for error in (0, 1e-12):
        rounded = z * (1 + error * rng.uniform(-1, 1, z.shape))
        assert neighbour_purity(rounded, labels, 20, metric) == pytest.approx(np.mean(shares))


def test_chance_purity_is_what_random_vectors_have():
    assert chance_purity([0, 0, 1, -1]) == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    labels = np.repeat([-1, 0, 1, 2], [40, 100, 200, 300])
    found = [neighbour_purity(rng.normal(size=(640, 8)), labels) for _ in range(20)]
    assert np.mean(found) == pytest.approx(chance_purity(labels), abs=0.01)


def test_neighbour_purity_of_20_000_items_holds_no_matrix_of_all_pairs():
    z = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    tracemalloc.start()
    assert 0 < neighbour_purity(z, np.arange(20_000) % 2) < 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # all pairs: 1,600 MB


def test_cluster_nmi_of_planted_clusters():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, -1], 60)
    near = 20 * np.eye(4)[labels] + rng.normal(size=(240, 4))
    assert cluster_nmi(near, labels) == pytest.approx(1)
    assert cluster_nmi(near, labels + 5 * (labels > 0)) == pytest.approx(1)  # names do not count
    assert cluster_nmi(rng.normal(size=(240, 4)), labels) < 0.05
    assert cluster_nmi(near, labels, 7) == cluster_nmi(near, labels, 7)


def test_cluster_nmi_of_labels_that_halve_the_clusters():
    # Two tight clusters, labels a / b inside the first only: by hand, over 8 items
    z = np.array([[0.0]] * 4 + [[9.0]] * 4)
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    joint = np.array([[2, 2], [0, 4]]) / 8
    information = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel())
    truth = information / np.mean([entropy(joint.sum(0)), entropy(joint.sum(1))])
    assert cluster_nmi(z, labels) == pytest.approx(truth)


def test_labels_and_neighbours_out_of_range():
    z = np.eye(4)
    for measure in (neighbour_purity, cluster_nmi):
        with pytest.raises(InputError, match="3 labels for 4 vectors"):
            measure(z, [0, 1, 2])
        for labels in ([0.0, 1, 2, 3], [[0, 1, 2, 3]], [0, 1, 2, -2]):
            with pytest.raises(InputError, match="labels must be"):
                measure(z, labels)
        with pytest.raises(InputError, match="row 0 of vectors"):
            measure(z * np.nan, [0, 1, 2, 3])
    for k in (0, 3, 4):
        with pytest.raises(InputError, match=f"k is {k}, but must be between 1 and 2"):
            neighbour_purity(z, [0, 1, -1, 0], k)
    with pytest.raises(InputError, match="metric is 'dot'"):
        neighbour_purity(z, [0, 1, 2, 3], 1, "dot")
    with pytest.raises(InputError, match="at least 2"):
        cluster_nmi(z, [0, -1, -1, -1])
    with pytest.raises(InputError, match="at least 2"):
        chance_purity([-1, 0])


# ------------------------------------------------------------------ Proposition 3.1


def test_information_bound_of_a_worked_example():
    found = information_bound({
        "item": {"entropy": 7.0, "loss": 6.0, "weight": 0.5},
        "brand": {"entropy": 2.0, "loss": 2.5, "weight": 0.4},
    })  # fmt: skip
    assert found["per_field"] == {"item": 1.0, "brand": -0.5}
    assert found["bound"] == pytest.approx(0.5 * 1.0 - 0.4 * 0.5)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_information_bound_lies_below_the_information(seed):
    """p(h, f) of two fields is known, so is I(h; f); q is any predictor, then the right one."""
    rng = np.random.default_rng(seed)
    truth, guessed, exact = 0.0, {}, {}
    for name, values, weight in (("item", 5, 0.7), ("brand", 3, 0.3)):
        joint = rng.dirichlet(np.full(4 * values, 0.5)).reshape(4, values) + 1e-9
        joint /= joint.sum()
        h, f = joint.sum(axis=1), joint.sum(axis=0)
        conditional = joint / h[:, None]
        truth += weight * (joint * np.log(joint / np.outer(h, f))).sum()
        for found, q in ((guessed, rng.dirichlet(np.ones(values), size=4)), (exact, conditional)):
            loss = -(joint * np.log(q)).sum()
            found[name] = {"entropy": entropy(f), "loss": loss, "weight": weight}
    assert information_bound(guessed)["bound"] <= truth + 1e-9
    assert information_bound(exact)["bound"] == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize(
    "field",
    [
        {"entropy": 1.0, "loss": np.nan, "weight": 1.0},
        {"entropy": 1.0, "loss": 1.0, "weight": -1.0},
        {"entropy": 1.0, "weight": 1.0},
    ],
)
def test_information_bound_input(field):
    with pytest.raises(InputError, match="field 'item'"):
        information_bound({"item": field})
    with pytest.raises(InputError, match="per_field is empty"):
        information_bound({})


def test_import_loads_nothing_heavy():
    heavy = {"torch", "sklearn", "networkx", "numba", "pandas", "matplotlib"}
    code = f"import sys, semid_lib.diagnostics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
