"""What codes and vectors show before any recommender is trained."""

from semid_lib._lazy import lazy

_HOMES = {
    "chance_purity": "behaviour", "cluster_nmi": "behaviour", "co_occurrence": "behaviour",
    "code_gini": "codes", "code_means": "geometry", "code_overlap": "behaviour",
    "code_terms": "geometry", "code_usage": "codes", "collision_rate": "codes",
    "effective_rank": "geometry", "gini": "codes", "information_bound": "behaviour",
    "louvain": "behaviour", "marginal_entropy": "codes", "neighbour_purity": "behaviour",
    "preference_discrimination": "geometry", "prefix_entropy": "codes",
    "reconstruction_error": "geometry", "semantic_cohesion": "geometry",
    "within_code_cosine": "geometry",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
