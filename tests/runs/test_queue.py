"""The queue: what is in it, and a runner that can be stopped, doubled and killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest

from semid_lib.data import list_datasets, synthetic_catalogue
from semid_lib.errors import InputError
from semid_lib.runs import Entry, queue, queue_list, records
from semid_lib.systems import FLOORS, SYSTEMS, TOKENIZERS, sweep_of

# ---------------------------------------------------------------- the list


def test_the_queue_holds_the_papers_systems_with_three_seeds_and_the_floors():
    names = {(e.system, e.dataset, e.seed) for e in queue.entries() if e.profile == "paper"}
    for dataset in ("beauty", "sports", "toys"):
        for system in ("resid", "sasrec", "sasrec*"):
            assert {(system, dataset, seed) for seed in range(3)} <= names
        assert {(floor, dataset, 0) for floor in FLOORS} <= names


def test_entries_are_unique_known_and_have_order():
    entries = queue.entries()
    assert len({e.name for e in entries}) == len(entries)
    ordered = {d.name for d in list_datasets() if "NONE" not in d.order}
    assert {e.dataset for e in entries} <= ordered
    assert {e.system for e in entries} <= set(SYSTEMS)
    assert all(e.seed == 0 for e in entries if not SYSTEMS[e.system].seeded)


def test_one_seed_of_everything_comes_before_the_second():
    for profile in ("paper", "quick"):
        seeds = [e.seed for e in queue.entries() if e.profile == profile]
        assert seeds == sorted(seeds)


def test_every_experiment_of_the_resid_chapters_is_there():
    """ReSID Table 5, Figs. 3 and 4, Table 8 on Beauty; Table 5 again on a CPU, with five seeds."""
    names = {e.name for e in queue.entries()}
    for data in ("beauty", "toys", "sports"):
        for system in ("tiger", "e1", "e2", "e3", "q1", "q2", "bert4rec", "bert4rec-star"):
            assert f"{system}--default--{data}--paper--s0" in names
    swept = [e.variant for e in queue.select("resid--*--beauty--paper--s0")]
    for sweep, count in (("checkpoint", 6), ("size", 5), ("branching", 6)):
        assert sum(sweep_of("resid", variant) == sweep for variant in swept) == count
    sizes = {"resid", "sasrec", "tiger"}
    assert {e.system for e in queue.select("*--size-*")} == sizes
    assert len(queue.select("sasrec--size-*")) == 5
    quick = [e for e in queue.entries() if e.profile == "quick"]
    assert len(quick) == 140 and {e.seed for e in quick} == set(range(5))
    assert {e.system for e in quick} == {n for n, s in SYSTEMS.items() if s.seeded}


def test_every_experiment_of_the_r3vae_chapters_is_there():
    """R3-VAE Tables 1, 2 and 6 to 9, Fig. 4 and the sweep; whole runs and codes alone."""
    for entries in (queue.entries(), queue.code_entries()):
        names = {e.name for e in entries}
        for system in TOKENIZERS:
            for data in ("beauty", "sports", "toys", "lastfm", "ml-1m", "clothing"):
                assert f"{system}--default--{data}--paper--s0" in names
            assert {f"{system}--default--beauty--paper--s{seed}" for seed in (1, 2)} <= names
            assert {f"{system}--default--ml-100k--quick--s{seed}" for seed in range(5)} <= names
        budgets = ("equal", "long")
        varied = {
            (e.system, e.variant)
            for e in entries if e.system in TOKENIZERS and e.variant not in budgets
        }  # fmt: skip
        assert varied == {
            (system, variant)
            for system in TOKENIZERS for variant in ("default", *SYSTEMS[system].variants)
            if variant not in budgets and (entries[0].codes or variant != "whole")
        }  # fmt: skip
    budget = {e.system for e in queue.select("*--equal--lastfm--paper--s0")}
    assert budget == {*TOKENIZERS, "random"}


def test_every_experiment_of_the_acerec_chapters_is_there():
    """Tables 1 to 4, Figs. 3, 4, 7, 8 and 10; row 1 and row 6 of Table 3 before the others."""
    entries = [e for e in queue.entries() if e.system in ("rpg", "acerec") and e.profile == "paper"]
    for system in ("rpg", "acerec"):
        default = {e.dataset for e in entries if e.system == system and e.variant == "default"}
        assert default == {"instruments", "office", "beauty", "toys", "sports"}
        for dataset in ("instruments", "office"):
            found = {e.variant for e in entries if (e.system, e.dataset) == (system, dataset)}
            every = {"default", *SYSTEMS[system].variants}
            codes = {v for v in every if v.startswith(("small", "als", "random"))}
            assert found == (every - codes if dataset == "office" else every)
    rows = ["atm0-intent0-isa0", "default", "atm1-intent0-isa0", "atm0-intent1-isa0",
            "atm0-intent1-isa1", "atm1-intent1-isa0"]  # fmt: skip
    small = ["small", *(f"small-{row}" for row in rows if row != "default")]
    again = {(e.variant, e.seed) for e in entries if e.seed and e.system == "acerec"}
    wanted = [*rows, *small, "small-als", "small-random"]
    assert again == {(row, seed) for row in wanted for seed in (1, 2)}
    assert len({e.name for e in queue.entries()}) == len(queue.entries())


def test_resids_comparison_at_one_budget_comes_first():
    """Nine systems and the floor on Beauty's items with all fields, before any run of Beauty."""
    seeded = [e for e in queue.entries() if SYSTEMS[e.system].seeded]
    wanted = "e2 resid tiger q1 q2 e1 rkmeans r3vae random e3".split()
    assert [(e.system, e.variant, e.dataset) for e in seeded[:10]] == [
        (system, "equal", "beauty-complete") for system in wanted
    ]
    names = {e.name for e in seeded}
    assert {f"{system}--equal--beauty--paper--s0" for system in wanted} <= names


