"""Search for the best items of a model that writes them code by code."""

from semid_lib._lazy import lazy

_HOMES = {
    "StepDecoder": "beam", "beam_search": "beam", "exact_scores": "exact",
    "item_graph": "graph", "graph_search": "graph",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
