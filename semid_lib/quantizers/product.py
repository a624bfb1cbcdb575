"""Product quantization: blocks of a vector coded each on its own, after a rotation or without."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from semid_lib.errors import InputError, MissingPackageError
from semid_lib.quantizers.balanced_kmeans import check_clusters
from semid_lib.quantizers.base import (
    Quantizer,
    check_codes,
    check_seed,
    check_vectors,
    check_whole,
)
from semid_lib.settings import keep_settings

LAST_STEPS = 25  # Lloyd steps of the codebooks, faiss's own default


class PQ(Quantizer):
    """Cut a vector into m equal blocks and code each by its nearest of K centres.

    x - mean = (x_1, ..., x_m), c_b = argmin_k ||x_b - mu^b_k||^2: unlike a residual quantizer's,
    the codes have no order and can be found (and generated) in parallel. The k-means and the
    codes are faiss's (`ProductQuantizer`); packed codes are read back by its `unpack_bitstrings`.
    Source: Jégou et al. 2011.

    Args:
        num_blocks: m, which must divide D.
        num_codes: K, a power of two from 2 to 65,536, at most N. faiss advises 39 K rows at
            least; with fewer (900 items, 256 codes) centres follow single items, and nothing is
            said. Above 256 K rows, it learns from a sample of that many.
        max_iter: Lloyd steps.
        random_state: integer seed.

    Attributes:
        codes_: `[N, m]` int64 in 0..K-1. level_sizes_: (K,) * m.
        codebooks_: list of m float32 arrays `[K, D/m]`, centres of the (rotated) vectors' blocks.
        codewords_: the same in the space of X, `[K, D]` each: their sum is the reconstruction.
        inertia_: sum of squared distances of the rows to their reconstructions.
        errors_: mean squared distance after each round of learning (one round for PQ).
        n_iter_: rounds made.

    Raises (in fit):
        InputError: D is no multiple of m, fewer rows than codes, non-finite or all-equal rows,
            a bad setting.
        MissingPackageError: faiss is not installed.

    Cost: O(N K D) a step, in float32 and in one thread (so that a seed decides the codes).
    """

    def __init__(self, num_blocks=4, num_codes=256, max_iter=LAST_STEPS, random_state=0):
        keep_settings(locals())

    def fit(self, X, y=None):
        """Learn the codebooks from X, `[N, D]`; `y` is ignored."""
        faiss = _faiss()
        seed = check_seed(self.random_state)
        X = check_vectors(self, X, reset=True)
        m, k = self._check_settings(*X.shape)
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        Z, scale = _unit_scale(X - self.mean_)
        pq = faiss.ProductQuantizer(X.shape[1], m, int(k).bit_length() - 1)
        pq.cp.seed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
        pq.cp.min_points_per_centroid = 1  # faiss would print a warning below 39
        with threadpool_limits(1):
            rotation, errors = self._learn(pq, Z)
            rotated = Z @ rotation
            self.codes_, near = _encode(pq, rotated)
        self.level_sizes_, self.rotation_ = (k,) * m, rotation
        centres = faiss.vector_to_array(pq.centroids).reshape(m, k, -1).astype(np.float64)
        self._centres = centres * scale
        self.errors_ = [error * scale**2 for error in [*errors, _error(rotated, near)]]
        self.inertia_ = self.errors_[-1] * len(X)
        return self

    def _check_settings(self, n, width) -> tuple[int, int]:
        """Return m and K, or raise InputError."""
        for name, least in (("num_blocks", 1), ("num_codes", 2), ("max_iter", 1)):
            check_whole(name, getattr(self, name), least)
        m, k = int(self.num_blocks), int(self.num_codes)
        if width % m:
            fits = [d for d in range(1, width + 1) if width % d == 0]
            raise InputError(
                f"vectors of n_features = {width} cannot be cut into num_blocks = {m} equal "
                f"blocks; {width} can be cut into {', '.join(map(str, fits))}. Reduce the vectors "
                f"to {width - width % m or m} dimensions (PCA), or choose one of these."
            )
        if k > 65_536 or k & (k - 1):
            raise InputError(f"num_codes is {k}, but must be a power of two from 2 to 65,536")
        check_clusters(k, n)
        return m, k

    def _learn(self, pq, Z) -> tuple[np.ndarray, list[float]]:
        """Train the codebooks; return the rotation `[D, D]` and the errors of earlier rounds."""
        _train(pq, Z, self.max_iter)
        return np.eye(Z.shape[1], dtype=np.float32), []

    def transform(self, X) -> np.ndarray:
        """Nearest centre of each block, `[N, m]` int64."""
        self._check_fitted()
        X = check_vectors(self, X, reset=False)
        faiss = _faiss()
        m, k, block = self._centres.shape
        scale = np.abs(self._centres).max() or 1.0
        pq = faiss.ProductQuantizer(m * block, m, k.bit_length() - 1)
        faiss.copy_array_to_vector((self._centres / scale).astype(np.float32).ravel(), pq.centroids)
        with threadpool_limits(1):
            rotated = ((X - self.mean_) / scale).astype(np.float32) @ self.rotation_
            return _encode(pq, rotated)[0]

    def inverse_transform(self, codes) -> np.ndarray:
        """The reconstruction `[N, D]` of codes; blocks beyond those given stay at the mean."""
        self._check_fitted()
        codes = check_codes(codes, self.level_sizes_)
        m, _, block = self._centres.shape
        rotated = np.zeros((len(codes), m, block))
        for b, column in enumerate(codes.T):
            rotated[:, b] = self._centres[b, column]
        X = rotated.reshape(len(codes), -1) @ self.rotation_.T + self.mean_
        return X.astype(self._dtype)

    @property
    def n_iter_(self) -> int:
        """Rounds of learning that were made."""
        return len(self.errors_)

    @property
    def codebooks_(self) -> list[np.ndarray]:
        """m arrays `[K, D/m]`: blocks of rotated vectors."""
        self._check_fitted()
        origin = (self.mean_ @ self.rotation_).reshape(len(self._centres), 1, -1)
        return list((self._centres + origin).astype(np.float32))

    @property
    def codewords_(self) -> list[np.ndarray]:
        """m arrays `[K, D]`: what each code adds to the reconstruction, in the space of X."""
        width = len(self.mean_) // len(self.level_sizes_)
        turned = self.rotation_.T.reshape(len(self.level_sizes_), width, -1)
        return [centres @ rows for centres, rows in zip(self.codebooks_, turned)]

    def _state(self):
        return {
            "centres": self._centres, "mean": self.mean_, "rotation": self.rotation_,
            "errors": np.array(self.errors_),
        }  # fmt: skip

    def _restore(self, arrays):
        self._centres, self.mean_ = arrays["centres"], arrays["mean"]
        self.rotation_, self.errors_ = arrays["rotation"], arrays["errors"].tolist()
        self.inertia_ = self.errors_[-1] * len(self.codes_)


class OPQ(PQ):
    """Product quantization after the rotation that suits it best.

    Minimises sum_i ||x_i R - x̂_i||^2 over orthonormal R and the codebooks by turns: a few Lloyd
    steps of the blocks of XR from the last codebooks, then, for these codes, the orthonormal R
    nearest to them (Procrustes): R = U V^T from the singular vectors of X^T X̂ = U S V^T. Blocks of
    a rotated vector share the variance, and correlated dimensions meet in one block.
    Source: Ge et al. 2013, the non-parametric solution; `OPQ{m},PQ{m}x8` of faiss, RPG, ACERec.

    Args:
        num_blocks, num_codes, random_state: as in `PQ`.
        num_rounds: most turns; fewer when neither codes nor R change any more. faiss: 50.
        steps: Lloyd steps a turn.
        max_iter: Lloyd steps after the last turn, with R as it is.
        init: "pca": principal axes dealt to the blocks so that the products of their variances
            are alike (the parametric solution); "random": a random rotation, as in faiss.

    Attributes:
        rotation_: `[D, D]` float32, R^T R = I; rows are multiplied by it from the right.
        Others as in `PQ`; `errors_` has the error of each turn, then the last one.

    Deviates: vectors are centred first (as faiss's IVF1 residuals are in RPG).

    Cost: a turn is O(N K D steps + N D^2 + D^3).
    """

    def __init__(
        self, num_blocks=4, num_codes=256, num_rounds=50, steps=4, max_iter=LAST_STEPS, init="pca",
        random_state=0,
    ):  # fmt: skip
        super().__init__(num_blocks, num_codes, max_iter, random_state)
        self.num_rounds, self.steps, self.init = num_rounds, steps, init

    def _check_settings(self, n, width):
        for name in ("num_rounds", "steps"):
            check_whole(name, getattr(self, name))
        if self.init not in ("pca", "random"):
            raise InputError(f"init is {self.init!r}, but must be 'pca' or 'random'")
        return super()._check_settings(n, width)

    def _learn(self, pq, Z):
        if self.init == "pca":
            rotation = balanced_axes(Z, pq.M)
        else:
            noise = np.random.default_rng(self.random_state).normal(size=(Z.shape[1],) * 2)
            rotation = np.linalg.qr(noise)[0]
        errors, codes = [], None
        for turn in range(self.num_rounds):
            rotation = rotation.astype(np.float32)
            rotated = Z @ rotation
            _train(pq, rotated, self.steps if turn else LAST_STEPS, hot=turn > 0)
            before, last, (codes, near) = rotation, codes, _encode(pq, rotated)
            errors.append(_error(rotated, near))
            rotation = procrustes(Z, near)
            if turn and (codes == last).all() and np.abs(rotation - before).max() < 1e-4:
                break
        rotation = rotation.astype(np.float32)
        _train(pq, Z @ rotation, self.max_iter, hot=True)
        return rotation, errors


def procrustes(X, target) -> np.ndarray:
    """The orthonormal `[D, D]` R of least ||X R - target||: U V^T of X^T target (Schönemann)."""
    u, _, vt = np.linalg.svd((X.T @ target).astype(np.float64))
    return u @ vt


def balanced_axes(Z, m) -> np.ndarray:
    """Principal axes of centred Z as columns `[D, D]`, dealt to m blocks of equal width.

    From the largest variance down, each goes to the block (that has room) with the smallest
    product of variances so far: Ge et al. 2013, eigenvalue allocation.
    """
    variance, axes = np.linalg.eigh((Z.T @ Z).astype(np.float64))
    variance = np.maximum(variance, 1e-12 * variance[-1])
    blocks, product = [[] for _ in range(m)], np.zeros(m)
    for axis in reversed(range(len(variance))):
        full = [len(block) * m == len(variance) for block in blocks]
        at = int(np.argmin(np.where(full, np.inf, product)))
        blocks[at].append(axis)
        product[at] += np.log(variance[axis] / variance[0])
    return axes[:, np.concatenate(blocks)]


def _unit_scale(Z) -> tuple[np.ndarray, float]:
    """Z as float32 with largest entry 1, whatever its size, and the factor back."""
    scale = float(np.abs(Z).max()) or 1.0
    return np.ascontiguousarray(Z / scale, dtype=np.float32), scale


def _train(pq, Y, steps, hot=False) -> None:
    kind = _faiss().ProductQuantizer
    pq.cp.niter, pq.train_type = steps, kind.Train_hot_start if hot else kind.Train_default
    pq.train(Y)


def _encode(pq, Y) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[N, m]` int64 of rotated rows, and what they stand for `[N, D]`."""
    packed = pq.compute_codes(Y)
    codes = _faiss().unpack_bitstrings(packed, pq.M, pq.nbits)
    return codes.astype(np.int64), pq.decode(packed)


def _error(Y, near) -> float:
    return float(np.square(Y - near, dtype=np.float64).sum() / len(Y))


def _faiss():
    try:
        import faiss
    except ImportError:
        raise MissingPackageError(
            "PQ and OPQ need the package faiss-cpu: pip install faiss-cpu"
        ) from None
    return faiss
