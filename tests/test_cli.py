"""The `semid` command: what it prints, where, and with which exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import semid_lib
from semid_lib import cli
from semid_lib.data import synthetic_catalogue
from semid_lib.errors import InputError
from semid_lib.runs import pipeline, records

from .reports.test_results import make_record


@pytest.fixture
def folder(tmp_path):
    """A reader's own folder named party."""
    data = synthetic_catalogue(60, 40, branching=(2, 2, 1), num_communities=2, random_state=1)[0]
    place = tmp_path / "party"
    place.mkdir()
    rows = {"user": data.user, "item": data.item, "position": range(len(data.user))}
    pd.DataFrame(rows).to_csv(place / "interactions.csv", index=False)
    stores = pd.Series(data.fields["store"]).map(lambda s: f"store {s}")
    pd.DataFrame({"item": range(60), "store": stores}).to_csv(place / "items.csv", index=False)
    return place


@pytest.fixture
def semid(monkeypatch, tmp_path, capsys):
    """Run the command in this process: arguments -> (exit code, stdout, stderr)."""
    monkeypatch.setenv("SEMID_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SEMID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["semid", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


SMALL = [
    f"--set=recommender.{setting}"
    for setting in ("dim=8", "ffn_dim=16", "num_heads=2", "epochs=2", "max_history=4")
]


# ---------------------------------------------------------------- data


def test_help_names_the_commands(semid):
    code, out, _ = semid("--help")
    assert code == 0 and all(name in out for name in ("data", "run", "queue", "table"))


def test_data_list(semid):
    code, out, _ = semid("data", "list")
    assert code == 0 and "22,363" in out and "ml-100k" in out and "NONE" in out


def test_data_describe_own_folder(semid, folder):
    code, out, _ = semid("data", "describe", folder)
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert code == 0 and lines["users"] == ["40"] and lines["items"] == ["60"]
    assert "field store" in out and "0.0% missing" in out


def test_data_fetch_finds_local_data(semid, monkeypatch, folder):
    monkeypatch.setattr("semid_lib.data.fetch", lambda name: folder)
    assert semid("data", "fetch", "beauty")[1].strip() == f"beauty: {folder}"


# ---------------------------------------------------------------- run


def test_run_prints_metrics_and_keeps_quick_records_out_of_the_results(semid, folder, tmp_path):
    code, out, err = semid("run", "sasrec", folder, "--seed", 3, *SMALL)
    assert code == 0 and err == ""  # no bar where there is no terminal
    assert "sasrec on party, quick profile, seed 3" in out and "ndcg@10" in out
    assert "recommender dim 8 (paper 128)" in out
    assert not (tmp_path / "results").exists()
    (record,) = (tmp_path / "runs").glob("*/record.json")
    value = json.loads(record.read_text())["metrics"]["test"]["ndcg@10"]
    assert f"{value:.4f}" in out


def test_record_is_kept_on_request_and_not_replaced_silently(semid, folder, tmp_path):
    name = "markov--default--party--quick--s0"
    assert semid("run", "markov", folder, "--record")[0] == 0
    path = tmp_path / "results" / f"{name}.json"
    record = records.load_record(path)
    code, _, err = semid("run", "markov", folder, "--record")
    assert code == 2 and "recorded already" in err
    assert semid("run", "markov", folder)[0] == 0
    path.write_text(json.dumps({**record, "commit": "old"}))
    assert semid("run", "markov", folder, "--record", "--force")[0] == 0
    assert records.load_record(path)["commit"] == record["commit"]


def test_paper_profile_keeps_its_record(semid, folder, tmp_path):
    assert semid("run", "popularity", folder, "--profile", "paper")[0] == 0
    assert (tmp_path / "results" / "popularity--default--party--paper--s0.json").exists()


def test_dry_run_counts_measures_and_trains_nothing_to_the_end(semid, folder, tmp_path):
    code, out, _ = semid("run", "sasrec", folder, "--dry-run", "--profile", "paper")
    assert code == 0 and not (tmp_path / "runs").exists()
    row = next(line.split() for line in out.splitlines() if line.strip().startswith("recommender "))
    from semid_lib.data import leave_one_out, load_dataset
    from semid_lib.recommenders import SASRec

    model = SASRec(epochs=0, device="cpu").fit(leave_one_out(load_dataset(folder)))
    assert row[1] == f"{model.network_.num_parameters():,}"
    assert row[2] == "500"  # 40 users are one batch, so 500 epochs are 500 steps
    assert "validation and test" in out and re.search(r"\d [MG]B", out)


def test_dry_run_of_a_sequential_encoder(semid, folder, tmp_path):
    small = [text.replace("recommender.", "encoder.") for text in SMALL]
    small += ['--set=quantizer.branching=[4, 4, "auto"]', "--set=recommender.num_layers=1"]
    code, out, _ = semid("run", "e2", folder, "--dry-run", *small)
    assert code == 0 and not (tmp_path / "runs").exists()
    stages = [line.split()[0] for line in out.splitlines()[3:]]
    assert {"encoder", "encoder,", "quantizer", "recommender", "all"} <= set(stages)


def test_budget_pauses_and_the_same_command_goes_on(semid, folder):
    arguments = ("run", "sasrec", folder, "--set=recommender.epochs=400", *SMALL[:3])
    arguments += ("--set=recommender.patience=null",)
    code, out, err = semid(*arguments, "--budget", "1s")
    assert code == cli.PAUSED and "paused" in err and "goes on" in err and out == ""
    code, out, err = semid(*arguments)
    assert code == 0 and "ndcg@10" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("run", "tigger", "FOLDER"), "InputError: unknown system 'tigger'"),
        (("run", "sasrec", "nowhere"), "DataError: no dataset"),
        (("run", "sasrec", "FOLDER", "--profile", "fast"), "InputError: profile is 'fast'"),
        (("run", "sasrec", "FOLDER", "--device", "tpu"), "InputError: device 'tpu'"),
        (("run", "sasrec", "FOLDER", "--set", "epochs=3"), "InputError: 'epochs=3' is not of"),
        (("run", "sasrec", "FOLDER", "--budget", "soon"), "InputError: 'soon' is not a duration"),
        (("run", "sasrec", "FOLDER", "--set=recommender.dim=7"), "InputError"),
        (("table", "resid.99"), "InputError: no printed table resid.99"),
        (("table", "four"), "InputError: 'four' is not of the form"),
        (("queue", "list", "--only", "tigger"), "InputError: no queue entry"),
        (("queue", "run", "--jobs", "0"), "InputError: jobs is 0"),
        (("data", "describe", "nowhere"), "DataError: no dataset"),
        (("run", "residd", "FOLDER"), "unknown system 'residd' (did you mean 'resid'?)"),
        (("data", "describe", "beuaty"), "did you mean 'beauty'?"),
        (("run", "rpg", "FOLDER", "--variant", "defualt"), "did you mean 'default'?"),
        (("run", "sasrec", "FOLDER", "--set=recommender.epoch=1"), "did you mean 'epochs'?"),
        (("run", "sasrec", "FOLDER", "--set=recomender.epochs=1"), "did you mean 'recommender'?"),
        (("run", "popularity", "FOLDER", "--set=recommender.epochs=1"), "it has none"),
        (("table", "resid.4", "--part", "tst"), "InputError: part is 'tst'"),
        (("table", "resid.4", "--metric", "recal@10"), "did you mean 'recall@10'?"),
        (("run", "sasrec", "FOLDER", "--device", "mps"), "InputError: device 'mps'"),
        (("run", "sasrec", "FOLDER", "--device", "meta"), "InputError: device 'meta'"),
        (("run", "sasrec", "FOLDER", "--seed", "99999999999999999999"), "InputError: seed is 9"),
        (("run", "rpg", "FOLDER", "--set=quantizer.num_codes=1000000"), "Error: "),
        (("run", "tiger", "FOLDER", "--set=quantizer.batch_size=0"), "batch_size is 0"),
        (("run", "tiger", "FOLDER", "--set=quantizer.steps=1.5"), "steps is 1.5"),
        *[
            (("run", "sasrec", "FOLDER", f"--set=recommender.{name}={value}"), f"{name} is ")
            for name, values in {
                "epochs": ("NaN", "null", "1.5", "true", "-1", "{}"),
                "learning_rate": ("-1", "abc", "Infinity"),
                "dropout": ("2", "-1"),
                "num_layers": ("0",),
                "dim": ("0",),
                "max_history": ("1e9", "1000000000"),
                "random_state": ("-5", "null"),
                "field_names": ("brand", "[1]"),
            }.items()
            for value in values
        ],
    ],
)
def test_errors_are_one_line_and_exit_code_2(semid, folder, arguments, message):
    code, _, err = semid(*(folder if a == "FOLDER" else a for a in arguments))
    assert code == 2 and message in err
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("variable", ["SEMID_RUNS", "SEMID_RESULTS"])
def test_a_folder_that_is_a_file_is_named_with_its_variable(
    semid, folder, tmp_path, monkeypatch, variable
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    code, _, err = semid("run", "popularity", folder, "--record")
    assert code == 2 and f"${variable} puts it there" in err
    assert len(err.strip().splitlines()) == 1


def test_version_and_short_help(semid):
    code, out, _ = semid("--version")
    assert code == 0 and out.strip() == f"semid {semid_lib.__version__}"
    for arguments in (("-h",), ("run", "-h"), ("queue", "run", "-h")):
        code, out, _ = semid(*arguments)
        assert code == 0 and "Usage:" in out and "-h" in out
    assert "--install-completion" in semid("-h")[1]


def test_terminal_escapes_are_not_printed():
    assert cli.readable("a\x1b[31mb\x07\u202ec\n\td") == "a\ufffd[31mb\ufffd\ufffdc\n\td"


def test_a_stopped_run_says_what_to_type(semid, folder, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", stopped)
    code, _, err = semid("run", "popularity", folder, "--set=recommender.x=1 2")
    assert code == cli.PAUSED and len(err.strip().splitlines()) == 1
    assert f"semid run popularity {folder} '--set=recommender.x=1 2'" in err


def test_records_of_an_installed_library_go_into_a_folder_of_the_user(
    semid, folder, tmp_path, monkeypatch
):
    """Without a checkout around it, and with its package's folder read-only."""
    monkeypatch.delenv("SEMID_RESULTS")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "CHECKOUT", tmp_path / "site-packages")
    assert records.records_folder() == records.PACKAGE / "_records"  # the shipped ones
    code, out, _ = semid("run", "popularity", folder, "--record")
    assert code == 0 and "record: .semid/results/" in out
    assert records.records_folder() == Path(".semid") / "results"
    assert len(records.load_records()) == 1
    code, _, err = semid("run", "popularity", folder, "--record")
    assert code == 2 and "recorded already" in err


def test_a_folder_that_cannot_be_written_is_named_before_the_run(
    semid, folder, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEMID_RESULTS", str(tmp_path / "file"))
    monkeypatch.setattr(pipeline, "run", None)
    code, _, err = semid("run", "popularity", folder, "--record")
    assert code == 2 and "cannot be written" in err


def test_usage_errors_exit_with_2_too(semid):
    code, _, err = semid("run")
    assert code == 2 and "Missing argument" in err


def test_settings_are_json_or_text():
    texts = ["encoder.epochs=2", "encoder.loss=full", 'quantizer.branching=[4, 4, "auto"]']
    assert cli.parse_settings(texts) == {
        "encoder": {"epochs": 2, "loss": "full"}, "quantizer": {"branching": [4, 4, "auto"]},
    }  # fmt: skip
    with pytest.raises(InputError):
        cli.parse_settings(["x"])


# ---------------------------------------------------------------- queue and tables


def test_queue_list_shows_states(semid, tmp_path):
    records.write_record(make_record("sasrec", "toys", seed=1), tmp_path / "results")
    code, out, _ = semid("queue", "list", "--only", "sasrec--default--toys")
    assert code == 0 and "1 of 3 runs are recorded" in out
    states = {line.split()[0][-2:]: line.split()[1] for line in out.splitlines()[2:5]}
    assert states == {"s0": "waiting", "s1": "done", "s2": "waiting"}
    assert "another seed" in out and "left: about" in out


def test_queue_list_of_codes(semid, tmp_path):
    code, out, _ = semid("queue", "list", "--codes", "--only", "--beauty--")
    assert code == 0 and "0 of " in out and "guess for one GPU" in out
    assert "q2--default--beauty--paper--s0" in out and "resid--branching-16x80--beauty" in out
    assert "sasrec" not in out and "size-" not in out
    code, _, err = semid("queue", "run", "--codes", "--only", "sasrec")
    assert code == 2 and "no queue entry" in err


def test_table_leaves_out_the_runs_of_a_curve(semid, tmp_path):
    for variant in ("default", "size-1"):
        record = {**make_record("sasrec", "beauty"), "variant": variant}
        records.write_record(record, tmp_path / "results")
    out = semid("table", "acerec.1")[1]
    assert "size-1" not in out and "0.0500" in out


def test_table_puts_records_beside_the_printed_numbers(semid, tmp_path):
    for seed, value in enumerate((0.05, 0.07)):
        records.write_record(make_record("sasrec", "beauty", seed, value), tmp_path / "results")
    records.write_record(make_record("markov", "beauty", value=0.04), tmp_path / "results")
    records.write_record(make_record("markov", "lastfm", value=0.04), tmp_path / "results")
    code, out, _ = semid("table", "acerec.1", "--metric", "recall@10")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.split()[:2] == ["SASRec", "beauty"]]
    assert "0.0605" in row and "0.0600 ± 0.0141" in row
    assert any("Markov chain" in line and "none" in line for line in out.splitlines())
    assert "lastfm" not in out  # not a dataset of this table


def test_table_without_metrics_is_printed_as_it_is(semid):
    code, out, _ = semid("table", "resid.7")
    assert code == 0 and "as printed" in out and "485" not in out and "256" in out


# ---------------------------------------------------------------- the installed command


def test_installed_command_and_its_bar_on_a_terminal(folder, tmp_path):
    """In a pseudo-terminal the bar shows loss, speed and time left; errors have no traceback."""
    pty = pytest.importorskip("pty", reason="a pseudo-terminal needs POSIX")
    termios = pytest.importorskip("termios", reason="a pseudo-terminal needs POSIX")
    env = {**os.environ, "SEMID_RUNS": str(tmp_path / "runs"), "TERM": "xterm", "COLUMNS": "120"}
    main, side = pty.openpty()
    termios.tcsetwinsize(main, (24, 120))
    command = [sys.executable, "-m", "semid_lib.cli", "run", "sasrec", str(folder), *SMALL]
    command += ["--set=recommender.epochs=600", "--set=recommender.patience=null"]
    with subprocess.Popen(command, stdout=side, stderr=side, env=env) as process:
        os.close(side)
        shown = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
    os.close(main)
    text = shown.decode(errors="replace")
    assert process.returncode == 0, text
    assert "SASRec:" in text and "step/s" in text and "<00:" in text and "loss=" in text
    assert "ndcg@10" in text
