"""Holistic scores, one user, item and digit at a time."""

from __future__ import annotations

import numpy as np


def holistic_scores(log_probs, codes) -> np.ndarray:
    """Score every item: Score(j) = sum_k P[k, c_jk] (ACERec, Eq. 9).

    Args: log_probs `[B, m, M]`; codes `[N, m]`. Returns: `[B, N]` float64.
    """
    return np.array([
        [sum(float(user[k, code]) for k, code in enumerate(item)) for item in codes]
        for user in log_probs
    ])  # fmt: skip


def best_items(scores, k: int) -> np.ndarray:
    """The k items of highest score `[B, k]`, the first of equals first, by a full sort."""
    ranked = [sorted(range(len(user)), key=lambda item: (-user[item], item)) for user in scores]
    return np.array(ranked)[:, :k]
