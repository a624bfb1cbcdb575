"""RPG and ACERec: all digits of a long OPQ code of text or behaviour are predicted at once."""

from __future__ import annotations

from semid_lib.systems.cuts import Cut
from semid_lib.systems.system import NoText, Preset, System, Variant, sweep, together

TEXT = Preset(
    "semid_lib.encoders:TextEncoder",
    paper={"model": "minilm", "pca": 128, "whiten": True, "normalize": False, "empty": "zero"},
    quick={"model": "tfidf", "dim": 96, "pca": 64},
)
ALS = Preset("semid_lib.encoders:ALS", paper={"dim": 128}, quick={"dim": 64})
# Behaviour vectors stand in where items have no text, or titles and genres that predict little.
NO_TEXT = NoText(
    ("office", "clothing", "baby", "lastfm", "ml-1m", "ml-100k"),
    ALS,
    vectors="of behaviour (ALS), for want of text "
    "(ACERec and RPG: sentence-t5-base's of the metadata)",
)
VECTORS = "of the items' words (ACERec and RPG: sentence-t5-base's of the metadata)"
OPQ = Preset(
    "semid_lib.quantizers:OPQ",
    paper={"num_blocks": 32, "num_codes": 256},
    quick={"num_blocks": 16, "num_codes": 64},
)

# ACERec, Appendix A.2, and what it takes over from RPG. The warm-up of RPG, 10,000 steps, is longer
# than a run on small sets: there its rate of 3e-3 only rises, to a third. With a warm-up that ends,
# 1e-3, dropout 0.5 and random batches validated best (Instruments, 16 digits).
RPG = Preset(
    "semid_lib.recommenders:RPG",
    paper={
        "dim": 448,
        "num_layers": 2,
        "num_heads": 4,
        "ffn_dim": 1024,
        "dropout": 0.5,
        "temperature": 0.03,
        "head_norm": "rpg",
        "max_history": 50,
        "long_histories": "rows",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup": 0.05,
        "clip": 1.0,
        "batch_size": 256,
        "epochs": 150,
        "patience": 20,
    },
    quick={
        "dim": 64,
        "num_heads": 2,
        "ffn_dim": 128,
        "dropout": 0.1,
        "max_history": 20,
        "long_histories": "windows",
        "learning_rate": 2e-3,
        "batch_size": 16,
        "epochs": 6,
        "samples_per_epoch": 1500,
        "precision": "float64",
    },
)
# One point of Appendix A.2's grid of rates, batches and lambda (`alignment`). The paper is silent
# on dropout and "aligns the model configuration with RPG", whose 0.5 also validated best (16
# digits).
ACEREC = Preset("semid_lib.recommenders:ACERec", RPG.paper, RPG.quick).updated(
    {
        "merger": "atm",
        "ratio": 8,
        "anchor": "intent",
        "alignment": 0.03,
        "alignment_temperature": 0.07,
        "debias": 0.02,
        "batch_size": 64,
    }
)

# Codes of behaviour for those of text; random ones, the floor of both; a quarter of the width and
# of Instruments' digits, a twentieth of the numbers, for as many seeds as it takes.
BEHAVIOUR = {"encoder": {"dim": 128}}
BEHAVIOUR_STAGE = {"encoder": ALS.place}
RANDOM_STAGE = {"quantizer": "semid_lib.quantizers:RandomCodes"}
QUARTER = {"quantizer": {"num_blocks": 16}, "recommender": {"dim": 128, "ffn_dim": 256}}
CODES = {
    "als": Variant(BEHAVIOUR, stages=BEHAVIOUR_STAGE),
    "random-64": Variant({"quantizer": {"num_levels": 64}}, stages=RANDOM_STAGE),
    "small": Variant(QUARTER),
    "small-als": Variant(together(QUARTER, BEHAVIOUR), stages=BEHAVIOUR_STAGE),
    "small-random": Variant(
        {**QUARTER, "quantizer": {"num_levels": 16}},
        stages=RANDOM_STAGE,
    ),
}

