"""TIGER in ReSID's comparison, and what separates its printed from public results."""

from __future__ import annotations

from semid_lib.systems.cuts import Cut
from semid_lib.systems.shared import BUDGETS, NO_TEXT, RQVAE, SIZES, T5, TEXT
from semid_lib.systems.system import System, Variant

SIZE = {"num_heads": 6, "head_dim": 64, "ffn_dim": 1024}
# RecBole 3's.
TRAINING = {
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "warmup": 0.05,
    "batch_size": 256,
    "epochs": 150,
    "max_history": 20,
}

# The gap between printed and public results: RecBole 3's training at the size of ReSID's T5, and
# one thing at a time changed.
GAP = {
    "gap": Variant({"recommender": TRAINING}),
    "gap-encoder": Variant({"encoder": {"model": "tfidf", "dim": 384}, "recommender": TRAINING}),
    "gap-fields": Variant(
        {"encoder": {"columns": ("words",), "empty": "zero"}, "recommender": TRAINING}
    ),
    "gap-collisions": Variant({"recommender": TRAINING}, collisions="none"),
    "gap-history": Variant({"recommender": {**TRAINING, "max_history": 50}}),
    "gap-warmup": Variant({"recommender": {**TRAINING, "warmup": 0.0}}),
    "gap-beams": Variant({"recommender": {**TRAINING, "search": "free"}}),
}

# The T5 is the one that all semantic IDs of ReSID's comparison share. RQ-VAE's training is the one
# of R3-VAE's comparison (TIGER's own, from memory: Adagrad, rate 0.4, 20,000 epochs).
TIGER = System(
    "TIGER",
    encoder=TEXT,
    quantizer=RQVAE,
    recommender=T5,
    vectors="of the items' words (TIGER, ReSID: Sentence-T5's)",
    no_text=NO_TEXT,
    variants={
        **SIZES,
        **BUDGETS,
        # From memory of TIGER; 10,000 of 200,000 steps are its warm-up.
        "published": Variant(
            {"recommender": {**SIZE, **TRAINING, "learning_rate": 1e-2, "epochs": 390}}
        ),
        # RecBole 3, the public implementation with the best documented settings.
        "public": Variant({"recommender": {**SIZE, **TRAINING}}),
        **GAP,
    },
    cut=(
        Cut(
            "method",
            stage="recommender",
            note="no user tokens, the rate falls along a cosine "
            "(TIGER: 2,000 hashed users, inverse root)",
        ),
    ),
)

SYSTEMS = {"tiger": TIGER}
