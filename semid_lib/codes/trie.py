"""The prefix trie of all IDs, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Trie:
    """Every prefix of every ID, as flat arrays.

    A node of level l is a distinct prefix of l+1 codes. The nodes of a level are numbered in
    lexicographic order, so the children of a node are one contiguous range of the next level,
    sorted by code, and so are the items of a leaf (several where IDs collide). Tuples have one
    entry a level; arrays are int64, of numpy or, after `tensors(device)`, of torch.

    Attributes:
        code: `[n_l]` the last code of each node. `code[0]` are the root's children.
        parent: `[n_l]` node of the level above (all 0, the root, at level 0).
        first_child, num_children: `[n_l]` range of nodes of the next level; at the last level of
            positions in `leaf_items`, so the children of a leaf are its items.
        max_children: the largest of `num_children`, an int.
        leaf_ptr: `[n_{L-1} + 1]`, the items of leaf j are `leaf_items[leaf_ptr[j]:leaf_ptr[j+1]]`.
        leaf_items: `[N]` item indices, ascending within a leaf.
    """

    code: tuple
    parent: tuple
    first_child: tuple
    num_children: tuple
    max_children: tuple[int, ...]
    leaf_ptr: Any
    leaf_items: Any
    _moved: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, codes: np.ndarray) -> Trie:
        """Build the trie of `codes` `[N, L]`. Cost: one sort, O(N L log N)."""
        num_items, levels = codes.shape
        order = np.lexsort(codes.T[::-1]).astype(np.int64)
        rows = codes[order]
        opens = np.ones((num_items, levels), dtype=bool)
        opens[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
        node = np.cumsum(opens, axis=0) - 1
        first_row = [np.flatnonzero(opens[:, level]) for level in range(levels)]
        code = [rows[first_row[level], level] for level in range(levels)]
        parent = [np.zeros(len(code[0]), dtype=np.int64)]
        parent += [node[first_row[level], level - 1] for level in range(1, levels)]
        below = parent[1:] + [node[:, -1]]
        num_children = [np.bincount(p, minlength=len(c)) for p, c in zip(below, code)]
        first_child = [np.cumsum(n) - n for n in num_children]
        widest = [int(n.max()) for n in num_children]
        levels = map(tuple, (code, parent, first_child, num_children, widest))
        return cls(*levels, np.append(first_child[-1], num_items), order)

    num_levels = property(lambda self: len(self.code), doc="Levels L.")
    num_leaves = property(lambda self: len(self.code[-1]), doc="Distinct IDs.")

    def allowed(self, prefix) -> np.ndarray:
        """The codes that may follow `prefix` (fewer than L codes), ascending; maybe none.

        Of a trie of numpy arrays.
        """
        nodes = slice(0, len(self.code[0]))
        for level, code in enumerate(prefix):
            siblings = self.code[level][nodes]
            place = np.searchsorted(siblings, code)
            if place == len(siblings) or siblings[place] != code:
                return siblings[:0]
            node = nodes.start + place
            first = self.first_child[level][node]
            nodes = slice(first, first + self.num_children[level][node])
        return self.code[len(prefix)][nodes]

    def tensors(self, device="cpu") -> Trie:
        """Return the same trie with int64 torch tensors on `device`, made once per device."""
        import torch

        def move(array):
            return torch.as_tensor(np.array(array, dtype=np.int64), device=device)

        device = torch.device(device)
        if device not in self._moved:
            levels = (self.code, self.parent, self.first_child, self.num_children)
            levels = [tuple(map(move, arrays)) for arrays in levels]
            leaves = move(self.leaf_ptr), move(self.leaf_items)
            self._moved[device] = Trie(*levels, self.max_children, *leaves)
        return self._moved[device]
