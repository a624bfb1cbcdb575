"""Sequential recommenders of items, plain and (starred) with the items' fields."""

from __future__ import annotations

from semid_lib.systems.cuts import Cut
from semid_lib.systems.system import Preset, System, Variant, sweep

# ReSID, Appendix E: one size and one training recipe for all sequential recommenders.
# Its patience of 3 epochs is 200 to 500 steps of its sets; on a small one it would be 18: at least
# 300. The rate falls along a cosine over all 500 epochs, of which early stopping leaves 10 to 60:
# it hardly falls.
COMMON = {
    "dim": 128,
    "num_layers": 2,
    "num_heads": 4,
    "ffn_dim": 512,
    "dropout": 0.1,
    "learning_rate": 1e-3,
    "weight_decay": 1e-5,
    "epochs": 500,
    "patience": 3,
    "patience_steps": 300,
}

# One causal pass predicts all positions, so 256 sequences hold about as many targets as ReSID's
# batch of 2,048 windows. The full softmax is affordable here; "sampled" is the printed loss.
SASREC = Preset(
    "semid_lib.recommenders:SASRec",
    paper={
        **COMMON,
        "batch_size": 256,
        "max_history": 32,
        "loss": "full",
        "similarity": "dot",
        "num_negatives": 128,
        "targets": "all",
        "long_histories": "windows",
        "score_with": "fused",
    },
    quick={
        "patience_steps": 0,
        "dim": 32,
        "num_heads": 2,
        "ffn_dim": 128,
        "learning_rate": 2e-3,
        "batch_size": 32,
        "epochs": 5,
        "precision": "float64",
    },
)

# One sample for each target, so here the batch of 2,048 is the printed one.
BERT4REC = Preset(
    "semid_lib.recommenders:BERT4Rec",
    paper={
        **COMMON,
        "batch_size": 2048,
        "max_history": 32,
        "loss": "full",
        "similarity": "dot",
        "num_negatives": 128,
        "mask_ratio": 0.2,
        "ft_ratio": 0.5,
        "samples": "sliding",
        "score_with": "fused",
    },
    quick={
        "patience_steps": 0,
        "dim": 32,
        "num_heads": 2,
        "ffn_dim": 128,
        "learning_rate": 2e-3,
        "batch_size": 64,
        "epochs": 5,
        "samples_per_epoch": 18_000,
        "max_history": 16,
        "precision": "float64",
    },
)

# ReSID's size, rate and stopping, as far as there are layers for them; a sample for each target.
HGN = Preset(
    "semid_lib.recommenders:HGN",
    paper={
        "dim": 128,
        "learning_rate": 1e-3,
        "weight_decay": 1e-5,
        "epochs": 500,
        "patience": 3,
        "patience_steps": 300,
        "batch_size": 2048,
        "max_history": 32,
        "loss": "full",
        "similarity": "dot",
        "num_negatives": 128,
        "score_with": "fused",
    },
    quick={
        "patience_steps": 0,
        "dim": 32,
        "learning_rate": 5e-3,
        "batch_size": 64,
        "epochs": 5,
        "samples_per_epoch": 18_000,
        "max_history": 16,
        "precision": "float64",
    },
)

# No paper of ours prints it: ReSID's size and training, RecBole's depth and dropout.
GRU4REC = Preset(
    "semid_lib.recommenders:GRU4Rec",
    paper={
        "dim": 128,
        "hidden_dim": 128,
        "num_layers": 1,
        "dropout": 0.3,
        "learning_rate": 1e-3,
        "weight_decay": 1e-5,
        "epochs": 500,
        "patience": 3,
        "patience_steps": 300,
        "batch_size": 256,
        "max_history": 32,
        "loss": "full",
        "similarity": "dot",
        "num_negatives": 128,
        "targets": "all",
        "long_histories": "windows",
        "score_with": "fused",
    },
    quick={
        "patience_steps": 0,
        "dim": 32,
        "hidden_dim": 32,
        "learning_rate": 5e-3,
        "batch_size": 32,
        "epochs": 5,
        "precision": "float64",
    },
)

