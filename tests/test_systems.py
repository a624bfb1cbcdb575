"""Named systems: presets that their classes accept, equal to what the papers print."""

import dataclasses
import inspect

import numpy as np
import pytest

from semid_lib import systems
from semid_lib.data import Interactions
from semid_lib.errors import InputError


def dataset(name="toys", num_items=11_924, missing=0):
    """Data of which only name, size and fields matter."""
    brand = np.zeros(num_items, dtype=np.int64)
    brand[:missing] = -1
    rows = np.zeros(1, dtype=np.int64)
    return Interactions(
        user=rows, item=rows, num_users=1, num_items=num_items, fields={"brand": brand}, name=name
    )


@pytest.mark.parametrize("profile", ["quick", "paper"])
@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_every_preset_and_variant_can_be_built(name, profile):
    system = systems.SYSTEMS[name]
    for variant in ("default", *system.variants):
        plan = systems.plan(name, dataset(), profile, variant)
        for stage in plan.stages:
            estimator = stage.build(random_state=3, device="cpu", precision="float32")
            given = estimator.get_params()
            assert all(given[key] == value for key, value in stage.settings.items())
            assert given.get("random_state", 3) == 3


def test_paper_presets_hold_the_printed_settings():
    """ReSID, Appendix E, read off the paper."""
    plan = systems.plan("resid", dataset(), "paper")
    encoder, quantizer, generator = (stage.settings for stage in plan.stages)
    printed = {
        "dim": 128, "num_layers": 2, "num_heads": 4, "ffn_dim": 512, "dropout": 0.1,
        "learning_rate": 1e-3, "weight_decay": 1e-5, "epochs": 500, "patience": 3,
    }  # fmt: skip
    assert printed.items() <= encoder.items()
    assert encoder["batch_size"] == 2048 and encoder["num_negatives"] == 128
    assert encoder["max_length"] == 32
    for name in ("sasrec", "sasrec*"):
        sasrec = systems.plan(name, dataset(), "paper").stages[0].settings
        assert printed.items() <= sasrec.items() and sasrec["max_history"] == 32
    assert {
        "dim": 128, "num_layers": 4, "num_heads": 4, "head_dim": 32, "ffn_dim": 512,
        "dropout": 0.1, "learning_rate": 5e-3, "weight_decay": 1e-5, "batch_size": 2048,
        "epochs": 500, "max_history": 32, "num_beams": 50,
    }.items() <= generator.items()  # fmt: skip
    assert quantizer["branching"] == (32, 40, "auto")


def test_only_the_starred_sasrec_reads_fields():
    assert systems.plan("sasrec", dataset()).stages[0].settings["field_names"] == ()
    assert systems.plan("sasrec*", dataset()).stages[0].settings["field_names"] is None


@pytest.mark.parametrize("name, size", [
    ("beauty", 12_101), ("sports", 18_357), ("toys", 11_924), ("clothing", 23_033),
    ("lastfm", 3_646), ("ml-1m", 3_706), ("ml-100k", 1_682), ("own", 40), ("own", 700),
    ("own", 5), ("own", 100_000),
])  # fmt: skip
def test_branching_leaves_about_10_to_20_items_a_prefix(name, size):
    first, second, last = systems.branching(name, size)
    assert last == "auto" and first >= 1 and second >= 1
    if size >= 700:
        assert 8 <= size / (first * second) <= 20  # the rule of thumb, n/10 to n/20, rounded
    assert first * second <= size


def test_overrides_come_last_and_are_named_as_cuts():
    plan = systems.plan("sasrec", dataset(), "paper", overrides={"recommender": {"epochs": 5}})
    assert plan.stages[0].settings["epochs"] == 5
    assert any("recommender epochs 5 (paper 500)" in text for text in plan.cut)


def test_variant_settings_are_not_cuts():
    plan = systems.plan("sasrec", dataset(), "paper", "sampled")
    assert plan.stages[0].settings["loss"] == "sampled"
    assert not any("loss" in text for text in plan.cut)


def test_quick_profile_names_everything_it_shrinks():
    system = systems.SYSTEMS["resid"]
    (text,) = [t for t in systems.plan("resid", dataset(), "quick").cut if t.startswith("settings")]
    for role, settings in system.quick.items():
        for key in settings:
            assert f"{role} {key} " in text


def test_missing_fields_and_the_year_of_the_data_are_cuts():
    plan = systems.plan("resid", dataset(missing=1192), "paper")
    assert any("brand 10.0%" in text for text in plan.cut)
    assert any("Amazon-2014" in text for text in plan.cut)
    assert not any("brand" in text for text in systems.plan("sasrec", dataset(), "paper").cut)
    assert systems.plan("markov", dataset(missing=3), "paper").cut == ()


def test_presets_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        systems.SYSTEMS["resid"].title = "x"
    plan = systems.plan("sasrec", dataset(), "paper")
    plan.stages[0].settings["epochs"] = 1  # a copy
    assert systems.plan("sasrec", dataset(), "paper").stages[0].settings["epochs"] == 500


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("tiger",), "unknown system 'tiger'; there are resid, sasrec"),
        (("sasrec", "slow"), "profile is 'slow'"),
        (("sasrec", "paper", "e1"), "no variant 'e1'; it has default, sampled"),
        (("sasrec", "paper", "default", {"quantizer": {}}), "no stage 'quantizer'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        systems.plan(arguments[0], dataset(), *arguments[1:])


def test_a_setting_that_the_class_lacks_is_refused():
    plan = systems.plan("sasrec", dataset(), overrides={"recommender": {"depth": 3}})
    with pytest.raises(InputError, match="SASRec has no setting 'depth'; it has dim,"):
        plan.stages[0].build(random_state=0)


def test_printed_names_lead_back_to_systems():
    assert systems.system_printed_as("SASRec*") == "sasrec*"
    assert systems.system_printed_as("HGN") is None
    assert systems.title("resid") == "ReSID" and systems.title("HGN") == "HGN"


def test_no_other_module_knows_a_systems_name(root):
    """DESIGN: `systems.py` names the combinations, and nothing else in the library does."""
    others = [
        p for p in (root / "semid_lib").rglob("*.py") if p.name not in ("systems.py", "queue.py")
    ]
    for path in others:
        text = path.read_text(encoding="utf-8")
        for name in ("resid", "sasrec", "sasrec*", "markov", "itemknn"):
            assert f'("{name}"' not in text and f'== "{name}"' not in text, (path, name)


def test_importing_systems_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, semid_lib.systems; print(sorted({'torch', 'numba'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert "build" in dict(inspect.getmembers(systems.Stage))
