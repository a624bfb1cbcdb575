"""Balanced k-means with a general solver in place of the K prices."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def balanced_assignment(cost) -> np.ndarray:
    """Assign points to clusters at least total cost, with sizes floor(n/k) or ceil(n/k).

    The assignment step of BALANCED-KMEANS (ReSID, Algorithm 1): a cluster is floor(n/k) seats that
    must be taken and, unless k divides n, one that may be. A matching of points and seats is made
    by the Hungarian method; the k - n mod k seats that stay empty go to dummies, which no seat
    that must be taken accepts.

    Args: cost `[n, k]` float, n >= k. Returns: labels `[n]` int64.
    """
    n, k = cost.shape
    base, extras = divmod(n, k)
    seats = np.repeat(np.arange(k), base)
    table = cost[:, seats]
    if extras:
        forbidden = np.full((k - extras, base * k), 1e9)
        allowed = np.zeros((k - extras, k))
        points = np.hstack([table, cost])
        dummies = np.hstack([forbidden, allowed])
        table = np.vstack([points, dummies])
        seats = np.concatenate([seats, np.arange(k)])
    _, seat = linear_sum_assignment(table)
    return seats[seat[:n]]


def balanced_kmeans(X, centres, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Make Lloyd steps from given centres, each assignment balanced and of least cost.

    ReSID, Algorithm 1: min sum_i ||x_i - mu_a(i)||^2 over labels a with balanced sizes and over
    means mu, one after the other.

    Args: X `[n, d]`; centres `[k, d]`. Returns: labels `[n]`, means `[k, d]`.
    """
    for _ in range(steps):
        cost = ((X[:, None] - centres) ** 2).sum(axis=-1)
        labels = balanced_assignment(cost)
        centres = np.array([X[labels == j].mean(axis=0) for j in range(len(centres))])
    return labels, centres
