"""Full-ranking Recall, NDCG and MRR, exact under ties, with intervals."""

from semid_lib._lazy import lazy

_HOMES = {
    "Evaluation": "evaluator", "RULES": "evaluator", "Ranks": "ranks", "UNRANKED": "ranks",
    "bootstrap_interval": "uncertainty", "evaluate": "evaluator", "mrr": "ranks",
    "ndcg_at_k": "ranks", "paired_difference": "evaluator", "ranks_from_lists": "ranks",
    "ranks_from_scores": "ranks", "recall_at_k": "ranks",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
