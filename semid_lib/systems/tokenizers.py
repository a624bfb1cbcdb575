"""R3-VAE's comparison: one tokenizer between vectors of text or behaviour and the T5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from semid_lib.systems.cuts import Cut
from semid_lib.systems.shared import BUDGETS, LEARNT, NO_TEXT, RQVAE, T5, T5_EQUAL, TEXT
from semid_lib.systems.system import Preset, System, Variant, sweep
from semid_lib.systems.tiger import GAP
from semid_lib.systems.trees import branching

# The floor of them all: codes that say nothing, in the shape of GAOQ's.
RANDOM_CODES = Preset("semid_lib.quantizers:RandomCodes", paper={"branching": branching})
VQVAE = Preset("semid_lib.quantizers:VQVAE", **LEARNT)
CLUSTERS = {"paper": {"n_clusters": 256}, "quick": {"n_clusters": 64}}
KMEANS = Preset("semid_lib.quantizers:KMeans", **CLUSTERS)
OPQ = Preset(
    "semid_lib.quantizers:OPQ",
    paper={"num_blocks": 3, "num_codes": 256},
    quick={"num_codes": 64},
)
RKMEANS = Preset("semid_lib.quantizers:ResidualKMeans", **CLUSTERS).updated({"num_levels": 3})
MQ = Preset("semid_lib.quantizers:MQ", **LEARNT).updated({"num_levels": 3})
R3VAE = Preset("semid_lib.quantizers:R3VAE", **LEARNT).updated({"num_levels": 3})

CUTS = (
    Cut(
        "method",
        stage="recommender",
        note="R3-VAE prints no settings of its own, these are ReSID's",
    ),
    Cut(
        "method",
        stage="recommender",
        note="items that share an ID get a digit more (R3-VAE says nothing)",
    ),
)
WHOLE = {"whole": Variant()}  # the whole budget, where the queue's other codes have less


def _quantizers(variants: Mapping[str, Mapping]) -> dict[str, Variant]:
    """Variants that change settings of the quantizer alone."""
    return {name: Variant({"quantizer": settings}) for name, settings in variants.items()}


def tokenizer(
    title: str, quantizer: Preset, variants: Mapping[str, Variant] | None = None, cut=CUTS
) -> System:
    """A row of R3-VAE's Tables 1 and 2: the quantizer, and all else that its rows share."""
    return System(
        title,
        encoder=TEXT,
        quantizer=quantizer,
        recommender=T5,
        variants={**BUDGETS, **(variants or {})},
        vectors="of the items' words (R3-VAE does not name its encoder)",
        no_text=replace(NO_TEXT, vectors="of behaviour (ALS) (R3-VAE does not name its encoder)"),
        cut=cut,
    )


# Our sweep of temperature and top-K around the default, 0.05 and 8; 256 is all codes.
TEMPERATURES = sweep(
    "temperature",
    {
        f"t{temperature:g}-k{top_k}": {
            "quantizer": {"temperature": temperature, "top_k": None if top_k == 256 else top_k}
        }
        for temperature in (0.02, 0.05, 0.1, 1.0)
        for top_k in (1, 8, 256)
    },
)
# Table 9.
LAMBDAS = sweep(
    "lambda",
    {
        f"lambda-{weight}": {"quantizer": {"sc_weight": weight, "pd_weight": weight}}
        for weight in (0.001, 0.01, 0.1)
    },
)
R3VAE_VARIANTS = {
    **WHOLE,
    # The reading without a temperature.
    **_quantizers({"literal": {"temperature": 1.0, "top_k": None}}),
    # Table 8, and Fig. 4's start.
    **_quantizers(
        {
            "no-reference": {"reference": False},
            "no-rating": {"rating": False},
            "no-sc": {"sc_weight": 0.0},
            "no-pd": {"pd_weight": 0.0},
            "random-start": {"init": "normal"},
        }
    ),
    # Reads L_rec as the mean over the 384 dimensions, not their sum: next to it, lambda = 0.01
    # weighs 384 times as much.
    **_quantizers({"mean-error": {"sc_weight": 3.84, "pd_weight": 3.84}}),
    **LAMBDAS,
    **TEMPERATURES,
    # The reading of the only public implementation, with the equal budget of T5.
    "top1": Variant(
        {
            "quantizer": {
                "num_levels": 3,
                "num_codes": 256,
                "steps": 20_000,
                "batch_size": 1024,
            },
            "recommender": T5_EQUAL,
        },
        stages={"quantizer": "semid_lib.quantizers:R3VAETop1"},
    ),
}

SYSTEMS = {
    "random": tokenizer("Random codes", RANDOM_CODES, {"gap": GAP["gap"]}, cut=()),
    "vqvae": tokenizer("VQ-VAE", VQVAE),
    "rqvae": tokenizer(
        "RQ-VAE",
        RQVAE,
        {
            **WHOLE,
            **_quantizers({"restart": {"restart": True}, "random-start": {"init": "uniform"}}),
        },
    ),
    "kmeans": tokenizer("KMeans", KMEANS),
    "opq": tokenizer("OPQ-KMeans", OPQ),
    "rkmeans": tokenizer("R-KMeans", RKMEANS, {"centred": Variant(centred=True)}),
    # "faithful" is the public program's way, "published" the paper's form with the program's
    # settings; both end with a handful of IDs.
    "mq": tokenizer(
        "MQ",
        MQ,
        _quantizers(
            {
                "faithful": {"faithful_code": True, "dropout": (0.5, 0.2)},
                "published": {"dropout": (0.5, 0.2), "restart_every": 50},
            }
        ),
    ),
    "r3vae": tokenizer("R3-VAE", R3VAE, R3VAE_VARIANTS),
}

#: The seven of R3-VAE's Tables 1, 2 and 6, in their order: they differ in their quantizer alone.
TOKENIZERS = ("vqvae", "rqvae", "kmeans", "opq", "rkmeans", "mq", "r3vae")
