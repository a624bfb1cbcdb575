"""Beam search over semantic IDs with lists of prefixes in place of a trie and a cache.

`score(prefixes [M, l]) -> [M]` is the log-probability of code prefixes given one history.
"""

from __future__ import annotations

import numpy as np


def exhaustive_search(score, codes) -> tuple[np.ndarray, np.ndarray]:
    """Rank every ID of the catalogue: what a beam search of unlimited width finds.

    Args: codes `[N, L]`, the IDs. Returns: distinct IDs `[C, L]` and scores `[C]`, best first.
    """
    ids = np.unique(codes, axis=0)
    values = score(ids)
    order = np.argsort(-values, kind="stable")
    return ids[order], values[order]


def beam_search(score, codes, beams: int) -> tuple[np.ndarray, np.ndarray]:
    """Find IDs of high score, level by level, keeping the best `beams` prefixes of each level.

    The decoding of TIGER (Rajput et al. 2023), constrained: only prefixes that begin an ID of the
    catalogue are looked at.

    Args: codes `[N, L]`, the IDs. Returns: IDs `[W, L]` and scores `[W]`, best first, W <= beams.
    """
    alive = {()}
    for length in range(1, codes.shape[1] + 1):
        prefixes = np.unique(codes[:, :length], axis=0)
        prefixes = np.array([p for p in prefixes if tuple(p[:-1].tolist()) in alive])
        values = score(prefixes)
        best = np.argsort(-values, kind="stable")[:beams]
        alive = set(map(tuple, prefixes[best].tolist()))
    return prefixes[best], values[best]


def free_beam_search(score, level_sizes, beams: int) -> tuple[np.ndarray, np.ndarray]:
    """Beam search that does not know the catalogue: what it finds may be no item's ID.

    Args: level_sizes: codes of each level. Returns: tuples `[W, L]` and scores `[W]`, best first.
    """
    kept = [()]
    for size in level_sizes:
        longer = np.array([[*prefix, code] for prefix in kept for code in range(size)])
        values = score(longer)
        best = np.argsort(-values, kind="stable")[:beams]
        kept = longer[best]
    return kept, values[best]
