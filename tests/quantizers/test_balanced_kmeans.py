"""BalancedKMeans: the assignment against scipy's, the start against the D^2 law, the faults."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib import plain
from semid_lib.compute import transport
from semid_lib.errors import InputError
from semid_lib.quantizers import BalancedKMeans
from semid_lib.quantizers.balanced_kmeans import Gram, Rows, _spread, lloyd
from semid_lib.quantizers.base import NotFittedError


def tiles(cost, width=32):
    """`[n, k]` costs as the kernel takes them, with what it must not read behind the last."""
    n, k = cost.shape
    filled = np.full((-(-n // width) * width, k), np.nan)
    filled[:n] = cost
    return np.ascontiguousarray(filled.reshape(-1, width, k).transpose(0, 2, 1))


def balance(cost, price):
    label = np.empty(len(cost), np.int64)
    transport.balance(tiles(cost), price, label)
    return label


def total(cost, labels):
    return cost[np.arange(len(cost)), labels].sum()


def assert_optimal(cost, price):
    n, k = cost.shape
    label = balance(cost, price)
    sizes = np.bincount(label, minlength=k)
    assert sorted(sizes)[: k - n % k] == [n // k] * (k - n % k)
    assert sorted(sizes)[k - n % k :] == [n // k + 1] * (n % k)
    least = total(cost, plain.balanced_assignment(cost))
    assert total(cost, label) == pytest.approx(least, rel=1e-9, abs=1e-9)
    # the prices prove it: every point sits where cost + price is least
    reduced = cost + price
    assert (reduced[np.arange(n), label] <= reduced.min(1) + 1e-9).all()


@pytest.mark.parametrize("case", ["smooth", "grid", "duplicates", "constant"])
def test_assignment_costs_what_scipys_costs(case):
    rng = np.random.default_rng(0)
    for _ in range(60):
        k = int(rng.integers(1, 9))
        n = int(rng.integers(k, 60))
        cost = rng.normal(size=(n, k)) ** 2
        if case == "grid":
            cost = rng.integers(0, 3, size=(n, k)).astype(float)
        if case == "duplicates":
            cost = cost[rng.integers(0, max(1, n // 4), size=n)]
        if case == "constant":
            cost[:] = 1.0
        assert_optimal(cost, np.zeros(k))
        assert_optimal(cost, rng.normal(size=k))  # any start of the prices is right


@pytest.mark.parametrize("n, k", [(7, 7), (1, 1), (30, 1), (31, 5), (300, 7), (203, 40)])
def test_assignment_at_the_edges(n, k):
    points = np.random.default_rng(n).normal(size=(n + k, 3))
    cost = ((points[:n, None] - points[n:]) ** 2).sum(-1)
    assert_optimal(cost, np.zeros(k))


@settings(max_examples=120, deadline=None)
@given(data=st.data(), k=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_assignment_is_exact_property(data, k, seed):
    n = data.draw(st.integers(k, 25))
    entries = data.draw(st.sampled_from([2, 5, 1000]))
    cost = np.random.default_rng(seed).integers(0, entries, size=(n, k)).astype(float)
    assert_optimal(cost, np.zeros(k))


@pytest.mark.parametrize("case", ["smooth", "lopsided", "duplicates", "far price"])
def test_many_points_a_cluster_are_assigned_exactly(case):
    """Enough points that Newton steps come first and the repair looks at some points only."""
    rng = np.random.default_rng(8)
    k, n = 4, 1003
    points, centres = rng.normal(size=(n, 2)), rng.normal(size=(k, 2))
    price = np.zeros(k)
    if case == "lopsided":  # two thirds of the points must go to the far clusters
        centres[2:] += 9
    if case == "duplicates":  # 20 distinct points: they tie by the fifty
        points = points[rng.integers(20, size=n)]
    if case == "far price":
        price = np.array([0.0, 1e3, -1e3, 1e6])
    assert_optimal(((points[:, None] - centres) ** 2).sum(-1), price)


def test_a_repair_that_needs_points_out_of_reach_is_made_again(monkeypatch):
    """Clusters in a row: to fill the last, prices must rise by far more than the nearest gaps."""
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.uniform(-0.4, 0.4, 300) + 10 * j for j in range(4)])
    x = np.concatenate([x, x[-3:] + 0.01])  # the last cluster holds three too many
    cost = (x[:, None] - 10.0 * np.arange(4)) ** 2
    cost[:300, 0] -= rng.uniform(0, 50, 300)
    assert_optimal(cost, np.zeros(4))
    looked_at, repair = [], transport._repair

    def watched(table, *arguments):
        looked_at.append(len(table))
        return repair(table, *arguments)

    monkeypatch.setattr(transport, "_repair", watched)
    label = np.empty(1203, np.int64)
    transport.balance.py_func(tiles(cost), np.zeros(4), label)
    assert len(looked_at) == 2 and looked_at[0] < 200 and looked_at[1] == 1203
    assert (label == balance(cost, np.zeros(4))).all()


def test_crowded_start_far_from_balance_is_exact():
    """Nearly all points prefer one cluster: price rises, kept moves and refills all at work."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(600, 2))
    centres = np.vstack([np.zeros(2), 4 + rng.normal(size=(5, 2))])
    assert_optimal(((points[:, None] - centres) ** 2).sum(-1), np.zeros(6))


