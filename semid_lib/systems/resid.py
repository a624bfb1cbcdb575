"""ReSID and the ablations of its Table 5: E1 to E3 replace the encoder, Q1 and Q2 the quantizer."""

from __future__ import annotations

from semid_lib.systems.cuts import Cut
from semid_lib.systems.sequential import BERT4REC, COMMON, SASREC, WHOLE_SEQUENCES, WITH_FIELDS
from semid_lib.systems.shared import (
    BUDGETS,
    NO_TEXT,
    RQVAE,
    SIZES,
    T5,
    T5_EQUAL,
    T5_LONG,
    TEXT,
)
from semid_lib.systems.system import Preset, System, Variant, sweep
from semid_lib.systems.trees import branching

FAMAE = Preset(
    "semid_lib.encoders:FAMAE",
    paper={
        **COMMON,
        "batch_size": 2048,
        "max_length": 32,
        "field_names": None,
        "field_weights": None,
        "scale": None,
        "item_loss": "auto",
        "num_negatives": 128,
        "masking": "last",
        "normalize": "none",
        "snapshot_epochs": (0.25, 1, 3, 8, 16),
    },
    # The quick sizes are those of chapter 01: seconds to a minute on one thread for MovieLens-100K.
    quick={
        "patience_steps": 0,
        "dim": 64,
        "ffn_dim": 256,
        "max_length": 9,
        "learning_rate": 3e-3,
        "batch_size": 256,
        "epochs": 3,
        "samples_per_epoch": 18_000,
        "snapshot_epochs": (),
        "precision": "float64",
    },
)

# Trees are grown on the CPU, where they are exact and the same on every machine. With one seed the
# two grow the same tree and differ in its numbering alone.
GAOQ = Preset(
    "semid_lib.quantizers:GAOQ",
    paper={"branching": branching, "max_iter": 20, "anchors": "orthonormal"},
)
HIERARCHICAL = Preset(
    "semid_lib.quantizers:HierarchicalKMeans",
    paper={"branching": branching, "max_iter": 20},
)

# E2's and E3's encoders: SASRec and BERT4Rec with the fields, as wide as FAMAE.
SASREC_ENCODER = SASREC.updated(WITH_FIELDS, quick={"dim": 64, "ffn_dim": 256})
BERT4REC_ENCODER = BERT4REC.updated(WITH_FIELDS, quick={"dim": 64, "ffn_dim": 256, "epochs": 3})

# ReSID's and its ablations' encoders on a par: the full softmax over the items for all (FAMAE's
# preset has 128 negatives above 4,096 items), and a patience of 10 epochs.
FAMAE_FULL = {"item_loss": "full", "patience": 10}
FAMAE_BUDGETS = {
    "equal": Variant({"encoder": FAMAE_FULL, "recommender": T5_EQUAL}),
    "equal-sampled": Variant({"encoder": {"patience": 10}, "recommender": T5_EQUAL}),
    "equal-l2": Variant(
        {"encoder": {**FAMAE_FULL, "normalize": "per_field_l2"}, "recommender": T5_EQUAL}
    ),
    "long": Variant({"encoder": FAMAE_FULL, "recommender": T5_LONG}),
}

# "sampled" and "cosine" have FAMAE's two losses; "equal-*" at the equal budget.
FAMAE_LOSS = {"loss": "sampled", "similarity": "cosine"}
ENCODER_BUDGETS = {
    "id": Variant({"encoder": {"field_names": ()}}),
    "sampled": Variant({"encoder": FAMAE_LOSS}),
    "equal": Variant({"encoder": {"patience": 10}, "recommender": T5_EQUAL}),
    "equal-id": Variant({"encoder": {"field_names": (), "patience": 10}, "recommender": T5_EQUAL}),
    "equal-cosine": Variant(
        {"encoder": {"similarity": "cosine", "patience": 10}, "recommender": T5_EQUAL}
    ),
    "equal-sampled": Variant({"encoder": {**FAMAE_LOSS, "patience": 10}, "recommender": T5_EQUAL}),
    "long": Variant({"encoder": {"patience": 10}, "recommender": T5_LONG}),
}

# ReSID, Fig. 3: five snapshots of FAMAE's one training; the sixth, as validation chose it, is the
# default.
CHECKPOINTS = {
    **{f"checkpoint-{k}": Variant(checkpoint=k, sweep="checkpoint") for k in range(1, 6)},
    "checkpoint-6": Variant(sweep="checkpoint"),
}

# ReSID, Table 8: six of its 32 cells. On Beauty, b1 b2 from N/32 to N/3, around the rule's N/20 to
# N/10, and twice 1,280 = N/9.5 in other proportions; (32, 40) is Beauty's default.
BRANCHINGS = sweep(
    "branching",
    {
        f"branching-{first}x{second}": {"quantizer": {"branching": (first, second, "auto")}}
        for first, second in ((16, 24), (24, 32), (16, 80), (32, 40), (32, 80), (48, 80))
    },
)

SYSTEMS = {
    "resid": System(
        "ReSID",
        encoder=FAMAE,
        quantizer=GAOQ,
        recommender=T5,
        variants={**CHECKPOINTS, **SIZES, **BRANCHINGS, **FAMAE_BUDGETS},
    ),
    "e2": System(
        "E2",
        encoder=SASREC_ENCODER,
        quantizer=GAOQ,
        recommender=T5,
        variants=ENCODER_BUDGETS,
        cut=(Cut("method", stage="encoder", note=WHOLE_SEQUENCES),),
    ),
    "e3": System(
        "E3",
        encoder=BERT4REC_ENCODER,
        quantizer=GAOQ,
        recommender=T5,
        variants=ENCODER_BUDGETS,
    ),
    "e1": System(
        "E1",
        encoder=TEXT,
        quantizer=GAOQ,
        recommender=T5,
        variants=BUDGETS,
        vectors="of the items' words (ReSID: Sentence-T5-xxl's)",
        no_text=NO_TEXT,
    ),
    "q1": System("Q1", encoder=FAMAE, quantizer=RQVAE, recommender=T5, variants=FAMAE_BUDGETS),
    "q2": System(
        "Q2", encoder=FAMAE, quantizer=HIERARCHICAL, recommender=T5, variants=FAMAE_BUDGETS
    ),
}