# ACERec's Table 3, without (0) and with (1) the merger, the intent token, the alignment; row 6 is
# the default.
_NO_MERGER = {"merger": "mean", "ratio": None}
_NO_INTENT = {"alignment": 0.0, "anchor": "last"}
_NO_ALIGNMENT = {"alignment": 0.0}
ROWS = {
    "atm0-intent0-isa0": {"recommender": {**_NO_MERGER, **_NO_INTENT}},
    "atm1-intent0-isa0": {"recommender": _NO_INTENT},
    "atm0-intent1-isa0": {"recommender": {**_NO_MERGER, **_NO_ALIGNMENT}},
    "atm0-intent1-isa1": {"recommender": _NO_MERGER},
    "atm1-intent1-isa0": {"recommender": _NO_ALIGNMENT},
}
# Table 4: other mergers; other anchors.
OTHERS = {
    "merger-mlp": {"recommender": {"merger": "mlp"}},
    "merger-mean": {"recommender": {"merger": "mean"}},
    "merger-conv": {"recommender": {"merger": "conv"}},
    "anchor-mean": {"recommender": {"alignment": 0.0, "anchor": "mean"}},
    "anchor-mlp": {"recommender": {"alignment": 0.0, "anchor": "mlp"}},
}
# Fig. 8.
LAMBDAS = sweep(
    "lambda",
    {
        f"lambda-{weight}": {"recommender": {"alignment": weight}}
        for weight in (0.001, 0.003, 0.005, 0.007, 0.01, 0.1)
    },
)
# Figs. 3, 7 and 10: m digits, each `ratio` of them merged into one of k = m / ratio latents.
_DIGITS_AND_LATENTS = (
    (8, 1), (16, 2), (16, 4), (16, 8), (32, 2), (32, 4), (32, 8), (64, 2), (64, 4), (64, 8),
    (32, 16), (64, 16), (64, 32),
)  # fmt: skip
ACEREC_DIGITS = sweep(
    "digits",
    {
        # Fig. 4: few digits and no merging.
        "digits-4-direct": {
            "quantizer": {"num_blocks": 4},
            "recommender": {"merger": "mean", "ratio": 1},
        },
        **{
            f"digits-{digits}-latents-{latents}": {
                "quantizer": {"num_blocks": digits},
                "recommender": {"ratio": digits // latents},
            }
            for digits, latents in _DIGITS_AND_LATENTS
        },
    },
)
RPG_DIGITS = sweep(
    "digits",
    {f"digits-{digits}": {"quantizer": {"num_blocks": digits}} for digits in (8, 16, 32, 64)},
)

SHORTER_WARMUP = Cut(
    "method",
    stage="recommender",
    note="the rate rises for 5 % of the steps (RPG: 10,000 steps), then falls along a cosine",
)
ONE_POINT = Cut(
    "method", stage="recommender", note="one point of ACERec's grid of 13 (rate, batch, lambda)"
)

SYSTEMS = {
    "rpg": System(
        "RPG",
        encoder=TEXT,
        quantizer=OPQ,
        recommender=RPG,
        vectors=VECTORS,
        no_text=NO_TEXT,
        variants={**CODES, **RPG_DIGITS},
        printed={  # ACERec, C.1, for Instruments; RPG's own commands for the others
            "instruments": {"quantizer": {"num_blocks": 64}},
            "beauty": {"recommender": {"learning_rate": 1e-2}},
            "sports": {"quantizer": {"num_blocks": 16}},
            "toys": {"quantizer": {"num_blocks": 16}},
        },
        cut=(SHORTER_WARMUP,),
    ),
    "acerec": System(
        "ACERec",
        encoder=TEXT,
        quantizer=OPQ,
        recommender=ACEREC,
        vectors=VECTORS,
        no_text=NO_TEXT,
        variants={
            **CODES,
            **{f"small-{name}": Variant(together(QUARTER, row)) for name, row in ROWS.items()},
            **{name: Variant(row) for name, row in {**ROWS, **OTHERS}.items()},
            **LAMBDAS,
            **ACEREC_DIGITS,
        },
        printed={"instruments": {"quantizer": {"num_blocks": 64}}},  # C.1; else 32
        cut=(ONE_POINT, SHORTER_WARMUP),
    ),
}
