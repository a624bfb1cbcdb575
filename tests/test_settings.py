"""Settings: kept as given, and refused out of range."""

from types import SimpleNamespace

import numpy as np
import pytest

from semid_lib.errors import InputError
from semid_lib.settings import check_settings, keep_settings


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
