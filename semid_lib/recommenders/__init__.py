"""Recommenders: histories (and semantic IDs) in, ranked items out."""

from importlib import import_module

_PLACES = {
    "Recommender": "base",
    "Popularity": "floors",
    "MarkovChain": "floors",
    "ItemKNN": "floors",
    "BERT4Rec": "bert4rec",
    "DIN": "din",
    "RPG": "rpg",
    "ACERec": "acerec",
    "SASRec": "sasrec",
    "T5Recommender": "t5",
}

__all__ = list(_PLACES)


def __getattr__(name):
    if name in _PLACES:
        value = getattr(import_module(f"semid_lib.recommenders.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'semid_lib.recommenders' has no attribute {name!r}")


def __dir__():
    return __all__
