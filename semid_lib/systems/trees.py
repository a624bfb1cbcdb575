"""The branching of trees of codes, for each dataset."""

from __future__ import annotations

#: b1 * b2 about n/10 to n/20 (ReSID, Appendix G); the last level is counted.
BRANCHING = {
    "beauty": (32, 40),
    "beauty-complete": (16, 18),
    "sports": (32, 40),
    "toys": (32, 40),
    "clothing": (40, 40),
    "lastfm": (16, 16),
    "ml-1m": (16, 16),
    "ml-100k": (16, 12),
}


def branching(dataset: str, num_items: int) -> tuple:
    """Choose a tree's branching: the table's, else b1 : b2 about 4 : 5 with b1 * b2 about n/14.

    2 at least, since a level with one code says nothing. A preset that holds this function in the
    place of a value is given its answer by `plan`; any other value stays.
    """
    if dataset in BRANCHING:
        return *BRANCHING[dataset], "auto"
    prefixes = max(num_items / 14, 1)
    first = max(round((0.8 * prefixes) ** 0.5), 2)
    return first, max(round(prefixes / first), 2), "auto"
