"""Residual k-means: every level clusters what the levels above left over."""

from __future__ import annotations

import numpy as np

from semid_lib.errors import InputError
from semid_lib.quantizers.balanced_kmeans import check_clusters
from semid_lib.quantizers.base import Quantizer, check_seed, check_vectors
from semid_lib.quantizers.kmeans import check_codes, flat_kmeans


class ResidualKMeans(Quantizer):
    """Code items level by level: the nearest of K centres, then the same for the remainder.

    With r^0 = x, level l learns K centres mu^l by k-means on the remainders r^(l-1) and takes

        c_l = argmin_k ||r^(l-1) - mu^l_k||^2,    r^l = r^(l-1) - mu^l_(c_l),

    so x = mu^1_(c_1) + ... + mu^L_(c_L) + r^L. The R-KMeans of OneRec, QARM and the R³-VAE paper's
    tables: k-means++ start, full-batch Lloyd steps, no balance. Codes need not be unique: rows
    that are alike in every level share one.

    Args:
        num_levels: L.
        n_clusters: K, the size of every codebook, at most N.
        max_iter: most Lloyd steps of a level.
        random_state: integer seed.

    Attributes:
        codes_: `[N, L]` int64 in 0..K-1. level_sizes_: (K,) * L.
        codebooks_: list of L arrays `[K, D]`, the centres. Where the remainders hold fewer than
            K distinct rows (all are zero once K = N, say), some centres repeat and stay unused.
        n_iter_: most steps of a level.

    Raises (in fit):
        InputError: fewer rows than clusters, non-finite or all-equal rows, a bad setting.

    Cost: O(N K D) a step and level; memory two copies of X.

    Example:
        >>> X = np.array([[0.0], [1.0], [10.0], [11.0]])
        >>> model = ResidualKMeans(num_levels=2, n_clusters=2).fit(X)
        >>> model.inverse_transform(model.codes_).ravel().tolist()
        [0.0, 1.0, 10.0, 11.0]
    """

    def __init__(self, num_levels=3, n_clusters=256, max_iter=25, random_state=0):
        self.num_levels = num_levels
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X, y=None):
        """Learn the codebooks from X, `[N, D]`, the first level first; `y` is ignored."""
        seed = check_seed(self.random_state)
        X = check_vectors(self, X, reset=True)
        k = check_clusters(self.n_clusters, len(X))
        whole = isinstance(self.num_levels, (int, np.integer))
        if not whole or isinstance(self.num_levels, bool) or self.num_levels < 1:
            raise InputError(f"num_levels is {self.num_levels!r}, but must be an integer >= 1")
        self.codebooks_, self.level_sizes_ = [], (k,) * int(self.num_levels)
        self.n_iter_, rest = 1, X
        for level in range(len(self.level_sizes_)):
            start = int(np.random.SeedSequence([seed, level]).generate_state(1)[0])
            flat = flat_kmeans(rest, k, self.max_iter, start)
            self.codebooks_.append(flat.cluster_centers_)
            self.n_iter_ = max(self.n_iter_, int(flat.n_iter_))
            rest = rest - flat.cluster_centers_[_nearest(rest, flat.cluster_centers_)]
        self.codes_ = self._encode(X)
        return self

    def transform(self, X) -> np.ndarray:
        """Nearest centre of each level in turn (greedy), `[N, L]` int64."""
        self._check_fitted()
        return self._encode(check_vectors(self, X, reset=False))

    def _encode(self, rest):
        codes = np.empty((len(rest), len(self.codebooks_)), np.int64)
        for level, centres in enumerate(self.codebooks_):
            codes[:, level] = _nearest(rest, centres)
            rest = rest - centres[codes[:, level]]
        return codes

    def inverse_transform(self, codes) -> np.ndarray:
        """The sum `[N, D]` of the centres that codes or prefixes `[N, l >= 1]` name."""
        self._check_fitted()
        codes = check_codes(codes, self.level_sizes_)
        return sum(centres[column] for centres, column in zip(self.codebooks_, codes.T))

    def _state(self):
        return {f"codebooks.{i}": centres for i, centres in enumerate(self.codebooks_)}

    def _restore(self, arrays):
        self.codebooks_ = [arrays[f"codebooks.{i}"] for i in range(len(self.level_sizes_))]


def _nearest(rows, centres) -> np.ndarray:
    """Index of the nearest centre of each row, `[N]`, the first among equals."""
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(rows, centres)
