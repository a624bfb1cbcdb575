"""One run from data to record: composition, work folders, and stopping at any moment."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch

from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions, synthetic_catalogue
from semid_lib.encoders import FAMAE
from semid_lib.errors import (
    CheckpointError,
    CodesError,
    DataError,
    DeviceMemoryError,
    InputError,
    RecordError,
    UnorderedError,
)
from semid_lib.quantizers import GAOQ
from semid_lib.recommenders import RPG, ACERec, BERT4Rec, SASRec, T5Recommender
from semid_lib.runs import locks, pipeline, provenance, records, stages
from semid_lib.storage import load_tensors
from semid_lib.systems import plan
from semid_lib.training import TrainingPaused

TINY = {
    "encoder": {"dim": 8, "ffn_dim": 16, "num_heads": 2, "epochs": 2, "samples_per_epoch": 256,
                "max_length": 5, "batch_size": 64},
    "quantizer": {"branching": (4, 4, "auto")},
    "recommender": {"dim": 8, "ffn_dim": 16, "num_heads": 2, "head_dim": 4, "num_layers": 1,
                    "epochs": 3, "samples_per_epoch": 128, "max_history": 4, "num_beams": 20,
                    "batch_size": 32, "validate_users": 20},
}  # fmt: skip
SASREC = {"recommender": {"dim": 8, "ffn_dim": 16, "num_heads": 2, "epochs": 2, "max_history": 4}}


@pytest.fixture(scope="module")
def tiny():
    return synthetic_catalogue(80, 60, branching=(3, 2, 1), num_communities=3, random_state=1)[0]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The same data as a reader's own folder."""
    place = tmp_path_factory.mktemp("own") / "party"
    place.mkdir()
    rows = pd.DataFrame({"user": tiny.user, "item": tiny.item, "timestamp": tiny.timestamp})
    rows.to_csv(place / "interactions.csv", index=False)
    columns = {k: np.array(tiny.field_values[k], dtype=object)[v] for k, v in tiny.fields.items()}
    pd.DataFrame({"item": range(tiny.num_items), **columns}).to_csv(
        place / "items.csv", index=False
    )
    return place


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """`(record, work folder)` of an uninterrupted ReSID run."""
    work = tmp_path_factory.mktemp("work")
    return pipeline.run("resid", tiny, overrides=TINY, folder=work, device="cpu"), work


def same_numbers(a, b):
    """Whether two records agree in everything that is not time, memory or place."""
    for key in ("metrics", "intervals", "diagnostics", "config", "cut", "dataset_sha256", "seed"):
        assert a.get(key) == b.get(key), key
    clock = ("seconds", "train_seconds", "outside_seconds", "samples_per_second")
    for role in a["curve"]:
        curves = [
            [{k: v for k, v in epoch.items() if k not in clock} for epoch in r["curve"][role]]
            for r in (a, b)
        ]
        assert curves[0] == curves[1], role


# ---------------------------------------------------------------- what a run makes


def test_record_is_complete_and_json(finished):
    record, work = finished
    records.check_record(record)
    assert "recall@30" not in record["metrics"]["test"]  # of 20 beams
    assert json.loads((work / "record.json").read_text()) == json.loads(json.dumps(record))
    assert set(record["curve"]) == {"encoder", "recommender"}
    assert len(record["curve"]["recommender"]) == 3
    assert record["config"]["recommender"]["class"] == "T5Recommender"
    assert record["config"]["encoder"]["weight_decay"] == 1e-5  # defaults are written out too
    assert record["cost"]["parameters"] == sum(
        stage.get("parameters", 0) for stage in record["cost"]["stages"].values()
    )
    assert record["cost"]["peak_memory"] > 50e6 and record["versions"]["torch"]


