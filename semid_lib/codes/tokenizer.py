"""The seam between tokenizers and recommenders: what a recommender may know of items' codes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from semid_lib.codes.trie import Trie
from semid_lib.codes.vocabulary import Vocabulary
from semid_lib.errors import CodesError


class ItemTokenizer(Protocol):
    """Items in, tokens out, and back from the IDs that were found.

    Recommenders see this alone. Arrays are of numpy or of torch, on any device; what is returned
    is of the same kind and place as what was given. `SemanticIds` is the tokenizer whose items have
    the same tokens in every history.

    Attributes:
        vocabulary: of the tokens that it writes.
        num_items: items N of the catalogue.
        tokens_per_item: tokens that each item of a history becomes, or None where that depends on
            the history.
        trie: the prefix trie of the IDs that exist, for the search.
        version: hash of the codes; another version means other codes.
        catalogue: hash of the catalogue that the codes were made for
            (`Interactions.catalogue_sha256`), or None where nobody knows.
    """

    vocabulary: Vocabulary
    num_items: int
    tokens_per_item: int | None
    trie: Trie
    version: str
    catalogue: str | None

    def encode(self, sequences: Any) -> Any:
        """Tokens `[B, S]` int64 of histories `[B, T]` of items, -1 behind a shorter one's end.

        Shorter ones end in padding (token 0).
        """

    def targets(self, items: Any) -> Any:
        """Tokens `[..., L]` int64 of the IDs of items `[...]`, as they are to be generated."""

    def allowed(self, prefix: Any) -> np.ndarray:
        """The codes that may follow a prefix of fewer than L codes, ascending; maybe none."""

    def items(self, leaves: Any) -> Any:
        """Items `[..., C]` int64 of leaves `[...]` of the trie; C: most items of one ID.

        Items that share an ID stand in a fixed pseudo-random order, -1 behind the last.
        """


def item_codes(tokenizer: ItemTokenizer) -> np.ndarray:
    """Codes `[N, L]` int64 of the IDs of all items."""
    return tokenizer.vocabulary.codes(tokenizer.targets(np.arange(tokenizer.num_items)))


def check_catalogue(tokenizer: ItemTokenizer, data) -> None:
    """Raise CodesError if the codes were made for other items than those of `Interactions`.

    Codes of unknown origin (`catalogue` None) are refused by the number of their items alone.
    """
    if tokenizer.num_items != data.num_items:
        raise CodesError(
            f"codes of {tokenizer.num_items} items for a catalogue of {data.num_items}: every item "
            "needs codes, and they must be this dataset's"
        )
    if tokenizer.catalogue not in (None, data.catalogue_sha256):
        raise CodesError(
            f"codes of catalogue {tokenizer.catalogue[:12]} for {data.name!r}, which is catalogue "
            f"{data.catalogue_sha256[:12]}: as many items, but with other ids or fields. Make "
            "codes of these items, or build SemanticIds without `catalogue` if they are the same"
        )