def test_the_choice_of_extra_places_is_part_of_the_optimum():
    """Five points, two clusters: the larger cluster must be the one with three near points."""
    X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    model = BalancedKMeans(2, init=[[5.05], [0.1]]).fit(X)
    assert model.labels_.tolist() == [1, 1, 1, 0, 0]
    assert model.cluster_centers_[:, 0] == pytest.approx([5.05, 0.1])
    assert model.inertia_ == pytest.approx(0.025)


def test_means_are_means():
    X = np.random.default_rng(0).normal(size=(211, 12)) + 100
    model = BalancedKMeans(9).fit(X)
    for j in range(9):
        members = X[model.labels_ == j]
        assert model.cluster_centers_[j] == pytest.approx(members.mean(0))
    inertia = ((X - model.cluster_centers_[model.labels_]) ** 2).sum()
    assert model.inertia_ == pytest.approx(inertia)
    assert sorted(set(model.sizes_)) == [23, 24]
    assert model.prices_.mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype, rel", [(np.float64, 1e-9), (np.float32, 1e-6)])
def test_one_step_is_the_optimal_assignment_to_the_given_centres(dtype, rel):
    X = np.random.default_rng(1).normal(size=(50, 3)).astype(dtype)
    centres = X[:7]
    cost = ((X[:, None].astype(float) - centres) ** 2).sum(-1)
    labels = BalancedKMeans(7, max_iter=1, init=centres).fit(X).labels_
    least = total(cost, plain.balanced_assignment(cost))
    assert total(cost, labels) == pytest.approx(least, rel=rel)


@pytest.mark.parametrize("n, k", [(50, 7), (60, 4), (211, 9)])
def test_steps_are_those_of_the_plain_twin(n, k):
    X = np.random.default_rng(n).normal(size=(n, 5))
    for steps in (1, 2, 6):
        labels, means = plain.balanced_kmeans(X, X[:k], steps)
        model = BalancedKMeans(k, max_iter=steps, init=X[:k]).fit(X)
        assert (model.labels_ == labels).all()
        assert model.cluster_centers_ == pytest.approx(means)


def test_gram_and_rows_walk_the_same_way():
    Z = np.random.default_rng(2).normal(size=(80, 40))
    Z -= Z.mean(0)
    seeds = np.arange(0, 80, 10)
    walks = []
    for space in (Rows(Z), Gram(Z)):
        space.start(seeds)
        price = np.zeros(8)
        for _ in range(6):
            space.assign(price)
            space.update()
        walks.append((space.labels, space.centres()))
        assert space.distances([3, 5]) == pytest.approx(((Z - Z[[[3], [5]]]) ** 2).sum(-1))
    assert (walks[0][0] == walks[1][0]).all()
    assert walks[0][1] == pytest.approx(walks[1][1])


