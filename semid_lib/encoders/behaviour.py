"""Behaviour vectors: what the items' users in the train part say, as a matrix factorisation."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from semid_lib.errors import MissingPackageError, NotFittedError
from semid_lib.settings import FLAG, POSITIVE, SIZE, check_seed, check_settings, keep_settings


class ALS(BaseEstimator):
    """Item factors of implicit-feedback matrix factorisation by alternating least squares.

    Minimises over u, v: sum over all pairs of c_ui (p_ui - u . v_i)^2 + regularization x (squared
    lengths), with p = 1 and confidence c = alpha for the pairs of the train part, p = 0 and c = 1
    for all others. The solver is that of the package implicit, in float64, so that the vectors do
    not hang on the processor's rounding. Source: Hu, Koren & Volinsky 2008.

    Args:
        dim: D. alpha: confidence of a pair that occurs.
        regularization: weight of the squared lengths. iterations: turns of users and items.
        random_state: integer seed of the start.
        normalize: give every vector length 1, as text vectors have. The solver's are short, and
            tokenizers whose losses compare squares with a fixed scale may collapse on them.

    Attributes:
        vectors_: `[N, dim]` float32, solved in float64 and rounded to six decimals, so that they
            are the same on every processor. An item without a train interaction has only zeros.

    Raises (in fit):
        MissingPackageError: the package implicit is not installed. InputError: a bad setting.

    Cost: O(M dim^2 + (U + N) dim^3) a turn at most, for M train pairs.
    """

    limits = {
        "alpha": POSITIVE, "regularization": POSITIVE, "iterations": SIZE, "normalize": FLAG,
    }  # fmt: skip

    def __init__(
        self, dim=64, alpha=10.0, regularization=0.1, iterations=15, random_state=0,
        normalize=False,
    ):  # fmt: skip
        keep_settings(locals())

    def fit(self, split, *, progress: bool | None = None):
        """Factorise who took what in the train part of `split`; nothing else is read."""
        check_settings(self)
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError:
            raise MissingPackageError(
                "ALS needs the package implicit: pip install implicit"
            ) from None
        seed = check_seed(self.random_state)
        user = np.repeat(np.arange(len(split.indptr) - 1), np.diff(split.indptr))
        shape = len(split.indptr) - 1, split.num_items
        pairs = sparse.csr_matrix((np.ones(len(user)), (user, split.items)), shape)
        pairs.data[:] = 1  # a pair counts once
        model = AlternatingLeastSquares(
            int(self.dim), self.regularization, self.alpha, dtype=np.float64,
            iterations=int(self.iterations), random_state=seed,
        )  # fmt: skip
        with threadpool_limits(1, "blas"):
            model.fit(pairs, show_progress=bool(progress))
        vectors = np.array(model.item_factors)
        if self.normalize:
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(length > 0, length, 1)
        self.vectors_ = (vectors.round(6) + 0.0).astype(np.float32)
        return self

    def embed(self) -> np.ndarray:
        """The items' vectors, `[N, dim]` float32."""
        if not hasattr(self, "vectors_"):
            raise NotFittedError("ALS is not fitted: call fit(split) first")
        return self.vectors_.copy()
