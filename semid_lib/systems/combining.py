"""Any encoder, quantizer and recommender that fit, not only those that a paper put together."""

from __future__ import annotations

from semid_lib.errors import InputError
from semid_lib.settings import meant
from semid_lib.systems import acerec, resid, sequential, shared, tokenizers
from semid_lib.systems.planning import Plan, plan
from semid_lib.systems.registry import SYSTEMS
from semid_lib.systems.system import Preset, Settings, System

#: Encoders by name. Those that RPG and ACERec have otherwise stand in `FOR_LONG_CODES`.
ENCODERS: dict[str, Preset] = {
    "famae": resid.FAMAE,
    "text": shared.TEXT,
    "als": shared.ALS,
    "sasrec": resid.SASREC_ENCODER.updated(sequential.ITEMS_ALONE),
    "sasrec*": resid.SASREC_ENCODER,
    "bert4rec": resid.BERT4REC_ENCODER.updated(sequential.ITEMS_ALONE),
    "bert4rec*": resid.BERT4REC_ENCODER,
}
QUANTIZERS: dict[str, Preset] = {
    "gaoq": resid.GAOQ,
    "hierarchical": resid.HIERARCHICAL,
    "vqvae": tokenizers.VQVAE,
    "rqvae": shared.RQVAE,
    "kmeans": tokenizers.KMEANS,
    "opq": tokenizers.OPQ,
    "rkmeans": tokenizers.RKMEANS,
    "mq": tokenizers.MQ,
    "r3vae": tokenizers.R3VAE,
    "random": tokenizers.RANDOM_CODES,
}
#: Recommenders that generate codes.
GENERATORS: dict[str, Preset] = {
    "t5": shared.T5,
    "rpg": acerec.RPG,
    "acerec": acerec.ACEREC,
}
#: Recommenders of items, which need neither vectors nor codes.
OF_ITEMS: dict[str, Preset] = {
    name: system.recommender for name, system in SYSTEMS.items() if system.quantizer is None
}
#: What RPG and ACERec have under the same names: whitened vectors, and codes of 32 digits.
FOR_LONG_CODES = {"text": acerec.TEXT, "als": acerec.ALS, "opq": acerec.OPQ}


def combine(
    encoder: str | None,
    quantizer: str | None,
    recommender: str,
    profile: str = "quick",
    *,
    data,
    overrides: Settings | None = None,
) -> Plan:
    """Plan a run of stages that fit, whether a paper combined them or not.

    Args:
        encoder, quantizer: names of `ENCODERS` and `QUANTIZERS`; None for a recommender of items.
        recommender: a name of `GENERATORS` (it reads codes) or of `OF_ITEMS`.
        profile: "quick" or "paper".
        data: the `Interactions`, as for `plan`.
        overrides: role -> setting -> value, on top of the presets.

    Returns:
        A `Plan` that `runs.run` takes in the place of a system's name; it is called such as
        "famae+opq+rpg".

    Raises:
        InputError: an unknown name, or stages that do not fit, and why.
    """
    system = _system(encoder, quantizer, recommender)
    made = plan(system, data, profile, overrides=overrides)
    if recommender in ("rpg", "acerec"):
        _check_digits(quantizer, recommender, made)
    return made


def _system(encoder: str | None, quantizer: str | None, recommender: str) -> System:
    _known("recommender", recommender, {**GENERATORS, **OF_ITEMS})
    if recommender in OF_ITEMS:
        for role, name in (("encoder", encoder), ("quantizer", quantizer)):
            if name is not None:
                raise InputError(f"{recommender} ranks items and reads no {role}: not {name!r}")
        return System(recommender, recommender=OF_ITEMS[recommender])
    if encoder is None or quantizer is None:
        raise InputError(
            f"{recommender} generates codes, for which it needs an encoder and a quantizer: not "
            f"{encoder!r} and {quantizer!r}"
        )
    _known("encoder", encoder, ENCODERS)
    _known("quantizer", quantizer, QUANTIZERS)
    other = FOR_LONG_CODES if recommender in ("rpg", "acerec") else {}
    return System(
        f"{encoder}+{quantizer}+{recommender}",
        encoder=other.get(encoder, ENCODERS[encoder]),
        quantizer=other.get(quantizer, QUANTIZERS[quantizer]),
        recommender=GENERATORS[recommender],
    )


def _known(role: str, name: str, presets: dict[str, Preset]) -> None:
    if name not in presets:
        close, known = meant(name, presets), ", ".join(presets)
        raise InputError(f"unknown {role} {name!r}{close}; there are {known}")


def _check_digits(quantizer: str, recommender: str, made: Plan) -> None:
    """Raise InputError for codes that cannot be predicted digit by digit in parallel."""
    codes, reader = made.stages[1].settings, made.stages[2].settings
    if codes.get("branching") is not None:
        raise InputError(
            f"{recommender} needs as many codes in every digit, but {quantizer} grows a tree with "
            f"branching {codes['branching']}"
        )
    digits, ratio = codes.get("num_blocks", codes.get("num_levels", 1)), reader.get("ratio")
    if ratio is not None and digits % ratio:
        raise InputError(
            f"{recommender} merges {ratio} digits into one, but the codes of {quantizer} have "
            f"{digits}: override ratio, or take a quantizer of more digits"
        )
