"""The `semid` command: data, runs, the queue and the papers' tables."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from semid_lib import __version__
from semid_lib.compute.distributed import rank
from semid_lib.errors import InputError, RecordError, SemidError

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP,
    help="Semantic IDs for generative recommendation: data, runs, the queue, the papers' tables.",
)  # fmt: skip
data_app = typer.Typer(no_args_is_help=True, help="Named datasets and your own folders.")
queue_app = typer.Typer(no_args_is_help=True, help="The runs that the book's tables wait for.")
app.add_typer(data_app, name="data")
app.add_typer(queue_app, name="queue")
PAUSED = 3

Many = list[str] | None
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto")]
Budget = Annotated[str | None, typer.Option(help="stop within, such as 9m; the same goes on")]
Only = Annotated[str | None, typer.Option(help="part of a name, or a pattern with *")]
Codes = Annotated[bool, typer.Option("--codes", help="runs that end with codes, no recommender")]


def say_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"semid {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="and end")
    ] = False,
):
    """Semantic IDs for generative recommendation: data, runs, the queue, the papers' tables."""


def readable(text: object) -> str:
    """Text without control characters: what a file holds must not steer the terminal."""
    kept = (c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
            for c in str(text))  # fmt: skip
    return "".join(kept)


@data_app.command("list")
def data_list():
    """List the named datasets."""
    import pandas as pd

    from semid_lib.data import list_datasets
    from semid_lib.reports import table

    columns = ("name", "users", "items", "interactions", "fields", "order")
    rows = [{c: getattr(info, c) for c in columns} for info in list_datasets()]
    print(table(pd.DataFrame(rows).assign(fields=[", ".join(r["fields"]) for r in rows])))


@data_app.command("fetch")
def data_fetch(names: Annotated[list[str], typer.Argument(help="datasets to fetch")]):
    """Find datasets on this machine or download them into the cache, checked."""
    from semid_lib.data import fetch

    for name in names:
        print(f"{name}: {fetch(name)}")


@data_app.command("describe")
def data_describe(dataset: Annotated[str, typer.Argument(help="name or folder")]):
    """Count users, items, fields, and what the leave-one-out split makes of them."""
    from semid_lib.data import describe, load_dataset
    from semid_lib.reports import format_number

    for key, value in describe(load_dataset(dataset)).items():
        if key == "fields":
            for name, about in value.items():
                share = f"{about['missing_share']:.1%} missing"
                print(f"{'field ' + name:20s} {about['values']:,} values, {share}")
        else:
            kind = {int: "count", float: "real"}.get(type(value), "text")
            print(f"{key:20s} {format_number(value, kind)}")


@data_app.command("import")
def data_import(
    reviews: Annotated[Path, typer.Argument(help="Amazon's JSON lines of 2014 or 2023")],
    folder: Annotated[Path, typer.Argument(help="where the data go; its name is theirs")],
    metadata: Annotated[Path | None, typer.Option(help="the file of the items")] = None,
    k: Annotated[int, typer.Option(help="least reviews of a user or item")] = 5,
    complete: Annotated[bool, typer.Option(help="drop items that lack a field")] = False,
):
    """Filter Amazon's raw files of any size into a folder in the form of your own data."""
    from semid_lib.data import drop_incomplete_items, read_amazon
    from semid_lib.data.folders import vacant, write_folder

    vacant(folder)  # said before minutes of work, not after
    data = read_amazon(reviews, metadata, k=k, name=folder.name)
    data = drop_incomplete_items(data) if complete else data
    print(f"{write_folder(data, folder)}: {data}")


