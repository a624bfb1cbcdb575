"""What the codes alone show: collisions, balance, entropies."""

from __future__ import annotations

import numpy as np

from semid_lib.codes import SemanticIds
from semid_lib.diagnostics._inputs import as_ids
from semid_lib.errors import InputError

KINDS = ("items_per_id", "excess", "shared")


def collision_rate(codes, kind: str = "items_per_id") -> float:
    """Compute how much items share IDs, in one of the three definitions that papers use.

    - "items_per_id": N / distinct, the mean number of items per distinct ID; 1 if all are unique
      (R3-VAE Tables 4 and 6, whose printed values are this ratio: 12,101 / 247 = 48.99).
    - "excess": 1 - distinct / N, the share of items beyond the first of their ID (LETTER).
    - "shared": the share of items whose ID another item has too.

    Args:
        codes: `[N, L]` integers, or a `SemanticIds`.
        kind: one of the three.

    Raises:
        InputError: another kind.

    Example:
        >>> collision_rate([[0, 1], [0, 1], [2, 0]])
        1.5
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}, but must be one of {KINDS}")
    sids = as_ids(codes)
    if kind == "items_per_id":
        return sids.num_items / sids.num_ids
    if kind == "excess":
        return 1 - sids.num_ids / sids.num_items
    counts = sids.trie.num_children[-1]
    return float(counts[counts > 1].sum() / sids.num_items)


def gini(codes) -> float:
    """Compute the Gini coefficient of the items per occupied ID: 0 if all hold equally many.

    With sorted counts x_1 <= ... <= x_n: G = 2 sum_i i x_i / (n sum_i x_i) - (n + 1) / n. IDs that
    no item has do not count (R3-VAE Tables 4 and 6). Arguments as `collision_rate`.

    Example:
        >>> gini([[0], [1], [1], [1]])
        0.25
    """
    return _gini(as_ids(codes).trie.num_children[-1])


def code_gini(codes, level_sizes=None) -> np.ndarray:
    """Compute the Gini coefficient of the items per code, level by level, over all K codes.

    Unlike in `gini`, codes without an item count: one code for all items gives 1 - 1 / K.

    Args:
        codes: `[N, L]` integers, or a `SemanticIds` (which brings its level sizes).
        level_sizes: K_l; by default the largest code of the level plus one.

    Returns:
        `[L]` float64 in 0..1.
    """
    sids = codes if isinstance(codes, SemanticIds) else SemanticIds(codes, level_sizes)
    columns = zip(sids.codes.T, sids.level_sizes)
    return np.array([_gini(np.bincount(column, minlength=size)) for column, size in columns])


def _gini(counts) -> float:
    n, counts = len(counts), np.sort(counts)
    return float(2 * (np.arange(1, n + 1) @ counts) / (n * counts.sum()) - (n + 1) / n)


def prefix_entropy(codes, weights=None) -> np.ndarray:
    """Compute H(c_l | C_<l), the bits that level l adds to the codes before it.

    The sum over prefixes of p(prefix) times the entropy of the next code within it (SPEC 23): an
    upper bound on what a generator of items of this distribution has to decide at the level. The
    levels' sum is the entropy of the whole ID, log2 N if IDs are unique and items uniform.

    Args:
        codes: `[N, L]` integers, or a `SemanticIds`.
        weights: `[N]` weight of each item, >= 0 (its interactions, say); uniform by default.

    Returns:
        `[L]` float64, bits.

    Raises:
        InputError: weights of another length, negative, not finite, or all zero.
    """
    sids = as_ids(codes)
    weights = np.ones(sids.num_items) if weights is None else np.asarray(weights, dtype=np.float64)
    bad = weights.shape != (sids.num_items,) or not np.isfinite(weights).all()
    if bad or (weights < 0).any() or weights.sum() == 0:
        raise InputError(
            f"weights must be {sids.num_items} finite numbers >= 0, not all zero; they are "
            f"{weights.shape}, sum {weights.sum()}"
        )
    mass = np.bincount(sids.leaf_of, weights) / weights.sum()
    joint = []
    for level in reversed(range(sids.num_levels)):
        used = mass[mass > 0]
        joint.append(-(used * np.log2(used)).sum())
        mass = np.bincount(sids.trie.parent[level], mass)
    return np.maximum(np.diff(joint[::-1], prepend=0.0), 0.0)


def marginal_entropy(codes) -> np.ndarray:
    """Compute H(c_l), the entropy of each level's codes over the items (ReSID, below Eq. 2).

    The paper asks for H(c_l) close to log |c_l|: divide by `np.log2(level_sizes)` for the share.

    Args:
        codes: `[N, L]` integers, or a `SemanticIds`.

    Returns:
        `[L]` float64, bits: log2 K_l where all K_l codes hold equally many items.

    Example:
        >>> marginal_entropy([[0, 5], [0, 5], [1, 5], [1, 5]]).tolist()
        [1.0, 0.0]
    """
    sids = as_ids(codes)
    bits = np.zeros(sids.num_levels)
    for level, column in enumerate(sids.codes.T):
        share = np.unique(column, return_counts=True)[1] / sids.num_items
        bits[level] = abs(share @ np.log2(share))
    return bits


def code_usage(codes, level_sizes=None) -> np.ndarray:
    """Compute the share of each level's codes that at least one item has.

    Args:
        codes: `[N, L]` integers, or a `SemanticIds` (which brings its level sizes).
        level_sizes: K_l; by default the largest code of the level plus one.

    Returns:
        `[L]` float64 in 0..1.
    """
    sids = codes if isinstance(codes, SemanticIds) else SemanticIds(codes, level_sizes)
    used = [len(np.unique(sids.codes[:, level])) for level in range(sids.num_levels)]
    return np.array(used) / np.array(sids.level_sizes)
