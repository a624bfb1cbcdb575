"""Recommenders: histories (and semantic IDs) in, ranked items out."""

from semid_lib._lazy import lazy

_HOMES = {
    "ItemModel": "item_model", "PADDING": "base",
    "Recommender": "base", "Popularity": "floors", "MarkovChain": "floors", "ItemKNN": "floors",
    "BERT4Rec": "bert4rec", "SASRec": "sasrec", "T5Recommender": "t5", "RPG": "rpg",
    "ACERec": "acerec", "HGN": "hgn", "GRU4Rec": "gru4rec", "S3Rec": "s3rec",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
