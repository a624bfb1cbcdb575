"""Product quantization: blocks of a vector coded each on its own, after a rotation or without."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from semid_lib.errors import InputError, MissingPackageError
from semid_lib.quantizers.balanced_kmeans import check_clusters, nearest
from semid_lib.quantizers.base import Quantizer, check_codes, check_vectors
from semid_lib.quantizers.kmeans import kmeans, lloyd_steps
from semid_lib.settings import SIZE, check_seed, choice, keep_settings, whole

LAST_STEPS = 25  # Lloyd steps of the codebooks, faiss's own default
SAME = 1e-12  # what rounding makes of equal squared distances, as a share of squared lengths
DUST = 1e-13  # what rotating leaves of zero, where the largest entry is 1
MOST_ROTATED = 4096  # dimensions that OPQ turns: its rotation takes D^3 operations a turn


class PQ(Quantizer):
    """Cut a vector into m equal blocks and code each by its nearest of K centres.

    x - mean = (x_1, ..., x_m), c_b = argmin_k ||x_b - mu^b_k||^2: unlike a residual quantizer's,
    the codes have no order and can be found (and generated) in parallel. In float32 the k-means
    is faiss's (`ProductQuantizer`), in float64 this library's. Where centres are equal, as with
    fewer distinct rows than codes, the first is taken: `transform` repeats `codes_` row by row.
    Source: Jégou et al. 2011.

    Args:
        num_blocks: m, which must divide D.
        num_codes: K, a power of two from 2 to 65,536, at most N. faiss advises 39 K rows at
            least; with fewer (900 items, 256 codes) centres follow single items, and nothing is
            said. Above 256 K rows, it learns from a sample of that many.
        max_iter: Lloyd steps.
        random_state: integer seed.
        precision: "float32" (faiss), or "float64": slower, and the same codes on processors whose
            float32 sums differ in the last digit, which moves a few codes.

    Attributes:
        codes_: `[N, m]` int64 in 0..K-1. level_sizes_: (K,) * m.
        codebooks_: list of m arrays `[K, D/m]` in `precision`, centres of the (rotated) vectors'
            blocks.
        codewords_: the same in the space of X, `[K, D]` each: their sum is the reconstruction.
        inertia_: sum of squared distances of the rows to their reconstructions.
        errors_: mean squared distance after each round of learning (one round for PQ).
        n_iter_: rounds made.

    Raises (in fit):
        InputError: D is no multiple of m, fewer rows than codes, non-finite or all-equal rows,
            a bad setting.
        MissingPackageError: float32, and faiss is not installed.

    Cost: O(N K D) a step, in one thread (so that a seed decides the codes).
    """

    limits = {
        "num_blocks": SIZE, "num_codes": whole(2), "precision": choice("float32", "float64"),
    }  # fmt: skip

    def __init__(
        self, num_blocks=4, num_codes=256, max_iter=LAST_STEPS, random_state=0,
        precision="float32",
    ):  # fmt: skip
        keep_settings(locals())

    def fit(self, X, y=None):
        """Learn the codebooks from X, `[N, D]`; `y` is ignored."""
        seed = check_seed(self.random_state)
        X = check_vectors(self, X, reset=True)
        m, k = self._check_settings(*X.shape)
        books = self._books(m, k, X.shape[1], seed)
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        self._scale = float(np.abs(X - self.mean_).max()) or 1.0
        Z = self._centred(X)
        with threadpool_limits(1):
            self.rotation_, errors = self._learn(books, Z)
        self.level_sizes_ = (k,) * m
        self._centres = books.centres() * self._scale
        self.codes_, last = self._code(X)
        self.errors_ = [error * self._scale**2 for error in [*errors, last]]
        self.inertia_ = self.errors_[-1] * len(X)
        return self

    def _books(self, m, k, width, seed):
        """Codebooks of the kind that `precision` asks for, not yet learnt."""
        kind = _FaissBooks if self.precision == "float32" else _Books
        return kind(m, k, width, seed)

    def _centred(self, X) -> np.ndarray:
        """X less its mean, in `precision`, with largest fitted entry 1 whatever the unit."""
        return np.ascontiguousarray((X - self.mean_) / self._scale, dtype=self.precision)

    def _check_settings(self, n, width) -> tuple[int, int]:
        """Return m and K, or raise InputError."""
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

    def _learn(self, books, Z) -> tuple[np.ndarray, list[float]]:
        """Train the codebooks; return the rotation `[D, D]` and the errors of earlier rounds."""
        books.train(Z, self.max_iter)
        return np.eye(Z.shape[1], dtype=Z.dtype), []

    def transform(self, X) -> np.ndarray:
        """Nearest centre of each block, `[N, m]` int64."""
        self.check_fitted()
        X = check_vectors(self, X, reset=False)
        return self._code(X)[0]

    def _code(self, X) -> tuple[np.ndarray, float]:
        """Codes `[N, m]`, and the mean squared error at scale 1.

        In float64, so that a row gets the same codes alone and among others.
        """
        with threadpool_limits(1):
            rotated = ((X - self.mean_) / self._scale) @ self.rotation_.astype(np.float64)
        blocks = np.split(rotated, len(self._centres), axis=1)
        codes, error = [], 0.0
        for block, words in zip(blocks, self._centres / self._scale):
            codes.append(first_nearest(block, words))
            error += _error(block, words[codes[-1]])
        return np.stack(codes, axis=1), error

    def inverse_transform(self, codes) -> np.ndarray:
        """The reconstruction `[N, D]` of codes; blocks beyond those given stay at the mean."""
        self.check_fitted()
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
        self.check_fitted()
        origin = (self.mean_ @ self.rotation_).reshape(len(self._centres), 1, -1)
        return list((self._centres + origin).astype(self.precision))

    @property
    def codewords_(self) -> list[np.ndarray]:
        """m arrays `[K, D]`: what each code adds to the reconstruction, in the space of X."""
        width = len(self.mean_) // len(self.level_sizes_)
        turned = self.rotation_.T.reshape(len(self.level_sizes_), width, -1)
        return [centres @ rows for centres, rows in zip(self.codebooks_, turned)]

    def state(self):
        return {
            "centres": self._centres, "mean": self.mean_, "rotation": self.rotation_,
            "errors": np.array(self.errors_), "scale": np.array(self._scale),
        }  # fmt: skip

    def restore(self, arrays):
        self._centres, self.mean_ = arrays["centres"], arrays["mean"]
        self.rotation_, self.errors_ = arrays["rotation"], arrays["errors"].tolist()
        older = np.abs(self._centres).max() or 1.0  # files of before kept no scale
        self._scale = float(arrays.get("scale", older))
        self.inertia_ = self.errors_[-1] * len(self.codes_)


class OPQ(PQ):
    """Product quantization after the rotation that suits it best.

    Minimises sum_i ||x_i R - x̂_i||^2 over orthonormal R and the codebooks by turns: a few Lloyd
    steps of the blocks of XR from the last codebooks, then, for these codes, the orthonormal R
    nearest to them (Procrustes): R = U V^T from the singular vectors of X^T X̂ = U S V^T. Blocks of
    a rotated vector share the variance, and correlated dimensions meet in one block.
    Source: Ge et al. 2013, the non-parametric solution; `OPQ{m},PQ{m}x8` of faiss, RPG, ACERec.

    Args:
        num_blocks, num_codes, random_state, precision: as in `PQ`.
        num_rounds: most turns; fewer when neither codes nor R change any more. faiss: 50.
        steps: Lloyd steps a turn.
        max_iter: Lloyd steps after the last turn, with R as it is.
        init: "pca": principal axes dealt to the blocks so that the products of their variances
            are alike (the parametric solution); "random": a random rotation, as in faiss.

    Attributes:
        rotation_: `[D, D]` in `precision`, R^T R = I; rows are multiplied by it from the right.
        Others as in `PQ`; `errors_` has the error of each turn, then the last one.

    Deviates: vectors are centred first (as faiss's IVF1 residuals are in RPG).

    Raises: as `PQ`, and InputError for D above 4,096.

    Cost: a turn is O(N K D steps + N D^2 + D^3).
    """

    limits = {"num_rounds": SIZE, "steps": SIZE, "init": choice("pca", "random")}

    def __init__(
        self, num_blocks=4, num_codes=256, num_rounds=50, steps=4, max_iter=LAST_STEPS, init="pca",
        random_state=0, precision="float32",
    ):  # fmt: skip
        super().__init__(num_blocks, num_codes, max_iter, random_state, precision)
        self.num_rounds, self.steps, self.init = num_rounds, steps, init

    def _check_settings(self, n, width):
        if width > MOST_ROTATED:
            raise InputError(
                f"n_features = {width}, but OPQ turns at most {MOST_ROTATED} dimensions: a round "
                "takes as many operations as their cube. Reduce the vectors first (PCA, "
                "`TextEncoder(pca=...)`), or use PQ, which turns nothing."
            )
        return super()._check_settings(n, width)

    def _learn(self, books, Z):
        if self.init == "pca":
            rotation = balanced_axes(Z, int(self.num_blocks))
        else:
            noise = np.random.default_rng(self.random_state).normal(size=(Z.shape[1],) * 2)
            rotation = np.linalg.qr(noise)[0]
        errors, codes = [], None
        for turn in range(self.num_rounds):
            rotation = rotation.astype(Z.dtype)
            rotated = Z @ rotation
            books.train(rotated, self.steps if turn else LAST_STEPS, hot=turn > 0)
            before, last, (codes, near) = rotation, codes, books.encode(rotated)
            errors.append(_error(rotated, near))
            rotation = procrustes(Z, near)
            if turn and (codes == last).all() and np.abs(rotation - before).max() < 1e-4:
                break
        rotation = rotation.astype(Z.dtype)
        books.train(Z @ rotation, self.max_iter, hot=True)
        return rotation, errors


def first_nearest(X, centres) -> np.ndarray:
    """Index of the nearest centre of each row, `[N]` int64: the first where several are equal.

    Squared distances that differ by less than `SAME` of the squared lengths count as equal: where
    rows repeat, k-means leaves centres that are the same but for rounding. Rows of scale 1.
    """
    offset, chosen = (centres * centres).sum(axis=1), np.empty(len(X), np.int64)
    with threadpool_limits(1):
        for first in range(0, len(X), 1024):
            rows = X[first : first + 1024]
            cost = offset - 2 * (rows @ centres.T)
            slack = SAME * ((rows * rows).sum(axis=1) + offset.max()) + DUST**2
            least = cost.min(axis=1) + slack
            chosen[first : first + 1024] = (cost <= least[:, None]).argmax(axis=1)
    return chosen


def procrustes(X, target) -> np.ndarray:
    """The orthonormal `[D, D]` R of least ||X R - target||: U V^T of X^T target (Schönemann)."""
    u, _, vt = np.linalg.svd((X.T @ target).astype(np.float64))
    return u @ vt


def balanced_axes(Z, m) -> np.ndarray:
    """Principal axes of centred Z as columns `[D, D]`, dealt to m blocks of equal width.

    From the largest variance down, each goes to the block (that has room) with the smallest
    product of variances so far: Ge et al. 2013, eigenvalue allocation.
    """
    products = (Z.T @ Z).astype(np.float64)
    products = (products / np.abs(products).max()).round(9)  # whitened rows: all one
    variance, axes = np.linalg.eigh(products)
    variance = np.maximum(variance, 1e-12 * variance[-1])
    blocks, product = [[] for _ in range(m)], np.zeros(m)
    for axis in reversed(range(len(variance))):
        full = [len(block) * m == len(variance) for block in blocks]
        at = int(np.argmin(np.where(full, np.inf, product)))
        blocks[at].append(axis)
        product[at] += np.log(variance[axis] / variance[0])
    return axes[:, np.concatenate(blocks)]


class _FaissBooks:
    """m codebooks `[K, D/m]` in float32: learnt, and rows coded, by faiss."""

    def __init__(self, m, k, width, seed):
        self.pq = _faiss().ProductQuantizer(width, m, int(k).bit_length() - 1)
        self.pq.cp.seed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
        self.pq.cp.min_points_per_centroid = 1  # faiss would print a warning below 39

    def train(self, Y, steps, hot=False) -> None:
        """Make so many Lloyd steps, from the present centres if `hot`."""
        kind = _faiss().ProductQuantizer
        self.pq.train_type = kind.Train_hot_start if hot else kind.Train_default
        self.pq.cp.niter = steps
        self.pq.train(Y)

    def encode(self, Y) -> tuple[np.ndarray, np.ndarray]:
        """Codes `[N, m]` int64 of rotated rows, and what they stand for `[N, D]`."""
        packed = self.pq.compute_codes(Y)
        codes = _faiss().unpack_bitstrings(packed, self.pq.M, self.pq.nbits)
        return codes.astype(np.int64), self.pq.decode(packed)

    def centres(self) -> np.ndarray:
        """The codebooks, `[m, K, D/m]` float64."""
        flat = _faiss().vector_to_array(self.pq.centroids)
        return flat.reshape(self.pq.M, self.pq.ksub, -1).astype(np.float64)


class _Books:
    """The same in float64, by the library's k-means."""

    def __init__(self, m, k, width, seed):
        self.words = np.zeros((m, k, width // m))
        self.rng = np.random.default_rng(seed)

    def train(self, Y, steps, hot=False) -> None:
        for b, block in enumerate(self._cut(Y)):
            if hot:
                self.words[b] = lloyd_steps(block, self.words[b], steps)[0]
            else:
                self.words[b] = kmeans(block, self.words.shape[1], steps, self.rng)[0]

    def encode(self, Y) -> tuple[np.ndarray, np.ndarray]:
        codes = [nearest(block, words) for block, words in zip(self._cut(Y), self.words)]
        near = [words[column] for words, column in zip(self.words, codes)]
        return np.stack(codes, axis=1), np.hstack(near)

    def centres(self) -> np.ndarray:
        return self.words

    def _cut(self, Y) -> list[np.ndarray]:
        return np.split(Y, len(self.words), axis=1)


def _error(Y, near) -> float:
    return float(np.square(Y - near, dtype=np.float64).sum() / len(Y))


def _faiss():
    try:
        import faiss
    except ImportError:
        raise MissingPackageError(
            "PQ and OPQ in float32 need the package faiss-cpu: pip install faiss-cpu "
            "(precision='float64' does without, more slowly)"
        ) from None
    return faiss
