"""Recorded click models: as models fitted by hand, however often they were stopped."""

import json
import time

import numpy as np
import pytest

from semid_lib.clicks import DIN, ClickEntry, click_entries, clicks, record_clicks, uauc
from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions
from semid_lib.errors import InputError
from semid_lib.runs import BusyError, click_records
from semid_lib.runs.locks import locked
from semid_lib.storage import read_json
from semid_lib.training import TrainingPaused


@pytest.fixture(scope="module")
def data():
    """Rows enough that some user has both labels among the test rows of the coldest item."""
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(60), 100), rng.integers(12, size=6000)
    rating = rng.integers(2, 6, size=6000).astype(np.float32)
    return Interactions(user, item, 60, 12, timestamp=np.arange(6000), rating=rating)


@pytest.fixture
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMID_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SEMID_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_every_record_of_the_book_is_of_an_entry():
    names = [entry.name("ml-1m") for entry in click_entries()]
    assert len(set(names)) == len(names) and names[0] == "item-id--ml-1m--s0"
    names += [ClickEntry(floor).name("ml-1m") for floor in ("popularity", "click rate")]
    recorded = click_records()
    for row in recorded.itertuples():
        assert ClickEntry(row.tokenizer, row.vectors, row.form, row.seed).name("ml-1m") in names


def test_records_agree_with_models_fitted_by_hand(data, places):
    written = record_clicks(data, ["item ID", "random"], say=lambda _: None)
    assert len(written) == 2 + 3 + 2  # floors, seeds of the item ID, forms of random codes
    found = {path.stem: json.loads(path.read_text()) for path in written}
    assert set(click_records()["tokenizer"]) == {"popularity", "click rate", "item ID", "random"}
    shown = clicks(data)
    rows = shown.rows("test")
    label, user = shown.label[rows], data.user[rows]
    settings = {"batch_size": 1024, "learning_rate": 5e-3, "schedule": "cosine", "epochs": 3}
    codes = SemanticIds(np.random.default_rng(0).integers(256, size=(12, 3)), (256,) * 3)
    own = found[f"item-id--{data.name}--s0"]
    truth = uauc(DIN(**settings).fit(shown).predict(shown), label, user)
    assert own["metrics"]["all"]["uauc"] == pytest.approx(truth)
    assert own["metrics"]["all"]["gain"] == 0 and own["diagnostics"] == {}
    summed = DIN(**settings, code_form="sum").fit(shown, codes).predict(shown)
    other = found[f"random--sum--{data.name}--s0"]
    assert other["metrics"]["all"]["uauc"] == pytest.approx(uauc(summed, label, user))
    assert other["metrics"]["all"]["gain"] == pytest.approx(uauc(summed, label, user) - truth)
    assert other["diagnostics"]["collision_rate"] == 12 / len(np.unique(codes.codes, axis=0))
    assert other["config"] == settings and len(other["curve"]) == 3
    assert record_clicks(data, ["item ID", "random"]) == []  # nothing is made again
    assert len(list((places / "runs").glob("click-codes--random-*"))) == 1  # of both forms


def test_stopped_again_and_again_ends_with_the_same_records(data, places, monkeypatch):
    whole = {path.name: read_json(path) for path in record_clicks(data, ["random"])}
    monkeypatch.setenv("SEMID_RUNS", str(places / "others"))
    monkeypatch.setenv("SEMID_RESULTS", str(places / "stopped"))
    pauses = 0
    while True:
        try:
            record_clicks(data, ["random"], deadline=time.monotonic() + 0.02 * 1.3**pauses)
            break
        except TrainingPaused:
            pauses += 1
    assert pauses
    for name, record in whole.items():
        assert read_json(places / "stopped" / "clicks" / name)["metrics"] == record["metrics"]


def test_one_process_at_a_time_and_bad_names(data, places):
    with pytest.raises(InputError, match="no tokenizer 'R4-VAE'"):
        record_clicks(data, ["R4-VAE"])
    record_clicks(data, ["item ID"])
    (place,) = (places / "runs").glob("click--item-id--*-s0-*")
    (places / "results" / "clicks" / f"item-id--{data.name}--s0.json").unlink()
    with locked(place / ".lock"), pytest.raises(BusyError, match="another process"):
        record_clicks(data, ["item ID"])