def test_the_result_is_a_fixed_point_and_beats_a_random_balanced_split():
    X = np.random.default_rng(4).normal(size=(120, 5))
    model = BalancedKMeans(6, max_iter=200).fit(X)
    assert model.n_iter_ < 200
    again = BalancedKMeans(6, max_iter=1, init=model.cluster_centers_).fit(X)
    assert (again.labels_ == model.labels_).all()
    # converged, so the prices explain all labels; rows that set a price tie, others are certain
    score = ((X[:, None] - model.cluster_centers_) ** 2).sum(-1) - model.prices_
    assert (score[np.arange(120), model.labels_] <= score.min(1) + 1e-9).all()
    sure = np.diff(np.sort(score, axis=1)[:, :2])[:, 0] > 1e-9
    assert sure.mean() > 0.9 and (model.predict(X) == model.labels_)[sure].all()
    assert model.inertia_ < 0.8 * ((X - X.mean(0)) ** 2).sum()


def test_planted_equal_clusters_are_found():
    rng = np.random.default_rng(5)
    truth = np.repeat(np.arange(6), 30)
    X = 10 * rng.normal(size=(6, 8))[truth] + rng.normal(size=(180, 8))
    labels = BalancedKMeans(6).fit(X).labels_
    assert len(set(zip(truth, labels))) == 6


@pytest.mark.parametrize("space", [Rows, Gram])
def test_start_follows_the_d2_law(space):
    """Three points 0, 1, 10: the law of the chosen pair is worked out by hand."""
    space = space(np.array([[0.0], [1.0], [10.0]]))
    rng = np.random.default_rng(0)
    pairs = [tuple(sorted(_spread(space, 3, 2, rng))) for _ in range(3000)]
    truth = {(0, 1): (1 / 101 + 1 / 82) / 3, (0, 2): (100 / 101 + 100 / 181) / 3}
    for pair, chance in truth.items():
        assert np.mean([p == pair for p in pairs]) == pytest.approx(chance, abs=0.03)


def test_batched_proposals_keep_the_law_of_one_at_a_time():
    """The mean D^2 potential after k = 12 centres equals that of the textbook loop."""
    Z = np.random.default_rng(6).normal(size=(60, 2)) ** 3
    space = Rows(Z)

    def textbook(rng):
        near = ((Z - Z[rng.integers(60)]) ** 2).sum(1)
        for _ in range(11):
            near = np.minimum(near, ((Z - Z[rng.choice(60, p=near / near.sum())]) ** 2).sum(1))
        return near.sum()

    def ours(rng):
        return ((Z[:, None] - Z[_spread(space, 60, 12, rng)]) ** 2).sum(-1).min(1).sum()

    a = [textbook(np.random.default_rng([1, i])) for i in range(600)]
    b = [ours(np.random.default_rng([2, i])) for i in range(600)]
    assert abs(np.mean(a) - np.mean(b)) < 4 * np.hypot(np.std(a), np.std(b)) / np.sqrt(600)


def test_duplicates_and_more_clusters_than_distinct_points():
    X = np.repeat(np.eye(3), [4, 4, 3], axis=0)
    model = BalancedKMeans(5).fit(X)
    assert sorted(model.sizes_) == [2, 2, 2, 2, 3]
    model = BalancedKMeans(11).fit(X)  # n == k
    assert (model.sizes_ == 1).all() and model.inertia_ == pytest.approx(0, abs=1e-12)
    assert BalancedKMeans(1).fit(X).sizes_.tolist() == [11]


def test_far_from_the_origin_the_labels_are_the_same():
    """Centring keeps float32 distances usable when the mean dwarfs the spread."""
    X = np.random.default_rng(7).integers(-64, 64, size=(90, 6)).astype(np.float32)
    near, far = (BalancedKMeans(7, max_iter=8).fit(X + shift) for shift in (0, 2**16))
    assert (near.labels_ == far.labels_).all()


