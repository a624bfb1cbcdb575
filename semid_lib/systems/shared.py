"""The text encoder and the T5 that ReSID's, TIGER's and R3-VAE's comparisons share."""

from __future__ import annotations

from semid_lib.systems.system import NoText, Preset, Variant, sweep

# ReSID, Appendix E. It states no warm-up, clipping or early stopping for the generator, only that
# it learns for tens of times as long as the others; hence the long patience. Where that ends a run
# after 60 of its 500 epochs, the rate is still 0.97 of its peak: see `equal` and `long`, whose
# cosine ends.
T5 = Preset(
    "semid_lib.recommenders:T5Recommender",
    paper={
        "dim": 128,
        "num_layers": 4,
        "num_heads": 4,
        "head_dim": 32,
        "ffn_dim": 512,
        "dropout": 0.1,
        "learning_rate": 5e-3,
        "weight_decay": 1e-5,
        "warmup": 0.01,
        "clip": 1.0,
        "batch_size": 2048,
        "epochs": 500,
        "patience": 20,
        "validate_users": 4096,
        "max_history": 32,
        "num_beams": 50,
    },
    quick={
        "dim": 32,
        "num_layers": 1,
        "num_heads": 2,
        "head_dim": 16,
        "ffn_dim": 128,
        "dropout": 0.0,
        "learning_rate": 3e-3,
        "warmup": 0.1,
        "batch_size": 64,
        "epochs": 8,
        "samples_per_epoch": 18_000,
        "validate_users": None,
        "max_history": 12,
        "num_beams": 40,
        "precision": "float64",
    },
)

# One budget for all that are compared: 12 epochs of T5, the rate falling to 0 over them, the best
# on validation kept; `long` is five times that. In ReSID's batches of 2,048, 12 epochs of
# beauty-complete were 228 steps; batch, rate, decay and warm-up are those of RecBole 3's TIGER
# (`tiger.TRAINING`).
T5_EQUAL = {
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "warmup": 0.05,
    "batch_size": 256,
    "epochs": 12,
    "patience": None,
}
T5_LONG = {**T5_EQUAL, "epochs": 60}
BUDGETS = {
    "equal": Variant({"recommender": T5_EQUAL}),
    "long": Variant({"recommender": T5_LONG}),
}

# ReSID, Fig. 4: five sizes in steps of 4, the printed T5 (1.84 million numbers besides the
# embeddings) in the middle.
SIZES = sweep(
    "size",
    {
        f"size-{k}": {"recommender": {"dim": dim, "num_heads": dim // 32, "ffn_dim": 4 * dim}}
        for k, dim in enumerate((32, 64, 128, 256, 512), start=1)
    },
)

TEXT = Preset(
    "semid_lib.encoders:TextEncoder",
    paper={"model": "minilm"},
    quick={"model": "tfidf", "dim": 96},
)
# Where R3-VAE's Table 2 has vectors of behaviour, ours are ALS's: TokenRec, whose data these are,
# factorises too, into 64 numbers (LightGCN), which OPQ's three blocks do not divide.
ALS = Preset("semid_lib.encoders:ALS", paper={"dim": 66, "normalize": True})
NO_TEXT = NoText(
    ("lastfm", "ml-1m", "clothing"), ALS, vectors="of behaviour (ALS), for want of text"
)

# R3-VAE: "the same hyperparameters" for all learnt tokenizers, of which it prints 3 levels, 256
# codes and its own rate and decay. The steps are those of its Fig. 4, the batch is RQ-VAE's.
LEARNT = {
    "paper": {"num_codes": 256, "batch_size": 1024, "steps": 20_000, "precision": "float32"},
    "quick": {"num_codes": 64, "batch_size": 256, "steps": 300, "precision": "float64"},
}
RQVAE = Preset("semid_lib.quantizers:RQVAE", **LEARNT).updated({"num_levels": 3})
