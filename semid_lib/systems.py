"""Named systems: which encoder, quantizer and recommender, with which settings.

Only this file knows the papers' names for combinations. A system has a paper preset (the printed
settings, and the recommended reading where the paper is silent) and a quick preset, which only says
where it differs; a variant overrules both.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from semid_lib.errors import InputError

Settings = Mapping[str, Mapping[str, Any]]  # role -> setting -> value


@dataclass(frozen=True)
class System:
    """A named combination and its presets.

    Attributes:
        title: as the papers print it, also the name under which printed rows are found.
        stages: role -> "module:Class", in the order in which they run.
        paper, quick: settings of each stage; `quick` only where it differs from `paper`.
        variants: name -> settings that replace those of the preset. "default" replaces nothing.
            Beside the stages' roles, "embed" may hold `checkpoint`: which of the encoder's
            snapshots, 1 the first, gives the vectors; and `centred`: the quantizer is given the
            vectors minus their mean.
        seeded: whether the seed changes anything (not for counting methods).
        cut: what every run of it leaves out of its paper; "ROLE: ..." only if that stage runs.
    """

    title: str
    stages: Mapping[str, str]
    paper: Settings
    quick: Settings = field(default_factory=dict)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    seeded: bool = True
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One estimator to build: its role, its class and its settings."""

    role: str
    place: str
    settings: Mapping[str, Any]

    def build(self, **surroundings):
        """Create the estimator, with those of `random_state`, `device`, `precision` that it knows.

        The settings overrule them. Raises InputError for a setting that the class does not have.
        """
        module, name = self.place.split(":")
        kind = getattr(import_module(module), name)
        known = inspect.signature(kind.__init__).parameters
        for name in self.settings:
            if name not in known:
                raise InputError(
                    f"{kind.__name__} has no setting {name!r}; it has {', '.join(list(known)[1:])}"
                )
        around = {name: value for name, value in surroundings.items() if name in known}
        return kind(**{**around, **self.settings})


@dataclass(frozen=True)
class Plan:
    """All that decides what a run computes, but for seed, device and precision.

    `stages` stand in the order in which they run; `cut` says what differs from the paper;
    `checkpoint` is the encoder's snapshot to embed, None for the weights that validation chose;
    `centred` takes the mean off the vectors that the quantizer is given.
    """

    system: str
    variant: str
    dataset: str
    profile: str
    stages: tuple[Stage, ...]
    cut: tuple[str, ...]
    checkpoint: int | None = None
    centred: bool = False


# ------------------------------------------------------------------ the presets

#: ReSID, Appendix E: one size and one training recipe for all sequential recommenders.
_COMMON = {
    "dim": 128, "num_layers": 2, "num_heads": 4, "ffn_dim": 512, "dropout": 0.1,
    "learning_rate": 1e-3, "weight_decay": 1e-5, "epochs": 500, "patience": 3,
}  # fmt: skip
_FAMAE = {
    **_COMMON, "batch_size": 2048, "max_length": 32, "field_names": None, "field_weights": None,
    "scale": None, "item_loss": "auto", "num_negatives": 128, "masking": "last",
    "normalize": "none", "snapshot_epochs": (0.25, 1, 3, 8, 16),
}  # fmt: skip
#: Trees are grown on the CPU, where they are exact and the same on every machine. With one seed
#: the two grow the same tree and differ in its numbering alone.
_TREE = {
    "GAOQ": {"max_iter": 20, "anchors": "orthonormal", "device": "cpu"},
    "HierarchicalKMeans": {"max_iter": 20, "device": "cpu"},
}
#: ReSID, Appendix E. It states no warm-up, clipping or early stopping for the generator, only that
#: it learns for tens of times as long as the others; hence the long patience.
_T5 = {
    "dim": 128, "num_layers": 4, "num_heads": 4, "head_dim": 32, "ffn_dim": 512, "dropout": 0.1,
    "learning_rate": 5e-3, "weight_decay": 1e-5, "warmup": 0.01, "clip": 1.0, "batch_size": 2048,
    "epochs": 500, "patience": 20, "validate_users": 4096, "max_history": 32, "num_beams": 50,
}  # fmt: skip
#: One causal pass predicts all positions, so 256 sequences hold about as many targets as ReSID's
#: batch of 2,048 windows. The full softmax is affordable here; "sampled" is the printed loss.
_SASREC = {
    **_COMMON, "batch_size": 256, "max_history": 32, "loss": "full", "similarity": "dot",
    "num_negatives": 128, "targets": "all", "long_histories": "windows", "score_with": "fused",
}  # fmt: skip
#: One sample for each target, so here the batch of 2,048 is the printed one.
_BERT4REC = {
    **_COMMON, "batch_size": 2048, "max_history": 32, "loss": "full", "similarity": "dot",
    "num_negatives": 128, "mask_ratio": 0.2, "ft_ratio": 0.5, "samples": "sliding",
    "score_with": "fused",
}  # fmt: skip
_SAMPLED = {"loss": "sampled", "similarity": "cosine"}
_BY_SEQUENCE = "batches of whole sequences, each position a target, for batches of windows"

