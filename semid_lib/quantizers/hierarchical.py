"""The balanced tree with local indices: hierarchical k-means."""

from __future__ import annotations

import numpy as np

from semid_lib.compute.threads import in_threads, num_threads, one_blas_thread
from semid_lib.errors import CapacityError, InputError
from semid_lib.quantizers.balanced_kmeans import lloyd, nearest
from semid_lib.quantizers.base import Quantizer, check_codes, check_vectors, row_digests
from semid_lib.settings import ANY, check_seed, keep_settings


class HierarchicalKMeans(Quantizer):
    """Code items by their way down a balanced tree, children numbered at random in each parent.

    Level l < L: every cluster is split into b_l balanced clusters (`BalancedKMeans`). Level L:
    the items of a level-(L-1) cluster get distinct last codes, so codes are unique. The number of
    a child is drawn at random, parent by parent: "hierarchical k-means with local index", the
    ablation Q2 of ReSID (Table 4, Fig 8). The tree is that of `GAOQ` with the same arguments;
    the two differ only in the numbering.

    Args:
        branching: (b_1, ..., b_L), L >= 2. b_L = "auto" is the size of the largest
            level-(L-1) cluster; a larger number leaves room for new items.
        max_iter: most Lloyd steps of each split.
        random_state: integer seed of the splits and the numbering.
        n_jobs: threads that split parents; None: the cores of this process, or OMP_NUM_THREADS.
            The codes do not depend on it.

    Attributes:
        codes_: `[N, L]` int64, code of level l in 0..b_l-1, rows distinct.
        level_sizes_: (b_1, ..., b_L).
        centroids_: list of L-1 arrays `[b_1 ... b_l, D]`, the means of the clusters; the row of
            prefix (c_1, ..., c_l) is ((c_1 b_2 + c_2) b_3 + ...) + c_l.
        prices_: list of L-1 arrays `[b_1 ... b_(l-1), b_l]` float64, as in `BalancedKMeans`.
        mean_: `[D]`. n_iter_: most steps of any split.

    Raises (in fit):
        CapacityError: b_L is smaller than the largest level-(L-1) cluster.
        InputError: fewer items than b_1 ... b_(L-1); non-finite or all-equal rows; a bad setting.

    Deviates: the paper does not say how its local indices come about. Numbers are permuted at
        random so that they carry nothing.

    Cost: O(N D sum_l b_l) a Lloyd step; memory X, its centred copy and N b_1 costs.
    """

    limits = {"branching": ANY, "n_jobs": ANY}

    def __init__(self, branching=(32, 40, "auto"), max_iter=20, random_state=0, n_jobs=None):
        keep_settings(locals())

    @one_blas_thread
    def fit(self, X, y=None):
        """Grow the tree on X, `[N, D]`, and number its children; `y` is ignored."""
        seed = check_seed(self.random_state)
        X = check_vectors(self, X, reset=True)
        self.level_sizes_ = level_sizes(self.branching, len(X))
        self.mean_ = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        Z = X - self.mean_
        codes = np.zeros((len(X), len(self.level_sizes_)), np.int64)
        self.centroids_, self.prices_, self.n_iter_ = [], [], 1
        node, mu = np.zeros(len(X), np.int64), np.zeros((1, X.shape[1]), X.dtype)
        for level, b in enumerate(self.level_sizes_[:-1]):
            child, mu_child, price = self._split(Z, node, b, len(mu), seed, level)
            residuals = (mu_child - mu[:, None]).reshape(-1, X.shape[1])
            parent = np.repeat(np.arange(len(mu)), b)
            index = self._number(level, residuals.__getitem__, parent).reshape(-1, b)
            codes[:, level] = index[node, child]
            at = np.argsort(index, axis=1)  # the child that got each number
            self.prices_.append(np.take_along_axis(price, at, axis=1))
            mu = np.take_along_axis(mu_child, at[:, :, None], axis=1).reshape(-1, X.shape[1])
            self.centroids_.append(mu + self.mean_)
            node = node * b + codes[:, level]
        last = len(self.level_sizes_) - 1
        codes[:, last] = self._number(last, lambda rows: Z[rows] - mu[node[rows]], node)
        self.codes_ = codes
        self._digests = row_digests(X)
        return self

    def _split(self, Z, node, b, num_parents, seed, level):
        """Split every node: children `[N]`, means `[P, b, D]`, prices `[P, b]`."""
        members = groups(node)
        child = np.empty(len(Z), np.int64)
        means = np.empty((num_parents, b, Z.shape[1]), Z.dtype)
        prices = np.empty((num_parents, b))

        threads = num_threads(self.n_jobs)

        def split(p):
            rows, shift = Z, 0
            if num_parents > 1:
                rows = Z[members[p]]
                shift = rows.mean(axis=0, dtype=np.float64).astype(Z.dtype)
                rows -= shift
            child[members[p]], centres, prices[p], steps = lloyd(
                rows, b, np.random.default_rng([seed, level, p]), self.max_iter,
                threads=threads if num_parents == 1 else 1,
            )  # fmt: skip
            means[p] = centres + shift
            return steps

        self.n_iter_ = max(self.n_iter_, *in_threads(split, range(num_parents), threads))
        return child, means, prices

    def _number(self, level, residuals, parent) -> np.ndarray:
        """Number the children of every parent of a level: `[M]` int64, distinct in a parent.

        `residuals(rows)` are the vectors child minus parent, `parent` `[M]` their parents.
        """
        if level == 0:
            return np.arange(len(parent))
        slots = np.arange(self.level_sizes_[level])
        rng = np.random.default_rng([self.random_state, level, 0, 1])
        number = np.empty(len(parent), np.int64)
        for rows in groups(parent):
            number[rows] = self._choose(level, residuals(rows), slots, rng)
        return number

    def _choose(self, level, residuals, free, rng) -> np.ndarray:
        """Give m siblings distinct numbers out of `free` (at least m): `[m]` int64."""
        return rng.permutation(free)[: len(residuals)]

    def transform(self, X) -> np.ndarray:
        """Codes of items, fitted or new, `[N, L]` int64; nothing is remembered between calls.

        A row that was fitted, bit for bit, gets its own codes (equal rows: in the order of fit;
        one met more often than it was fitted counts as new). A new item goes down the tree by
        least squared distance minus price, then takes a free last code of its prefix (`GAOQ`:
        its nearest free anchor). New items of one call get distinct codes.

        Raises:
            CapacityError: more new items than free last codes under a prefix.
        """
        self.check_fitted()
        X = check_vectors(self, X, reset=False)
        codes, new = self.fitted_codes(X)
        if new:
            codes[new] = self._place(X[new], new)
        return codes

    def _place(self, X, rows) -> np.ndarray:
        """Codes of new items X, which are `rows` of the caller's matrix."""
        Z = X - self.mean_
        node = np.zeros(len(X), np.int64)
        for mu, prices, b in zip(self.centroids_, self.prices_, self.level_sizes_):
            child = np.empty(len(X), np.int64)
            for p in np.unique(node):
                here = node == p
                origin = mu[p * b : (p + 1) * b].mean(axis=0)
                centres = mu[p * b : (p + 1) * b] - origin
                child[here] = nearest(Z[here] - (origin - self.mean_), centres, prices[p])
            node = node * b + child
        last, g = len(self.level_sizes_) - 1, self.level_sizes_[-1]
        leaf = np.empty(len(X), np.int64)
        fitted = np.ravel_multi_index(self.codes_.T[:-1], self.level_sizes_[:-1])
        rng = np.random.default_rng([self.random_state, last, 0, 2])
        for p in np.unique(node):
            here = np.flatnonzero(node == p)
            free = np.setdiff1d(np.arange(g), self.codes_[fitted == p, -1])
            if len(here) > len(free):
                prefix = tuple(int(c) for c in np.unravel_index(p, self.level_sizes_[:-1]))
                raise CapacityError(
                    f"{len(here)} new item(s) (first: row {rows[here[0]]}) fall under prefix "
                    f"{prefix}, which has {len(free)} of {g} last codes free. Fit again with a "
                    f"last level above {g}, or with these items among the fitted ones."
                )
            residuals = Z[here] - (self.centroids_[-1][p] - self.mean_)
            leaf[here] = self._choose(last, residuals, free, rng)
        return np.stack([*np.unravel_index(node, self.level_sizes_[:-1]), leaf], axis=1)

    def inverse_transform(self, codes) -> np.ndarray:
        """The mean `[N, D]` of the deepest cluster that codes or prefixes `[N, l >= 1]` name."""
        self.check_fitted()
        sizes = self.level_sizes_
        codes = check_codes(codes, sizes)
        depth = min(codes.shape[1], len(sizes) - 1)
        return self.centroids_[depth - 1][np.ravel_multi_index(codes.T[:depth], sizes[:depth])]

    def state(self):
        state = {"digests": self._digests, "mean": self.mean_, "n_iter": np.array(self.n_iter_)}
        for level, (mu, price) in enumerate(zip(self.centroids_, self.prices_)):
            state[f"centroids.{level}"], state[f"prices.{level}"] = mu, price
        return state

    def restore(self, arrays):
        self._digests, self.mean_ = arrays["digests"], arrays["mean"]
        self.n_iter_ = int(arrays["n_iter"])
        levels = range(len(self.level_sizes_) - 1)
        self.centroids_ = [arrays[f"centroids.{level}"] for level in levels]
        self.prices_ = [arrays[f"prices.{level}"] for level in levels]


