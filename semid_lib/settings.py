"""The settings of a model: kept under their names, and checked against a table of limits.

A class says in `limits` what its own settings may be; settings that mean the same everywhere stand
in `COMMON`. Constructors store what they are given, as scikit-learn asks; `fit` checks before it
computes anything, and so does a run before its first stage.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from semid_lib.errors import InputError


def keep_settings(arguments: dict[str, Any]) -> None:
    """Store what `__init__` was called with, its `locals()`, as attributes of the same names.

    There scikit-learn's `get_params`, `set_params` and `clone` look for the settings as given.
    """
    settings = {name: value for name, value in arguments.items() if name != "__class__"}
    vars(settings.pop("self")).update(settings)


# ------------------------------------------------------------------ limits


class Limit:
    """What a setting may be: `holds(value)` in code, and `words`, "must ...", for the message."""

    def __init__(self, holds: Callable[[Any], bool], words: str):
        self.holds, self.words = holds, words

    def __or__(self, other: Limit) -> Limit:
        words = f"{self.words}, or {other.words.removeprefix('must be ')}"
        return Limit(lambda v: self.holds(v) or other.holds(v), words)


def _is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(least: int = 1, most: int = 10**9) -> Limit:
    """An integer in `least`..`most`, of Python or NumPy."""
    words = f"must be an integer >= {least}" + (f" and <= {most}" if most < 10**9 else "")
    return Limit(lambda v: _is_whole(v) and least <= v <= most, words)


def real(least: float = -math.inf, most: float = math.inf, words: str = "") -> Limit:
    """A finite number in `least`..`most`."""
    words = words or f"must be at least {least}"
    return Limit(
        lambda v: isinstance(v, Real) and not isinstance(v, bool) and least <= v <= most
        and math.isfinite(v), words,
    )  # fmt: skip


def choice(*values) -> Limit:
    """One of `values`."""
    return Limit(lambda v: isinstance(v, str) and v in values, f"must be one of {values}")


def several(limit: Limit) -> Limit:
    """A list, tuple or array of what `limit` allows."""

    def holds(value):
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return False
        return all(map(limit.holds, value))

    return Limit(holds, f"must be a sequence, and each of it {limit.words}")


def _is_weights(value) -> bool:
    named = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    return named and all(map(real(0).holds, value.values()))


NONE = Limit(lambda v: v is None, "must be None")
TEXT = Limit(lambda v: isinstance(v, str) and bool(v), "must be text")
NAMES = several(TEXT) | NONE
FLAG = Limit(lambda v: type(v).__name__ in ("bool", "bool_"), "must be True or False")
ANY = Limit(lambda v: True, "")  # checked where it is used, with the data at hand
SIZE = whole(1, 10**6)  # widths, lengths and counts of what a network holds
POSITIVE = real(math.nextafter(0, 1), words="must be above 0")
SHARE = real(0, 1, words="must lie in 0..1")
SEED = whole(0, 2**32 - 1)
PRECISION = choice("auto", "float32", "float64", "bfloat16", "float16")
WEIGHTS = Limit(_is_weights, "must be a dict of numbers >= 0") | NONE

#: Settings that mean the same in every class.
COMMON: dict[str, Limit] = {
    **dict.fromkeys(("dim", "ffn_dim", "hidden_dim", "head_dim", "num_layers", "num_heads"), SIZE),
    **dict.fromkeys(("max_history", "num_levels", "num_codes", "n_clusters", "max_iter"), SIZE),
    "epochs": whole(0), "batch_size": whole(), "learning_rate": real(0), "weight_decay": real(0),
    "patience": whole() | NONE, "patience_steps": whole(0), "samples_per_epoch": whole() | NONE,
    "warmup": SHARE,
    "clip": POSITIVE | NONE, "schedule": choice("cosine", "constant"),
    "dropout": SHARE, "mask_ratio": SHARE, "ft_ratio": SHARE, "temperature": POSITIVE,
    "num_negatives": SIZE, "field_names": NAMES, "device": ANY, "precision": PRECISION,
    "random_state": SEED,
}  # fmt: skip

#: Settings that files of older versions hold and their classes take no more: where trees were
#: grown, and in which precision scores were summed. Nothing learnt depends on them.
RETIRED = ("backend", "device", "half_scores")


def setting_names(kind: type) -> list[str]:
    """Names of the settings that a class takes."""
    if kind.__init__ is object.__init__:
        return []
    return list(inspect.signature(kind.__init__).parameters)[1:]


def kept_settings(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stored model without the `RETIRED` ones; lists become tuples again."""
    known = setting_names(kind)
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
        if name in known or name not in RETIRED
    }


def limits_of(kind: type) -> dict[str, Limit]:
    """The limit of every setting of a class: its own and its bases' `limits`, then `COMMON`."""
    own: dict[str, Limit] = {}
    for base in reversed(kind.__mro__):
        own |= vars(base).get("limits", {})
    return {name: own.get(name) or COMMON.get(name, ANY) for name in setting_names(kind)}


def check_settings(settings: object, **limits) -> None:
    """Raise InputError, naming value and limit, for an attribute that is out of range.

    Args:
        settings: has the attributes, such as a model.
        limits: name -> a `Limit`, or the least number (None as a value is left alone), or a tuple
            of choices. Without any: those that the class of `settings` declares.
    """
    for name, limit in (limits or limits_of(type(settings))).items():
        value = getattr(settings, name)
        if isinstance(limit, tuple):
            limit = choice(*limit)
        elif not isinstance(limit, Limit):
            limit = real(limit) | NONE
        if not limit.holds(value):
            raise InputError(f"{name} is {repr(value)[:200]}, but {limit.words}")


# ------------------------------------------------------------------ names and values from outside


def meant(value: object, known: Iterable[str]) -> str:
    """Return " (did you mean 'resid'?)" if one of the known names is close, else ""."""
    close = difflib.get_close_matches(str(value).lower(), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def of_python(value):
    """Return NumPy numbers as Python's, also within lists, tuples and dicts."""
    if isinstance(value, dict):
        return {key: of_python(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(of_python, value))
    plain = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if plain else value


def check_seed(random_state) -> int:
    """Return the seed as an int, or raise InputError: seeds are integers >= 0 here."""
    if SEED.holds(random_state):
        return int(random_state)
    raise InputError(
        f"random_state is {random_state!r}, but {SEED.words}, so that the same seed gives the "
        "same codes"
    )
