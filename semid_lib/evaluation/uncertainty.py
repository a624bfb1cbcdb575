"""Bootstrap intervals over users."""

from __future__ import annotations

import numpy as np

from semid_lib.errors import InputError


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval `(low, high)` of the mean of `values` `[E]`, one a user.

    Drawing users with replacement is drawing the counts of the distinct values from a
    multinomial, which is exact and far cheaper.
    """
    if len(values) == 0 or not 0 < level < 1 or resamples < 1:
        raise InputError(
            f"{len(values)} users, level {level}, {resamples} resamples: need 1, within 0..1, 1"
        )
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(draws @ distinct / len(values), [tail, 1 - tail])
    return low.item(), high.item()
