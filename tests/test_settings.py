"""Settings: kept as given, and refused out of range."""

from types import SimpleNamespace

import numpy as np
import pytest

from semid_lib import encoders, quantizers, recommenders
from semid_lib.errors import InputError
from semid_lib.settings import (
    ANY,
    COMMON,
    NAMES,
    TEXT,
    check_settings,
    keep_settings,
    limits_of,
    meant,
    of_python,
    setting_names,
)


class Model:
    def __init__(self, loss="full", width=None):
        keep_settings(locals())


class Narrow(Model):
    def __init__(self, loss="sampled", width=1):
        super().__init__(loss, width)
        keep_settings(locals())  # holds `__class__` too, since super() is called


def test_the_arguments_become_attributes_of_their_names():
    given = [1, 2]
    assert vars(Model(width=given)) == {"loss": "full", "width": [1, 2]}
    assert Model(width=given).width is given
    assert vars(Narrow()) == {"loss": "sampled", "width": 1}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            dict(loss=("full", "sampled")),
            r"loss is 'bpr', but must be one of \('full', 'sampled'\)",
        ),
        (dict(width=2), "width is 1, but must be at least 2"),
        (dict(rate=0), "rate is nan, but must be at least 0"),
        (dict(loss=0), "loss is 'bpr', but must be at least 0"),
    ],
)
def test_the_message_names_value_and_limit(limits, message):
    settings = SimpleNamespace(loss="bpr", width=1, rate=np.nan)
    with pytest.raises(InputError, match=message):
        check_settings(settings, **limits)


def test_numbers_at_the_limit_and_none_pass():
    settings = SimpleNamespace(width=np.int64(1), patience=None, loss="full")
    check_settings(settings, width=1, patience=1, loss=("full",))


# ------------------------------------------------------------------ the table of each class

KINDS = [
    kind
    for module in (encoders, quantizers, recommenders)
    for kind in (getattr(module, name) for name in module.__all__)
    if isinstance(kind, type) and setting_names(kind)
]
#: What no setting of any class may be, whatever it is about, but those that hold anything.
NEVER = [float("nan"), float("inf"), object(), -1, -0.5, "no such choice", [None], {"a": -1}, b"x"]


def refused(kind, **settings):
    model = kind(**settings)
    with pytest.raises(InputError, match=next(iter(settings))):
        check_settings(model)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_of_every_class_has_a_limit_that_its_default_keeps(kind):
    check_settings(kind())
    for name, limit in limits_of(kind).items():
        declared = any(name in vars(base).get("limits", {}) for base in kind.__mro__)
        assert declared or name in COMMON, f"{kind.__name__}.{name} has no limit"
        if limit is ANY or limit in (NAMES, TEXT):
            continue
        for value in NEVER:
            refused(kind, **{name: value})


@pytest.mark.parametrize(
    "name, values",
    [
        ("epochs", [1.5, True, "3", 10**12]),
        ("dim", [0, 8.0, True, 10**9]),
        ("num_layers", [0]),
        ("dropout", [2, None]),
        ("max_history", [1e9, 10**9]),
        ("random_state", [None, 2**32, 1.0]),
        ("learning_rate", ["abc", None]),
        ("precision", [16, None, "int8"]),
    ],
)
def test_what_was_accepted_or_failed_later(name, values):
    for value in values:
        refused(recommenders.SASRec, **{name: value})


def test_numbers_of_numpy_are_numbers():
    model = recommenders.SASRec(epochs=np.int64(3), dropout=np.float32(0.5), dim=np.int32(8))
    check_settings(model)
    assert of_python([np.int64(3), (np.float64(0.5), "a")]) == [3, (0.5, "a")]


def test_fit_refuses_before_it_looks_at_the_data():
    for kind in KINDS:
        if "random_state" in setting_names(kind):
            with pytest.raises(InputError, match="random_state"):
                kind(random_state=-5).fit(np.eye(4))


def test_close_names_are_proposed():
    assert meant("residd", ["resid", "tiger"]) == " (did you mean 'resid'?)"
    assert meant("xyz", ["resid", "tiger"]) == ""
