"""The order in which items of equal score stand, everywhere: pseudo-random, never the index's."""

from __future__ import annotations

import numpy as np


def tie_order(num_items: int) -> np.ndarray:
    """A fixed pseudo-random order of the items, `[N]` int64, the same for every N items."""
    return np.random.default_rng(0).permutation(num_items)
