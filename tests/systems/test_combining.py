"""Any triple that fits runs from data to record; one that does not is refused in words."""

import pytest

from semid_lib import systems
from semid_lib.data import synthetic_catalogue
from semid_lib.errors import InputError
from semid_lib.runs import pipeline, records

SMALL = {"dim": 8, "ffn_dim": 16, "num_heads": 2, "epochs": 1, "samples_per_epoch": 64}
FAMAE = {**SMALL, "max_length": 5}
SASREC = {"dim": 8, "ffn_dim": 16, "num_heads": 2, "epochs": 1, "max_history": 4}
T5 = {**SMALL, "head_dim": 4, "max_history": 4, "num_beams": 20}
LONG = {**SMALL, "max_history": 4}
TREE = {"branching": (4, 4, "auto")}
BLOCKS = {"num_blocks": 4, "num_codes": 8}
LEARNT = {"num_codes": 8, "steps": 4, "batch_size": 32}


@pytest.fixture(scope="module")
def tiny():
    return synthetic_catalogue(80, 60, branching=(3, 2, 1), num_communities=3, random_state=1)[0]


@pytest.mark.parametrize(
    "triple, encoder, quantizer, recommender",
    [
        (("famae", "opq", "rpg"), FAMAE, BLOCKS, LONG),
        (("als", "gaoq", "t5"), {"dim": 8}, TREE, T5),
        (("sasrec*", "rqvae", "acerec"), SASREC, LEARNT, {**LONG, "ratio": 3}),
        (("als", "random", "t5"), {"dim": 8}, TREE, T5),
        (("als", "kmeans", "rpg"), {"dim": 8}, {"n_clusters": 8}, LONG),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_triple_that_fits_runs_to_a_record(
    triple, encoder, quantizer, recommender, tiny, tmp_path
):
    overrides = {"encoder": encoder, "quantizer": quantizer, "recommender": recommender}
    plan = systems.combine(*triple, data=tiny, overrides=overrides)
    assert [stage.role for stage in plan.stages] == list(systems.ROLES)
    record = pipeline.run(plan, tiny, folder=tmp_path / "work", device="cpu")
    records.check_record(record)
    assert record["system"] == "+".join(triple) and record["profile"] == "quick"
    for role, settings in overrides.items():
        kept = {key: record["config"][role][key] for key in settings if key != "steps"}
        assert kept == {key: value for key, value in settings.items() if key != "steps"}


def test_a_recommender_of_items_needs_neither_vectors_nor_codes(tiny, tmp_path):
    plan = systems.combine(None, None, "popularity", data=tiny)
    record = pipeline.run(plan, tiny, folder=tmp_path / "work", device="cpu")
    named = pipeline.run("popularity", tiny, folder=tmp_path / "named", device="cpu")
    assert record["metrics"] == named["metrics"] and record["config"] == named["config"]


def test_the_papers_own_triples_have_the_settings_of_their_systems(tiny):
    for name, triple in (
        ("resid", ("famae", "gaoq", "t5")), ("e2", ("sasrec*", "gaoq", "t5")),
        ("q1", ("famae", "rqvae", "t5")), ("tiger", ("text", "rqvae", "t5")),
        ("r3vae", ("text", "r3vae", "t5")), ("acerec", ("text", "opq", "acerec")),
        ("rpg", ("text", "opq", "rpg")),
    ):  # fmt: skip
        for profile in ("quick", "paper"):
            plan = systems.combine(*triple, profile, data=tiny)
            assert plan.stages == systems.plan(name, tiny, profile).stages, name


def test_a_system_of_ones_own_runs_as_a_named_one(tiny, tmp_path):
    own = systems.System(
        "my chain", recommender=systems.Preset("semid_lib.recommenders:MarkovChain")
    )
    record = pipeline.run(own, tiny, folder=tmp_path / "work", device="cpu")
    named = pipeline.run("markov", tiny, folder=tmp_path / "named", device="cpu")
    assert record["system"] == "my chain" and record["metrics"] == named["metrics"]


@pytest.mark.parametrize(
    "triple, overrides, message",
    [
        (("text", "gaoq", "acerc"), {}, r"unknown recommender 'acerc' \(did you mean 'acerec'\?"),
        (("fame", "gaoq", "t5"), {}, r"unknown encoder 'fame' \(did you mean 'famae'\?\)"),
        (("text", "gaoc", "t5"), {}, r"unknown quantizer 'gaoc' \(did you mean 'gaoq'\?\)"),
        (("text", None, "t5"), {}, "t5 generates codes, for which it needs an encoder and a quan"),
        ((None, "gaoq", "rpg"), {}, "rpg generates codes, for which it needs an encoder"),
        (("text", None, "sasrec*"), {}, r"sasrec\* ranks items and reads no encoder: not 'text'"),
        ((None, "gaoq", "markov"), {}, "markov ranks items and reads no quantizer: not 'gaoq'"),
        (("famae", "gaoq", "rpg"), {}, "rpg needs as many codes in every digit, but gaoq grows a"),
        (("famae", "random", "acerec"), {}, "acerec needs as many codes in every digit"),
        (("famae", "rqvae", "acerec"), {}, "merges 8 digits into one, .* of rqvae have 3"),
        (("text", "opq", "acerec"), {"recommender": {"ratio": 5}}, "merges 5 .* opq have 16"),
        (("famae", "gaoq", "t5"), {"reader": {}}, "has no stage 'reader' to change"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(triple, overrides, message, tiny):
    with pytest.raises(InputError, match=message):
        systems.combine(*triple, data=tiny, overrides=overrides)


def test_a_plan_of_other_data_or_with_another_variant_is_refused(tiny, tmp_path):
    plan = systems.combine(None, None, "markov", data=tiny)
    other = synthetic_catalogue(80, 60, branching=(3, 2, 1), random_state=2)[0]
    object.__setattr__(other, "name", "other")
    with pytest.raises(InputError, match="the plan is for '.*', not for 'other'"):
        pipeline.run(plan, other, folder=tmp_path)
    with pytest.raises(InputError, match="a plan has its variant and overrides in it"):
        pipeline.run(plan, tiny, folder=tmp_path, variant="small")


def test_a_plan_that_ends_with_its_codes_is_silent_about_the_recommender(tiny):
    plan = systems.combine("famae", "gaoq", "t5", data=tiny)
    assert {cut.stage for cut in plan.cut} >= {"encoder", "recommender"}
    assert "recommender" not in {cut.stage for cut in plan.up_to("quantizer").cut}
    assert plan.up_to(None) == plan
