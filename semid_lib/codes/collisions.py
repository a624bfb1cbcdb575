"""What becomes of items that share an ID: the rules of `SemanticIds.resolve` (SPEC 13)."""

from __future__ import annotations

import numpy as np

from semid_lib.codes.trie import Trie
from semid_lib.errors import CodesError, InputError


def extra_digit(trie: Trie) -> np.ndarray:
    """`[N]` int64: each item's 0-based rank among those of its ID, in item order (TIGER, LIGER)."""
    digit = np.empty(len(trie.leaf_items), dtype=np.int64)
    first = np.repeat(trie.leaf_ptr[:-1], trie.num_children[-1])
    digit[trie.leaf_items] = np.arange(len(digit)) - first
    return digit


def grid_digit(trie: Trie) -> np.ndarray:
    """`[N]` int64: 0 where the ID is unique, else 1, 2, ... among those of the ID (GRID)."""
    shared = np.empty(len(trie.leaf_items), dtype=bool)
    shared[trie.leaf_items] = np.repeat(trie.num_children[-1] > 1, trie.num_children[-1])
    return np.where(shared, extra_digit(trie) + 1, 0)


def sinkhorn(codes: np.ndarray, num_codes: int, costs, rounds: int, epsilon: float) -> np.ndarray:
    """Codes `[N, L]` whose colliding items have new last codes, where costs allow it.

    Source: LC-Rec and LETTER; SPEC 13. What still collides after `rounds` is left so.

    Args:
        codes: `[N, L]` int64. num_codes: K of the last level.
        costs: `[N, K]` finite distances of each item (its residual) to every last code.
        rounds: at most so many; each gives every group of equal IDs a `balanced_choice`.
        epsilon: Sinkhorn's entropy weight.

    Returns:
        New codes, or `codes` itself if nothing collides or moves.

    Raises:
        InputError: costs that are missing or not finite. CodesError: costs of another shape.
    """
    if costs is None:
        raise InputError("'sinkhorn' needs costs [N, K]: distances to the last level's codes")
    costs = np.asarray(costs, dtype=np.float64)
    wanted = (len(codes), num_codes)
    if costs.shape != wanted:
        raise CodesError(f"costs are {costs.shape}, not {wanted} (items x last level's codes)")
    if not np.isfinite(costs).all():
        raise InputError("costs hold NaN or infinite distances: check the vectors behind them")
    for _ in range(rounds):
        trie = Trie.of(codes)
        moved = codes.copy()
        for leaf in np.flatnonzero(trie.num_children[-1] > 1):
            items = trie.leaf_items[trie.leaf_ptr[leaf] : trie.leaf_ptr[leaf + 1]]
            moved[items, -1] = balanced_choice(costs[items], epsilon)
        if np.array_equal(moved, codes):
            break
        codes = moved
    return codes


def balanced_choice(costs: np.ndarray, epsilon: float, iterations: int = 50) -> np.ndarray:
    """Code of each row after Sinkhorn has given every code the same total mass.

    Source: LC-Rec, `generate_indices.py` (distances centred and scaled to -1..1, argmax of the
    plan). Deviates: computed with logarithms, so that a small epsilon does not underflow. Where
    there are fewer items than codes, many entries of a row are all but equal, and which is largest
    says little: expect the error to rise. The quantizers have a Sinkhorn of their own for batches
    in training, products of matrices on the device instead of logarithms: a rounding apart, so
    neither can stand for the other without changing codes.
    """
    middle = (costs.max() + costs.min()) / 2
    log_plan = -(costs - middle) / (costs.max() - middle + 1e-5) / epsilon
    for axis in (1, 0) * iterations:  # rows, then columns; the totals do not move the maximum
        log_plan -= log_plan.max(axis=axis, keepdims=True)
        log_plan -= np.log(np.exp(log_plan).sum(axis=axis, keepdims=True))
    return log_plan.argmax(axis=1)
