"""KMeans and the balanced tree: sizes, uniqueness, new items, decoding, saving, faults."""

import itertools

import numpy as np
import pytest

from semid_lib.errors import CapacityError, CheckpointError, CodesError, InputError
from semid_lib.quantizers import GAOQ, BalancedKMeans, HierarchicalKMeans, KMeans
from semid_lib.quantizers.base import NotFittedError
from semid_lib.quantizers.hierarchical import level_sizes

TREES = pytest.mark.parametrize("Tree", [HierarchicalKMeans, GAOQ])


def vectors(n, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def assert_balanced_and_unique(codes, sizes):
    n = len(codes)
    for level in range(1, len(sizes)):
        _, counts = np.unique(codes[:, :level], axis=0, return_counts=True)
        assert len(counts) == np.prod(sizes[:level])
        assert set(counts) <= {n // len(counts), -(-n // len(counts))}
    assert len(np.unique(codes, axis=0)) == n
    assert (codes >= 0).all() and (codes < sizes).all()


@TREES
@pytest.mark.parametrize("n, branching", [(97, (4, 3, "auto")), (60, (3, 30)), (64, (2, 2, 2, 9))])
def test_every_prefix_is_balanced_and_every_code_unique(Tree, n, branching):
    model = Tree(branching).fit(vectors(n))
    assert_balanced_and_unique(model.codes_, model.level_sizes_)
    assert model.codes_.dtype == np.int64


@pytest.mark.parametrize(
    "n, branching, sizes",
    [
        # ReSID Table 7's catalogues give b_3 = ceil(ceil(n / b_1) / b_2), SPEC 5
        (24_000, (32, 40, "auto"), (32, 40, 19)),
        (12_101, (32, 40, "auto"), (32, 40, 10)),
        (12, (3, 4, "auto"), (3, 4, 1)),
        (13, (3, "auto"), (3, 5)),
        (13, (3, 4, 7), (3, 4, 7)),
    ],
)
def test_auto_is_the_largest_bucket(n, branching, sizes):
    assert level_sizes(branching, n) == sizes


def test_both_trees_differ_only_in_the_numbers():
    X = vectors(200)
    a, b = HierarchicalKMeans((5, 4, "auto")).fit(X), GAOQ((5, 4, "auto")).fit(X)
    assert (a.codes_[:, 0] == b.codes_[:, 0]).all()
    pairs = {(tuple(p), tuple(q)) for p, q in zip(a.codes_[:, :2], b.codes_[:, :2])}
    assert len(pairs) == 20  # the same 20 clusters under other names
    assert (a.codes_[:, 1] != b.codes_[:, 1]).any()
    root = BalancedKMeans(5, random_state=0).fit(X)
    assert (root.labels_ == a.codes_[:, 0]).all()
    assert root.cluster_centers_ == pytest.approx(a.centroids_[0], abs=1e-6)


def test_local_numbers_are_random_per_parent():
    """Over many seeds the first child of a parent gets each number about equally often."""
    X = vectors(24, 2)
    model = HierarchicalKMeans((3, 4, "auto"))
    first = []
    for seed in range(120):
        codes = model.set_params(random_state=seed).fit_transform(X)
        first += [codes[:, 1][codes[:, 0] == p][0] for p in range(3)]
    counts = np.bincount(first, minlength=4)
    assert counts.sum() == 360 and ((counts - 90) ** 2 / 90).sum() < 16.3  # chi2, 3 df, p = 0.001


@TREES
def test_centroids_are_the_means_of_their_prefix(Tree):
    X = vectors(90)
    model = Tree((3, 4, "auto")).fit(X)
    for depth in (1, 2):
        decoded = model.inverse_transform(model.codes_[:, :depth])
        for prefix in itertools.product(*map(range, model.level_sizes_[:depth])):
            rows = (model.codes_[:, :depth] == prefix).all(1)
            assert decoded[rows] == pytest.approx(
                np.repeat(X[rows].mean(0, keepdims=True), rows.sum(), axis=0), abs=1e-5
            )
    assert (model.inverse_transform(model.codes_) == decoded).all()


@TREES
def test_fitted_rows_get_their_own_codes_back(Tree):
    X = vectors(70)
    model = Tree((4, 4, "auto"))
    codes = model.fit_transform(X)
    assert (model.transform(X) == codes).all()
    order = np.random.default_rng(0).permutation(70)
    assert (model.transform(X[order]) == codes[order]).all()
    assert (model.transform(X[5:6].astype(np.float64)) == codes[5:6]).all()
    X[3] = -X[3]  # the caller's array is not what is remembered
    assert (model.transform(X[:3]) == codes[:3]).all()


@TREES
def test_duplicates_get_codes_in_the_order_of_fit(Tree):
    X = np.repeat(vectors(15), 3, axis=0)
    model = Tree((3, 3, 9))
    codes = model.fit_transform(X)
    assert len(np.unique(codes, axis=0)) == 45
    assert (model.transform(X) == codes).all()
    assert (model.transform(X[[4, 4, 3]]) == codes[[3, 4, 5]]).all()
    fourth = model.transform(X[[0, 0, 0, 0]])  # one more than fitted: a new item
    assert (fourth[:3] == codes[:3]).all()
    assert not (codes == fourth[3]).all(1).any()
    zeros = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
    model = Tree((2, "auto")).fit(zeros)
    assert (model.transform([[-0.0, 1.0]]) == model.codes_[0]).all()


@TREES
def test_new_items_go_down_by_distance_minus_price(Tree):
    X = vectors(80, 5)
    model = Tree((4, 3, 12)).fit(X)
    new = vectors(6, 5, seed=9)
    codes = model.transform(new)
    for x, code in zip(new, codes):
        node = 0
        for level in range(2):
            b = model.level_sizes_[level]
            mu = model.centroids_[level][node * b : (node + 1) * b].astype(float)
            scores = [((x - m) ** 2).sum() - p for m, p in zip(mu, model.prices_[level][node])]
            assert code[level] == np.argmin(scores)
            node = node * b + code[level]
    both = np.vstack([model.codes_, codes])
    assert len(np.unique(both, axis=0)) == 86
    assert (model.transform(new) == codes).all()  # nothing is remembered


@TREES
def test_a_full_prefix_is_named(Tree):
    X = vectors(48)
    model = Tree((4, 4, "auto")).fit(X)  # 3 items a prefix, 3 codes: no room at all
    new = X[[7]] + 1e-4
    with pytest.raises(CapacityError) as caught:
        model.transform(np.vstack([X[:2], new]))
    message = str(caught.value)
    assert "row 2" in message and "0 of 3 last codes free" in message
    roomy = Tree((4, 4, 4)).fit(X)
    assert f"prefix {tuple(roomy.transform(new)[0, :2].tolist())}" in message
    with pytest.raises(CapacityError, match="2 new item"):
        roomy.transform(np.vstack([new, new]))


@TREES
def test_threads_do_not_change_the_codes(Tree):
    X = vectors(400, 16)
    a, b = (Tree((4, 5, "auto"), n_jobs=jobs).fit(X) for jobs in (1, 3))
    assert (a.codes_ == b.codes_).all()
    for p, q in zip(a.prices_ + a.centroids_, b.prices_ + b.centroids_):
        assert (p == q).all()


@TREES
def test_a_file_of_an_older_version_is_read(Tree, tmp_path, monkeypatch):
    """It names where the tree was grown; trees grow in one way now."""
    X = vectors(50)
    model = Tree((3, 3, 8)).fit(X)
    older = {**model.get_params(), "backend": "auto", "device": "cpu"}
    monkeypatch.setattr(model, "get_params", lambda deep=True: older)
    other = Tree.load(model.save(tmp_path / "tree.safetensors"))
    assert (other.transform(X) == model.codes_).all() and not hasattr(other, "backend")


@TREES
def test_saved_and_loaded(Tree, tmp_path):
    X = vectors(50)
    model = Tree((np.int64(3), 3, 8), random_state=np.int64(4)).fit(X)
    path = model.save(tmp_path / "tree.safetensors")
    other = Tree.load(path)
    assert other.get_params() == model.get_params()
    assert other.level_sizes_ == model.level_sizes_ and other.n_features_in_ == 6
    new = np.vstack([X[::-1], vectors(4, seed=5)])
    assert (other.transform(new) == model.transform(new)).all()
    assert (other.inverse_transform(other.codes_) == model.inverse_transform(model.codes_)).all()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cut short"):
        Tree.load(path)
    with pytest.raises(CheckpointError, match="another model"):
        KMeans.load(model.save(path))
    with pytest.raises(NotFittedError):
        Tree().save(path)


@TREES
@pytest.mark.parametrize(
    "n, branching, error, message",
    [
        (20, (4, 4, 1), CapacityError, r"4 x 4 = 16 clusters hold up to 2 items each.* 1 codes"),
        (15, (4, 4, "auto"), InputError, r"n_samples = 15 is fewer than the 4 x 4 = 16 clusters"),
        (15, (4, 0, "auto"), InputError, "at least two integers"),
        (15, ("auto",), InputError, "at least two integers"),
        (15, (4, "auto", 4), InputError, "at least two integers"),
        (15, (4, 2.5, "auto"), InputError, "at least two integers"),
        (15, 4, InputError, "at least two integers"),
        (15, (4, "largest"), InputError, "at least two integers"),
    ],
)
def test_branching_that_does_not_fit_is_named(Tree, n, branching, error, message):
    with pytest.raises(error, match=message):
        Tree(branching).fit(vectors(n))


@TREES
def test_bad_vectors_codes_and_settings_are_named(Tree):
    X = vectors(30)
    model = Tree((3, 3, "auto"))
    with pytest.raises(NotFittedError):
        model.transform(X)
    bad = X.copy()
    bad[17, 2] = -np.inf
    with pytest.raises(InputError, match="row 17 of X"):
        model.fit(bad)
    with pytest.raises(InputError, match="all the same vector"):
        model.fit(X * 0)
    model.fit(X)
    with pytest.raises(InputError, match="row 17 of X"):
        model.transform(bad)
    with pytest.raises(CodesError, match=r"code 3 of row 1, level 0, is outside 0..2"):
        model.inverse_transform([[0, 0, 0], [3, 0, 0]])
    with pytest.raises(CodesError, match="shape"):
        model.inverse_transform([[0, 0, 0, 0]])
    with pytest.raises(CodesError, match="integers"):
        model.inverse_transform([[0.5, 0.0, 0.0]])
    with pytest.raises(InputError, match="n_jobs is 0"):
        Tree((3, 3, "auto"), n_jobs=0).fit(X)
    with pytest.raises(InputError, match="random_state is -1"):
        Tree((3, 3, "auto"), random_state=-1).fit(X)


def test_flat_kmeans_codes_decode_and_save(tmp_path):
    X = vectors(60)
    model = KMeans(5).fit(X)
    nearest = ((X[:, None] - model.codebooks_[0]) ** 2).sum(-1).argmin(1)
    assert (model.codes_[:, 0] == nearest).all() and (model.transform(X) == model.codes_).all()
    assert (model.inverse_transform(model.codes_) == model.codebooks_[0][nearest]).all()
    other = KMeans.load(model.save(tmp_path / "flat.safetensors"))
    assert (other.transform(X) == model.codes_).all()
    with pytest.raises(InputError, match="n_samples = 60"):
        KMeans(61).fit(X)
