"""TrainSettings: taken from estimators by the names that their constructors declare."""

import dataclasses

import pytest
from sklearn.base import BaseEstimator

from semid_lib.errors import InputError
from semid_lib.settings import keep_settings
from semid_lib.training import TrainSettings


class Model(BaseEstimator):
    clip = 5.0  # no argument of the constructor: no setting

    def __init__(self, dim=8, epochs=7, batch_size=32, learning_rate=0.5, patience=2,
                 precision="float64", random_state=3):  # fmt: skip
        keep_settings(locals())


def test_settings_of_an_estimator():
    wanted = TrainSettings(7, 32, 0.5, patience=2, precision="float64", seed=3)
    assert TrainSettings.of(Model()) == wanted


def test_changes_come_on_top():
    found = TrainSettings.of(Model(), epochs=1, monitor="gain", patience=None, seed=4)
    wanted = TrainSettings(1, 32, 0.5, monitor="gain", precision="float64", seed=4)
    assert found == wanted


def test_settings_are_checked_where_they_are_made_and_then_stay():
    with pytest.raises(InputError, match="batch_size is 0"):
        TrainSettings.of(Model(batch_size=0))
    with pytest.raises(InputError, match="seed is -1"):
        TrainSettings(1, 1, 0.1, seed=-1)
    with pytest.raises(InputError, match="snapshot_steps is"):
        TrainSettings(1, 1, 0.1, snapshot_steps=(0,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainSettings(1, 1, 0.1).epochs = 2


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="learning_rat"):
        TrainSettings.of(Model(), learning_rat=1.0)