@app.command("run")
def run_command(
    system: Annotated[str, typer.Argument(help="resid, sasrec, sasrec*, popularity, ...")],
    dataset: Annotated[str, typer.Argument(help="name or folder")],
    profile: Annotated[str, typer.Option(help="quick or paper")] = "quick",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto")] = "auto",
    variant: Annotated[str, typer.Option(help="a variant of the system")] = "default",
    set_: Annotated[Many, typer.Option("--set", help="such as recommender.epochs=20")] = None,
    budget: Budget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print what it costs")] = False,
    record: Annotated[bool | None, typer.Option(help="keep it; default: if paper")] = None,
    force: Annotated[bool, typer.Option(help="replace another record of this name")] = False,
):
    """Run a system on a dataset; stopped at any moment, the same command goes on."""
    from semid_lib.compute.signals import pausing
    from semid_lib.data.sources import called
    from semid_lib.runs import parse_duration, pipeline, records

    seconds = math.inf if budget is None else parse_duration(budget)
    settings = {
        "profile": profile, "variant": variant, "seed": seed, "device": device,
        "precision": precision, "overrides": parse_settings(set_ or []),
    }  # fmt: skip
    if dry_run:
        from semid_lib.reports import table
        from semid_lib.runs import estimate

        trial = estimate(system, dataset, **settings)
        print(table(trial.frame, trial.caption, trial.kinds))
        return
    keep = profile == "paper" if record is None else record
    if keep:  # said before hours of work, not after
        folder = records.records_folder(to_write=True)
        records.check_writable(folder)
        name = records.run_name(system, variant, called(dataset), profile, seed)
        if not force and (folder / f"{name}.json").exists():
            raise RecordError(
                f"{name} is recorded already: --force replaces it, --no-record leaves it"
            )
    with told_how_to_go_on(), pausing(seconds) as deadline:
        done = pipeline.run(system, dataset, deadline=deadline, **settings)
    if rank() > 0:
        return
    print(readable(summary(done)))
    if keep:
        print(f"record: {records.write_record(done, force=force)}")


def summary(record) -> str:
    """Show a record's test metrics, both rules, with intervals, and what it cost."""
    import pandas as pd

    from semid_lib.reports import format_number, table
    from semid_lib.runs import METRICS

    parts = ("validation", "test", "test_unseen")
    frame = pd.DataFrame({p: record["metrics"][p] for p in parts}, index=METRICS)
    low_high = [record["intervals"]["test"][metric] for metric in METRICS]
    frame["test, 95 %"] = [" to ".join(map(format_number, pair)) for pair in low_high]
    words = "{system} on {dataset}, {profile} profile, seed {seed}".format_map(record)
    lines = [str(table(frame, words, dict.fromkeys(parts, "metric")))]
    cost = record["cost"]
    lines.append(
        f"{format_number(cost['seconds'], 'seconds')}, {cost['parameters']:,} parameters, "
        f"{format_number(cost['peak_memory'], 'bytes')} of memory, on {record['device']}"
    )
    for name, stage in cost["stages"].items():
        if stage.get("utilisation"):
            words = "{}: {samples_per_second:.0f} samples/s, {utilisation:.0%} of the matrix rate"
            lines.append(f"{words}, {{outside_seconds:.0f}} s outside steps".format(name, **stage))
    return "\n".join([*lines, *(f"cut: {text}" for text in record["cut"])])


def parse_settings(texts: list[str]) -> dict:
    """Read `encoder.epochs=20` into {"encoder": {"epochs": 20}}; values are JSON, else text.

    Raises InputError for another form.
    """
    settings: dict = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.+)", text)
        if not match:
            raise InputError(f"{text!r} is not of the form stage.setting=value")
        role, name, value = match.groups()
        with suppress(ValueError):
            value = json.loads(value)
        settings.setdefault(role, {})[name] = value
    return settings


@queue_app.command("list")
def queue_list(only: Only = None, codes: Codes = False):
    """Show every entry, most informative first, with its state and time."""
    import pandas as pd

    from semid_lib.reports import table
    from semid_lib.runs import queue

    rows = []
    for entry in queue.select(only, codes):
        minutes, source = queue.minutes(entry)
        rows.append((entry.name, queue.state(entry), 60 * minutes, source))
    frame = pd.DataFrame(rows, columns=["run", "state", "time", "time from"])
    done = (frame["state"] == "done").sum()
    left = frame.loc[frame["state"] != "done", "time"].sum()
    shown = table(frame, f"{done} of {len(frame)} runs are recorded", {"time": "seconds"})
    print(f"{readable(shown)}\nleft: about {left / 3600:.1f} h of one process")