def test_learnt_tokenizers_have_one_budget_in_runs_that_end_with_their_codes():
    for entry in queue.code_entries():
        learnt = (
            entry.system in ("vqvae", "rqvae", "mq", "r3vae", "tiger", "q1")
            and entry.profile == "paper"
        )
        steps = 500 if sweep_of(entry.system, entry.variant) == "temperature" else 2000
        smaller = learnt and entry.variant != "whole"
        budget = {"quantizer": {"steps": steps, "batch_size": 512}} if smaller else {}
        assert entry.overrides == budget, entry.name
    assert not any(entry.overrides for entry in queue.entries())


def test_every_variant_of_an_entry_exists():
    for entry in queue.entries():
        assert entry.variant in ("default", *SYSTEMS[entry.system].variants), entry.name


def test_code_entries_are_those_with_codes_of_their_own():
    codes = queue.code_entries()
    resid = {"resid", "e1", "e2", "e3", "q1", "q2", "tiger"}
    systems = {*resid, "rpg", "acerec", "random", *TOKENIZERS}
    assert {e.system for e in codes} == systems
    variants = {e.variant for e in codes if e.system == "resid"}
    assert "branching-16x24" in variants and "checkpoint-3" in variants
    assert not any(v.startswith("size-") for v in variants)  # the same codes as the default
    assert {e.record_path.parent.name for e in codes} == {"codes"}
    assert queue.select("e2--id", codes=True)[0].codes
    with pytest.raises(InputError, match="no queue entry matches"):
        queue.select("sasrec", codes=True)


def test_selection_by_part_and_by_pattern():
    assert {e.dataset for e in queue.select("--beauty--")} == {"beauty"}
    assert {e.system for e in queue.select("sasrec-star--*--s1")} == {"sasrec*"}
    with pytest.raises(InputError, match="no queue entry matches 'tigger'"):
        queue.select("tigger")


