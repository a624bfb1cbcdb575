"""Named systems: presets that their classes accept, equal to what the papers print."""

import ast
import dataclasses
import inspect

import numpy as np
import pytest

from semid_lib import systems
from semid_lib.data import Interactions
from semid_lib.errors import InputError
from semid_lib.runs.records import read_cut
from semid_lib.systems import Cut, NoText, Preset, System, Variant, branching, sentences
from semid_lib.systems.system import together


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
            given = stage.build(random_state=3, device="cpu", precision="float32").get_params()
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


def test_long_codes_have_the_printed_settings():
    """ACERec, Appendix A.2 and C.1; RPG's published commands."""
    encoder, quantizer, model = systems.plan("acerec", dataset("instruments"), "paper").stages
    assert encoder.settings["pca"] == 128 and quantizer.settings["num_blocks"] == 64
    assert {
        "dim": 448, "num_layers": 2, "num_heads": 4, "ffn_dim": 1024, "ratio": 8,
        "debias": 0.02, "temperature": 0.03, "alignment_temperature": 0.07, "max_history": 50,
    }.items() <= model.settings.items()  # fmt: skip
    plan = systems.plan("rpg", dataset("beauty"), "paper")
    assert plan.stages[1].settings == {"num_blocks": 32, "num_codes": 256}
    assert plan.stages[2].settings["learning_rate"] == 1e-2
    assert systems.plan("rpg", dataset("toys"), "paper").stages[1].settings["num_blocks"] == 16
    office = systems.plan("acerec", dataset("office"), "paper")
    assert office.stages[0].place.endswith(":ALS")
    assert any("for want of text" in text for text in sentences(office.cut))
    row = systems.plan("acerec", dataset("office"), "paper", "atm0-intent0-isa0").stages[2].settings
    whole = office.stages[2].settings
    assert {k for k in row if row[k] != whole[k]} == {"merger", "ratio", "anchor", "alignment"}
    short = systems.plan("acerec", dataset("toys"), "paper", "digits-4-direct")
    assert short.stages[1].settings["num_blocks"] == 4 and short.stages[2].settings["ratio"] == 1


def test_only_starred_systems_read_fields():
    for name in ("sasrec", "bert4rec", "hgn", "s3rec"):
        assert systems.plan(name, dataset()).stages[0].settings["field_names"] == ()
        assert systems.plan(f"{name}*", dataset()).stages[0].settings["field_names"] is None


def test_pretraining_of_s3rec_is_as_published():
    """Its program's tasks and epochs; attributes with the star, or as ACERec's table has it."""
    plain, star = (systems.plan(n, dataset("beauty"), "paper") for n in ("s3rec", "s3rec*"))
    assert (plain.stages[0].settings["attributes"], star.stages[0].settings["attributes"]) == (
        (),
        None,
    )
    for plan, epochs in ((plain, 150), (systems.plan("s3rec", dataset("sports"), "paper"), 100)):
        assert {
            "pretrain_epochs": epochs, "pretrain_samples": "sliding", "mask_ratio": 0.2,
            "task_weights": (0.2, 1.0, 1.0, 0.5),
        }.items() <= plan.stages[0].settings.items()  # fmt: skip
    table = systems.plan("s3rec", dataset("beauty"), "paper", "published")
    assert {"field_names": (), "attributes": None, "loss": "bce"}.items() <= table.stages[
        0
    ].settings.items()
    assert any(cut.kind == "fields" for cut in table.cut)
    assert not any(cut.kind == "fields" for cut in plain.cut)


def test_ablations_change_one_stage_of_resid():
    """ReSID, Table 5: E2 and E3 replace the encoder, Q2 the quantizer, and nothing else."""
    for profile in ("quick", "paper"):
        whole = systems.plan("resid", dataset(), profile).stages
        for name, changed in (("e2", "encoder"), ("e3", "encoder"), ("q2", "quantizer")):
            for ours, theirs in zip(systems.plan(name, dataset(), profile).stages, whole):
                assert (ours == theirs) == (ours.role != changed), (name, ours.role)
    tree = systems.plan("q2", dataset(), "paper").stages[1].settings
    assert tree.items() <= whole[1].settings.items()  # so one seed grows the same tree
    encoders = [systems.plan(n, dataset(), "paper", "id").stages[0] for n in ("e2", "e3")]
    assert [e.settings["field_names"] for e in encoders] == [(), ()]


