"""What codes and vectors show before any recommender is trained."""

from semid_lib.diagnostics.behaviour import (
    chance_purity,
    cluster_nmi,
    co_occurrence,
    code_overlap,
    information_bound,
    louvain,
    neighbour_purity,
)
from semid_lib.diagnostics.codes import (
    code_gini,
    code_usage,
    collision_rate,
    gini,
    marginal_entropy,
    prefix_entropy,
)
from semid_lib.diagnostics.geometry import (
    code_means,
    code_terms,
    effective_rank,
    preference_discrimination,
    reconstruction_error,
    semantic_cohesion,
    within_code_cosine,
)

__all__ = [
    "chance_purity", "cluster_nmi", "co_occurrence", "code_gini", "code_means", "code_overlap",
    "code_terms", "code_usage", "collision_rate", "effective_rank", "gini", "information_bound",
    "louvain", "marginal_entropy", "neighbour_purity", "preference_discrimination",
    "prefix_entropy", "reconstruction_error", "semantic_cohesion", "within_code_cosine",
]  # fmt: skip
