"""The checks of what the diagnostics are given."""

from __future__ import annotations

import numpy as np

from semid_lib.codes import SemanticIds
from semid_lib.errors import CodesError, InputError


def as_ids(codes, num_items: int | None = None) -> SemanticIds:
    """Return codes `[N, L]` as a `SemanticIds`, or raise CodesError unless N is `num_items`."""
    sids = codes if isinstance(codes, SemanticIds) else SemanticIds(codes)
    if num_items not in (None, sids.num_items):
        raise CodesError(
            f"codes of {sids.num_items} items for {num_items} items: codes and vectors (or data) "
            "must be of one catalogue, row by row"
        )
    return sids


def as_matrix(vectors, name: str = "vectors") -> np.ndarray:
    """Return vectors `[N, D]`, N >= 2, D >= 1, finite, float32 or float64, or raise InputError."""
    try:
        matrix = np.asarray(vectors)
        matrix = matrix if matrix.dtype == np.float32 else matrix.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not a numeric [N, D] matrix: {error}") from error
    if matrix.ndim != 2 or len(matrix) < 2 or matrix.shape[1] < 1:
        raise InputError(f"{name} must be [N, D] with at least 2 items, not {matrix.shape}")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise InputError(
            f"row {np.argmin(finite)} of {name} (of {len(matrix)}) holds NaN or inf: did the "
            "encoder's training diverge?"
        )
    return matrix


def as_labels(labels, num_items: int | None = None) -> np.ndarray:
    """Return labels `[N]` as int64, -1 where an item has none, or raise InputError."""
    labels = np.asarray(labels)
    integers = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if not integers or (labels < -1).any():
        raise InputError(
            f"labels must be [N] integers, 0, 1, ... or -1 for none, not {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if num_items not in (None, len(labels)):
        raise InputError(f"{len(labels)} labels for {num_items} vectors: one per item is needed")
    return labels.astype(np.int64)
