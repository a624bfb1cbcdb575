"""The learning rate over the steps."""

from __future__ import annotations

import math


def rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Share of the peak learning rate at `step` 0..total-1: a linear rise, then the schedule."""
    rising = warmup * total
    if step < rising:
        return min((step + 1) / rising, 1.0)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1)))
