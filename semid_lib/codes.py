"""Semantic IDs: the codes of a catalogue, their vocabulary, collisions, trie and files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from semid_lib.errors import CapacityError, CodesError, InputError
from semid_lib.storage import sealed, unsealed, write_atomic

MAX_TOKENS = 2**31 - 1
_FORMAT = "semid_lib.SemanticIds"
_TOKEN = re.compile(r"<([a-z]+)_(0|[1-9][0-9]{0,17})>")


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


class SemanticIds:
    """The codes of every item: what tokenizers hand to recommenders.

    Level l has its own range of one shared vocabulary: token = 1 + offset_l + c_l, where
    offset_l is the running sum of the level sizes and 0 is padding (SPEC 0; separate embeddings
    for the same code at different levels, as in TIGER, LIGER and GRID).

    Args:
        codes: `[N, L]` integers, `codes[i, l]` in 0..K_l-1. Equal rows (collisions) are allowed.
        level_sizes: K_l of every level; by default the largest code of the level plus one.

    Attributes:
        codes: `[N, L]` int64. level_sizes: L ints. offsets: `[L]` int64.
        num_tokens: 1 + sum of the level sizes (padding included).

    Raises:
        CodesError: codes that are not integers, not a full matrix, empty, or outside a level.
        CapacityError: a vocabulary of more than 2^31 - 1 tokens.

    Example:
        >>> sids = SemanticIds([[0, 1], [2, 0], [0, 1]])
        >>> sids.level_sizes, sids.is_unique, sids.leaf_of.tolist()
        ((3, 2), False, [0, 1, 0])
    """

    def __init__(self, codes, level_sizes: Sequence[int] | None = None):
        self.codes = _integers(codes, "codes", "[N, L]")
        if level_sizes is None:
            level_sizes = np.maximum(self.codes.max(axis=0), 0) + 1
        sizes = _integers(level_sizes, "level_sizes", "[L]")
        if len(sizes) != self.num_levels or sizes.min() < 1:
            raise CodesError(f"level_sizes are {sizes}, not {self.num_levels} numbers above 0")
        outside = (self.codes < 0) | (self.codes >= sizes)
        if outside.any():
            item, level = np.argwhere(outside)[0]
            raise CodesError(
                f"item {item} has code {self.codes[item, level]} at level {level}, outside "
                f"0..{sizes[level] - 1}: are the level sizes another tokenizer's, or the codes "
                "offset already?"
            )
        if sizes.sum() >= MAX_TOKENS:
            raise CapacityError(f"{sizes.sum()} tokens; the largest vocabulary is {MAX_TOKENS}")
        self.level_sizes = tuple(sizes.tolist())
        self.offsets = np.cumsum((0, *self.level_sizes[:-1]), dtype=np.int64)
        self.num_tokens = 1 + sum(self.level_sizes)

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.level_sizes))
        return f"SemanticIds({self.num_items} items, levels {sizes}, {self.num_ids} distinct IDs)"

    def __len__(self) -> int:
        return self.num_items

    def __eq__(self, other) -> bool:
        if not isinstance(other, SemanticIds):
            return NotImplemented
        same_sizes = self.level_sizes == other.level_sizes
        return same_sizes and np.array_equal(self.codes, other.codes)

    __hash__ = None

    num_items = property(lambda self: self.codes.shape[0], doc="Items N.")
    num_levels = property(lambda self: self.codes.shape[1], doc="Levels L.")
    num_ids = property(lambda self: self.trie.num_leaves, doc="Distinct IDs.")
    is_unique = property(lambda self: self.num_ids == self.num_items, doc="No two share an ID.")

    @property
    def tokens(self) -> np.ndarray:
        """`[N, L]` int64 token ids: 1 + offset_l + c_l."""
        return 1 + self.offsets + self.codes

    @cached_property
    def trie(self) -> Trie:
        """The prefix trie of all IDs."""
        return Trie.of(self.codes)

    @cached_property
    def leaf_of(self) -> np.ndarray:
        """`[N]` int64: the trie leaf of each item. Items collide if they share it."""
        leaves = np.empty(self.num_items, dtype=np.int64)
        counts = self.trie.num_children[-1]
        leaves[self.trie.leaf_items] = np.repeat(np.arange(self.num_ids), counts)
        return leaves

    def resolve(self, how: str, *, costs=None, rounds=20, epsilon=0.003) -> SemanticIds:
        """Return new IDs in which collisions are dealt with by the rule `how` (SPEC 13).

        Args:
            how: "none": leave them, equal IDs tie (RPG, ACERec);
                "extra_digit": one more level, the item's 0-based rank among the items of its ID,
                in item order (TIGER, LIGER);
                "grid_digit": one more level, 0 if the ID is unique, else 1, 2, ... (GRID);
                "sinkhorn": re-assign colliding items on the last level, at most `rounds` times;
                what still collides is left so (LC-Rec, LETTER).
            costs: for "sinkhorn", `[N, K_{L-1}]` finite distances of each item (its residual) to
                every code of the last level.
            epsilon: Sinkhorn's entropy weight, on distances scaled to -1..1 (LC-Rec's 0.003).

        Raises:
            InputError: an unknown rule, or costs that are missing or not finite.
            CodesError: costs of the wrong shape.
        """
        if how == "none":
            return self
        if how == "sinkhorn":
            return self._sinkhorn(costs, rounds, epsilon)
        if how not in ("extra_digit", "grid_digit"):
            rules = "'none', 'extra_digit', 'grid_digit' or 'sinkhorn'"
            raise InputError(f"unknown collision rule {how!r}: choose {rules}")
        trie, leaf = self.trie, self.leaf_of
        digit = np.empty(self.num_items, dtype=np.int64)
        digit[trie.leaf_items] = np.arange(self.num_items) - trie.leaf_ptr[leaf[trie.leaf_items]]
        if how == "grid_digit":
            digit = np.where(trie.num_children[-1][leaf] > 1, digit + 1, 0)
        codes = np.column_stack([self.codes, digit])
        return SemanticIds(codes, (*self.level_sizes, int(digit.max()) + 1))

    def _sinkhorn(self, costs, rounds, epsilon) -> SemanticIds:
        if costs is None:
            raise InputError("'sinkhorn' needs costs [N, K]: distances to the last level's codes")
        costs, wanted = np.asarray(costs, dtype=np.float64), (self.num_items, self.level_sizes[-1])
        if costs.shape != wanted:
            raise CodesError(f"costs are {costs.shape}, not {wanted} (items x last level's codes)")
        if not np.isfinite(costs).all():
            raise InputError("costs hold NaN or infinite distances: check the vectors behind them")
        current = self
        for _ in range(rounds):
            if current.is_unique:
                break
            codes, trie = current.codes.copy(), current.trie
            for leaf in np.flatnonzero(trie.num_children[-1] > 1):
                items = trie.leaf_items[trie.leaf_ptr[leaf] : trie.leaf_ptr[leaf + 1]]
                codes[items, -1] = _balanced_choice(costs[items], epsilon)
            if np.array_equal(codes, current.codes):
                break
            current = SemanticIds(codes, self.level_sizes)
        return current

    def to_json(self, path: str | Path) -> Path:
        """Write codes and level sizes as JSON, atomically."""
        value = {"format": _FORMAT, "version": 1, "level_sizes": self.level_sizes}
        return _write_json(path, sealed({**value, "codes": self.codes.tolist()}))

    @classmethod
    def from_json(cls, path: str | Path) -> SemanticIds:
        """Read what `to_json` wrote.

        Raises CodesError for anything else: cut files, and codes that are not those written.
        """
        value = _read_json(path)
        ours = isinstance(value, dict) and value.get("format") == _FORMAT
        if not ours or value.get("version") != 1 or value.get("level_sizes") is None:
            raise CodesError(
                f"{Path(path).name} is not a file of SemanticIds.to_json, version 1; "
                "for the exchange form (item -> ['<a_12>', ...]) use from_index_json"
            )
        value = unsealed(value, str(path), CodesError)
        return cls(value.get("codes"), value["level_sizes"])

    def to_index_json(self, path: str | Path | None = None) -> dict[str, list[str]]:
        """Return `{"0": ["<a_12>", "<b_7>", ...], ...}` and, if `path` is given, write it too.

        The form that LC-Rec and its successors exchange: keys are item indices, the letter
        names the level (a, b, ..., z, aa, ab, ...). It does not hold the level sizes.
        """
        names = [_letters(level) for level in range(self.num_levels)]
        index = {
            str(item): [f"<{name}_{code}>" for name, code in zip(names, row)]
            for item, row in enumerate(self.codes.tolist())
        }
        if path is not None:
            _write_json(path, index)
        return index

    @classmethod
    def from_index_json(
        cls, source: str | Path | Mapping, level_sizes: Sequence[int] | None = None
    ) -> SemanticIds:
        """Read the exchange form from a file or a dict; see `to_index_json`.

        Args:
            source: path, or the mapping item -> list of tokens. Keys must be 0..N-1, in any order.
            level_sizes: K_l, since the form does not hold them; by default the largest code + 1.

        Raises:
            CodesError: keys that are not 0..N-1, a token that is not `<letter_number>`, letters
                out of order, tuples of different lengths, a file cut short.
        """
        index = _read_json(source) if isinstance(source, str | Path) else source
        if not isinstance(index, Mapping) or not index:
            raise CodesError("an index must be an object item -> ['<a_12>', ...], not empty")
        by_key = {str(key): tokens for key, tokens in index.items()}
        items = [str(item) for item in range(len(index))]
        if by_key.keys() != set(items):
            wrong = [key[:40] for key in sorted(by_key.keys() - set(items))[:3]]
            raise CodesError(
                f"the {len(index)} item keys must be the numbers 0..{len(index) - 1}, each once, "
                f"not {wrong}: map other ids to positions (some repositories count from 1)"
            )
        return cls([_parse_tokens(by_key[item], item) for item in items], level_sizes)


def _integers(value, name: str, axes: str) -> np.ndarray:
    """`value` as an int64 array of its own with these axes, or CodesError."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise CodesError(f"{name} are not a full {axes} array ({error}): ragged tuples?") from error
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise CodesError(
            f"{name} must be {axes} with at least one item and level, not {array.shape}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise CodesError(
            f"{name} must be integers, not {array.dtype} (such as {array.flat[0]!r}): "
            "convert after checking that no rounding is involved"
        )
    if array.max() >= MAX_TOKENS:
        raise CapacityError(f"{name} of {array.max()}: the largest vocabulary is {MAX_TOKENS}")
    return array.astype(np.int64)