# SASRec's settings (ReSID, Appendix E) after the pre-training of S3-Rec's program, whose tasks,
# rates and epochs these are; its batches hold 100 sequences.
S3REC = Preset(
    "semid_lib.recommenders:S3Rec",
    paper={
        **COMMON,
        "batch_size": 256,
        "max_history": 32,
        "loss": "full",
        "similarity": "dot",
        "num_negatives": 128,
        "targets": "all",
        "long_histories": "windows",
        "score_with": "fused",
        "mask_ratio": 0.2,
        "task_weights": (0.2, 1.0, 1.0, 0.5),
        "pretrain_epochs": 100,
        "pretrain_batch_size": 256,
        "pretrain_samples": "sliding",
    },
    quick={
        "patience_steps": 0,
        "dim": 32,
        "num_heads": 2,
        "ffn_dim": 128,
        "learning_rate": 2e-3,
        "batch_size": 32,
        "epochs": 5,
        "pretrain_epochs": 2,
        "pretrain_batch_size": 32,
        "pretrain_samples": "sequences",
        "precision": "float64",
    },
)
S3REC_PRINTED = {
    "beauty": {"recommender": {"pretrain_epochs": 150}},
    "toys": {"recommender": {"pretrain_epochs": 150}},
}

SAMPLED = {"sampled": Variant({"recommender": {"loss": "sampled", "similarity": "cosine"}})}
# One negative a target, the loss of SASRec and S3-Rec as published.
BCE = {"bce": Variant({"recommender": {"loss": "bce"}})}

# ReSID, Fig. 4, beside the sizes of its T5: SASRec, four layers deep, is as large at 1.53 times the
# width.
SIZES = sweep(
    "size",
    {
        f"size-{k}": {
            "recommender": {"dim": dim, "num_layers": 4, "num_heads": heads, "ffn_dim": 4 * dim}
        }
        for k, dim, heads in ((1, 48, 1), (2, 96, 2), (3, 196, 4), (4, 392, 8), (5, 784, 16))
    },
)

ITEMS_ALONE = {"field_names": ()}
WITH_FIELDS = {"field_names": None}
WHOLE_SEQUENCES = "batches of whole sequences, each position a target, for batches of windows"
SMALLER_BATCHES = Cut(
    "method", note="pre-training in batches of 256 sequences (S3-Rec's program: 100)"
)

SYSTEMS = {
    "sasrec": System(
        "SASRec",
        recommender=SASREC.updated(ITEMS_ALONE),
        variants={**SAMPLED, **BCE, **SIZES},
        cut=(Cut("method", note=WHOLE_SEQUENCES),),
    ),
    "sasrec*": System(
        "SASRec*",
        recommender=SASREC.updated(WITH_FIELDS),
        variants=SAMPLED,
        cut=(Cut("method", note=WHOLE_SEQUENCES),),
    ),
    "bert4rec": System("BERT4Rec", recommender=BERT4REC.updated(ITEMS_ALONE), variants=SAMPLED),
    "bert4rec*": System("BERT4Rec*", recommender=BERT4REC.updated(WITH_FIELDS), variants=SAMPLED),
    "hgn": System(
        "HGN",
        recommender=HGN.updated(ITEMS_ALONE),
        variants={
            **SAMPLED,
            # Loss and history of the paper.
            "bpr": Variant({"recommender": {"loss": "bpr", "max_history": 5}}),
        },
    ),
    "hgn*": System("HGN*", recommender=HGN.updated(WITH_FIELDS), variants=SAMPLED),
    "gru4rec": System("GRU4Rec", recommender=GRU4REC.updated(ITEMS_ALONE), variants=SAMPLED),
    # Items alone, as ReSID has it.
    "s3rec": System(
        "S3-Rec",
        recommender=S3REC.updated({"field_names": (), "attributes": ()}),
        printed=S3REC_PRINTED,
        variants={
            **SAMPLED,
            **BCE,
            # Attributes are predicted in pre-training and the loss has one negative, as in the
            # numbers that ACERec takes over from TIGER.
            "published": Variant({"recommender": {"attributes": None, "loss": "bce"}}),
        },
        cut=(SMALLER_BATCHES,),
    ),
    "s3rec*": System(
        "S3-Rec*",
        recommender=S3REC.updated({"field_names": None, "attributes": None}),
        printed=S3REC_PRINTED,
        variants=SAMPLED,
        cut=(SMALLER_BATCHES,),
    ),
}