def test_a_quick_run_is_the_same_with_one_thread_and_two(finished, tiny, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        other = pipeline.run("resid", tiny, overrides=TINY, folder=tmp_path, device="cpu")
        assert torch.get_num_threads() != before
    finally:
        torch.set_num_threads(before)
    same_numbers(finished[0], other)


def test_another_title_is_another_run(tmp_path):
    """Vectors of the titles before must not serve those after."""
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [(u, i) for u in range(30) for i in range(u % 7, u % 7 + 14)]
    pd.DataFrame(rows, columns=["user", "item"]).assign(timestamp=range(len(rows))).to_csv(
        folder / "interactions.csv", index=False
    )
    works = []
    for word in ("lamp", "chair"):
        titles = [f"{word if i == 3 else 'shelf'} number{i} shade{i % 5}" for i in range(20)]
        pd.DataFrame({"item": range(20), "title": titles}).to_csv(folder / "items.csv", index=False)
        overrides = {"quantizer": {"num_codes": 4, "num_levels": 2, "epochs": 1}}
        work = pipeline.Work("tiger", folder, until="quantizer", overrides=overrides)
        works.append((work.folder, work.encoder_folder))
    assert works[0][0] != works[1][0] and works[0][1] != works[1][1]


def test_record_agrees_with_the_work_it_left(finished, tiny):
    """The saved codes, model and ranks, read back, give the recorded numbers."""
    record, work = finished
    sids = SemanticIds.from_json(work / "codes.json")
    assert list(sids.level_sizes) == record["diagnostics"]["quantizer"]["level_sizes"]
    assert sids.is_unique and record["diagnostics"]["quantizer"]["collision_rate"] == 1.0
    vectors = load_tensors(work / "embeddings.safetensors", "embeddings")[0]["vectors"]
    assert vectors.shape == (80, 8 * (1 + len(tiny.fields)))
    model = T5Recommender.load(work / "recommender.safetensors")
    histories = [s[:-1] for s in tiny.sequences()]  # everyone has at least 5 interactions
    targets = np.array([s[-1] for s in tiny.sequences()])
    hits = (model.recommend(histories, 10) == targets[:, None]).any(1).mean()
    assert record["metrics"]["test"]["recall@10"] == pytest.approx(hits)
    ranks = load_tensors(work / "test.ranks.safetensors", "ranks")[0]
    assert float((ranks["all.above"] < 10).float().mean()) == pytest.approx(hits)


def test_cold_targets_and_buckets_are_counted(finished, tiny):
    record, _ = finished
    sequences = tiny.sequences()
    trained = np.concatenate([s[:-2] for s in sequences])
    cold = sum(s[-1] not in trained for s in sequences)
    assert record["diagnostics"]["cold_targets"]["test"] == cold
    buckets = record["diagnostics"]["buckets"]["test"]
    assert sum(b["n"] for b in buckets.values()) == len(sequences)


@pytest.mark.parametrize(
    "system",
    ["popularity", "markov", "itemknn", "sasrec", "sasrec*", "bert4rec", "bert4rec*", "hgn", "hgn*",
     "gru4rec", "s3rec", "s3rec*"],
)  # fmt: skip
def test_every_other_system_runs(system, tiny, tmp_path):
    (stage,) = plan(system, tiny).stages
    known = {**SASREC["recommender"], "hidden_dim": 8, "pretrain_epochs": 1}
    overrides = {"recommender": {k: v for k, v in known.items() if k in stage.settings}}
    record = pipeline.run(system, tiny, overrides=overrides, folder=tmp_path, device="cpu")
    records.check_record(record)
    assert record["diagnostics"]["mrr_cut"] is None  # every item was ranked
    stage = json.loads((tmp_path / "recommender.json").read_text())
    assert ("pretraining" in stage) == system.startswith("s3rec")
    if "pretraining" in stage:  # its seconds count
        parts = (*stage["curve"], *stage["pretraining"])
        assert stage["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in parts))
    assert record["metrics"]["test"]["recall@20"] <= record["metrics"]["test"]["recall@30"]


def test_popularity_record_equals_a_count_by_hand(tiny, tmp_path):
    record = pipeline.run("popularity", tiny, folder=tmp_path)
    sequences = tiny.sequences()
    counts = np.bincount(np.concatenate([s[:-2] for s in sequences]), minlength=80)
    reciprocal = []
    for sequence in sequences:
        own = counts[sequence[-1]]
        above, ties = (counts > own).sum(), (counts == own).sum()
        reciprocal.append(np.mean([1 / (above + place + 1) for place in range(ties)]))
    assert record["metrics"]["test"]["mrr"] == pytest.approx(np.mean(reciprocal))


def test_own_folder_gives_the_same_run_as_the_data_in_memory(folder, tiny, tmp_path):
    record = pipeline.run("markov", folder, folder=tmp_path / "a")
    other = pipeline.run("markov", tiny, folder=tmp_path / "b")
    assert record["dataset"] == "party"
    assert record["metrics"] == other["metrics"]


def test_the_seed_changes_a_trained_system_and_another_run_of_it_does_not(tiny, tmp_path):
    def metrics(seed, name):
        return pipeline.run("sasrec", tiny, seed=seed, overrides=SASREC, folder=tmp_path / name)

    first, again, other = metrics(0, "a"), metrics(0, "b"), metrics(1, "c")
    same_numbers(first, again)
    assert first["metrics"] != other["metrics"]


# ---------------------------------------------------------------- work folders


def test_default_folder_depends_on_every_setting(monkeypatch, tiny, tmp_path):
    monkeypatch.setenv("SEMID_RUNS", str(tmp_path))
    pipeline.run("itemknn", tiny)
    pipeline.run("itemknn", tiny, overrides={"recommender": {"shrinkage": 5.0}})
    pipeline.run("itemknn", tiny, seed=1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3
    assert sum(n.startswith("itemknn--default--synthetic--quick--s0-") for n in names) == 2


def test_folder_of_another_run_is_refused(finished, tiny):
    _, work = finished
    with pytest.raises(CheckpointError, match="other settings, data or seed"):
        pipeline.run("resid", tiny, overrides=TINY, folder=work, seed=7)


def test_a_finished_run_is_not_computed_again(finished, tiny, monkeypatch):
    record, work = finished
    monkeypatch.setattr(T5Recommender, "fit", None)
    monkeypatch.setattr("semid_lib.evaluation.evaluator.evaluate", None)
    monkeypatch.setattr(provenance, "commit", lambda: "later")
    again = pipeline.run("resid", tiny, overrides=TINY, folder=work, device="cpu")
    same_numbers(record, again)
    assert again["commit"] == record["commit"] != "later"  # of the code that computed it


@pytest.mark.parametrize(
    "name, edit, error",
    [("test.json", lambda text: text.replace('"recall@10": 0.', '"recall@10": 0.9'), RecordError),
     ("quantizer.json", lambda text: text[:-20], RecordError),
     ("codes.json", lambda text: text.replace('"codes":[[', '"codes":[[1'), CodesError),
     ("run.json", lambda text: text[:-20], RecordError),
     ("run.json", lambda text: "[" * 100_000, RecordError)],
)  # fmt: skip
def test_an_edited_file_of_the_work_folder_is_refused(finished, tiny, tmp_path, name, edit, error):
    work = tmp_path / "work"
    shutil.copytree(finished[1], work)
    text = (work / name).read_text()
    assert edit(text) != text
    (work / name).write_text(edit(text))
    if name == "codes.json":
        (work / "diagnostics.json").unlink()
    with pytest.raises(error, match=name):
        pipeline.run("resid", tiny, overrides=TINY, folder=work, device="cpu")


def test_stage_files_from_before_there_were_digests_are_made_again(finished, tiny, tmp_path):
    record, work = finished
    old = tmp_path / "work"
    shutil.copytree(work, old)
    for name in ("test.json", "quantizer.json"):
        value = json.loads((old / name).read_text())
        del value["sha256"]
        (old / name).write_text(json.dumps(value))
    again = pipeline.run("resid", tiny, overrides=TINY, folder=old, device="cpu")
    same_numbers(again, record)


def test_two_processes_do_not_share_a_folder(tiny, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            from pathlib import Path
            from semid_lib.runs.locks import locked
            with locked(Path({str(tmp_path / ".lock")!r})) as free:
                print(free, flush=True)
                input()
        """)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "True\n"
        with pytest.raises(locks.BusyError, match="another process"):
            pipeline.run("popularity", tiny, folder=tmp_path)
        holder.kill()  # a dead holder frees it
        holder.wait()
        pipeline.run("popularity", tiny, folder=tmp_path)
    finally:
        holder.kill()


# ---------------------------------------------------------------- codes alone, shared encoders


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    """Runs go to a folder of the test's own; returns the list of encoders trained there."""
    monkeypatch.setenv("SEMID_RUNS", str(tmp_path / "runs"))
    done = []
    for kind in (FAMAE, SASRec, BERT4Rec):
        real = kind.fit

        def fit(self, split, *args, real=real, **kwargs):
            done.append(type(self).__name__)
            return real(self, split, *args, **kwargs)

        monkeypatch.setattr(kind, "fit", fit)
    return done


def codes_of(system, data, overrides=TINY, **settings):
    """`(record, codes, vectors)` of a run until the quantizer in the default folder."""
    settings = {"overrides": overrides, "until": "quantizer", "device": "cpu", **settings}
    work = pipeline.Work(system, data, **settings)
    record = pipeline.run(system, data, **settings)
    return record, stages.read_codes(work).codes, stages.read_vectors(work)


def test_codes_alone_and_then_the_whole_run(finished, tiny, tmp_path, monkeypatch):
    whole, place = finished
    arguments = {"overrides": TINY, "folder": tmp_path, "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(T5Recommender, "fit", None)  # nothing of it is needed
        record = pipeline.run("resid", tiny, until="quantizer", **arguments)
    records.check_record(record)
    assert record["until"] == "quantizer" and "metrics" not in record
    for stage in ("encoder", "quantizer"):
        assert record["diagnostics"][stage] == whole["diagnostics"][stage]
    for stage in ("fit", "embed"):
        monkeypatch.setattr(FAMAE, stage, None)
    monkeypatch.setattr(GAOQ, "fit", None)
    same_numbers(whole, pipeline.run("resid", tiny, **arguments))
    assert (tmp_path / "codes.json").read_bytes() == (place / "codes.json").read_bytes()


def test_runs_share_an_encoder_and_q2_the_tree(tiny, trainings):
    resid, codes, vectors = codes_of("resid", tiny)
    q2, other, same = codes_of("q2", tiny)
    wider = {**TINY, "quantizer": {"branching": (8, 2, "auto")}}
    assert codes_of("resid", tiny, wider)[1].max(axis=0)[0] == 7
    assert trainings == ["FAMAE"]
    assert (vectors == same).all() and resid["diagnostics"]["encoder"] == (
        q2["diagnostics"]["encoder"]
    )
    assert resid["cost"]["stages"]["encoder"] == q2["cost"]["stages"]["encoder"]
    # One tree: the same first codes and the same groups of siblings, numbered otherwise.
    assert (codes[:, 0] == other[:, 0]).all() and (codes[:, 1] != other[:, 1]).any()
    pairs = {(a, b, c) for a, b, c in zip(codes[:, 0], codes[:, 1], other[:, 1])}
    assert len(pairs) == 16
    codes_of("resid", tiny, seed=1)
    assert trainings == ["FAMAE"] * 2


@pytest.mark.parametrize("system, encoder", [("e2", SASRec), ("e3", BERT4Rec)])
def test_sequential_models_stand_in_as_encoders(system, encoder, tiny, trainings):
    settings = {"dim": 16, "ffn_dim": 16, "num_heads": 2, "epochs": 2, "max_history": 4}
    overrides = {"encoder": settings, "quantizer": TINY["quantizer"]}
    found = {v: codes_of(system, tiny, overrides, variant=v) for v in ("default", "id")}
    assert len(trainings) == 2
    starred = pipeline.Work(system, tiny, overrides=overrides).estimators["encoder"]
    assert isinstance(starred, encoder)
    truth = starred.fit(pipeline.Work(system, tiny).split).embed()
    record, codes, vectors = found["default"]
    assert vectors.shape == (80, 16) and (vectors == truth).all()
    assert (codes == GAOQ(branching=(4, 4, "auto")).fit_transform(truth)).all()
    assert 0 < record["diagnostics"]["encoder"]["ndcg@10"] < 1
    assert (found["id"][2] != vectors).any()
    assert found["id"][0]["config"]["encoder"]["field_names"] == ()


def test_checkpoints_are_snapshots_of_one_training(tiny, trainings):
    encoder = {**TINY["encoder"], "snapshot_epochs": (0.25, 1)}
    overrides = {**TINY, "encoder": encoder}
    found = {k: codes_of("resid", tiny, overrides, variant=f"checkpoint-{k}") for k in (1, 2, 6)}
    assert trainings == ["FAMAE"]
    split = pipeline.Work("resid", tiny).split
    settings = {**TINY["encoder"], "precision": "float64", "learning_rate": 3e-3}
    truth = FAMAE(**settings, snapshot_steps=(1, 4)).fit(split)  # 4 batches of 64 an epoch
    for number, step in ((1, 1), (2, 4)):
        record, _, vectors = found[number]
        assert (vectors == truth.at_step(step).embed()).all()
        diagnostics = record["diagnostics"]["encoder"]
        assert diagnostics["step"] == step and record["config"]["checkpoint"] == number
        metrics = truth.at_step(step).metrics(split)
        assert metrics.items() <= diagnostics.items()
    assert (found[6][2] == truth.embed()).all()
    with pytest.raises(InputError, match="asks for snapshot 3; the encoder has 2"):
        codes_of("resid", tiny, overrides, variant="checkpoint-3")


def test_a_variant_that_changes_nothing_shares_the_work(tiny, trainings, monkeypatch):
    quantizer = {"quantizer": {"branching": (16, 24, "auto")}}
    data = synthetic_catalogue(500, 60, branching=(3, 2, 1), num_communities=3, random_state=1)[0]
    overrides = {"encoder": TINY["encoder"]}
    name = "branching-16x24"
    work = pipeline.Work("resid", data, overrides=overrides, variant=name)
    assert "--default--" not in work.folder.name
    work = pipeline.Work("resid", data, overrides=overrides | quantizer, variant=name)
    assert "--default--" in work.folder.name and f"--{name}--" in work.name


def test_what_is_judged_agrees_with_the_diagnostics_by_hand(finished, tiny):
    from semid_lib import diagnostics

    record, work = finished
    vectors = load_tensors(work / "embeddings.safetensors")[0]["vectors"].numpy()
    sids = SemanticIds.from_json(work / "codes.json")
    encoder, quantizer = (record["diagnostics"][k] for k in ("encoder", "quantizer"))
    split = pipeline.Work("resid", tiny, folder=work, overrides=TINY).split
    communities = diagnostics.louvain(diagnostics.co_occurrence(split))
    labels = {"category": tiny.fields["category_1"], "community": communities}
    assert encoder["label_field"] == "category_1" and set(encoder["purity"]) == set(labels)
    for name, rows in labels.items():
        assert encoder["purity"][name] == diagnostics.neighbour_purity(vectors, rows)
        assert encoder["chance"][name] == diagnostics.chance_purity(rows)
        assert encoder["nmi"][name] == diagnostics.cluster_nmi(vectors, rows)
    # The tree's means, by hand: what is left of the variance within the (c_1, c_2) groups.
    groups = np.unique(sids.codes[:, :2], axis=0, return_inverse=True)[1].ravel()
    means = np.stack([vectors[groups == g].mean(axis=0) for g in range(groups.max() + 1)])
    left = ((vectors - means[groups]) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum()
    assert quantizer["reconstruction_error"] == pytest.approx(left, rel=1e-5)
    terms = quantizer["terms"]["variance"]
    assert terms["H(z|C<=l)"][1] == pytest.approx(left, rel=1e-5)
    assert len(quantizer["alignment"]) == len(quantizer["coherence"]) == 2
    assert len(quantizer["overlap"]) == 3 and set(quantizer["within_code_cosine"]) == {
        "all", "cross_prefix",
    }  # fmt: skip
    assert json.loads(json.dumps(quantizer, allow_nan=False)) == quantizer


@pytest.mark.parametrize("value", ["recommender", "encoder", "x"])
def test_until_is_the_quantizer_of_a_system_that_has_one(value, tiny, tmp_path):
    with pytest.raises(InputError, match="can run until None or 'quantizer'"):
        pipeline.run("resid", tiny, until=value, folder=tmp_path)
    with pytest.raises(InputError, match="sasrec can run until None$"):
        pipeline.run("sasrec", tiny, until="quantizer", folder=tmp_path)


def test_an_explicit_precision_replaces_that_of_the_profile(tiny, tmp_path):
    for asked, used in (("auto", "float64"), ("float32", "float32")):
        work = pipeline.Work("resid", tiny, precision=asked, folder=tmp_path / asked)
        assert work.config["precision"] == used
        assert {e.precision for r, e in work.estimators.items() if r != "quantizer"} == {used}


def test_an_encoder_in_training_makes_others_wait(tiny, trainings):
    place = pipeline.Work("resid", tiny, overrides=TINY).encoder_folder
    code = f"""
        from pathlib import Path
        from semid_lib.runs.locks import locked
        with locked(Path({str(place / "encoder.lock")!r})) as free:
            print(free, flush=True)
            input()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "True\n"
        with pytest.raises(locks.BusyError, match="encoder of q2.* is being trained by another"):
            codes_of("q2", tiny)
        assert trainings == []
    finally:
        holder.kill()
        holder.wait()
    codes_of("q2", tiny)
    holder = None
    codes_of("resid", tiny)  # complete: nobody needs the lock
    assert trainings == ["FAMAE"]


DIE_AT_WRITES = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from semid_lib.runs import pipeline
from semid_lib.data import load_dataset

data, overrides, base = load_dataset(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])


def go(place):
    os.environ["SEMID_RUNS"] = str(base / place)
    settings = dict(overrides=overrides, until="quantizer", device="cpu")
    for system, variant in (("resid", "checkpoint-1"), ("q2", "default"), ("resid", "default")):
        record = pipeline.run(system, data, variant=variant, **settings)
        (base / place / f"{system}-{variant}.json").write_text(json.dumps(record))


go("whole")
deaths, survived = 0, False
while not survived:
    process = os.fork()
    if process == 0:
        real, count = os.replace, 0

        def replace(*names):
            global count
            count += 1
            if count == 2 + deaths % 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*names)

        os.replace = replace
        go("died")
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    survived = os.WIFEXITED(status)
    assert not survived or os.WEXITSTATUS(status) == 0
    deaths += not survived
    assert deaths < 60
print(deaths)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children, needs POSIX")
def test_shared_encoder_killed_at_its_writes_ends_the_same(folder, tmp_path):
    """SIGKILL at one of the next writes, in the encoder's folder too; then go on, to the end."""
    overrides = {**TINY, "encoder": {**TINY["encoder"], "snapshot_epochs": [0.25]}}
    done = subprocess.run(
        [sys.executable, "-c", DIE_AT_WRITES, str(folder), json.dumps(overrides),
         str(tmp_path)], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8
    for path in (tmp_path / "whole").glob("*.json"):
        if not path.name.startswith("communities"):
            one, other = (json.loads((tmp_path / p / path.name).read_text())
                          for p in ("whole", "died"))  # fmt: skip
            same_numbers(one, other)


# ---------------------------------------------------------------- tokenizers of given vectors

TOKENIZER = {
    "encoder": {"dim": 9},
    "recommender": {**TINY["recommender"], "epochs": 1},
}
LEARNT = {**TOKENIZER, "quantizer": {"num_codes": 8, "steps": 260, "batch_size": 40}}


def test_a_tokenizers_whole_run_gives_colliding_items_a_digit_more(tiny, tmp_path):
    overrides = {**TOKENIZER, "quantizer": {"n_clusters": 4, "num_levels": 2}}
    record = pipeline.run("rkmeans", tiny, overrides=overrides, folder=tmp_path, device="cpu")
    records.check_record(record)
    work = pipeline.Work("rkmeans", tiny, overrides=overrides, folder=tmp_path, device="cpu")
    raw, unique = stages.read_codes(work), stages.read_codes(work, unique=True)
    assert raw.num_levels == 2 and unique.num_levels == 3 and unique.is_unique
    assert raw.catalogue == unique.catalogue == work.data.catalogue_sha256
    assert (unique.codes[:, :2] == raw.codes).all()
    found = record["diagnostics"]["quantizer"]
    assert found["collision_rate"] == 80 / len(np.unique(raw.codes, axis=0)) > 1
    assert T5Recommender.load(tmp_path / "recommender.safetensors").sids_ == unique
    assert any("a digit more" in text for text in record["cut"])


@pytest.mark.parametrize("system", ["rpg", "acerec"])
def test_long_codes_are_left_as_they_are_and_equal_ones_tie(system, tiny, tmp_path):
    small = {"dim": 8, "num_heads": 2, "ffn_dim": 8, "epochs": 1}
    overrides = {
        "encoder": {"dim": 9, "pca": 8}, "quantizer": {"num_blocks": 4, "num_codes": 2},
        "recommender": {**small, **({"ratio": 2} if system == "acerec" else {})},
    }  # fmt: skip
    record = pipeline.run(system, tiny, overrides=overrides, folder=tmp_path, device="cpu")
    records.check_record(record)
    assert record["diagnostics"]["quantizer"]["collision_rate"] >= 80 / 2**4
    model = {"rpg": RPG, "acerec": ACERec}[system]
    assert model.load(tmp_path / "recommender.safetensors").network_.rows.shape == (80, 4)
    ranks = load_tensors(tmp_path / "test.ranks.safetensors", "ranks")[0]
    assert ranks["all.ties"].max() > 0
    assert any("sentence-t5-base" in text for text in record["cut"])


@pytest.mark.parametrize("system", ["vqvae", "rqvae", "mq", "r3vae"])
def test_learnt_tokenizers_keep_a_short_curve_and_can_be_interrupted(system, tiny, tmp_path):
    def codes(place, deadline=None):
        arguments = {"until": "quantizer", "folder": tmp_path / place, "device": "cpu"}
        record = pipeline.run(system, tiny, overrides=LEARNT, deadline=deadline, **arguments)
        return record, (tmp_path / place / "codes.json").read_text()

    record, whole = codes("whole")
    curve = record["curve"]["quantizer"]
    assert len(curve) == 100 and curve[0]["epoch"] == 1 and curve[-1]["epoch"] == 130
    assert all(len(epoch["usage"]) == (1 if system == "vqvae" else 3) for epoch in curve)
    assert record["cost"]["stages"]["quantizer"]["epochs"] == 130
    pauses = 0
    while True:
        try:
            again, resumed = codes("paused", time.monotonic() + 0.1 * 1.2**pauses)
            break
        except TrainingPaused:
            pauses += 1
    assert pauses and resumed == whole
    same_numbers(record, again)


def test_centred_vectors_are_for_the_quantizer_alone(tiny, tmp_path):
    from semid_lib.diagnostics import semantic_cohesion
    from semid_lib.quantizers import ResidualKMeans

    overrides = {**TOKENIZER, "quantizer": {"n_clusters": 6, "num_levels": 2}}
    arguments = {"overrides": overrides, "variant": "centred", "until": "quantizer"}
    record = pipeline.run("rkmeans", tiny, folder=tmp_path, **arguments)
    work = pipeline.Work("rkmeans", tiny, folder=tmp_path, **arguments)
    X = stages.read_vectors(work)
    truth = ResidualKMeans(n_clusters=6, num_levels=2).fit(X - X.mean(axis=0))
    assert (stages.read_codes(work).codes == truth.codes_).all()
    assert record["diagnostics"]["quantizer"]["sc"] == semantic_cohesion(X, truth.codes_)
    assert record["config"]["centred"] is True


# ---------------------------------------------------------------- stopping


def test_paused_again_and_again_ends_with_the_same_record(finished, tiny, tmp_path):
    record, _ = finished
    pauses = 0
    while True:
        try:
            again = pipeline.run(
                "resid", tiny, overrides=TINY, folder=tmp_path, device="cpu",
                deadline=time.monotonic() + 0.05 * 1.1**pauses,
            )  # fmt: skip
            break
        except TrainingPaused:
            pauses += 1
            assert pauses < 200, "no progress within the deadline"
    assert pauses >= 2
    same_numbers(record, again)


def test_deadline_in_the_past_stops_before_the_first_step(tiny, tmp_path):
    with pytest.raises(TrainingPaused, match="paused"):
        pipeline.run("sasrec", tiny, overrides=SASREC, folder=tmp_path, deadline=0.0)


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from semid_lib.runs import pipeline, records
from semid_lib.data import load_dataset

data, overrides, base = load_dataset(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
chance = random.Random(0)


def go(work):
    record = pipeline.run("resid", data, overrides=overrides, folder=work, device="cpu")
    records.write_record(record, work / "results")
    return record


def child(work, at_write, after):
    # Fork, die at the moment of a file's renaming or after some time; return whether it died.
    process = os.fork()
    if process == 0:
        real, count = os.replace, 0

        def replace(*names):
            nonlocal count
            count += 1
            if count == at_write:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*names)

        os.replace = replace
        try:
            go(work)
        except BaseException as error:
            print(type(error), error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


go(base / "whole")  # also warms up what is compiled
for name, draw in (
    ("writes", lambda deaths: (chance.randint(1, 4), None)),
    ("moments", lambda deaths: (0, chance.uniform(0.5, 1.0) * 0.05 * 1.1**deaths)),
):
    deaths = 0
    while child(base / name, *draw(deaths)):
        deaths += 1
        assert deaths < 150
        for path in (base / name).rglob("*.json"):
            json.loads(path.read_text())  # whatever stands there is whole
    print(name, deaths)
# At the record's own write: the last of all.
writes = 0
real = os.replace
def counting(*names):
    global writes
    writes += 1
    return real(*names)
os.replace = counting
go(base / "count")
os.replace = real
assert child(base / "record", writes, None) and not list((base / "record/results").glob("*.json"))
assert not child(base / "record", 0, None)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children, needs POSIX")
def test_killed_at_every_kind_of_moment_ends_with_the_same_record(folder, tmp_path):
    """SIGKILL at random writes, at random moments and at the record's write; then go on."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), json.dumps(TINY), str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    deaths = dict(line.split() for line in done.stdout.splitlines())
    assert int(deaths["writes"]) >= 5 and int(deaths["moments"]) >= 1
    whole = records.load_records(tmp_path / "whole" / "results")[0]
    for name in ("writes", "moments", "record"):
        (record,) = records.load_records(tmp_path / name / "results")
        same_numbers(whole, record)
        leftovers = [p for p in (tmp_path / name / "results").iterdir() if p.suffix != ".json"]
        assert all(p.name.startswith(".") for p in leftovers)  # never taken for a record


# ---------------------------------------------------------------- errors and surroundings


@pytest.mark.parametrize("num_items", [1, 2, 3, 12, 20, 30])
@pytest.mark.parametrize("system", ["resid", "tiger", "r3vae", "rpg", "e1"])
def test_a_catalogue_that_is_too_small_is_refused_before_any_work(system, num_items, tmp_path):
    data = Interactions(
        np.repeat(np.arange(6), num_items), np.tile(np.arange(num_items), 6), 6, num_items,
        fields={"kind": np.arange(num_items) % 2}, field_values={"kind": ["a", "b"]},
        items=pd.DataFrame({"title": [f"word{i} other{i % 3}" for i in range(num_items)]}),
    )  # fmt: skip
    try:
        pipeline.Work(system, data, folder=tmp_path / "work", device="cpu")
        assert system in ("resid", "e1") and num_items >= 20
    except InputError as error:
        assert str(num_items) in str(error) and not (tmp_path / "work").exists()


def test_a_small_catalogue_runs(tmp_path):
    """Of 24 items: two codes at the first two levels; judged, too."""
    data = synthetic_catalogue(24, 40, branching=(2, 2, 1), num_communities=2, random_state=0)[0]
    overrides = {role: TINY[role] for role in ("encoder", "recommender")}
    record = pipeline.run("resid", data, overrides=overrides, folder=tmp_path, device="cpu")
    records.check_record(record)
    assert record["diagnostics"]["quantizer"]["level_sizes"][:2] == [2, 2]


def test_a_full_memory_is_an_error_in_words(tiny, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setitem(stages.RUN, "recommender", full)
    with pytest.raises(DeviceMemoryError, match="'recommender' of popularity.*can't allocate"):
        pipeline.run("popularity", tiny, folder=tmp_path)


def test_unordered_data_are_refused(tiny):
    from dataclasses import replace

    with pytest.raises(UnorderedError, match="no time order"):
        pipeline.run("popularity", replace(tiny, ordered=False, timestamp=None))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"system": "tigger"}, "unknown system 'tigger'"),
        ({"profile": "fast"}, "profile is 'fast'"),
        ({"variant": "x"}, "no variant 'x'"),
        ({"overrides": {"encoder": {}}}, "no stage 'encoder'"),
        ({"overrides": {"recommender": {"nonsense": 1}}}, "no setting 'nonsense'"),
        ({"device": "tpu9"}, "tpu9"),
        ({"precision": "int4"}, "int4"),
    ],
)
def test_bad_arguments_are_named_before_any_work(tiny, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        pipeline.run(**{"system": "sasrec", "dataset": tiny, "folder": tmp_path / "w", **arguments})
    assert not (tmp_path / "w").exists()


def test_unknown_dataset(tmp_path):
    with pytest.raises(DataError, match="no-such-set"):
        pipeline.run("popularity", "no-such-set")


def test_commit_is_read_from_git_or_the_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    monkeypatch.setenv("SEMID_COMMIT", "abc")
    assert provenance.commit() == "abc"
    monkeypatch.delenv("SEMID_COMMIT")
    assert provenance.commit() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "f").write_text("1")
    subprocess.run([*git, "add", "f"], check=True)
    subprocess.run([*git, "commit", "-qm", "m"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert provenance.commit() == head.strip()
    (tmp_path / "f").write_text("2")
    assert provenance.commit() == head.strip() + "-dirty"
