"""What every quantizer shares: checked vectors, codes out, saving without pickle."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn import exceptions
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import validate_data

from semid_lib import errors
from semid_lib.settings import check_settings, kept_settings, of_python


class NotFittedError(errors.NotFittedError, exceptions.NotFittedError):
    """A quantizer used before `fit` or `load`: the library's error and scikit-learn's in one."""


def check_vectors(estimator, X, *, reset: bool) -> np.ndarray:
    """Return X as a C-contiguous float array `[N, D]`, or say which row is bad.

    float32 stays float32, everything else becomes float64 (`reset=False`: the fitted dtype).

    Raises:
        InputError: a row that holds NaN or infinity, or numbers whose squares overflow; or
            (`reset=True`) rows that are all equal, or a setting of the estimator out of range.
        ValueError: X is not a numeric matrix of the fitted width (scikit-learn's own message).
    """
    if reset:
        check_settings(estimator)
    dtype = (np.float32, np.float64) if reset else estimator._dtype
    X = validate_data(estimator, X, reset=reset, dtype=dtype, order="C", ensure_all_finite=False)
    good = np.isfinite(X).all(axis=1)
    if not good.all():
        raise errors.InputError(
            f"row {np.argmin(good)} of X (of {len(X)}) holds NaN or inf; vectors must be finite. "
            "Did the encoder's training diverge, or is a feature missing?"
        )
    largest, bound = np.abs(X).max(axis=1), np.sqrt(np.finfo(X.dtype).max / X.size) / 2
    if largest.max() > bound:
        raise errors.InputError(
            f"row {largest.argmax()} of X holds a value of size {largest.max():.3g}, but squares "
            f"of {X.dtype} add up without overflow to {bound:.3g} only; scale the vectors down"
        )
    if reset:
        estimator._dtype = X.dtype
        if len(X) > 1 and (X == X[0]).all():
            raise errors.InputError(
                f"rows 0 to {len(X) - 1} of X are all the same vector, so there is nothing to "
                "cluster. Was the encoder trained, or are all items' fields missing?"
            )
    return X


def check_whole(name: str, value, least: int = 1) -> int:
    """Return the setting `name` as an int, or raise InputError unless it is one, >= `least`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise errors.InputError(f"{name} is {value!r}, but must be an integer >= {least}")
    return int(value)


def check_codes(codes, sizes) -> np.ndarray:
    """Return codes `[N, l]`, 1 <= l <= L, as int64, or raise CodesError naming the bad one."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or not 1 <= codes.shape[1] <= len(sizes):
        raise errors.CodesError(f"codes have shape {codes.shape}, but must be [N, 1..{len(sizes)}]")
    if not np.issubdtype(codes.dtype, np.integer):
        raise errors.CodesError(f"codes are {codes.dtype}, but must be integers")
    wrong = (codes < 0) | (codes >= np.array(sizes[: codes.shape[1]]))
    if wrong.any():
        row, level = np.argwhere(wrong)[0]
        raise errors.CodesError(
            f"code {codes[row, level]} of row {row}, level {level}, is outside "
            f"0..{sizes[level] - 1}. Do the codes come from another tokenizer?"
        )
    return codes.astype(np.int64)


def row_digests(X: np.ndarray) -> np.ndarray:
    """Fingerprint each row: `[N, 2]` int64, 128 bits of BLAKE2b of its bytes (-0.0 as 0.0)."""
    digests = np.empty((len(X), 2), np.int64)
    for i in range(0, len(X), 1024):
        rows = (hashlib.blake2b(row, digest_size=16).digest() for row in X[i : i + 1024] + 0.0)
        digests[i : i + 1024] = np.frombuffer(b"".join(rows), dtype=np.int64).reshape(-1, 2)
    return digests


class Quantizer(TransformerMixin, BaseEstimator):
    """Vectors `[N, D]` in, codes `[N, L]` int64 out.

    A subclass writes `fit(X, y=None)`, which sets `codes_` and `level_sizes_` (codes of level l are
    0..level_sizes_[l]-1) and returns `self`; `transform(X)`; and for saving `state()` and
    `restore(arrays)`. `check_vectors` and `check_fitted` look at what comes in.
    """

    def fit_transform(self, X, y=None) -> np.ndarray:
        """Fit, and return the codes of the rows of X, `[N, L]` int64."""
        return self.fit(X).codes_.copy()

    def state(self) -> dict[str, np.ndarray]:
        """What was learnt besides the codes, name -> array, for `save`; nothing by default."""
        return {}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `state` returned; `load` has set settings and codes already."""

    def check_fitted(self) -> None:
        """Raise NotFittedError before `fit` or `load`."""
        if not hasattr(self, "codes_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(X) first")

    def fitted_codes(self, X) -> tuple[np.ndarray, list[int]]:
        """Codes `[N, L]` of rows that were fitted, bit for bit, and the other rows, which are new.

        Equal rows get theirs in the order of fit; one met more often than fitted counts as new.
        """
        codes, new = np.empty((len(X), len(self.level_sizes_)), np.int64), []
        rows_of = defaultdict(list)  # fitted rows by fingerprint
        for row, key in enumerate(map(tuple, self._digests.tolist())):
            rows_of[key].append(row)
        for row, key in enumerate(map(tuple, row_digests(X).tolist())):
            if rows_of.get(key):
                codes[row] = self.codes_[rows_of[key].pop(0)]
            else:
                new.append(row)
        return codes, new

    def save(self, path: str | Path) -> Path:
        """Write settings and learnt arrays into one safetensors file, atomically."""
        import torch

        from semid_lib.storage import save_tensors

        self.check_fitted()
        meta = {
            "kind": type(self).__name__,
            "params": of_python(self.get_params(deep=False)),
            "level_sizes": [int(size) for size in self.level_sizes_],
            "features": int(self.n_features_in_),
            "names": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "dtype": np.dtype(self._dtype).name,
        }
        arrays = {"codes_": self.codes_, **self.state()}
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        return save_tensors(path, tensors, meta)

    @classmethod
    def load(cls, path: str | Path):
        """Read what `save` wrote. Raises CheckpointError for another model's or a cut file."""
        from semid_lib.storage import load_tensors, restoring

        tensors, meta = load_tensors(path, cls.__name__)
        with restoring(path, cls.__name__):
            self = cls(**kept_settings(cls, meta["params"]))
            check_settings(self)
            self.level_sizes_ = tuple(meta["level_sizes"])
            self.n_features_in_ = meta["features"]
            if meta["names"]:
                self.feature_names_in_ = np.array(meta["names"], dtype=object)
            self._dtype = np.dtype(meta["dtype"])
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            self.codes_ = check_codes(arrays.pop("codes_"), self.level_sizes_)
            self.restore(arrays)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # codes are int64 whatever comes in
        return tags
