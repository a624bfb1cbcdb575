"""GAOQ, ReSID's tokenizer: a balanced tree whose child index means one direction everywhere."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from semid_lib.compute.threads import in_threads, num_threads
from semid_lib.errors import InputError
from semid_lib.quantizers.hierarchical import HierarchicalKMeans, groups
from semid_lib.settings import check_settings, choice


class GAOQ(HierarchicalKMeans):
    """Code items by their way down a balanced tree, children numbered by shared anchors.

    Globally aligned orthogonal quantization (ReSID, section 3.3, Algorithm 1). At each level
    l >= 2, every parent with mean mu is split into b_l balanced clusters with means mu_j, and

        mu-bar_j = mu_j - mu                                 (line 5, residuals)
        A = {a_k}, k < g_l, one set for all parents          (line 8, anchors)
        W_jk = cos(mu-bar_j, a_k)                            (line 10)
        pi = argmax over injections of sum_j W_j,pi(j)       (line 11, Hungarian)

    and child j gets the number pi(j), so that a number stands for the same direction under every
    parent. Level 1 keeps the cluster's index (App. G: the root needs no alignment). At the last
    level the children are the items themselves: z_i - mu is matched to the anchors, and since a
    match is injective, all codes are distinct.

    Args:
        branching: (b_1, ..., b_L), L >= 2. b_L = "auto" is the size of the largest level-(L-1)
            cluster; a larger number leaves room for new items. App. G: b_1 b_2 about N/20 to N/10.
        max_iter: most Lloyd steps of each split.
        random_state: integer seed of the splits and the anchors.
        anchors: "orthonormal" (the paper: Q of the QR of a Gaussian matrix), or "principal" (an
            experiment: the principal directions of all residuals of the level).
        n_jobs: threads that split parents; None: the cores of this process, or OMP_NUM_THREADS.
            The codes do not depend on it.

    Attributes:
        codes_: `[N, L]` int64, code of level l in 0..b_l-1, rows distinct.
        level_sizes_: (b_1, ..., b_L). Here g_l = b_l, as in all the paper's experiments.
        anchors_: list of L-1 arrays `[b_l, D]`, unit rows, for the levels 2 to L.
        coherence_: list of L-1 floats, the largest |cos| between two anchors of the level.
        alignment_: list of L-1 floats, the mean cos between a child's residual and its anchor.
        centroids_, prices_, mean_, n_iter_: the tree, as in `HierarchicalKMeans`.

    Raises (in fit):
        CapacityError: b_L is smaller than the largest level-(L-1) cluster.
        InputError: fewer items than b_1 ... b_(L-1); non-finite or all-equal rows; a bad setting.

    Deviates: where b_l > D no orthonormal set exists, and a low-coherence frame stands in (never
        needed in the paper). Algorithm 1 draws anchors inside the loop over parents; App. L.2
        draws them once per level, and so do we: they must be shared.

    Cost: O(N D sum_l b_l) a Lloyd step, O(P_(l-1) (b_l^2 D + b_l^3)) for the matching of level
        l, O(N b_L D + N b_L^2) for the last; memory X, its centred copy and N b_1 costs. Measured
        (`tests/benchmarks/RESULTS.md`): linear in N at fixed upper levels until the matching of
        the last takes over, a sixth of the time at b_L = 157 (200,000 items under 32 x 40).

    Example:
        >>> X = np.random.default_rng(0).normal(size=(12, 4))
        >>> GAOQ(branching=(2, 3, "auto")).fit(X).level_sizes_
        (2, 3, 2)
    """

    limits = {"anchors": choice("orthonormal", "principal")}

    def __init__(
        self, branching=(32, 40, "auto"), max_iter=20, random_state=0, anchors="orthonormal",
        n_jobs=None,
    ):  # fmt: skip
        super().__init__(branching, max_iter, random_state, n_jobs)
        self.anchors = anchors

    def fit(self, X, y=None):
        """Grow the tree on X, `[N, D]`, and align its numbers; `y` is ignored."""
        check_settings(self)
        self.anchors_, self.coherence_, self.alignment_ = [], [], []
        return super().fit(X)

    def _number(self, level, residuals, parent) -> np.ndarray:
        if level == 0:
            return np.arange(len(parent))
        A = self._draw_anchors(level, residuals, len(parent))
        number, siblings = np.empty(len(parent), np.int64), groups(parent)
        few = max(1, 512 // len(siblings[0]))  # parents that share a matrix product

        def match_some(first):
            some = siblings[first : first + few]
            W = _unit(residuals(np.concatenate(some))) @ A.T
            total = 0.0
            for rows, W_p in zip(some, np.split(W, np.cumsum([len(rows) for rows in some[:-1]]))):
                number[rows] = match(W_p)
                total += float(W_p[np.arange(len(rows)), number[rows]].sum(dtype=np.float64))
            return total

        totals = in_threads(match_some, range(0, len(siblings), few), num_threads(self.n_jobs))
        self.alignment_.append(sum(totals) / len(parent))
        return number

    def _draw_anchors(self, level, residuals, count) -> np.ndarray:
        """ORTHO(g_l), line 8: the anchors of a level, before its parents are matched."""
        g, d = self.level_sizes_[level], len(self.mean_)
        rng = np.random.default_rng([self.random_state, level, 0, 3])
        if self.anchors == "principal":
            A = principal_anchors(g, d, residuals, count, rng)
        else:
            A = orthonormal_anchors(g, d, rng) if g <= d else low_coherence_frame(g, d, rng)
        self.anchors_.append(A.astype(self._dtype))
        self.coherence_.append(coherence(A))
        return self.anchors_[-1]

    def _choose(self, level, residuals, free, rng) -> np.ndarray:
        return free[match(_unit(residuals) @ self.anchors_[level - 1][free].T)]

    def state(self):
        anchors = {f"anchors.{i}": A for i, A in enumerate(self.anchors_)}
        return {**super().state(), **anchors, "alignment": np.array(self.alignment_)}

    def restore(self, arrays):
        super().restore(arrays)
        self.anchors_ = [arrays[f"anchors.{i}"] for i in range(len(self.level_sizes_) - 1)]
        self.coherence_ = [coherence(A) for A in self.anchors_]
        self.alignment_ = arrays["alignment"].tolist()


def match(W: np.ndarray) -> np.ndarray:
    """Give each row of W, `[m, g]` with m <= g, a column of its own so that the sum is greatest.

    Lines 10 and 11, the Hungarian method (SciPy's). Returns: `[m]` int64. Cost: O(m^2 g).
    """
    m, g = W.shape
    if 64 < g < 2 * m:  # square, so that columns may be shifted: SciPy then needs a third less time
        W = np.concatenate([W, np.zeros((g - m, g), W.dtype)])
        W = W - W.max(axis=0)
    return linear_sum_assignment(W, maximize=True)[1][:m]  # the rows come as 0..m-1


def orthonormal_anchors(g: int, d: int, rng) -> np.ndarray:
    """Draw g <= d orthonormal directions, uniform over all such sets: `[g, d]`.

    QR of a `[d, g]` Gaussian matrix (ReSID App. L.2); the signs that make R's diagonal positive
    make Q unique, hence Haar. Cost: O(d g^2).
    """
    Q, R = np.linalg.qr(rng.normal(size=(d, g)))
    return (Q * np.where(R.diagonal() < 0, -1, 1)).T


def low_coherence_frame(g: int, d: int, rng, steps: int = 200) -> np.ndarray:
    """Spread g > d unit vectors so that no two point nearly the same way: `[g, d]`.

    Gradient steps from random directions that lower the sum over pairs of max(0, cos)^4; the
    paper's "maximizing inter-anchor cosine separation" (App. K) where orthogonality is impossible.
    A step that does not lower it is taken back and halved. Cost: O(steps g^2 d).
    """
    A, rate = _unit(rng.normal(size=(g, d))), 0.5
    loss, slope = _crowding(A)
    for _ in range(steps):
        trial = _unit(A - rate * slope / max(float(np.abs(slope).max()), 1e-300))
        trial_loss, trial_slope = _crowding(trial)
        if trial_loss < loss:
            A, loss, slope, rate = trial, trial_loss, trial_slope, rate * 1.2
        else:
            rate *= 0.5
    return A


def _crowding(A):
    """Sum of max(0, cos)^4 over pairs of unit rows, and its gradient along the sphere."""
    C = np.maximum(A @ A.T, 0.0)
    np.fill_diagonal(C, 0.0)
    square = C * C
    slope = 4 * (square * C) @ A
    return (square * square).sum() / 2, slope - (slope * A).sum(axis=1, keepdims=True) * A


def principal_anchors(g: int, d: int, residuals, count: int, rng) -> np.ndarray:
    """Take the g directions in which the residuals of a level vary most: `[g, d]`.

    Eigenvectors of sum_r r r^T, the largest first, each pointing to where its residuals reach
    further (largest |cubed| side). An extension: the paper's anchors do not see the data.

    Raises: InputError where g > d. Cost: O(M d^2 + d^3) for M residuals.
    """
    if g > d:
        raise InputError(
            f"anchors='principal' has {d} directions (the vectors' width) for {g} codes of a "
            "level; use anchors='orthonormal' or a smaller branching"
        )
    S = np.zeros((d, d))
    for rows in _blocks(count):
        R = residuals(rows).astype(np.float64)
        S += R.T @ R
    V = np.linalg.eigh(S)[1].T[::-1][:g]
    skew = np.zeros(g)
    for rows in _blocks(count):
        skew += ((residuals(rows) @ V.T) ** 3).sum(axis=0)
    return V * np.where(skew < 0, -1, 1)[:, None]


def coherence(A: np.ndarray) -> float:
    """Largest |cos| between two of the unit rows of A; 0 for a single row."""
    C = np.abs(A @ A.T)
    np.fill_diagonal(C, 0.0)
    return float(C.max())


def _unit(rows):
    """Rows scaled to length 1; a zero row stays zero, so that its cosines are 0."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)


def _blocks(count, size=1024):
    """0..count-1 in runs of at most `size` indices."""
    return np.split(np.arange(count), range(size, count, size))
