"""The codes of every item: what tokenizers hand to recommenders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from semid_lib.codes.collisions import balanced_choice
from semid_lib.codes.exchange import FORMAT, level_letters, parse_tokens, read_codes, write_codes
from semid_lib.codes.trie import Trie
from semid_lib.errors import CapacityError, CodesError, InputError
from semid_lib.storage import sealed, unsealed

MAX_TOKENS = 2**31 - 1


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
                codes[items, -1] = balanced_choice(costs[items], epsilon)
            if np.array_equal(codes, current.codes):
                break
            current = SemanticIds(codes, self.level_sizes)
        return current

    def to_json(self, path: str | Path) -> Path:
        """Write codes and level sizes as JSON, atomically."""
        value = {"format": FORMAT, "version": 1, "level_sizes": self.level_sizes}
        return write_codes(path, sealed({**value, "codes": self.codes.tolist()}))

    @classmethod
    def from_json(cls, path: str | Path) -> SemanticIds:
        """Read what `to_json` wrote.

        Raises CodesError for anything else: cut files, and codes that are not those written.
        """
        value = read_codes(path)
        ours = isinstance(value, dict) and value.get("format") == FORMAT
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
        names = [level_letters(level) for level in range(self.num_levels)]
        index = {
            str(item): [f"<{name}_{code}>" for name, code in zip(names, row)]
            for item, row in enumerate(self.codes.tolist())
        }
        if path is not None:
            write_codes(path, index)
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
        index = read_codes(source) if isinstance(source, str | Path) else source
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
        return cls([parse_tokens(by_key[item], item) for item in items], level_sizes)


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
