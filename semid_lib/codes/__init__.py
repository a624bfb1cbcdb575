"""Semantic IDs: the codes of a catalogue, their vocabulary, trie, collisions and files."""

from semid_lib._lazy import lazy

_HOMES = {
    "MAX_TOKENS": "semantic_ids", "SemanticIds": "semantic_ids", "Trie": "trie",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