def test_the_quick_system_is_that_of_chapter_01(root):
    """The calls in the chapter's source build the estimators that the quick presets build."""
    from semid_lib import encoders, quantizers, recommenders

    tree = ast.parse((root / "notebooks" / "01_pipeline.py").read_text(encoding="utf-8"))
    calls = {
        node.func.id: {k.arg: ast.literal_eval(k.value) for k in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in
        ("FAMAE", "GAOQ", "T5Recommender", "SASRec")
    }  # fmt: skip
    films = dataset("ml-100k", 1682)
    stages = [s for n in ("resid", "sasrec") for s in systems.plan(n, films, "quick").stages]
    assert len(calls) == len(stages) == 4
    for stage in stages:
        name = stage.place.split(":")[1]
        kinds = (vars(m).get(name) or getattr(m, name, None) for m in
                 (encoders, quantizers, recommenders))  # fmt: skip
        chapter = next(filter(None, kinds))(**calls[name])
        assert stage.build(random_state=0).get_params() == chapter.get_params(), name


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
    assert Cut("setting", "recommender", "epochs", "5", "500") in plan.cut
    assert sentences(plan.cut)[-1] == "settings: recommender epochs 5 (paper 500)"


def test_a_variant_overrules_the_quick_size():
    settings = systems.plan("resid", dataset(), "quick", "size-2").stages[-1].settings
    assert (settings["dim"], settings["num_layers"]) == (64, 1)


def test_five_sizes_are_matched_across_systems_and_spread_by_four():
    """ReSID, Fig. 4: numbers besides the embeddings, counted on built networks."""
    import torch

    from semid_lib.networks import T5, SequenceNetwork

    counts = {"resid": [], "sasrec": []}
    with torch.device("meta"):
        for name, found in counts.items():
            for k in range(1, 6):
                stage = systems.plan(name, dataset(), "paper", f"size-{k}").stages[-1]
                model = stage.build()
                if name == "sasrec":
                    net = SequenceNetwork(
                        model, (50,), np.zeros((50, 1), int), model.max_history, causal=True
                    )
                    found.append(net.num_parameters(embeddings=False))
                else:
                    widths = ("dim", "num_layers", "num_heads", "head_dim", "ffn_dim", "dropout")
                    net = T5((32, 40, 10), **{k: getattr(model, k) for k in widths})
                    found.append(net.num_parameters())
    for generator, sequential in zip(*counts.values()):
        assert abs(sequential / generator - 1) < 0.03
    for found in counts.values():
        assert all(3.8 < b / a < 4.2 for a, b in zip(found, found[1:]))
    assert counts["resid"][2] == pytest.approx(1.84e6, rel=0.005)  # the printed base model
    sizes = systems.plan("resid", dataset(), "paper", "size-3").stages
    assert sizes == systems.plan("resid", dataset(), "paper").stages


def test_checkpoints_differ_only_in_what_is_embedded():
    plans = [systems.plan("resid", dataset(), "paper", f"checkpoint-{k}") for k in range(1, 7)]
    assert [p.checkpoint for p in plans] == [1, 2, 3, 4, 5, None]  # the last: as validation chose
    assert all(p.stages == plans[0].stages for p in plans)
    assert plans[-1] == dataclasses.replace(
        systems.plan("resid", dataset(), "paper"), variant="checkpoint-6"
    )
    assert len(plans[0].stages[0].settings["snapshot_epochs"]) == 5


def test_tokenizers_differ_in_the_quantizer_alone_and_share_its_size():
    """R3-VAE, 4.1 and 4.6.2: the same settings for all, L = 3 and K = 256; one T5."""
    plans = {name: systems.plan(name, dataset(), "paper") for name in systems.TOKENIZERS}
    assert [systems.title(name) for name in plans] == [
        "VQ-VAE", "RQ-VAE", "KMeans", "OPQ-KMeans", "R-KMeans", "MQ", "R3-VAE",
    ]  # fmt: skip
    generator = systems.plan("resid", dataset(), "paper").stages[-1]
    for name, plan in plans.items():
        text, quantizer, recommender = plan.stages
        assert (text, recommender) == (plans["mq"].stages[0], generator)
        built = quantizer.build()
        levels = getattr(built, "num_levels", getattr(built, "num_blocks", 1))
        assert levels == (1 if name in ("vqvae", "kmeans") else 3)
        assert 256 in (getattr(built, "num_codes", 0), getattr(built, "n_clusters", 0))
    r3vae = plans["r3vae"].stages[1].build()
    assert (r3vae.learning_rate, r3vae.weight_decay, r3vae.sc_weight) == (5e-4, 1e-5, 0.01)


def test_steps_become_epochs_of_the_data():
    for size, epochs in ((11_924, 1667), (1024, 20_000), (1025, 10_000)):
        stage = systems.plan("rqvae", dataset(num_items=size), "paper").stages[1]
        assert stage.settings["epochs"] == epochs and "steps" not in stage.settings
    short = {"quantizer": {"steps": 2000, "batch_size": 512}}
    plan = systems.plan("mq", dataset(), "paper", overrides=short)
    assert plan.stages[1].settings["epochs"] == 84  # of 24 batches
    assert sentences(plan.cut)[-1] == (
        "settings: quantizer batch_size 512 (paper 1024), quantizer steps 2000 (paper 20000)"
    )
    own = systems.plan("mq", dataset(), "paper", overrides={"quantizer": {"epochs": 7}})
    assert own.stages[1].settings["epochs"] == 7


def test_r3vaes_second_table_has_vectors_of_behaviour():
    for name in ("lastfm", "ml-1m", "clothing"):
        plan = systems.plan("opq", dataset(name), "paper", until="quantizer")
        settings = plan.stages[0].settings
        assert plan.stages[0].place.endswith(":ALS") and settings["dim"] % 3 == 0  # three blocks
        assert settings["normalize"]  # as the text vectors are
        assert "behaviour" in plan.cut[0].note and len(plan.cut) == 1
    text = systems.plan("opq", dataset("beauty"), "paper")
    assert text.stages[0].place.endswith(":TextEncoder") and "words" in text.cut[2].note
    assert sum("recommender:" in cut for cut in sentences(text.cut)) == 2


def test_variants_of_r3vae_are_the_rows_of_its_tables():
    """Table 8's rows and Table 9's weights; the sweep holds the default and the literal reading."""
    from semid_lib.quantizers import R3VAE
    from semid_lib.quantizers.r3vae import PRESETS

    def settings(variant):
        stage = systems.plan("r3vae", dataset(), "paper", variant).stages[1]
        return stage.build().get_params()

    whole = settings("default")
    for preset, variant in (("working", "default"), ("literal", "literal"),
                            ("working", "t0.05-k8"), ("literal", "t1-k256"),
                            ("working", "lambda-0.01")):  # fmt: skip
        assert {**whole, **PRESETS[preset]} == settings(variant), variant
    removed = {"no-reference": "reference", "no-rating": "rating", "no-sc": "sc_weight",
               "no-pd": "pd_weight"}  # fmt: skip
    for variant, key in removed.items():
        assert {**whole, key: 0} == settings(variant)
        assert not settings(variant)[key] and R3VAE().get_params()[key]


def test_branchings_are_printed_cells_that_beauty_can_hold():
    from semid_lib.quantizers.hierarchical import level_sizes
    from semid_lib.reports import paper_table

    printed = set(map(tuple, paper_table("resid", 8)[["b1", "b2"]].to_numpy().tolist()))
    variants = systems.SYSTEMS["resid"].variants.items()
    names = [name for name, variant in variants if variant.sweep == "branching"]
    plans = [systems.plan("resid", dataset("beauty", 12_101), "paper", v) for v in names]
    chosen = [p.stages[1].settings["branching"] for p in plans]
    assert len(set(chosen)) == 6 and {b[:2] for b in chosen} <= printed
    assert systems.plan("resid", dataset("beauty"), "paper").stages in [p.stages for p in plans]
    for tree in chosen:
        assert level_sizes(tree, 12_101)[2] >= 4


def test_variant_settings_are_not_cuts():
    plan = systems.plan("sasrec", dataset(), "paper", "sampled")
    assert plan.stages[0].settings["loss"] == "sampled"
    assert not any(cut.setting == "loss" for cut in plan.cut)


def test_quick_profile_names_everything_it_shrinks():
    system = systems.SYSTEMS["resid"]
    cuts = [c for c in systems.plan("resid", dataset(), "quick").cut if c.kind == "setting"]
    named = {(cut.stage, cut.setting) for cut in cuts}
    text = sentences(cuts)[0]
    for role, settings in system.quick.items():
        for key in settings.keys() - {"snapshot_epochs", "patience_steps"}:  # they change nothing
            assert (role, key) in named and f"{role} {key} " in text


def test_a_run_until_its_codes_is_silent_about_the_recommender():
    cut = " ".join(sentences(systems.plan("resid", dataset(), "quick", until="quantizer").cut))
    assert "encoder dim 64" in cut and "recommender" not in cut


def test_missing_fields_and_the_year_of_the_data_are_cuts():
    plan = systems.plan("resid", dataset(missing=1192), "paper")
    assert any("brand 10.0%" in cut.note for cut in plan.cut if cut.kind == "missing")
    assert any("Amazon-2014" in cut.note for cut in plan.cut if cut.kind == "data")
    assert not any("brand" in str(cut) for cut in systems.plan("sasrec", dataset(), "paper").cut)
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
        (
            ("tigger",),
            r"unknown system 'tigger' \(did you mean 'tiger'\?\); there are resid, e2, e3",
        ),
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
    assert systems.system_printed_as("S3-Rec") == "s3rec"
    assert systems.system_printed_as("LETTER") is None
    assert systems.title("resid") == "ReSID" and systems.title("LETTER") == "LETTER"


def test_no_other_module_knows_a_systems_name(root):
    """DESIGN: `systems/` names the combinations, and nothing else in the library does."""
    others = [
        p for p in (root / "semid_lib").rglob("*.py")
        if p.parent.name != "systems" and p.name != "queue_list.py"
    ]  # fmt: skip
    assert len(others) > 50
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


def test_settings_of_several_sources_are_merged_role_by_role():
    """A hand-worked case: the later wins, the order is that of the first mention."""
    below = {"encoder": {"dim": 8, "layers": 1}, "quantizer": {"num_blocks": 4}}
    above = {"encoder": {"layers": 6, "sizes": (1, 2)}, "recommender": {"dim": 2}}
    found = together(below, above)
    assert found == {
        "encoder": {"dim": 8, "layers": 6, "sizes": (1, 2)}, "quantizer": {"num_blocks": 4},
        "recommender": {"dim": 2},
    }  # fmt: skip
    assert list(found["encoder"]) == ["dim", "layers", "sizes"]
    assert below["encoder"] == {"dim": 8, "layers": 1}
    preset = Preset("m:C", {"dim": 8, "layers": 1}, {"dim": 2})
    assert preset.updated({"layers": 6}, {"layers": 3}) == Preset(
        "m:C", {"dim": 8, "layers": 6}, {"dim": 2, "layers": 3}
    )


def test_a_variant_may_put_another_stage_in_the_place_of_the_presets():
    """Codes of behaviour and random ones, with their own settings alone, in both profiles."""
    for profile in ("paper", "quick"):
        plan = systems.plan("acerec", dataset("instruments"), profile, "als")
        encoder, quantizer, _ = plan.stages
        assert (encoder.place, encoder.settings) == ("semid_lib.encoders:ALS", {"dim": 128})
        assert quantizer.settings["num_blocks"] == (64 if profile == "paper" else 16)
        text = " ".join(sentences(plan.cut))
        assert "encoder ALS (paper TextEncoder)" in text and "of behaviour (ALS)" in text
        plan = systems.plan("rpg", dataset("instruments"), profile, "small-random")
        assert plan.stages[1].place == "semid_lib.quantizers:RandomCodes"
        assert plan.stages[1].settings == {"num_levels": 16}
        plan.stages[1].build(random_state=0)
        assert plan.stages[2].settings["dim"] == 128


def test_one_budget_for_all_that_are_compared():
    """T5's settings are the same in every `equal`; encoders have one loss and one patience."""
    names = "e1 e2 e3 resid q1 q2 tiger rkmeans r3vae random mq".split()
    plans = {n: systems.plan(n, dataset("beauty", 12_101), "paper", "equal") for n in names}
    recommenders = [plan.stages[-1] for plan in plans.values()]
    assert all(stage == recommenders[0] for stage in recommenders)
    assert recommenders[0].settings["epochs"] == 12 and recommenders[0].settings["patience"] is None
    encoders = {n: plans[n].stages[0].settings for n in ("resid", "q1", "q2", "e2", "e3")}
    assert encoders["resid"] == encoders["q1"] == encoders["q2"]
    assert {e["patience"] for e in encoders.values()} == {10}
    assert encoders["resid"]["item_loss"] == encoders["e2"]["loss"] == "full"
    trees = [plans[n].stages[1].settings["branching"] for n in ("resid", "q2", "random", "e1")]
    assert set(trees) == {(32, 40, "auto")}


def test_the_small_rows_are_those_of_table_3_at_a_quarter_of_the_width():
    rows = [v for v in systems.SYSTEMS["acerec"].variants if v.startswith("atm")]
    assert len(rows) == 5
    for row in rows:
        full, small = (
            systems.plan("acerec", dataset("instruments"), "paper", v)
            for v in (row, f"small-{row}")
        )
        assert small.stages[1].settings == {"num_blocks": 16, "num_codes": 256}
        narrow = {"dim": 128, "ffn_dim": 256}
        assert small.stages[2].settings == {**full.stages[2].settings, **narrow}


# ---------------------------------------------------------------- branching


def tree_of(**about):
    """A system of vectors and a tree, whose parts a test may replace."""
    parts = {
        "encoder": Preset("semid_lib.encoders:ALS", {"dim": 8}),
        "quantizer": Preset("semid_lib.quantizers:GAOQ", {"branching": branching}),
        "recommender": Preset("semid_lib.recommenders:T5Recommender"),
    }
    return System("tree", **{**parts, **about})


def chosen_branching(system, profile="paper", **how):
    return systems.plan(system, dataset("toys"), profile, **how).stages[1].settings["branching"]


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_an_explicit_branching_wins_over_the_table(profile):
    """In a preset, in what is printed for a dataset, in a variant, in overrides."""
    own = (5, 6, "auto")
    assert chosen_branching(tree_of(), profile) == (32, 40, "auto")  # toys, by the table
    explicit = Preset("semid_lib.quantizers:GAOQ", {"branching": own})
    assert chosen_branching(tree_of(quantizer=explicit), profile) == own
    printed = {"toys": {"quantizer": {"branching": own}}}
    assert chosen_branching(tree_of(printed=printed), profile) == own
    elsewhere = {"beauty": {"quantizer": {"branching": own}}}
    assert chosen_branching(tree_of(printed=elsewhere), profile) == (32, 40, "auto")
    variants = {"narrow": Variant({"quantizer": {"branching": own}})}
    assert chosen_branching(tree_of(variants=variants), profile, variant="narrow") == own
    overrides = {"quantizer": {"branching": own}}
    assert chosen_branching(tree_of(), profile, overrides=overrides) == own


def test_a_variant_may_ask_for_the_tables_branching():
    explicit = Preset("semid_lib.quantizers:GAOQ", {"branching": (5, 6, "auto")})
    variants = {"by-size": Variant({"quantizer": {"branching": branching}})}
    system = tree_of(quantizer=explicit, variants=variants)
    assert chosen_branching(system, variant="by-size") == (32, 40, "auto")


# ---------------------------------------------------------------- sweeps and cuts


def test_every_sweep_is_named_by_its_variants():
    assert systems.SWEEPS == (
        "checkpoint", "size", "branching", "lambda", "temperature", "digits",
    )  # fmt: skip
    assert systems.sweep_of("resid", "size-1") == "size"
    assert systems.sweep_of("r3vae", "t0.05-k8") == "temperature"
    assert systems.sweep_of("resid", "equal") is systems.sweep_of("resid", "default") is None
    assert systems.sweep_of("nobody's", "size-1") is None
    # Those of a checkout before sweeps were typed, told by how names began.
    began = ("checkpoint-", "size-", "branching-", "lambda-", "t0.", "t1-", "digits-")
    for name, system in systems.SYSTEMS.items():
        for variant in system.variants:
            assert (systems.sweep_of(name, variant) is not None) == variant.startswith(began)


@pytest.mark.parametrize(
    "cut, sentence",
    [
        (Cut("setting", "encoder", "dim", "64", "128"), "settings: encoder dim 64 (paper 128)"),
        (Cut("setting", "encoder", "dim", "64"), "settings: encoder dim 64"),
        (Cut("setting", "recommender", "patience", "None", "None"),
         "settings: recommender patience None (paper None)"),
        (Cut("setting", "encoder", "class", "ALS", "TextEncoder"),
         "settings: encoder ALS (paper TextEncoder)"),
        (Cut("setting", "quantizer", "branching", "(4, 3, 'auto')", "(32, 40, 'auto')"),
         "settings: quantizer branching (4, 3, 'auto') (paper (32, 40, 'auto'))"),
        (Cut("setting", "encoder", "columns", "('words', 'encoder x')"),
         "settings: encoder columns ('words', 'encoder x')"),
        (Cut("method", "recommender", note="no user tokens"), "recommender: no user tokens"),
        (Cut("method", note="batches of whole sequences"), "batches of whole sequences"),
        (Cut("data", note="Amazon-2014"), "data: Amazon-2014"),
        (Cut("vectors", note="of behaviour (ALS)"), "vectors: of behaviour (ALS)"),
        (Cut("missing", note="brand 1.0%"), "items without a value are kept: brand 1.0%"),
    ],
)  # fmt: skip
def test_a_cut_is_a_sentence_and_the_sentence_the_cut(cut, sentence):
    assert str(cut) == sentence
    assert read_cut(sentence) == [cut]


@pytest.mark.parametrize("profile", ["quick", "paper"])
@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_the_cuts_of_every_plan_can_be_read_from_its_sentences(name, profile):
    overrides = {"recommender": {"epochs": 2}}
    for variant in ("default", *systems.SYSTEMS[name].variants):
        for data in (dataset(missing=7), dataset("lastfm", 3646)):
            cut = systems.plan(name, data, profile, variant, overrides).cut
            assert tuple(c for text in sentences(cut) for c in read_cut(text)) == cut


def test_without_text_another_encoder_stands_in_and_says_so():
    other = NoText(("toys",), Preset("semid_lib.encoders:ALS", {"dim": 4}), "of behaviour")
    system = tree_of(vectors="of words", no_text=other)
    made = [systems.plan(system, dataset(name), "paper") for name in ("toys", "beauty")]
    assert [plan.stages[0].settings for plan in made] == [{"dim": 4}, {"dim": 8}]
    assert [str(plan.cut[0]) for plan in made] == ["vectors: of behaviour", "vectors: of words"]