def _balanced_choice(costs: np.ndarray, epsilon: float, iterations: int = 50) -> np.ndarray:
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


def _letters(level: int) -> str:
    """Name of a level: a..z, then aa, ab, ... as in a spreadsheet."""
    name = ""
    level += 1
    while level:
        level, rest = divmod(level - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def _parse_tokens(tokens, item: str) -> list[int]:
    if not isinstance(tokens, list | tuple):
        raise CodesError(f"item {item} has {str(tokens)[:40]!r} instead of a list of tokens")
    codes = []
    for level, token in enumerate(tokens):
        match = _TOKEN.fullmatch(str(token))
        if match is None or match[1] != _letters(level):
            raise CodesError(
                f"item {item}, level {level}: {str(token)[:40]!r} is not of the form "
                f"'<{_letters(level)}_12>'; are the levels out of order?"
            )
        codes.append(int(match[2]))
    return codes


def _write_json(path, value) -> Path:
    return write_atomic(path, json.dumps(value, separators=(",", ":")).encode())


def _no_duplicates(pairs) -> dict:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise CodesError(f"key {key[:40]!r} occurs twice")
    return dict(pairs)


def _read_json(path) -> Any:
    path = Path(path)
    if not path.is_file():
        raise CodesError(f"no such file: {path.name}")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates)
    except CodesError:
        raise
    except (ValueError, RecursionError) as error:
        raise CodesError(
            f"{path.name} ({path.stat().st_size} bytes) is not whole JSON ({error}): "
            "it was probably cut short while copying"
        ) from error