#: The quick sizes: those of chapter 01, seconds to a minute on one thread for MovieLens-100K.
_FAMAE_QUICK = {
    "dim": 64, "ffn_dim": 256, "max_length": 9, "learning_rate": 3e-3, "batch_size": 256,
    "epochs": 3, "samples_per_epoch": 18_000, "snapshot_epochs": (), "precision": "float64",
}  # fmt: skip
_T5_QUICK = {
    "dim": 32, "num_layers": 1, "num_heads": 2, "head_dim": 16, "ffn_dim": 128, "dropout": 0.0,
    "learning_rate": 3e-3, "warmup": 0.1, "batch_size": 64, "epochs": 8,
    "samples_per_epoch": 18_000, "validate_users": None, "max_history": 12, "num_beams": 40,
    "precision": "float64",
}  # fmt: skip
_SASREC_QUICK = {
    "dim": 32, "num_heads": 2, "ffn_dim": 128, "learning_rate": 2e-3, "batch_size": 32,
    "epochs": 5, "precision": "float64",
}  # fmt: skip
_BERT4REC_QUICK = {
    "dim": 32, "num_heads": 2, "ffn_dim": 128, "learning_rate": 2e-3, "batch_size": 64,
    "epochs": 5, "samples_per_epoch": 18_000, "max_history": 16, "precision": "float64",
}  # fmt: skip

