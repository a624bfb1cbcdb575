"""PQ and OPQ against brute force, Procrustes' theorem, faiss's own OPQ and planted rotations."""

import sys

import numpy as np
import pytest
from scipy.linalg import expm, orthogonal_procrustes
from threadpoolctl import threadpool_limits

from semid_lib.errors import CodesError, InputError, MissingPackageError
from semid_lib.quantizers import OPQ, PQ
from semid_lib.quantizers import product as module


def correlated(n=600, d=12, seed=0, mean=3.0):
    """Gaussians whose variance falls fast along random axes."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * 0.6 ** np.arange(d) @ axes.T + mean


def squared_error(X, near):
    return float(((X - near) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("kind", [PQ, OPQ])
@pytest.mark.parametrize("k", [8, 256])  # 3 bits a code, packed across bytes, and a byte
def test_each_code_is_the_nearest_centre_of_its_block(kind, k):
    X = correlated()
    model = kind(num_blocks=3, num_codes=k).fit(X)
    blocks = (X @ model.rotation_.astype(float)).reshape(len(X), 3, 4)
    for b, centres in enumerate(model.codebooks_):
        assert centres.shape == (k, 4)
        squares = ((blocks[:, b, None] - centres) ** 2).sum(axis=2)
        chosen = squares[np.arange(len(X)), model.codes_[:, b]]
        np.testing.assert_allclose(chosen, squares.min(axis=1), rtol=1e-5, atol=1e-5)
        assert (model.codes_[:, b] == squares.argmin(axis=1)).mean() > 0.99
    assert model.level_sizes_ == (k, k, k) and model.codes_.dtype == np.int64


@pytest.mark.parametrize("kind", [PQ, OPQ])
def test_codewords_add_up_to_the_reconstruction(kind):
    X = correlated()
    model = kind(num_blocks=3, num_codes=16).fit(X)
    near = model.inverse_transform(model.codes_)
    added = sum(words[codes] for words, codes in zip(model.codewords_, model.codes_.T))
    np.testing.assert_allclose(near, added, atol=2e-5)
    joined = np.concatenate([c[i] for c, i in zip(model.codebooks_, model.codes_.T)], axis=1)
    np.testing.assert_allclose(near, joined @ model.rotation_.T, atol=2e-5)
    assert squared_error(X, near) == pytest.approx(model.inertia_ / len(X), rel=1e-4)
    first = model.inverse_transform(model.codes_[:, :1])  # the other blocks stay at the mean
    rest = (first - X.mean(axis=0)) @ model.rotation_[:, 4:]
    np.testing.assert_allclose(rest, 0, atol=1e-6)


def test_pq_of_one_block_of_two_points_is_exact():
    X = np.array([[0.0, 1.0], [4.0, 5.0], [0.0, 1.0]])
    model = PQ(num_blocks=2, num_codes=2).fit(X)
    np.testing.assert_allclose(model.inverse_transform(model.codes_), X, atol=1e-6)
    assert model.codes_[0].tolist() == model.codes_[2].tolist() != model.codes_[1].tolist()


@pytest.mark.trained
@pytest.mark.parametrize("init", ["pca", "random"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotation_is_orthonormal_and_better_than_none(init, seed):
    X = correlated(seed=seed)
    opq = OPQ(num_blocks=3, num_codes=16, num_rounds=20, init=init, random_state=seed).fit(X)
    pq = PQ(num_blocks=3, num_codes=16, random_state=seed).fit(X)
    np.testing.assert_allclose(opq.rotation_.T @ opq.rotation_, np.eye(12), atol=1e-5)
    assert opq.inertia_ < 0.95 * pq.inertia_


def test_no_rotation_serves_the_codes_of_opq_better():
    """At the end of the turns R is the Procrustes solution of its own codes."""
    X = correlated(n=300, d=6)
    model = OPQ(num_blocks=2, num_codes=8, num_rounds=500).fit(X)
    assert len(model.errors_) < 500  # codes and rotation came to rest
    Z = X - X.mean(axis=0)
    near = (model.inverse_transform(model.codes_) - X.mean(axis=0)) @ model.rotation_
    best, _ = orthogonal_procrustes(Z, near)
    np.testing.assert_allclose(model.rotation_, best, atol=2e-3)
    found = squared_error(Z @ model.rotation_, near)
    rng = np.random.default_rng(0)
    for size in (0.01, 0.1, 1.0):
        for _ in range(30):
            skew = rng.normal(size=(6, 6)) * size
            turned = model.rotation_ @ expm(skew - skew.T)
            assert squared_error(Z @ turned, near) > found


def test_procrustes_finds_a_planted_rotation_and_error_never_grows():
    rng = np.random.default_rng(3)
    X, planted = rng.normal(size=(50, 5)), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(module.procrustes(X, X @ planted), planted, atol=1e-12)
    history = OPQ(num_blocks=3, num_codes=16, init="random").fit(correlated()).errors_
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in zip(history, history[1:]))


def test_turns_are_those_of_faiss_from_the_same_rotation(monkeypatch):
    import faiss

    X = correlated(n=400, d=8, mean=0.0)
    X = (X - X.mean(axis=0)) / np.abs(X - X.mean(axis=0)).max()
    ours = OPQ(num_blocks=2, num_codes=16, num_rounds=6, steps=4)
    start = {}

    def theirs(turns):
        pq = faiss.ProductQuantizer(8, 2, 4)
        pq.cp.seed = int(np.random.SeedSequence(0).generate_state(1)[0] >> 1)
        pq.cp.min_points_per_centroid = 1
        opq = faiss.OPQMatrix(8, 2)
        opq.pq, opq.niter, opq.niter_pq, opq.niter_pq_0 = pq, turns, 4, module.LAST_STEPS
        with threadpool_limits(1):
            opq.train(X.astype(np.float32))
        return faiss.vector_to_array(opq.A).reshape(8, 8).T

    start["rotation"] = theirs(0)
    monkeypatch.setattr(module, "balanced_axes", lambda Z, m: start["rotation"])
    np.testing.assert_allclose(ours.fit(X).rotation_, theirs(6), atol=1e-3)


def test_principal_axes_are_dealt_so_that_products_of_variances_are_alike():
    Z = np.diag([64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 1.0])
    Z = np.vstack([Z, -Z])
    axes = module.balanced_axes(Z, 2)
    variance = ((Z @ axes) ** 2).sum(axis=0)
    first, second = variance[:4], variance[4:]
    np.testing.assert_allclose(axes.T @ axes, np.eye(8), atol=1e-12)
    assert abs(np.log(first).sum() - np.log(second).sum()) < np.log(4.1)
    assert np.log(variance[:4]).sum() > 0  # neither block is left with the small ones


def test_fitted_rows_keep_their_codes_and_new_rows_get_some(tmp_path):
    X = correlated()
    model = OPQ(num_blocks=3, num_codes=16, num_rounds=5).fit(X[:500])
    assert (model.transform(X[:500]) == model.codes_).all()
    new = model.transform(X[500:])
    assert new.shape == (100, 3)
    again = OPQ.load(model.save(tmp_path / "opq.safetensors"))
    assert (again.transform(X[500:]) == new).all() and again.inertia_ == model.inertia_
    assert (again.inverse_transform(new) == model.inverse_transform(new)).all()


@pytest.mark.parametrize("kind", [PQ, OPQ])
def test_one_thread_and_two_give_the_same_codes_and_faiss_is_silent(kind, capfd):
    X = correlated(n=700, d=32)
    fitted = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            fitted.append(kind(num_blocks=4, num_codes=32, random_state=7).fit(X))
    first, second = fitted
    assert (first.codes_ == second.codes_).all()
    assert (first.rotation_ == second.rotation_).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e100])
def test_codes_do_not_depend_on_the_unit(size):
    X = correlated(n=100)
    codes = OPQ(num_blocks=3, num_codes=8, num_rounds=3).fit(X).codes_
    model = OPQ(num_blocks=3, num_codes=8, num_rounds=3).fit(X * size)
    assert (model.codes_ == codes).mean() > 0.99
    assert (model.transform(X * size) == model.codes_).all()


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"num_blocks": 5}, "12 cannot be cut into num_blocks = 5.*1, 2, 3, 4, 6, 12"),
        ({"num_blocks": 16}, "cannot be cut"),
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"num_codes": 100}, "power of two"),
        ({"num_codes": 2**17}, "power of two"),
        ({"num_codes": 1}, "num_codes is 1"),
        ({"num_codes": 64}, "n_samples = 50 is fewer than n_clusters = 64"),
        ({"num_rounds": 0}, "num_rounds is 0"),
        ({"steps": True}, "steps is True"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"init": "eye"}, "init is 'eye'"),
        ({"random_state": None}, "random_state"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(InputError, match=message):
        OPQ(**{"num_blocks": 3, "num_codes": 8, **setting}).fit(correlated(n=50))


def test_bad_vectors_and_codes_are_named():
    X = correlated(n=50)
    X[7, 2] = np.nan
    with pytest.raises(InputError, match="row 7"):
        PQ(num_blocks=3, num_codes=8).fit(X)
    with pytest.raises(InputError, match="all the same"):
        PQ(num_blocks=3, num_codes=8).fit(np.ones((50, 12)))
    with pytest.raises(InputError, match="fewer than n_clusters"):
        PQ(num_blocks=3, num_codes=2).fit(np.ones((1, 12)))
    model = PQ(num_blocks=3, num_codes=8).fit(correlated(n=50))
    with pytest.raises(CodesError, match="outside"):
        model.inverse_transform([[8, 0, 0]])


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackageError, match="pip install faiss-cpu"):
        PQ(num_blocks=3, num_codes=8).fit(correlated(n=50))


@pytest.mark.trained
@pytest.mark.parametrize("kind", [PQ, OPQ])
def test_float64_codes_are_the_nearest_and_hardly_worse_than_those_of_faiss(kind, monkeypatch):
    X = correlated()
    single = kind(num_blocks=3, num_codes=16).fit(X)
    monkeypatch.setitem(sys.modules, "faiss", None)  # it does without
    model = kind(num_blocks=3, num_codes=16, precision="float64").fit(X)
    blocks = (X @ model.rotation_).reshape(len(X), 3, 4)
    for b, centres in enumerate(model.codebooks_):
        squares = ((blocks[:, b, None] - centres) ** 2).sum(axis=2)
        assert (model.codes_[:, b] == squares.argmin(axis=1)).all()
    assert model.rotation_.dtype == model.codebooks_[0].dtype == np.float64
    near = model.inverse_transform(model.codes_)
    assert squared_error(X, near) == pytest.approx(model.inertia_ / len(X), rel=1e-12)
    assert model.inertia_ < 1.03 * single.inertia_


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("kind", [PQ, OPQ])
def test_float64_codes_do_not_hang_on_last_digits(kind, white):
    X = correlated()
    if white:  # all axes have one variance: which are its principal ones?
        X = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[0]
    codes = kind(num_blocks=3, num_codes=64, precision="float64").fit(X).codes_
    rng = np.random.default_rng(0)
    for _ in range(3):
        other = X * (1 + 1e-12 * rng.uniform(-1, 1, X.shape))
        again = kind(num_blocks=3, num_codes=64, precision="float64").fit(other)
        assert (again.codes_ == codes).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_fitted_rows_keep_their_codes_where_centres_are_alike(precision, tmp_path):
    """Blocks with fewer distinct rows than codes: some centres are the same point."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(12, 6)), 10, axis=0)
    model = OPQ(num_blocks=2, num_codes=16, num_rounds=5, precision=precision).fit(X)
    assert (model.transform(X) == model.codes_).all()
    alone = np.concatenate([model.transform(row[None]) for row in X])
    assert (alone == model.codes_).all()
    assert len(np.unique(model.codes_, axis=0)) <= 12  # equal rows have equal codes
    again = OPQ.load(model.save(tmp_path / "opq.safetensors"))
    assert (again.transform(X) == model.codes_).all()


