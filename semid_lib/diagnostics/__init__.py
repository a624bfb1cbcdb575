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
    code_usage,
    collision_rate,
    gini,
    marginal_entropy,
    prefix_entropy,
)
from semid_lib.diagnostics.geometry import (
    code_terms,
    effective_rank,
    reconstruction_error,
    within_code_cosine,
)

__all__ = [
    "chance_purity",
    "cluster_nmi",
    "co_occurrence",
    "code_overlap",
    "code_terms",
    "code_usage",
    "collision_rate",
    "effective_rank",
    "gini",
    "information_bound",
    "louvain",
    "marginal_entropy",
    "neighbour_purity",
    "prefix_entropy",
    "reconstruction_error",
    "within_code_cosine",
]