def test_same_seed_same_labels_whatever_the_threads():
    code = (
        "import numpy as np; from semid_lib.quantizers import BalancedKMeans, GAOQ;"
        "X = np.random.default_rng(0).normal(size=(3000, 48)).astype(np.float32);"
        "print(BalancedKMeans(16, random_state=3).fit(X).labels_.tolist());"
        "print(GAOQ((8, 6, 'auto')).fit(X).codes_.tolist())"
    )
    outputs = set()
    for threads in ("1", "2", "4"):
        env = {name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        run = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1


def test_early_steps_on_a_sample_lose_nothing(monkeypatch):
    """The inertia over seeds is that of full steps, sizes are exact, the step count is kept."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(60, 6)) * 3)[rng.integers(60, size=6001)] + rng.normal(size=(6001, 6))
    runs = {}
    for sample in (100, 10**6):  # of 1,500 rows a cluster
        monkeypatch.setattr("semid_lib.quantizers.balanced_kmeans.SAMPLE", sample)
        runs[sample] = [BalancedKMeans(4, random_state=s).fit(X) for s in range(12)]
        for model in runs[sample]:
            assert sorted(model.sizes_) == [1500, 1500, 1500, 1501] and model.n_iter_ <= 20
    few, full = ([model.inertia_ for model in runs[sample]] for sample in runs)
    assert np.mean(few) == pytest.approx(np.mean(full), rel=0.01)


def test_lloyd_in_threads_is_the_same_to_the_bit():
    Z = np.random.default_rng(0).normal(size=(5000, 24)).astype(np.float32)
    runs = [lloyd(Z, 9, np.random.default_rng(0), 4, threads=threads) for threads in (1, 3, 7)]
    for labels, means, prices, _ in runs[1:]:
        assert (labels == runs[0][0]).all() and (means == runs[0][1]).all()
        assert (prices == runs[0][2]).all()


def test_seeds_differ_and_repeat():
    X = np.random.default_rng(0).normal(size=(100, 4))
    a, b, c = (BalancedKMeans(5, random_state=s).fit(X).labels_ for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_import_leaves_numba_alone():
    code = (
        "import sys, semid_lib.quantizers as q; q.GAOQ, q.BalancedKMeans, q.KMeans;"
        "assert 'numba' not in sys.modules and 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_clusters": 11}, "n_samples = 10 is fewer than n_clusters = 11"),
        ({"n_clusters": 0}, "n_clusters is 0"),
        ({"n_clusters": 2.0}, "n_clusters is 2.0"),
        ({"n_clusters": 2, "max_iter": 0}, "max_iter is 0"),
        ({"n_clusters": 2, "random_state": None}, "random_state is None"),
        ({"n_clusters": 2, "init": np.zeros((3, 2))}, r"init has shape \(3, 2\)"),
    ],
)
def test_bad_settings_are_named(params, message):
    X = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(InputError, match=message):
        BalancedKMeans(**params).fit(X)


def test_bad_vectors_are_named():
    X = np.random.default_rng(0).normal(size=(10, 2))
    bad = X.copy()
    bad[[6, 8], 1] = np.nan, np.inf
    with pytest.raises(InputError, match="row 6 of X .* NaN or inf"):
        BalancedKMeans(2).fit(bad)
    with pytest.raises(InputError, match="all the same vector.*Was the encoder trained"):
        BalancedKMeans(2).fit(np.ones((10, 2)))
    with pytest.raises(NotFittedError):
        BalancedKMeans(2).predict(X)


def test_lloyd_needs_no_estimator_and_balances():
    Z = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    labels, means, prices, steps = lloyd(Z, 7, np.random.default_rng(0), 5)
    assert np.bincount(labels).tolist().count(7) == 6 and 1 <= steps <= 5
    assert means.dtype == np.float32 and prices.shape == (7,)


def test_kernels_work_where_numba_can_keep_nothing():
    """A read-only package and no home, as Numba sees them: none of its locators is available."""
    code = """
from numba.core import caching
for kind in (caching.CacheImpl, caching.CodeLibraryCacheImpl, caching.CompileResultCacheImpl):
    kind._locator_classes = []
from semid_lib.compute.jit import kernel
from semid_lib.compute import transport, scoring_kernel  # set up here, compiled when called
print(kernel(lambda x: x + 1)(2))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr
