"""Inputs of the benchmarks."""

from __future__ import annotations

import numpy as np


def clustered_embeddings(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Draw clustered vectors of low intrinsic dimension, as encoders give them: `[n, d]` float32.

    In 48 dimensions (16 where d <= 32): 64 centres with weights 1/rank^0.7, 16 sub-centres 0.6 away
    from each, points 0.5 around these; turned into d dimensions, with noise of 0.05.
    """
    rng = np.random.default_rng(seed)
    inner = 48 if d > 32 else 16
    top = rng.normal(size=(64, inner))
    sub = top[:, None] + 0.6 * rng.normal(size=(64, 16, inner))
    weight = 1 / np.arange(1, 65) ** 0.7
    X = sub[rng.choice(64, n, p=weight / weight.sum()), rng.integers(16, size=n)]
    X = X + 0.5 * rng.normal(size=X.shape)
    lift = np.linalg.qr(rng.normal(size=(d, inner)))[0].T
    return (X @ lift + 0.05 * rng.normal(size=(n, d))).astype(np.float32)