@pytest.mark.parametrize(
    "text, seconds", [("9m", 540), ("90s", 90), ("90", 90), ("2h", 7200), ("1h30m5s", 5405)]
)
def test_durations(text, seconds):
    assert queue.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "9 m", "-3m", "1.5h", "soon"])
def test_bad_durations(text):
    with pytest.raises(InputError, match="not a duration"):
        queue.parse_duration(text)


# ---------------------------------------------------------------- a small queue of its own

WORKER = """
import dataclasses, json, os, sys, time
from pathlib import Path
from unittest import mock
from semid_lib import cli, data, encoders
from semid_lib.runs import queue, records
from semid_lib.systems import SYSTEMS

place = Path(os.environ["PLACE"])
real = data.load_dataset
data.load_dataset = lambda name: real(place / "party")


def shrink(system, **quick):
    # other quick settings for the stages of a system
    presets = {
        role: dataclasses.replace(preset, quick=quick.get(role, {}))
        for role, preset in SYSTEMS[system].presets.items()
    }
    SYSTEMS[system] = dataclasses.replace(SYSTEMS[system], **presets)


small = {"dim": 8, "ffn_dim": 16, "num_heads": 2, "epochs": 6, "patience": None, "batch_size": 8}
shrink("sasrec", recommender=small)
tiny = {"dim": 8, "ffn_dim": 16, "num_heads": 2, "epochs": 2}
smaller = {"encoder": {**tiny, "max_length": 5},
           "quantizer": {"branching": (4, 3, "auto")},
           "recommender": {**tiny, "num_layers": 1, "head_dim": 4, "max_history": 4}}
for name in ("resid", "q2"):
    shrink(name, **smaller)
fit = encoders.FAMAE.fit


def fit_famae(self, *args, **kwargs):
    with open(place / "famae.trained", "a") as file:
        file.write("x")
    while (place / "slow").exists():
        time.sleep(0.05)
    return fit(self, *args, **kwargs)


encoders.FAMAE.fit = fit_famae
write_json = records.write_json


def write_record(path, value):
    full = OSError(28, "No space left on device") if (place / "full").exists() else None
    with mock.patch("os.fsync", side_effect=full):
        return write_json(path, value)


records.write_json = write_record
queue.entries = lambda: [queue.Entry(**e) for e in json.loads((place / "entries.json").read_text())]
run = queue.run


def noted(system, *args, **kwargs):
    name = f"{system}-s{kwargs['seed']}"
    if (place / "fail").exists() and (place / "fail").read_text() == name:
        raise ZeroDivisionError("planted")
    if (place / "stuck").exists():
        time.sleep(600)  # a queue that waited for it would be seen
    with open(place / f"{name}.ran", "a") as file:
        file.write("x")
    return run(system, *args, **kwargs)


queue.run = noted
if (place / "long").exists():
    small["epochs"] = 10**6
queue.WORKER = (sys.executable, __file__)
if __name__ == "__main__":
    if sys.argv[1] == "queue":
        cli.main()
    sys.exit(queue.main())
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data, entries, a worker script, and the environment that points there."""
    data = synthetic_catalogue(60, 40, branching=(2, 2, 1), num_communities=2, random_state=1)[0]
    (tmp_path / "party").mkdir()
    rows = {"user": data.user, "item": data.item, "position": range(len(data.user))}
    pd.DataFrame(rows).to_csv(tmp_path / "party" / "interactions.csv", index=False)
    (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("SEMID_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SEMID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(queue, "WORKER", (sys.executable, str(tmp_path / "worker.py")))
    return tmp_path


def fill(place, monkeypatch, *wanted):
    """Put entries into the queue, here and in the workers."""
    entries = [{"dataset": "party", "profile": "quick", **w} for w in wanted]
    (place / "entries.json").write_text(json.dumps(entries))
    monkeypatch.setattr(queue, "entries", lambda: [Entry(**e) for e in entries])
    monkeypatch.setattr(queue_list, "WHOLE_CODES", ())
    return queue.entries()


def sequence(*seeds):
    return [{"system": "sasrec", "seed": seed} for seed in seeds]


def test_run_leaves_a_record_for_each_entry_and_then_has_nothing_to_do(place, monkeypatch):
    entries = fill(place, monkeypatch, *sequence(0, 1), {"system": "markov"})
    said = []
    assert queue.run_queue(jobs=3, say=said.append, device="cpu")
    assert {r["seed"] for r in records.load_records(system="sasrec")} == {0, 1}
    assert [queue.state(e) for e in entries] == ["done"] * 3
    assert queue.minutes(entries[0])[1] == "measured"
    assert queue.run_queue(jobs=3, say=said.append) and said[-1].startswith("0 runs")
    assert [len((place / f"{n}.ran").read_text()) for n in ("sasrec-s0", "markov-s0")] == [1, 1]


def test_only_what_is_asked_for_is_run_and_its_time_is_the_estimate(place, monkeypatch):
    first, second = fill(place, monkeypatch, {"system": "markov"}, {"system": "markov", "seed": 1})
    assert queue.minutes(second)[1].startswith("guess")
    queue.run_queue(only="--s0", say=lambda _: None)
    assert [r["seed"] for r in records.load_records()] == [0]
    seconds = records.load_record(first.record_path)["cost"]["seconds"]
    assert queue.minutes(second) == (seconds / 60, "another seed")


def test_stops_inside_the_budget_and_goes_on_to_the_same_record(place, monkeypatch):
    (entry,) = fill(place, monkeypatch, {"system": "sasrec"})
    code = subprocess.run([*queue.WORKER, entry.name, "--until", repr(time.monotonic())])
    assert (code.returncode, queue.state(entry)) == (queue.PAUSED, "partial")
    assert queue.run_queue(budget=3600, say=lambda _: None)
    once = records.load_record(entry.record_path)
    entry.record_path.unlink()
    monkeypatch.setenv("SEMID_RUNS", str(place / "other"))
    queue.run_queue(say=lambda _: None)
    assert records.load_record(entry.record_path)["metrics"] == once["metrics"]


def test_a_worker_that_outlives_the_budget_is_stopped(place, monkeypatch):
    fill(place, monkeypatch, {"system": "markov"}, {"system": "popularity"})
    (place / "stuck").touch()
    said = []
    queue.run_queue(jobs=2, budget=3, say=said.append)  # comes back: the workers would not
    assert sum(line.startswith("stopped") for line in said) == 2
    (place / "stuck").unlink()
    assert queue.run_queue(jobs=2, say=said.append)  # the dead workers' locks are free
    assert len(records.load_records()) == 2


def wait_for(holds, seconds=120.0):
    """Look again and again until `holds()`, which is returned; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def is_running(pid):
    """Whether a process works on; a dead one that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_runner_that_is_told_to_end_leaves_no_worker(place, monkeypatch, number):
    """Its worker trains for hours; it writes its checkpoint and ends, whatever ends the runner."""
    (entry,) = fill(place, monkeypatch, {"system": "sasrec"})
    (place / "long").touch()
    runner = subprocess.Popen(
        [*queue.WORKER, "queue", "run"], stderr=subprocess.PIPE, text=True,
        # a job in the background is started with Ctrl-C ignored, and so are these tests then
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")
    checkpoints = place / "runs"
    wait_for(lambda: list(checkpoints.glob("*/recommender.checkpoint.safetensors")))
    (worker,) = children.read_text().split()
    runner.send_signal(number)
    said = runner.communicate(timeout=120)[1]
    wait_for(lambda: not is_running(worker))
    if number != signal.SIGKILL:
        assert runner.returncode == queue.PAUSED and "the same command goes on" in said
    assert "TrainingPaused" not in (place / "runs" / f"{entry.name}.log").read_text()
    assert queue.state(entry) == "partial"


def test_the_budget_is_of_a_clock_that_nobody_sets(place, monkeypatch):
    """The wall clock jumps back and forth; the budget does not."""
    fill(place, monkeypatch, {"system": "popularity"})
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -3600)).__next__)
    runner = queue._Runner(1, 100.0, "cpu", print)
    assert runner.soft - time.monotonic() == pytest.approx(95, abs=2)
    assert queue.run_queue(budget=300, say=lambda _: None)


