"""The tokens of semantic IDs: the one place that knows token = 1 + offset + code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semid_lib.errors import CapacityError, CodesError

MAX_TOKENS = 2**31 - 1


class Vocabulary:
    """Level l has its own range of one shared vocabulary: token = 1 + offset_l + c_l.

    offset_l is the running sum of the level sizes and 0 is padding (SPEC 0; separate embeddings
    for the same code at different levels, as in TIGER, LIGER and GRID). Tables that have no padding
    (`compute.scoring.table_rows`, codebooks, DIN's) count their rows from offset_l, without the 1.

    Args:
        level_sizes: K_l of every level, integers of at least 1.

    Attributes:
        level_sizes: L ints. offsets: `[L]` int64. first_token: L ints, the token of code 0 of each
            level. num_tokens: 1 + sum of the level sizes (padding included).

    Raises:
        CodesError: level sizes that are no integers or below 1.
        CapacityError: more than 2^31 - 1 tokens.

    Example:
        >>> words = Vocabulary((3, 5, 2))
        >>> words.first_token, words.num_tokens, words.tokens([2, 0, 1]).tolist()
        ((1, 4, 9), 11, [3, 4, 10])
    """

    def __init__(self, level_sizes: Sequence[int]):
        sizes = integers(level_sizes, "level_sizes", "[L]")
        if sizes.min() < 1:
            raise CodesError(f"level_sizes are {sizes}, not {len(sizes)} numbers above 0")
        if sizes.sum() >= MAX_TOKENS:
            raise CapacityError(f"{sizes.sum()} tokens; the largest vocabulary is {MAX_TOKENS}")
        self.level_sizes = tuple(sizes.tolist())
        self.offsets = np.cumsum((0, *self.level_sizes[:-1]), dtype=np.int64)
        self.first_token = tuple((1 + self.offsets).tolist())
        self.num_tokens = 1 + sum(self.level_sizes)

    def __repr__(self) -> str:
        return f"Vocabulary({' x '.join(map(str, self.level_sizes))}: {self.num_tokens} tokens)"

    def __eq__(self, other) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.level_sizes == other.level_sizes

    def __hash__(self) -> int:
        return hash(self.level_sizes)

    num_levels = property(lambda self: len(self.level_sizes), doc="Levels L.")

    def tokens(self, codes) -> np.ndarray:
        """Tokens `[..., l]` int64 of codes or prefixes of codes `[..., l]`, l <= L."""
        codes = np.asarray(codes)
        return codes + np.asarray(self.first_token[: codes.shape[-1]])

    def codes(self, tokens) -> np.ndarray:
        """Codes `[..., l]` int64 of the tokens of IDs or prefixes `[..., l]`: undoes `tokens`.

        Raises CodesError for a token of another level than its place, padding among them.
        """
        tokens = np.asarray(tokens)
        levels = np.arange(tokens.shape[-1])
        wrong = self.level_of(tokens) != levels
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0].tolist())
            raise CodesError(
                f"token {tokens[place]} is none of level {place[-1]}: are the levels out of order, "
                "or is the vocabulary another tokenizer's?"
            )
        return tokens - np.asarray(self.first_token[: tokens.shape[-1]])

    def level_of(self, tokens) -> np.ndarray:
        """The level of each token, int64 of any shape; -1 for padding and what is no token."""
        tokens = np.asarray(tokens)
        level = np.searchsorted(self.first_token, tokens, side="right") - 1
        return np.where(tokens < self.num_tokens, level, -1)


def integers(value, name: str, axes: str) -> np.ndarray:
    """`value` as an int64 array of its own with these axes, such as "[N, L]".

    Raises:
        CodesError: no full array of integers with these axes.
        CapacityError: a number beyond the largest vocabulary.
    """
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
