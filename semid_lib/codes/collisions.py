"""What becomes of items that share an ID."""

from __future__ import annotations

import numpy as np


def balanced_choice(costs: np.ndarray, epsilon: float, iterations: int = 50) -> np.ndarray:
    """Code of each row after Sinkhorn has given every code the same total mass.

    Source: LC-Rec, `generate_indices.py` (distances centred and scaled to -1..1, argmax of the
    plan). Deviates: computed with logarithms, so that a small epsilon does not underflow. Where
    there are fewer items than codes, many entries of a row are all but equal, and which is largest
    says little: expect the error to rise.
    """
    middle = (costs.max() + costs.min()) / 2
    log_plan = -(costs - middle) / (costs.max() - middle + 1e-5) / epsilon
    for axis in (1, 0) * iterations:  # rows, then columns; the totals do not move the maximum
        log_plan -= log_plan.max(axis=axis, keepdims=True)
        log_plan -= np.log(np.exp(log_plan).sum(axis=axis, keepdims=True))
    return log_plan.argmax(axis=1)
