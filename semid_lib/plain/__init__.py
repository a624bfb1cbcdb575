"""The slow, short twin of each fast thing: an equation's text in NumPy, the truth in tests."""

from semid_lib._lazy import lazy

_HOMES = {
    "acerec_log_probs": "acerec", "acerec_loss": "acerec", "acerec_states": "acerec",
    "acerec_tokens": "acerec", "aligned_numbers": "alignment", "alignment_loss": "acerec",
    "balanced_assignment": "assignment", "balanced_kmeans": "assignment",
    "beam_search": "search", "best_items": "scoring", "best_matching": "alignment",
    "cosine": "metrics", "digit_loss": "rpg", "digit_probs": "rpg",
    "exhaustive_search": "search", "expected_metrics": "metrics", "free_beam_search": "search",
    "holistic_scores": "scoring", "may_look": "acerec", "preference_discrimination": "metrics",
    "r3vae_cohesion": "r3vae", "r3vae_item": "r3vae", "r3vae_loss": "r3vae",
    "r3vae_weights": "r3vae", "rpg_log_probs": "rpg", "rpg_loss": "rpg",
    "semantic_cohesion": "metrics",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