def test_a_failure_is_reported_and_the_others_go_on(place, monkeypatch):
    fill(place, monkeypatch, {"system": "markov"}, {"system": "popularity"})
    (place / "fail").write_text("markov-s0")
    said = []
    assert not queue.run_queue(jobs=2, say=said.append)
    assert any("ZeroDivisionError: planted" in line for line in said)
    assert [r["system"] for r in records.load_records()] == ["popularity"]


def test_a_full_disk_loses_no_record_and_leaves_no_part_of_one(place, monkeypatch):
    (entry,) = fill(place, monkeypatch, {"system": "sasrec"})
    (place / "full").touch()
    said = []
    assert not queue.run_queue(say=said.append, device="cpu")
    assert any("No space left on device" in line for line in said)
    assert list(entry.record_path.parent.iterdir()) == [] and queue.state(entry) == "partial"
    (place / "full").unlink()
    assert queue.run_queue(say=lambda _: None, device="cpu")
    once = records.load_record(entry.record_path)
    entry.record_path.unlink()
    monkeypatch.setenv("SEMID_RUNS", str(place / "other"))
    assert queue.run_queue(say=lambda _: None, device="cpu")
    assert records.load_record(entry.record_path)["metrics"] == once["metrics"]


def test_two_runners_never_take_the_same_entry(place, monkeypatch):
    floors = ("markov", "popularity")
    fill(place, monkeypatch, *({"system": floor} for floor in floors))
    runners = [
        subprocess.Popen(
            [*queue.WORKER, "queue", "run", "--jobs", "2", "--device", "cpu"],
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [r.wait() for r in runners] == [0, 0]
    for r in runners:
        r.stdout.close()
    assert len(records.load_records()) == 2
    assert [(place / f"{floor}-s0.ran").read_text() for floor in floors] == ["x"] * 2


def test_lock_of_a_killed_worker_is_free(place, monkeypatch):
    (entry,) = fill(place, monkeypatch, {"system": "markov"})
    (place / "stuck").touch()
    worker = subprocess.Popen([*queue.WORKER, entry.name])
    try:
        while queue.state(entry) != "running":
            assert worker.poll() is None
            time.sleep(0.05)
        busy = subprocess.run([*queue.WORKER, entry.name], check=False)
        assert busy.returncode == queue.BUSY
    finally:
        worker.kill()
        worker.wait()
    assert queue.state(entry) == "waiting"
    (place / "stuck").unlink()
    assert queue.run_queue(say=lambda _: None) and queue.state(entry) == "done"


def test_a_corrupt_record_is_made_again(place, monkeypatch):
    (entry,) = fill(place, monkeypatch, {"system": "popularity"})
    entry.record_path.parent.mkdir(parents=True)
    entry.record_path.write_text('{"system": "popul')
    assert queue.state(entry) == "corrupt"
    assert queue.run_queue(say=lambda _: None)
    assert records.load_record(entry.record_path)["system"] == "popularity"


def test_a_record_of_a_smaller_run_is_replaced_last(place, monkeypatch):
    floors = [{"system": name, "profile": "paper"} for name in ("popularity", "markov")]
    small, other = fill(place, monkeypatch, *floors)
    assert queue.run_queue(say=lambda _: None, only="popularity", device="cpu")
    record = records.load_record(small.record_path)
    record.pop("cuts")  # as records of before
    record["cut"] = ["settings: recommender epochs 2 (paper 150)"]
    records.write_record(record, force=True)
    assert queue.state(small) == "cut"
    said = []
    assert queue.run_queue(say=said.append, device="cpu")
    started = [line.split()[1] for line in said if line.startswith("start")]
    assert started == [other.name, small.name]
    assert records.load_record(small.record_path)["cut"] == [] and queue.state(small) == "done"


def test_codes_alone_and_then_the_whole_run(place, monkeypatch):
    (entry,) = fill(place, monkeypatch, {"system": "resid"})
    (codes,) = queue.code_entries()
    assert queue.run_queue(say=lambda _: None, codes=True, device="cpu")
    assert (queue.state(codes), queue.state(entry)) == ("done", "partial")
    assert records.load_records() == [] and list(records.code_records()["kind"]) == ["codes"]
    assert queue.run_queue(say=lambda _: None, device="cpu")
    assert list(records.code_records()["kind"]) == ["run"]
    codes.record_path.unlink()
    assert queue.state(codes) == "done"  # a whole run counts too
    assert (place / "famae.trained").read_text() == "x"


def test_two_runs_of_one_encoder_train_it_once_and_hold_nobody_up(place, monkeypatch):
    """The second waits without a process of its own; a third, after it, goes on meanwhile."""
    entries = fill(
        place, monkeypatch, {"system": "resid"}, {"system": "q2"}, {"system": "popularity"}
    )
    (place / "slow").touch()
    said = []

    def say(line):
        said.append(line)
        if line.startswith("done    popularity"):
            (place / "slow").unlink()

    assert queue.run_queue(jobs=2, say=say, device="cpu", budget=3600)
    assert [queue.state(e) for e in entries] == ["done"] * 3
    assert (place / "famae.trained").read_text() == "x"
    later = [line.split()[1] for line in said if line.startswith("later")]
    assert len(later) == 1 and later[0].split("--")[0] in ("resid", "q2")
    found = {r["system"]: r for r in records.load_records()}
    costs = [found[s]["cost"]["stages"]["encoder"] for s in ("resid", "q2")]
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    "arguments, message", [({"jobs": 0}, "jobs is 0"), ({"budget": 0}, "budget")]
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        queue.run_queue(**arguments)


def test_a_worker_names_errors_without_a_traceback(capsys):
    assert queue.main(["no-such-entry"]) == 2
    assert "no queue entry is named 'no-such-entry'" in capsys.readouterr().err


def test_a_row_stands_for_what_it_names_the_last_varying_fastest(monkeypatch):
    """A hand-worked case: seeds, datasets, systems, variants; a sweep's points come last."""
    row = queue_list.Row(
        "kmeans rkmeans", "office toys", variants="default cent*", seeds=(3, 1), minutes=7
    )
    monkeypatch.setattr(queue_list, "RUNS", (row, queue_list.Row("rpg", "office", sweeps="digits")))
    found = [(e.seed, e.dataset, e.system, e.variant, e.minutes) for e in queue.entries()]
    first = [("kmeans", "default"), ("rkmeans", "default"), ("rkmeans", "centred")]
    assert found[:12] == [
        (seed, dataset, *run, 7) for seed in (3, 1) for dataset in ("office", "toys")
        for run in first
    ]  # fmt: skip
    assert found[12:] == [(0, "office", "rpg", f"digits-{m}", 20 * 0.25) for m in (8, 16, 32, 64)]


def test_the_path_that_trains_needs_few_packages(place, monkeypatch):
    """Where torch, NumPy, SciPy, scikit-learn and pandas are, but no typer, faiss and so on."""
    (entry,) = fill(place, monkeypatch, {"system": "sasrec"})
    missing = (
        "typer",
        "faiss",
        "platformdirs",
        "matplotlib",
        "transformers",
        "umap",
        "IPython",
        "numba",
    )
    code = f"""
        import runpy, sys
        for name in {missing!r}:
            sys.modules[name] = None
        sys.argv = ["worker.py", {entry.name!r}]
        runpy.run_path({str(place / "worker.py")!r}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert queue.state(entry) == "done"
