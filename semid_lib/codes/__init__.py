"""Semantic IDs: the codes of a catalogue, their vocabulary, trie, collisions and files."""

from semid_lib._lazy import lazy

_HOMES = {
    "ItemTokenizer": "tokenizer", "MAX_TOKENS": "vocabulary", "SemanticIds": "semantic_ids",
    "Trie": "trie", "Vocabulary": "vocabulary", "check_catalogue": "tokenizer",
    "item_codes": "tokenizer",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