def groups(number) -> list[np.ndarray]:
    """The rows that hold each number 0, 1, ..., ascending."""
    return np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])


def level_sizes(branching, n: int) -> tuple[int, ...]:
    """Sizes of the levels of a balanced tree on n items: `branching` with "auto" worked out.

    Splits of balanced splits stay balanced: each of the P = b_1 ... b_(L-1) clusters on level L-1
    holds floor(n/P) or ceil(n/P) items.

    Raises:
        InputError: `branching` is malformed, or n < P.
        CapacityError: b_L < ceil(n/P).
    """
    try:
        *upper, last = branching
    except (TypeError, ValueError):
        upper, last = [], None
    whole = [isinstance(b, (int, np.integer)) and not isinstance(b, bool) and b >= 1 for b in upper]
    if not upper or not all(whole) or not (last == "auto" or isinstance(last, (int, np.integer))):
        raise InputError(
            f"branching is {branching!r}, but must be at least two integers >= 1, of which the "
            "last may be 'auto', such as (32, 40, 'auto')"
        )
    clusters = int(np.prod(upper, dtype=object))
    product = " x ".join(map(str, upper))
    if n < clusters:
        raise InputError(
            f"n_samples = {n} is fewer than the {product} = {clusters} clusters of branching "
            f"{tuple(branching)}: every cluster needs an item. Choose smaller branching; about "
            f"{max(1, n // 15)} clusters (n/20 to n/10) suit {n} items."
        )
    bucket = -(-n // clusters)
    if last != "auto" and last < bucket:
        raise CapacityError(
            f"branching {tuple(branching)} cannot hold {n} items: {product} = {clusters} clusters "
            f"hold up to {bucket} items each, but the last level has {last} codes. "
            f"Set it to 'auto' or to {bucket} or more."
        )
    return (*map(int, upper), bucket if last == "auto" else int(last))
