"""Layers and losses that several models share."""

from semid_lib._lazy import lazy

_HOMES = {
    "BUCKETS": "t5", "Decoding": "t5_decoding", "FieldTable": "fields",
    "INITIAL_STD": "transformer", "Layer": "t5", "MAX_DISTANCE": "t5", "RMSNorm": "t5",
    "SequenceNetwork": "sequence", "T5": "t5", "Transformer": "transformer",
    "TransformerBlock": "transformer",
    "chunked_cross_entropy": "losses", "compute_dtype": "t5_fused", "distance_buckets": "t5",
    "item_fields": "fields", "kernels": "t5_fused", "left_padded": "sequence",
    "packed": "t5_fused", "pairwise_loss": "losses", "sampled_cross_entropy": "losses",
    "states": "t5_fused", "target_ranks": "losses",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
