"""Two processes started by torchrun against one process whose batch is twice as large."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from semid_lib.data import synthetic_catalogue
from semid_lib.runs import records

ALL = [
    "recommender.dropout=0", "recommender.epochs=3", "recommender.dim=8", "recommender.ffn_dim=16",
    "recommender.num_heads=2", "recommender.max_history=5", "recommender.samples_per_epoch=200",
]  # fmt: skip
RUNS = {
    "sasrec": ALL,
    "rkmeans": [*ALL, "recommender.head_dim=4", "recommender.num_beams=20", "encoder.dim=6",
                "encoder.pca=null", "quantizer.n_clusters=4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """61 users, so that shares of users and of the last batch are unequal."""
    data = synthetic_catalogue(61, 50, branching=(3, 2, 1), num_communities=3, random_state=1)[0]
    place = tmp_path_factory.mktemp("own") / "party"
    place.mkdir()
    rows = pd.DataFrame({"user": data.user, "item": data.item, "timestamp": data.timestamp})
    rows.to_csv(place / "interactions.csv", index=False)
    columns = {k: np.array(data.field_values[k], dtype=object)[v] for k, v in data.fields.items()}
    titles = [f"item {i}" for i in range(data.num_items)]
    items = pd.DataFrame({"item": range(data.num_items), "title": titles, **columns})
    items.to_csv(place / "items.csv", index=False)
    return place


def start(command, system, folder, home, batch_size, *more):
    """What the command printed, and the record that it left."""
    changed = [*RUNS[system], f"recommender.batch_size={batch_size}"]
    done = subprocess.run(
        [*command, "-m", "semid_lib.cli", "run", system, str(folder), "--record", "--device", "cpu",
         *(part for setting in changed for part in ("--set", setting)), *more],
        env={**os.environ, "SEMID_RESULTS": str(home / "results"), "SEMID_RUNS": str(home / "runs"),
             "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    written = list((home / "results").glob("*.json"))
    return done, records.load_record(written[0]) if written else None


TOGETHER = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
)  # fmt: skip


@pytest.mark.parametrize("system", RUNS)
def test_two_processes_take_the_steps_of_one_with_the_double_batch(system, folder, tmp_path):
    alone, one = start([sys.executable], system, folder, tmp_path / "one", 32)
    assert alone.returncode == 0, alone.stderr
    shared, two = start(TOGETHER, system, folder, tmp_path / "two", 16)
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("recall@10") == 1  # one of them speaks
    curves = [record["curve"]["recommender"] for record in (one, two)]
    assert len(curves[0]) == len(curves[1]) == 3
    for mine, theirs in zip(*curves):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-10)
        assert mine["ndcg@10"] == pytest.approx(theirs["ndcg@10"], rel=1e-12)
    assert one["diagnostics"]["users"] == two["diagnostics"]["users"]
    for part, values in one["metrics"].items():
        assert two["metrics"][part] == pytest.approx(values, rel=1e-12)
    assert two["config"]["processes"] == 2 and "processes" not in one["config"]


def test_processes_pause_together_and_go_on(folder, tmp_path):
    _, whole = start(TOGETHER, "sasrec", folder, tmp_path / "whole", 16)
    paused, record = start(TOGETHER, "sasrec", folder, tmp_path / "parts", 16, "--budget", "0s")
    assert paused.returncode != 0 and record is None
    assert "paused before recommender; the same command goes on" in paused.stderr
    ended, record = start(TOGETHER, "sasrec", folder, tmp_path / "parts", 16)
    assert ended.returncode == 0, ended.stderr
    assert json.dumps(record["metrics"]) == json.dumps(whole["metrics"])
