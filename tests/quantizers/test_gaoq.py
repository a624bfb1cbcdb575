"""GAOQ: Algorithm 1 by brute force, the anchors, planted directions, new items."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from semid_lib import plain
from semid_lib.errors import InputError
from semid_lib.quantizers import GAOQ, HierarchicalKMeans
from semid_lib.quantizers.gaoq import (
    _crowding,
    low_coherence_frame,
    match,
    orthonormal_anchors,
    principal_anchors,
)


def planted(parents=6, directions=5, items=8, d=24, seed=0):
    """Items at parent + one of `directions` shared orthogonal offsets; the truth beside them."""
    rng = np.random.default_rng(seed)
    offsets = 4 * np.linalg.qr(rng.normal(size=(d, directions)))[0].T
    parent = np.repeat(np.arange(parents), directions * items)
    direction = np.tile(np.repeat(np.arange(directions), items), parents)
    centres = 40 * rng.normal(size=(parents, d))
    X = centres[parent] + offsets[direction] + 0.1 * rng.normal(size=(len(parent), d))
    return X, parent, direction


@pytest.mark.parametrize("m, g", [(3, 3), (2, 5), (1, 80), (30, 80), (79, 80), (80, 80)])
def test_match_is_scipys(m, g):
    W = np.random.default_rng(m).normal(size=(m, g)).astype(np.float32)
    assert (match(W) == linear_sum_assignment(-W.astype(float))[1]).all()


def test_numbers_are_the_best_matching_to_the_shared_anchors():
    """Lines 5 to 11 of Algorithm 1 with brute force in place of the Hungarian method."""
    X = np.random.default_rng(0).normal(size=(60, 7))
    model = GAOQ((3, 4, "auto")).fit(X)
    codes = model.codes_
    for p in range(3):
        mu = X[codes[:, 0] == p].mean(0)
        children = [(codes[:, 0] == p) & (codes[:, 1] == j) for j in range(4)]
        centres = [X[members].mean(0) for members in children]
        assert plain.aligned_numbers(centres, mu, model.anchors_[0]) == (0, 1, 2, 3)
        for members, centre in zip(children, centres):
            numbers = plain.aligned_numbers(X[members], centre, model.anchors_[1])
            assert tuple(codes[members, 2]) == numbers


def test_alignment_is_the_mean_cosine():
    X = np.random.default_rng(1).normal(size=(60, 7))
    model = GAOQ((3, 4, "auto")).fit(X)
    mu = model.inverse_transform(model.codes_)
    got = np.mean(
        [plain.cosine(x - m, model.anchors_[1][c]) for x, m, c in zip(X, mu, model.codes_[:, 2])]
    )
    assert model.alignment_[1] == pytest.approx(got)
    upper = model.centroids_[0].repeat(4, axis=0)
    got = np.mean(
        [
            plain.cosine(r, model.anchors_[0][i % 4])
            for i, r in enumerate(model.centroids_[1] - upper)
        ]
    )
    assert model.alignment_[0] == pytest.approx(got)


def test_a_planted_direction_gets_one_number_under_every_parent():
    X, parent, direction = planted()
    aligned = GAOQ((6, 5, "auto")).fit_transform(X)
    assert len(set(zip(parent, aligned[:, 0]))) == 6  # the parents are found
    assert len(set(zip(direction, aligned[:, 1]))) == 5  # number = direction, everywhere
    local = HierarchicalKMeans((6, 5, "auto")).fit_transform(X)
    assert len(set(zip(direction, local[:, 1]))) > 10  # the ablation mixes them


def test_anchors_are_orthonormal_shared_and_seeded():
    X = np.random.default_rng(0).normal(size=(80, 9))
    model = GAOQ((4, 5, "auto")).fit(X)
    for A, g in zip(model.anchors_, model.level_sizes_[1:]):
        assert A.shape == (g, 9)
        assert A @ A.T == pytest.approx(np.eye(g), abs=1e-12)
    assert max(model.coherence_) < 1e-12
    again = GAOQ((4, 5, "auto")).fit(X + 1)
    assert (again.anchors_[0] == model.anchors_[0]).all()  # blind to the data
    other = GAOQ((4, 5, "auto"), random_state=1).fit(X)
    assert np.abs(other.anchors_[0] - model.anchors_[0]).max() > 0.1


def test_gaussian_qr_with_fixed_signs_is_uniform_on_the_sphere():
    """Haar: the first anchor of many draws has mean 0 and covariance I/d (raw QR has not)."""
    rng = np.random.default_rng(0)
    first = np.array([orthonormal_anchors(2, 3, rng)[0] for _ in range(4000)])
    assert first.mean(0) == pytest.approx(np.zeros(3), abs=0.04)
    assert first.T @ first / 4000 == pytest.approx(np.eye(3) / 3, abs=0.03)


def test_more_anchors_than_dimensions_spread_out():
    rng = np.random.default_rng(0)
    A = low_coherence_frame(3, 2, rng)
    assert np.linalg.norm(A, axis=1) == pytest.approx(np.ones(3))
    cosines = (A @ A.T)[np.triu_indices(3, 1)]
    assert cosines.max() < 0.05  # no two of three within 87 degrees, in the plane
    frame, random = low_coherence_frame(40, 16, rng), rng.normal(size=(40, 16))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    assert _crowding(frame)[0] < 0.3 * _crowding(random)[0]
    X = rng.normal(size=(60, 3))
    model = GAOQ((2, 5, "auto")).fit(X)  # 5 and 6 codes in 3 dimensions
    assert len(np.unique(model.codes_, axis=0)) == 60
    assert 0 < model.coherence_[0] <= 1
    assert GAOQ((2, 3, "auto")).fit(X[:, :1]).codes_.shape == (60, 3)


def test_crowding_gradient_is_the_derivative():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 3))
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    slope = _crowding(A)[1]
    step = rng.normal(size=A.shape)
    step -= (step * A).sum(1, keepdims=True) * A  # along the sphere

    def loss(t):
        B = A + t * step
        return _crowding(B / np.linalg.norm(B, axis=1, keepdims=True))[0]

    assert (loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx((slope * step).sum(), rel=1e-5)


def test_principal_anchors_are_the_principal_directions():
    rng = np.random.default_rng(0)
    R = rng.normal(size=(500, 4)) * [5, 3, 1, 0.1]
    R[:, 0] = np.abs(R[:, 0])  # skewed to the positive side
    A = principal_anchors(2, 4, R.__getitem__, 500, rng)
    _, _, V = np.linalg.svd(R)
    assert np.abs((A * V[:2]).sum(1)) == pytest.approx([1, 1])
    assert A[0, 0] > 0.9
    X, _, direction = planted()
    model = GAOQ((6, 5, "auto"), anchors="principal").fit(X)
    assert len(set(zip(direction, model.codes_[:, 1]))) == 5
    assert model.alignment_[0] > GAOQ((6, 5, "auto")).fit(X).alignment_[0]
    with pytest.raises(InputError, match="3 directions .* for 5 codes"):
        GAOQ((2, 5, "auto"), anchors="principal").fit(X[:, :3])
    with pytest.raises(InputError, match="anchors is 'pca'"):
        GAOQ((2, 5, "auto"), anchors="pca").fit(X)


def test_a_new_item_takes_the_nearest_free_anchor():
    X, _, _ = planted(parents=3, directions=4, items=3)
    model = GAOQ((3, 4, 5)).fit(X)
    new = X[10] + 0.05
    code = model.transform(new[None])[0]
    siblings = model.codes_[(model.codes_[:, :2] == code[:2]).all(1), 2]
    free = [k for k in range(5) if k not in siblings]
    residual = new - model.inverse_transform(code[None])[0]
    assert code[2] == max(free, key=lambda k: plain.cosine(residual, model.anchors_[1][k]))
    two = model.transform(np.vstack([new, new]))
    assert sorted(two[:, 2]) == sorted(free)


def test_zero_residuals_are_harmless():
    """A parent with one child, and equal items: the residual is 0 and any free number will do."""
    X = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 5, axis=0)
    model = GAOQ((4, 1, "auto")).fit(X)
    assert model.level_sizes_ == (4, 1, 5)
    assert len(np.unique(model.codes_, axis=0)) == 20
    assert np.isfinite(model.alignment_).all()


def test_the_paper_size_has_no_collision_and_equal_use_of_codes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 32)).astype(np.float32)
    model = GAOQ((8, 10, "auto")).fit(X)
    assert model.level_sizes_ == (8, 10, 25)
    assert len(np.unique(model.codes_, axis=0)) == 2000
    for level in (0, 1):
        counts = np.bincount(model.codes_[:, level])
        assert np.ptp(counts) <= 10


def test_memory_stays_under_three_times_the_vectors():
    import tracemalloc

    X = np.random.default_rng(0).normal(size=(20_000, 128)).astype(np.float32)
    GAOQ((4, 4, "auto"), max_iter=1).fit(X[:100])  # compile outside of the measurement
    tracemalloc.start()
    GAOQ((32, 40, "auto"), max_iter=2, n_jobs=2).fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert X.nbytes + peak < 3 * X.nbytes