@pytest.mark.parametrize("kind", [PQ, OPQ])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("rank", ["two rows", "one direction"])
def test_a_fitted_row_keeps_its_codes_alone_among_others_and_in_any_order(
    kind, precision, width, rank
):
    rng = np.random.default_rng(0)
    line = np.outer(rng.normal(size=60), rng.normal(size=width))
    X = np.repeat(rng.normal(size=(2, width)), 30, axis=0) if rank == "two rows" else line
    more = {"num_rounds": 5} if kind is OPQ else {}
    model = kind(num_blocks=2, num_codes=16, precision=precision, **more).fit(X)
    assert (model.transform(X) == model.codes_).all()
    assert (model.transform(X[::-1])[::-1] == model.codes_).all()
    assert (model.transform(X[7:31]) == model.codes_[7:31]).all()
    assert all((model.transform(X[[i]])[0] == model.codes_[i]).all() for i in range(60))


def test_of_equal_centres_the_first_is_taken():
    centres = np.array([[3.0, 0.0], [1.0, 1.0], [1.0 + 1e-15, 1.0], [1.0, 1.0], [1.1, 1.0]])
    rows = np.array([[1.0, 1.0], [1.0, 0.9], [3.0, 0.0], [1.06, 1.0]])
    assert module.first_nearest(rows, centres).tolist() == [1, 1, 0, 4]


def test_more_dimensions_than_can_be_turned_are_refused_at_once():
    X = np.random.default_rng(0).normal(size=(20, 10_000))
    with pytest.raises(InputError, match="n_features = 10000, but OPQ turns at most 4096"):
        OPQ(num_blocks=2, num_codes=4).fit(X)


def test_an_unknown_precision_is_named():
    with pytest.raises(InputError, match="precision is 'float16'"):
        PQ(num_blocks=3, num_codes=8, precision="float16").fit(correlated(n=50))
