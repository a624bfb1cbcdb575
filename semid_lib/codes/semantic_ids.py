"""The codes of every item: what tokenizers hand to recommenders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from semid_lib.codes import collisions, exchange
from semid_lib.codes.trie import Trie
from semid_lib.codes.vocabulary import Vocabulary, integers
from semid_lib.compute.ties import tie_order
from semid_lib.errors import CodesError, InputError


class SemanticIds:
    """The codes of every item: the `ItemTokenizer` that knows no context.

    Args:
        codes: `[N, L]` integers, `codes[i, l]` in 0..K_l-1. Equal rows (collisions) are allowed.
        level_sizes: K_l of every level; by default the largest code of the level plus one.
        catalogue: hash of the catalogue whose items these are (`Interactions.catalogue_sha256`), so
            that recommenders refuse the codes of other items; None if it is not known.

    Attributes:
        codes: `[N, L]` int64. vocabulary: `Vocabulary` of the level sizes.
        level_sizes, offsets, num_tokens: those of the vocabulary.

    Raises:
        CodesError: codes that are not integers, not a full matrix, empty, or outside a level.
        CapacityError: a vocabulary of more than 2^31 - 1 tokens.

    Example:
        >>> sids = SemanticIds([[0, 1], [2, 0], [0, 1]])
        >>> sids.level_sizes, sids.is_unique, sids.leaf_of.tolist()
        ((3, 2), False, [0, 1, 0])
    """

    def __init__(
        self, codes, level_sizes: Sequence[int] | None = None, *, catalogue: str | None = None
    ):
        self.codes = integers(codes, "codes", "[N, L]")
        if level_sizes is None:
            level_sizes = np.maximum(self.codes.max(axis=0), 0) + 1
        self.vocabulary = Vocabulary(level_sizes)
        sizes = self.level_sizes
        if len(sizes) != self.num_levels:
            raise CodesError(
                f"level_sizes are {list(sizes)}, not {self.num_levels} numbers above 0"
            )
        outside = (self.codes < 0) | (self.codes >= sizes)
        if outside.any():
            item, level = np.argwhere(outside)[0]
            raise CodesError(
                f"item {item} has code {self.codes[item, level]} at level {level}, outside "
                f"0..{sizes[level] - 1}: are the level sizes another tokenizer's, or the codes "
                "offset already?"
            )
        if not isinstance(catalogue, str | None):
            raise CodesError(f"catalogue is {catalogue!r:.40}, but must be a hash as text, or None")
        self.catalogue = catalogue
        self._moved = {}

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

    level_sizes = property(lambda self: self.vocabulary.level_sizes, doc="K_l, L ints.")
    offsets = property(lambda self: self.vocabulary.offsets, doc="`[L]` int64: codes before.")
    num_tokens = property(lambda self: self.vocabulary.num_tokens, doc="Tokens with padding.")
    num_items = property(lambda self: self.codes.shape[0], doc="Items N.")
    num_levels = property(lambda self: self.codes.shape[1], doc="Levels L.")
    tokens_per_item = num_levels
    num_ids = property(lambda self: self.trie.num_leaves, doc="Distinct IDs.")
    is_unique = property(lambda self: self.num_ids == self.num_items, doc="No two share an ID.")

    @property
    def tokens(self) -> np.ndarray:
        """`[N, L]` int64 token ids, see `Vocabulary`."""
        return self.vocabulary.tokens(self.codes)

    @cached_property
    def version(self) -> str:
        """Hash of the tokens of all items: other codes have another one."""
        return hashlib.sha256(self.tokens.tobytes()).hexdigest()

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

    # ---------------------------------------------------- the seam `ItemTokenizer`

    def encode(self, sequences):
        """Tokens `[B, T L]` int64 of histories `[B, T]` of items; see `ItemTokenizer`."""
        tokens = self.targets(sequences)
        rows, length, levels = tokens.shape
        return tokens.reshape(rows, length * levels)

    def targets(self, items):
        """Tokens `[..., L]` int64 of items `[...]`; those of item -1 are padding."""
        if isinstance(items, np.ndarray | list):
            return self._padded[items]
        return self._tensor("_padded", items.device)[items]

    def allowed(self, prefix) -> np.ndarray:
        """The codes that may follow a prefix of codes; see `Trie.allowed`."""
        return self.trie.allowed(prefix)

    def items(self, leaves):
        """Items `[..., C]` int64 of leaves `[...]`, tied ones by lot; see `ItemTokenizer`."""
        import torch

        leaf = torch.as_tensor(leaves)
        trie = self.trie.tensors(leaf.device)
        slot = torch.arange(trie.max_children[-1], device=leaf.device)
        live = slot < trie.num_children[-1][leaf][..., None]
        tied = self._tensor("_tied", leaf.device)
        item = tied[trie.first_child[-1][leaf][..., None] + slot * live].masked_fill(~live, -1)
        return item if isinstance(leaves, torch.Tensor) else item.numpy()

    @cached_property
    def _tied(self):
        """`Trie.leaf_items`, but items of one leaf in a pseudo-random order.

        `tie_order` is read as the items' places here, so it is the inverse of the order in which
        `Recommender` puts items of equal score: as good, and the one of all recorded lists.
        """
        place = tie_order(self.num_items)[self.trie.leaf_items]
        leaf = np.repeat(np.arange(self.num_ids), self.trie.num_children[-1])
        return self.trie.leaf_items[np.lexsort((place, leaf))]

    @cached_property
    def _padded(self):
        """The tokens of all items, and last a row of padding."""
        return np.pad(self.tokens, ((0, 1), (0, 0)))

    def _tensor(self, name, device):
        """An array of this object on a torch device, made once for each device."""
        if (name, device) not in self._moved:
            import torch

            self._moved[name, device] = torch.as_tensor(getattr(self, name), device=device)
        return self._moved[name, device]

    # ------------------------------------------------------- collisions and files

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
        sizes = self.level_sizes
        if how == "none":
            return self
        if how == "sinkhorn":
            codes = collisions.sinkhorn(self.codes, sizes[-1], costs, rounds, epsilon)
            return self if codes is self.codes else self._like(codes, sizes)
        rules = {"extra_digit": collisions.extra_digit, "grid_digit": collisions.grid_digit}
        if how not in rules:
            known = "'none', 'extra_digit', 'grid_digit' or 'sinkhorn'"
            raise InputError(f"unknown collision rule {how!r}: choose {known}")
        digit = rules[how](self.trie)
        return self._like(np.column_stack([self.codes, digit]), (*sizes, int(digit.max()) + 1))

    def _like(self, codes, level_sizes) -> SemanticIds:
        """Other codes of the same items."""
        return SemanticIds(codes, level_sizes, catalogue=self.catalogue)

    def to_json(self, path: str | Path) -> Path:
        """Write codes, level sizes and catalogue as JSON, atomically."""
        return exchange.write_own(path, self.codes, self.level_sizes, self.catalogue)

    @classmethod
    def from_json(cls, path: str | Path) -> SemanticIds:
        """Read what `to_json` wrote.

        Raises CodesError for anything else: cut files, and codes that are not those written.
        """
        return cls(**exchange.read_own(path))

    def to_index_json(self, path: str | Path | None = None) -> dict[str, list[str]]:
        """Return `{"0": ["<a_12>", "<b_7>", ...], ...}` and, if `path` is given, write it too.

        The form that LC-Rec and its successors exchange: keys are item indices, the letter
        names the level (a, b, ..., z, aa, ab, ...). It does not hold the level sizes.
        """
        index = exchange.to_index(self.codes)
        if path is not None:
            exchange.write_codes(path, index)
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
        return cls(exchange.from_index(source), level_sizes)
