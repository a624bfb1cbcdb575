"""The harness: pairs alternate, a failed gate stores nothing, a partial run keeps other rows."""

import json

import numpy as np
import pytest

import harness
from harness import GateError, Job, measure, require
from inputs import clustered_embeddings


class Pedantic:
    """What the harness uses of pytest-benchmark's fixture."""

    def pedantic(self, target, setup, rounds, iterations):
        for _ in range(rounds * iterations):
            arguments, keywords = setup()
            target(*arguments, **keywords)


def job(calls, gate, name="sum", within=None):
    def ours(x):
        calls.append(("ours", x))
        return sum(range(100))

    def theirs(x):
        calls.append(("peer", x))
        return sum(range(200_000))

    return Job(name, "a range", "numpy", 2, lambda r: (r,), ours, theirs, gate, within=within)


@pytest.fixture(autouse=True)
def sandbox(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "HERE", tmp_path)
    monkeypatch.setattr(harness, "commit", lambda: "abc")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_pairs_alternate_and_the_row_is_stored(sandbox, capsys):
    calls = []
    row = measure(job(calls, lambda rounds: f"{len(rounds)} pairs"), Pedantic())
    assert calls[2:] == [(side, r) for r in range(5) for side in ("peer", "ours")]
    assert row["met"] == "yes" and row["quality"] == "5 pairs" and row["threads"] == 1
    assert len(row["raw"]["ours"]) == len(row["raw"]["peer"]) == 5
    assert "ratio: " in capsys.readouterr().out
    assert measure(job([], lambda rounds: "", within=0.0), Pedantic())["met"] == "no"


def test_a_failed_gate_prints_no_ratio_and_keeps_the_old_row(sandbox, capsys):
    measure(job([], lambda rounds: "good"), Pedantic())
    capsys.readouterr()
    with pytest.raises(GateError, match="worse"):
        measure(job([], lambda rounds: require(False, "worse")), Pedantic())
    assert "ratio" not in capsys.readouterr().out
    assert [row["quality"] for row in json.loads((sandbox / "results.json").read_text())] == [
        "good"
    ]


def test_a_partial_run_renews_only_its_rows(sandbox, monkeypatch):
    for name, quality in [("b", "old"), ("a", "kept"), ("b", "new")]:
        measure(job([], lambda rounds, quality=quality: quality, name), Pedantic())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    measure(job([], lambda rounds: "two", "a"), Pedantic())
    rows = json.loads((sandbox / "results.json").read_text())
    assert [(r["job"], r["threads"], r["quality"]) for r in rows] == [
        ("a", 1, "kept"), ("a", 2, "two"), ("b", 1, "new"),
    ]  # fmt: skip
    page = (sandbox / "RESULTS.md").read_text()
    assert page == harness.render(rows) and page.count("| a |") == 2 and "old" not in page


def test_the_committed_page_is_the_committed_numbers(root):
    folder = root / "tests" / "benchmarks"
    rows = json.loads((folder / "results.json").read_text())
    assert (folder / "RESULTS.md").read_text() == harness.render(rows)


def test_clustered_embeddings_follow_the_recipe():
    X = clustered_embeddings(3000, 96)
    assert X.shape == (3000, 96) and X.dtype == "float32"
    spectrum = (X - X.mean(0)).T @ (X - X.mean(0)) / 3000
    values = sorted(abs(np.linalg.eigvalsh(spectrum)), reverse=True)
    assert values[47] > 10 * values[48] and values[48] == pytest.approx(0.05**2, rel=0.5)
    assert (clustered_embeddings(50, 20) == clustered_embeddings(50, 20)).all()
