"""ResidualKMeans: its error beside scikit-learn's, the residual identity, collapse, faults."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans as Flat

from semid_lib.errors import CheckpointError, CodesError, InputError
from semid_lib.quantizers import KMeans, ResidualKMeans
from semid_lib.quantizers.base import NotFittedError


def clustered(n=1500, d=8, seed=0):
    """Coarse groups, each of the same 12 fine offsets, and noise: two levels and a remainder."""
    rng = np.random.default_rng(seed)
    coarse, fine = 8 * rng.normal(size=(12, d)), 2 * rng.normal(size=(12, d))
    X = coarse[rng.integers(12, size=n)] + fine[rng.integers(12, size=n)]
    return X + 0.3 * rng.normal(size=(n, d))


def errors_by_level(X, model):
    prefixes = [model.codes_[:, : level + 1] for level in range(len(model.codebooks_))]
    return [((X - model.inverse_transform(codes)) ** 2).sum(1).mean() for codes in prefixes]


@pytest.mark.trained
def test_error_of_every_level_is_that_of_a_plain_loop():
    """The best of some seeds, since one start of k-means may be unlucky on either side."""
    X = clustered()
    ours = [errors_by_level(X, ResidualKMeans(3, 12, random_state=s).fit(X)) for s in range(8)]
    theirs = []
    for seed in range(8):
        rest, errors = X, []
        for _ in range(3):
            flat = Flat(12, n_init=1, max_iter=25, random_state=100 + seed).fit(rest)
            rest = rest - flat.cluster_centers_[flat.labels_]
            errors.append((rest**2).sum(1).mean())
        theirs.append(errors)
    assert np.min(ours, axis=0) == pytest.approx(np.min(theirs, axis=0), rel=0.01)
    for errors in ours:
        assert errors[0] > errors[1] > errors[2]


@pytest.mark.trained
def test_planted_levels_are_found():
    """Far coarse groups with the same offsets: 12 + 12 centres explain all but the noise."""
    X = clustered()
    best = min(
        errors_by_level(X, ResidualKMeans(2, 12, random_state=s).fit(X))[1] for s in range(8)
    )
    assert best < 1.5 * 0.3**2 * 8


def test_codes_are_greedy_and_the_remainder_is_what_is_left():
    X = clustered(300)
    model = ResidualKMeans(3, 7)
    codes = model.fit_transform(X)
    rest = X.copy()
    for level, centres in enumerate(model.codebooks_):
        assert centres.shape == (7, 8)
        nearest = ((rest[:, None] - centres) ** 2).sum(-1).argmin(1)
        assert (codes[:, level] == nearest).all()
        rest -= centres[nearest]
        assert model.inverse_transform(codes[:, : level + 1]) + rest == pytest.approx(X)
    assert codes.dtype == np.int64 and model.level_sizes_ == (7, 7, 7)
    new = clustered(50, seed=1)
    assert (model.transform(X) == codes).all()
    assert (model.transform(new)[::-1] == model.transform(new[::-1])).all()


def test_centres_are_means_of_the_remainders():
    X = clustered(300)
    model = ResidualKMeans(2, 5, max_iter=300).fit(X)  # converged
    for level, rest in enumerate([X, X - model.inverse_transform(model.codes_[:, :1])]):
        for j, centre in enumerate(model.codebooks_[level]):
            assert centre == pytest.approx(rest[model.codes_[:, level] == j].mean(0), abs=1e-2)


def test_nothing_left_over_collapses_without_a_warning():
    X = np.repeat(np.eye(4), 3, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ResidualKMeans(3, 6).fit(X)
    assert model.inverse_transform(model.codes_) == pytest.approx(X, abs=1e-12)
    assert len(np.unique(model.codes_, axis=0)) == 4  # duplicates share all codes
    assert len(np.unique(model.codes_[:, 1:], axis=0)) == 1  # one remainder: zero
    assert len(np.unique(ResidualKMeans(1, 12).fit(X * 1.0).codes_)) == 4


def test_far_from_the_origin_float32_keeps_its_codes():
    X = np.random.default_rng(7).integers(-64, 64, size=(200, 6)).astype(np.float32)
    near, far = (ResidualKMeans(2, 9).fit(X + shift) for shift in (0, 2**14))
    assert (near.codes_ == far.codes_).all() and far.codebooks_[0].dtype == np.float32


def test_same_seed_same_codes_whatever_the_threads():
    code = (
        "import numpy as np; from semid_lib.quantizers import ResidualKMeans;"
        "X = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32);"
        "print(ResidualKMeans(2, 32).fit(X).codes_.tolist())"
    )
    outputs = set()
    for threads in ("1", "2"):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1


def test_saved_and_loaded(tmp_path):
    X = clustered(100).astype(np.float32)
    model = ResidualKMeans(2, 6, random_state=np.int64(3)).fit(X)
    path = model.save(tmp_path / "residual.safetensors")
    other = ResidualKMeans.load(path)
    assert other.get_params() == model.get_params() and (other.codes_ == model.codes_).all()
    assert (other.transform(X) == model.codes_).all()
    assert (other.inverse_transform(model.codes_) == model.inverse_transform(model.codes_)).all()
    with pytest.raises(CheckpointError, match="another model"):
        KMeans.load(path)


def test_balanced_levels_hold_equally_many_at_least_cost():
    """Each level's assignment is the optimum of SciPy's matching for its centres."""
    X = clustered(60)
    model = ResidualKMeans(3, 7, balanced=True, max_iter=200).fit(X)
    rest = X
    for level, centres in enumerate(model.codebooks_):
        codes = model.codes_[:, level]
        sizes = np.bincount(codes, minlength=7)
        assert sizes.min() == 60 // 7 and sizes.max() == 60 // 7 + 1
        means = np.array([rest[codes == j].mean(0) for j in range(7)])
        np.testing.assert_allclose(centres, means, atol=1e-9)
        slots = np.repeat(np.arange(7), sizes)  # the same sizes, anyone's places
        cost = ((rest[:, None] - centres[slots]) ** 2).sum(-1)
        least = cost[linear_sum_assignment(cost)].sum()
        assert ((rest - centres[codes]) ** 2).sum() == pytest.approx(least, rel=1e-9)
        rest = rest - centres[codes]
    assert model.inverse_transform(model.codes_) + rest == pytest.approx(X)
    assert model.inertia_ == pytest.approx((rest**2).sum())


def test_new_rows_of_balanced_levels_go_by_distance_minus_price(tmp_path):
    X, new = clustered(100), clustered(40, seed=1)
    model = ResidualKMeans(2, 6, balanced=True).fit(X)
    assert (model.transform(X) == model.codes_).all()  # fitted rows keep theirs
    rest, codes = new, model.transform(new)
    for level, (centres, prices) in enumerate(zip(model.codebooks_, model.prices_)):
        chosen = (((rest[:, None] - centres) ** 2).sum(-1) - prices).argmin(1)
        assert (codes[:, level] == chosen).all()
        rest = rest - centres[chosen]
    assert not (model.prices_[0] == 0).all()
    again = ResidualKMeans.load(model.save(tmp_path / "balanced.safetensors"))
    assert (again.transform(np.vstack([X, new])) == np.vstack([model.codes_, codes])).all()


def test_normalized_remainders_by_hand():
    """Two directions; then, of what is left of unit length, a sign; lengths do not matter."""
    turn = np.deg2rad(30)
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    off = {sign: np.cos(turn) * east + sign * np.sin(turn) * north for sign in (1, -1)}
    X = np.array([3 * off[1], 5 * off[-1], -2 * off[1], -7 * off[-1]])
    model = ResidualKMeans(2, 2, normalize_residuals=True).fit(X)
    first, second = model.codes_.T
    assert first[0] == first[1] != first[2] == first[3]
    assert sorted(model.codebooks_[0].tolist()) == [
        pytest.approx((-np.cos(turn), 0)), pytest.approx((np.cos(turn), 0)),
    ]  # fmt: skip
    assert second[0] == second[3] != second[1] == second[2]  # up or down, at unit length
    assert sorted(model.codebooks_[1].tolist()) == [pytest.approx((0, -1)), pytest.approx((0, 1))]
    assert model.scales_ == pytest.approx([17 / 4, 17 / 4 * np.sin(turn)])
    signs = np.array([off[1], off[-1], -off[1], -off[-1]])
    assert model.inverse_transform(model.codes_) == pytest.approx(17 / 4 * signs)
    assert (model.transform(100 * X) == model.codes_).all()


def test_normalized_remainders_of_a_plain_loop():
    X = clustered(200)
    model = ResidualKMeans(3, 7, normalize_residuals=True).fit(X)
    for row, codes in zip(X, model.codes_):
        rest = row
        for level, centres in enumerate(model.codebooks_):
            rest = rest / np.linalg.norm(rest)
            assert codes[level] == ((rest - centres) ** 2).sum(1).argmin()
            rest = rest - centres[codes[level]]


@pytest.mark.trained
def test_start_in_few_directions_is_nearly_as_good_as_scikit_learns_in_all():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 200))[rng.integers(40, size=2000)] + rng.normal(size=(2000, 200))
    ours, theirs = [], []
    for seed in range(5):
        ours.append(KMeans(60, random_state=seed).fit(X).inertia_)
        theirs.append(Flat(60, n_init=1, max_iter=25, random_state=seed).fit(X).inertia_)
    assert np.mean(ours) < 1.02 * np.mean(theirs)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_clusters": 31}, "n_samples = 30 is fewer than n_clusters = 31"),
        ({"n_clusters": 4, "num_levels": 0}, "num_levels is 0"),
        ({"n_clusters": 4, "num_levels": 2.0}, "num_levels is 2.0"),
        ({"n_clusters": 4, "max_iter": 0}, "max_iter is 0"),
        ({"n_clusters": 0}, "n_clusters is 0"),
        ({"n_clusters": 4, "random_state": None}, "random_state is None"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(InputError, match=message):
        ResidualKMeans(**params).fit(clustered(30))


def test_bad_vectors_and_codes_are_named():
    X = clustered(30)
    model = ResidualKMeans(2, 4)
    with pytest.raises(NotFittedError):
        model.transform(X)
    bad = X.copy()
    bad[11, 2] = np.nan
    with pytest.raises(InputError, match="row 11 of X"):
        model.fit(bad)
    with pytest.raises(InputError, match="all the same vector"):
        model.fit(X * 0)
    model.fit(X)
    with pytest.raises(InputError, match="row 11 of X"):
        model.transform(bad)
    with pytest.raises(CodesError, match=r"code 4 of row 1, level 1, is outside 0..3"):
        model.inverse_transform([[0, 0], [0, 4]])
    with pytest.raises(CodesError, match="shape"):
        model.inverse_transform([[0, 0, 0]])
