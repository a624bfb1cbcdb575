"""The floors of every table: methods that count."""

from __future__ import annotations

from semid_lib.systems.system import Preset, System

SYSTEMS = {
    "popularity": System(
        "Popularity", recommender=Preset("semid_lib.recommenders:Popularity"), seeded=False
    ),
    "markov": System(
        "Markov chain", recommender=Preset("semid_lib.recommenders:MarkovChain"), seeded=False
    ),
    "itemknn": System(
        "Item-kNN",
        recommender=Preset(
            "semid_lib.recommenders:ItemKNN", paper={"neighbours": None, "shrinkage": 0.0}
        ),
        seeded=False,
    ),
}
