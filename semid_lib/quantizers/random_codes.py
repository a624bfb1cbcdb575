"""Random codes: the floor of every comparison of tokenizers."""

from __future__ import annotations

import numpy as np

from semid_lib.errors import InputError
from semid_lib.quantizers.base import (
    Quantizer,
    check_codes,
    check_vectors,
    check_whole,
    row_digests,
)
from semid_lib.quantizers.hierarchical import level_sizes
from semid_lib.settings import ANY, check_seed, keep_settings


class RandomCodes(Quantizer):
    """Give every row a code tuple of its own, drawn without a look at the row.

    What a generator reaches with them, it owes to the IDs being short tuples, not to what they say.

    Args:
        num_levels, num_codes: L digits of K codes: tuples drawn evenly from all K^L, no two alike.
        branching: instead the shape of `GAOQ` and `HierarchicalKMeans`, see there: rows fall evenly
            and at random into a balanced tree.
        random_state: the seed.

    Attributes:
        codes_: `[N, L]` int64, all rows different. level_sizes_: codes of each level.

    Raises:
        InputError: more rows than tuples, a bad setting; in `transform`, a row that was not fitted.
        CapacityError: a tree too small.
    """

    limits = {"branching": ANY}

    def __init__(self, num_levels=3, num_codes=256, branching=None, random_state=0):
        keep_settings(locals())

    def fit(self, X, y=None):
        """Draw the codes of the rows of X, `[N, d]`; `y` is ignored."""
        rng = np.random.default_rng(check_seed(self.random_state))
        X = check_vectors(self, X, reset=True)
        self.codes_ = self._flat(len(X), rng) if self.branching is None else self._tree(len(X), rng)
        self._digests, self.mean_ = row_digests(X), X.mean(axis=0)
        return self

    def _flat(self, n: int, rng) -> np.ndarray:
        levels, size = (check_whole(k, getattr(self, k)) for k in ("num_levels", "num_codes"))
        if n > size**levels:
            raise InputError(
                f"n_samples = {n} is more than the {size}^{levels} = {size**levels} tuples of "
                f"num_levels = {levels} digits of num_codes = {size}: take more of either"
            )
        self.level_sizes_ = (size,) * levels
        codes = np.empty((0, levels), np.int64)
        while len(codes) < n:  # those that are there already are drawn anew
            more = np.concatenate([codes, rng.integers(size, size=(n - len(codes), levels))])
            _, first = np.unique(more, axis=0, return_index=True)
            codes = more[np.sort(first)]
        return codes

    def _tree(self, n: int, rng) -> np.ndarray:
        self.level_sizes_ = level_sizes(self.branching, n)
        rest, codes = rng.permutation(n), []
        for size in self.level_sizes_:
            rest, code = np.divmod(rest, size)
            codes.append(code)
        return np.stack(codes, axis=1)

    def transform(self, X) -> np.ndarray:
        """The codes of rows that were fitted, `[N, L]` int64."""
        self.check_fitted()
        codes, new = self.fitted_codes(check_vectors(self, X, reset=False))
        if new:
            raise InputError(f"row {new[0]} of X was not fitted: a random code says nothing of it")
        return codes

    def inverse_transform(self, codes) -> np.ndarray:
        """The mean of the fitted rows, for all codes or prefixes `[N, l]` alike: `[N, d]`."""
        self.check_fitted()
        codes = check_codes(codes, self.level_sizes_)
        return np.repeat(self.mean_[None], len(codes), axis=0)

    def state(self):
        return {"digests": self._digests, "mean": self.mean_}

    def restore(self, arrays):
        self._digests, self.mean_ = arrays["digests"], arrays["mean"]