@queue_app.command("run")
def queue_run(
    jobs: Annotated[int, typer.Option(help="processes at once")] = 1,
    budget: Budget = None,
    device: Device = "auto",
    only: Only = None,
    codes: Codes = False,
):
    """Run the entries without a record; stops inside the budget and goes on next time."""
    from semid_lib.runs import queue

    seconds = None if budget is None else queue.parse_duration(budget)
    with told_how_to_go_on():
        if not queue.run_queue(jobs, seconds, device, only, codes=codes):
            raise typer.Exit(1)


@app.command("clicks")
def clicks_command(
    dataset: Annotated[str, typer.Argument(help="name or folder, with ratings")] = "ml-1m",
    only: Annotated[Many, typer.Option(help="a tokenizer such as R3-VAE; default: all")] = None,
    budget: Budget = None,
):
    """Train and record the click models of chapter 08 that have no record yet."""
    from semid_lib.clicks import record_clicks
    from semid_lib.compute.signals import pausing
    from semid_lib.runs import parse_duration

    seconds = math.inf if budget is None else parse_duration(budget)
    with told_how_to_go_on(), pausing(seconds) as deadline:
        written = record_clicks(dataset, only, deadline=deadline)
    print(f"{len(written)} records written")


@app.command("table")
def table_command(
    which: Annotated[str, typer.Argument(help="paper and number, such as resid.4 or acerec.1")],
    metric: Annotated[Many, typer.Option(help="default recall@10, ndcg@10")] = None,
    part: Annotated[str, typer.Option(help="test, validation or test_unseen")] = "test",
):
    """Print a table of a paper beside the recorded numbers."""
    from semid_lib.reports import beside, printed, tables
    from semid_lib.runs import records
    from semid_lib.systems import FLOORS, SWEEPS

    match = re.fullmatch(r"([a-z0-9]+)\.(\d+)", which)
    if not match:
        raise InputError(f"{which!r} is not of the form PAPER.TABLE, such as resid.4")
    paper, number = match[1], int(match[2])
    cells = printed.printed_cells(paper, number)
    name = f"{printed.PAPERS.get(paper, paper)}, Table {number}"
    if cells.empty:
        frame = printed.paper_table(paper, number, as_printed=True).fillna("")
        print(tables.table(frame, f"{name} as printed; we have no records of this kind"))
        return
    metrics = metric or [m for m in ("recall@10", "ndcg@10") if m in set(cells["metric"])]
    data, systems = set(cells["dataset"].dropna()), set(cells["system"].dropna())
    systems |= set(FLOORS) if data else set()  # they stand in every table of known data
    recorded = [
        r
        for r in records.load_records(profile="paper", system=list(systems))
        if (r["dataset"] in data or not data) and not r["variant"].startswith(SWEEPS)
    ]
    shown = beside.side_by_side(cells, recorded, metrics=metrics, part=part, caption=name)
    print(readable(shown))


def main() -> None:
    """Run the command; an error that the library names is one line and exit code 2."""
    try:
        app()
    except SemidError as error:
        print(readable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(readable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "TrainingPaused":  # importing it would load torch
            raise
        print(f"{error}; {_same_command()}", file=sys.stderr)
        sys.exit(PAUSED)


def _same_command() -> str:
    return f"the same command goes on: {shlex.join(['semid', *sys.argv[1:]])}"


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Say what to type after Ctrl-C or a signal, and end as a paused run does."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped at the last checkpoint; {_same_command()}", file=sys.stderr)
        raise typer.Exit(PAUSED) from None


if __name__ == "__main__":
    main()