#: ReSID, Fig. 4: five sizes in steps of 4, the printed T5 (1.84 million numbers besides the
#: embeddings) in the middle. SASRec, four layers deep, is as large at 1.53 times the width.
_T5_SIZES = {
    f"size-{k + 1}": {"recommender": {"dim": d, "num_heads": d // 32, "ffn_dim": 4 * d}}
    for k, d in enumerate((32, 64, 128, 256, 512))
}
_SASREC_SIZES = {
    f"size-{k + 1}": {
        "recommender": {"dim": d, "num_layers": 4, "num_heads": heads, "ffn_dim": 4 * d}
    }
    for k, (d, heads) in enumerate(((48, 1), (96, 2), (196, 4), (392, 8), (784, 16)))
}
#: ReSID, Fig. 3: five snapshots of FAMAE's one training; the sixth, as validation chose it, is the
#: default.
_CHECKPOINTS = {
    f"checkpoint-{k}": {"embed": {"checkpoint": k}}
    for k in range(1, len(_FAMAE["snapshot_epochs"]) + 1)
} | {f"checkpoint-{len(_FAMAE['snapshot_epochs']) + 1}": {}}
#: ReSID, Table 8: six of its 32 cells. On Beauty, b1 b2 from N/32 to N/3, around the rule's N/20
#: to N/10, and twice 1,280 = N/9.5 in other proportions; (32, 40) is Beauty's default.
_BRANCHINGS = {
    f"branching-{b1}x{b2}": {"quantizer": {"branching": (b1, b2, "auto")}}
    for b1, b2 in ((16, 24), (24, 32), (16, 80), (32, 40), (32, 80), (48, 80))
}
#: R3-VAE: "the same hyperparameters" for all, of which it prints 3 levels, 256 codes and its own
#: rate and decay. The steps are those of its Fig. 4, the batch is RQ-VAE's.
_LEARNT = {"num_codes": 256, "batch_size": 1024, "steps": 20_000, "precision": "float32"}
_LEARNT_QUICK = {"num_codes": 64, "batch_size": 256, "steps": 300, "precision": "float64"}
#: R3-VAE, Tables 8 and 9, Fig. 4's start, the reading without a temperature ("literal"), and the
#: sweep of temperature and top-K around the default, 0.05 and 8. "mean-error" reads L_rec as the
#: mean over the 384 dimensions, not their sum: next to it, lambda = 0.01 weighs 384 times as much.
_R3VAE_SETTINGS = {
    "literal": {"temperature": 1.0, "top_k": None},
    "no-reference": {"reference": False},
    "no-rating": {"rating": False},
    "no-sc": {"sc_weight": 0.0},
    "no-pd": {"pd_weight": 0.0},
    "random-start": {"init": "normal"},
    "mean-error": {"sc_weight": 3.84, "pd_weight": 3.84},
    **{f"lambda-{x}": {"sc_weight": x, "pd_weight": x} for x in (0.001, 0.01, 0.1)},
    **{
        f"t{t}-k{k}": {"temperature": float(t), "top_k": k if k < 256 else None}
        for t in (0.02, 0.05, 0.1, 1) for k in (1, 8, 256)
    },
}  # fmt: skip
_R3VAE_VARIANTS = {name: {"quantizer": changed} for name, changed in _R3VAE_SETTINGS.items()}
#: Where R3-VAE's Table 2 has vectors of behaviour, ours are ALS's: TokenRec, whose data these are,
#: factorises too, into 64 numbers (LightGCN), which OPQ's three blocks do not divide.
_BEHAVIOUR = ("lastfm", "ml-1m", "clothing")
#: ACERec, Appendix A.2, and what it takes over from RPG. Its grid of rates, batches and lambda is
#: not run: one point of it. The warm-up of RPG, 10,000 steps, is longer than a run on small sets.
_LONG = {
    "dim": 448, "num_layers": 2, "num_heads": 4, "ffn_dim": 1024, "dropout": 0.5,
    "temperature": 0.03, "head_norm": "rpg", "max_history": 50, "long_histories": "rows",
    "learning_rate": 3e-3, "weight_decay": 0.0, "warmup": 0.05, "clip": 1.0, "batch_size": 256,
    "epochs": 150, "patience": 20,
}  # fmt: skip
_ACEREC = {
    **_LONG, "merger": "atm", "ratio": 8, "anchor": "intent", "alignment": 0.03,
    "alignment_temperature": 0.07, "debias": 0.02, "learning_rate": 5e-3, "batch_size": 128,
}  # fmt: skip
_LONG_QUICK = {
    "dim": 64, "num_heads": 2, "ffn_dim": 128, "dropout": 0.1, "max_history": 20,
    "long_histories": "windows", "learning_rate": 2e-3, "batch_size": 16, "epochs": 6,
    "samples_per_epoch": 1500, "precision": "float64",
}  # fmt: skip
#: What is printed for a dataset: 64 digits for Instruments, else 32 (ACERec C.1); RPG's own.
_PRINTED = {
    (title, "instruments"): {"quantizer": {"num_blocks": 64}} for title in ("RPG", "ACERec")
} | {
    ("RPG", "beauty"): {"recommender": {"learning_rate": 1e-2}},
    ("RPG", "sports"): {"quantizer": {"num_blocks": 16}},
    ("RPG", "toys"): {"quantizer": {"num_blocks": 16}},
}
#: Behaviour vectors stand in where items have no text, or titles and genres that predict little.
_NO_TEXT = ("office", "clothing", "baby", "lastfm", "ml-1m", "ml-100k")
_POOLED, _ALONE = {"merger": "mean", "ratio": None}, {"alignment": 0.0}
#: ACERec, Tables 3 and 4, Figs. 4, 8, and 3, 7 and 10: m digits merged into k latents.
_ACEREC_VARIANTS = {
    name: {"recommender": changed}
    for name, changed in {
        "atm0-intent0-isa0": {**_POOLED, **_ALONE, "anchor": "last"},
        "atm1-intent0-isa0": {**_ALONE, "anchor": "last"},
        "atm0-intent1-isa0": {**_POOLED, **_ALONE},
        "atm0-intent1-isa1": _POOLED,
        "atm1-intent1-isa0": _ALONE,
        **{f"merger-{name}": {"merger": name} for name in ("mlp", "mean", "conv")},
        **{f"anchor-{name}": {**_ALONE, "anchor": name} for name in ("mean", "mlp")},
        **{f"lambda-{x}": {"alignment": x} for x in (0.001, 0.003, 0.005, 0.007, 0.01, 0.1)},
    }.items()
} | {"digits-4-direct": {
    "quantizer": {"num_blocks": 4}, "recommender": {"merger": "mean", "ratio": 1}
}} | {
    f"digits-{m}-latents-{k}": {"quantizer": {"num_blocks": m}, "recommender": {"ratio": m // k}}
    for m, k in ((8, 1), (16, 2), (16, 4), (16, 8), *((m, k) for m in (32, 64) for k in (2, 4, 8)),
                 (32, 16), (64, 16), (64, 32))
}  # fmt: skip
#: Variants that trace a curve, and stand in no table of systems.
SWEEPS = ("checkpoint-", "size-", "branching-", "lambda-", "t0.", "t1-", "digits-")


def _sequential(title: str, name: str, paper: Settings, quick: Settings, cut=(), **variants):
    """A recommender that reads item after item and needs no codes."""
    return System(
        title=title,
        stages={"recommender": f"semid_lib.recommenders:{name}"},
        paper={"recommender": paper},
        quick={"recommender": quick},
        variants={"sampled": {"recommender": _SAMPLED}, **variants},
        cut=cut,
    )


def _generative(title: str, encoder: str, settings, quick, quantizer: str, cut=(), **variants):
    """A recommender that generates tree codes of an encoder's vectors."""
    return System(
        title=title,
        stages={
            "encoder": encoder,
            "quantizer": f"semid_lib.quantizers:{quantizer}",
            "recommender": "semid_lib.recommenders:T5Recommender",
        },
        paper={"encoder": settings, "quantizer": _TREE[quantizer], "recommender": _T5},
        quick={"encoder": quick, "recommender": _T5_QUICK},
        variants=variants,
        cut=cut,
    )


def _tokenizer(title: str, name: str, paper: Mapping, quick: Mapping, **variants) -> System:
    """R3-VAE's comparison: one tokenizer between vectors of text or behaviour and the T5."""
    return System(
        title=title,
        stages={
            "encoder": _TEXT,
            "quantizer": f"semid_lib.quantizers:{name}",
            "recommender": "semid_lib.recommenders:T5Recommender",
        },
        paper={"encoder": {"model": "minilm"}, "quantizer": paper, "recommender": _T5},
        quick={
            "encoder": {"model": "tfidf", "dim": 96}, "quantizer": quick, "recommender": _T5_QUICK
        },
        variants=variants,
        cut=(
            "recommender: R3-VAE prints no settings of its own, these are ReSID's",
            "recommender: items that share an ID get a digit more (R3-VAE says nothing)",
        ),
    )  # fmt: skip


def _parallel(title: str, name: str, paper: Mapping, **variants) -> System:
    """A recommender that predicts all digits of an OPQ code of text or behaviour at once."""
    return System(
        title=title,
        stages={
            "encoder": _TEXT,
            "quantizer": "semid_lib.quantizers:OPQ",
            "recommender": f"semid_lib.recommenders:{name}",
        },
        paper={
            "encoder": {
                "model": "minilm", "pca": 128, "whiten": True, "normalize": False, "empty": "zero"
            },
            "quantizer": {"num_blocks": 32, "num_codes": 256}, "recommender": paper,
        },
        quick={
            "encoder": {"model": "tfidf", "dim": 96, "pca": 64},
            "quantizer": {"num_blocks": 16, "num_codes": 64}, "recommender": _LONG_QUICK,
        },
        variants=variants,
    )  # fmt: skip


def _all_at_once(system: System) -> bool:
    return system.stages["recommender"].endswith((":RPG", ":ACERec"))


def _floor(title: str, name: str, **settings) -> System:
    stages = {"recommender": f"semid_lib.recommenders:{name}"}
    return System(title, stages, paper={"recommender": settings}, seeded=False)


_FAMAE_PLACE, _TEXT = "semid_lib.encoders:FAMAE", "semid_lib.encoders:TextEncoder"
_KMEANS, _KMEANS_QUICK = {"n_clusters": 256}, {"n_clusters": 64}
_ID = {"encoder": {"field_names": ()}}
SYSTEMS: dict[str, System] = {
    "resid": _generative(
        "ReSID", _FAMAE_PLACE, _FAMAE, _FAMAE_QUICK, "GAOQ", **_CHECKPOINTS, **_T5_SIZES,
        **_BRANCHINGS,
    ),
    "e2": _generative(
        "E2", "semid_lib.recommenders:SASRec", {**_SASREC, "field_names": None},
        {**_SASREC_QUICK, "dim": 64, "ffn_dim": 256}, "GAOQ", (f"encoder: {_BY_SEQUENCE}",), id=_ID,
    ),
    "e3": _generative(
        "E3", "semid_lib.recommenders:BERT4Rec", {**_BERT4REC, "field_names": None},
        {**_BERT4REC_QUICK, "dim": 64, "ffn_dim": 256, "epochs": 3}, "GAOQ", id=_ID,
    ),
    "q2": _generative("Q2", _FAMAE_PLACE, _FAMAE, _FAMAE_QUICK, "HierarchicalKMeans"),
    "sasrec": _sequential(
        "SASRec", "SASRec", {**_SASREC, "field_names": ()}, _SASREC_QUICK, (_BY_SEQUENCE,),
        **_SASREC_SIZES,
    ),
    "sasrec*": _sequential(
        "SASRec*", "SASRec", {**_SASREC, "field_names": None}, _SASREC_QUICK, (_BY_SEQUENCE,)
    ),
    "bert4rec": _sequential(
        "BERT4Rec", "BERT4Rec", {**_BERT4REC, "field_names": ()}, _BERT4REC_QUICK
    ),
    "bert4rec*": _sequential(
        "BERT4Rec*", "BERT4Rec", {**_BERT4REC, "field_names": None}, _BERT4REC_QUICK
    ),
    "vqvae": _tokenizer("VQ-VAE", "VQVAE", _LEARNT, _LEARNT_QUICK),
    "rqvae": _tokenizer(
        "RQ-VAE", "RQVAE", {**_LEARNT, "num_levels": 3}, _LEARNT_QUICK,
        restart={"quantizer": {"restart": True}},
        **{"random-start": {"quantizer": {"init": "uniform"}}},
    ),
    "kmeans": _tokenizer("KMeans", "KMeans", _KMEANS, _KMEANS_QUICK),
    "opq": _tokenizer("OPQ-KMeans", "OPQ", {"num_blocks": 3, "num_codes": 256}, {"num_codes": 64}),
    "rkmeans": _tokenizer(
        "R-KMeans", "ResidualKMeans", {**_KMEANS, "num_levels": 3}, _KMEANS_QUICK,
        centred={"embed": {"centred": True}},
    ),
    "mq": _tokenizer(
        "MQ", "MQ", {**_LEARNT, "num_levels": 3}, _LEARNT_QUICK,
        faithful={"quantizer": {"faithful_code": True}},
    ),
    "r3vae": _tokenizer(
        "R3-VAE", "R3VAE", {**_LEARNT, "num_levels": 3}, _LEARNT_QUICK, **_R3VAE_VARIANTS
    ),
    "rpg": _parallel(
        "RPG", "RPG", _LONG,
        **{f"digits-{m}": {"quantizer": {"num_blocks": m}} for m in (8, 16, 32, 64)},
    ),
    "acerec": _parallel("ACERec", "ACERec", _ACEREC, **_ACEREC_VARIANTS),
    "popularity": _floor("Popularity", "Popularity"),
    "markov": _floor("Markov chain", "MarkovChain"),
    "itemknn": _floor("Item-kNN", "ItemKNN", neighbours=None, shrinkage=0.0),
}  # fmt: skip
FLOORS = tuple(name for name, system in SYSTEMS.items() if not system.seeded)
#: The seven of R3-VAE's Tables 1, 2 and 6, in their order.
TOKENIZERS = tuple(
    n for n, s in SYSTEMS.items() if s.stages.get("encoder") == _TEXT and not _all_at_once(s)
)

#: The trees' branching: b1 * b2 about n/10 to n/20 (ReSID, Appendix G), the last level is counted.
BRANCHING = {
    "beauty": (32, 40), "sports": (32, 40), "toys": (32, 40), "clothing": (40, 40),
    "lastfm": (16, 16), "ml-1m": (16, 16), "ml-100k": (16, 12),
}  # fmt: skip
#: The sets of Amazon-2014 that stand in for ReSID's Amazon-2023 ones.
_AMAZON_2014 = ("beauty", "sports", "toys", "clothing", "instruments", "office", "baby")


def branching(dataset: str, num_items: int) -> tuple:
    """Choose a tree's branching: the table's, else b1 : b2 about 4 : 5 with b1 * b2 about n/14."""
    if dataset in BRANCHING:
        return *BRANCHING[dataset], "auto"
    prefixes = max(num_items / 14, 1)
    first = max(round((0.8 * prefixes) ** 0.5), 1)
    return first, max(round(prefixes / first), 1), "auto"


# ------------------------------------------------------------------ looking them up


def title(name: str) -> str:
    """Return the printed name of a system; any other name is returned as it is."""
    return SYSTEMS[name].title if name in SYSTEMS else name


def system_printed_as(printed: str) -> str | None:
    """Return the system that the papers print under this name, or None."""
    return next((name for name, system in SYSTEMS.items() if system.title == printed), None)


def plan(
    name: str,
    data,
    profile: str = "quick",
    variant: str = "default",
    overrides: Settings | None = None,
    until: str | None = None,
) -> Plan:
    """Fix every setting of a run, and say what it cuts.

    Args:
        data: the `Interactions`; its name, size and fields decide a few settings.
        profile: "quick" or "paper".
        variant: "default" or one of the system's.
        overrides: role -> setting -> value, on top of everything.
        until: the last role that runs; `cut` is silent about those after it.

    Raises:
        InputError: an unknown system, profile, variant or role.
    """
    if name not in SYSTEMS:
        raise InputError(f"unknown system {name!r}; there are {', '.join(SYSTEMS)}")
    system, overrides = SYSTEMS[name], overrides or {}
    if profile not in ("quick", "paper"):
        raise InputError(f"profile is {profile!r}, but must be 'quick' or 'paper'")
    if variant != "default" and variant not in system.variants:
        known = ", ".join(["default", *system.variants])
        raise InputError(f"{name} has no variant {variant!r}; it has {known}")
    for role in overrides.keys() - system.stages.keys():
        known = ", ".join(system.stages)
        raise InputError(f"{name} has no stage {role!r} to change; it has {known}")
    stages, changed, chosen = [], [], system.variants.get(variant, {})
    for role in system.stages:
        place, paper, quick = _presets(system, role, data)
        varied = chosen.get(role, {})
        printed = {**paper, **varied}
        smaller = quick if profile == "quick" else {}
        settings = {**printed, **smaller, **varied, **overrides.get(role, {})}
        for key, value in settings.items():
            if key != "snapshot_epochs" and (key not in printed or printed[key] != value):
                paper = f" (paper {printed[key]})" if key in printed else ""
                changed.append(f"{role} {key} {value}{paper}")
        if "steps" in settings:
            batches = -(-data.num_items // settings["batch_size"])
            settings = {"epochs": -(-settings.pop("steps") // batches), **settings}
        stages.append(Stage(role, place, settings))
    roles = list(system.stages)
    later = roles[roles.index(until) + 1 :] if until in roles else []
    changed = [text for text in changed if text.split()[0] not in later]
    reads_fields = any(s.settings.get("field_names", ()) != () for s in stages)
    cut = [text for text in system.cut if text.split(":")[0] not in later]
    cut += _data_cuts(system, data, reads_fields)
    if changed:
        cut.append("settings: " + ", ".join(changed))
    embed = chosen.get("embed", {})
    return Plan(name, variant, data.name, profile, tuple(stages), tuple(cut), **embed)


def _presets(system: System, role: str, data) -> tuple[str, Mapping, Mapping]:
    """Class, paper and quick settings of a stage, with what the data decide."""
    place, paper, quick = system.stages[role], system.paper[role], system.quick.get(role, {})
    if _all_at_once(system):
        if place == _TEXT and data.name in _NO_TEXT:
            return "semid_lib.encoders:ALS", {"dim": 128}, {"dim": 64}
        paper = {**paper, **_PRINTED.get((system.title, data.name), {}).get(role, {})}
    elif place == _TEXT and data.name in _BEHAVIOUR:
        return "semid_lib.encoders:ALS", {"dim": 66, "normalize": True}, {}
    if place.split(":")[1] in _TREE:
        paper = {"branching": branching(data.name, data.num_items), **paper}
    return place, paper, quick


def _data_cuts(system: System, data, reads_fields: bool) -> list[str]:
    """What the dataset itself changes against ReSID's (Amazon-2023, five complete fields)."""
    if not system.seeded:
        return []
    if _all_at_once(system):
        bare = data.name in _NO_TEXT
        ours = "behaviour (ALS), for want of text" if bare else "the items' words"
        return [f"vectors: of {ours} (ACERec and RPG: sentence-t5-base's of the metadata)"]
    if system.stages.get("encoder") == _TEXT:
        ours = "of behaviour (ALS)" if data.name in _BEHAVIOUR else "of the items' words"
        return [f"vectors: {ours} (R3-VAE does not name its encoder)"]
    cuts = []
    if data.name in _AMAZON_2014:
        cuts.append("data: Amazon-2014, and ReSID's settings were printed for Amazon-2023")
    if reads_fields:
        names = ", ".join(["item", *data.fields])
        cuts.append(f"fields: {names} (ReSID: item, store, category levels 1 to 3)")
        shares = {name: (values < 0).mean() for name, values in data.fields.items()}
        missing = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
        if missing:
            cuts.append(f"items without a value are kept: {missing} (ReSID drops them)")
    return cuts
