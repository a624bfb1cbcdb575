"""The runs that the book's tables wait for, and the runner that works them off.

`semid queue run` (or `python -m semid_lib.queue run`, which needs no typer) starts several
processes, stops inside its budget, and goes on from the checkpoints the next time.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from semid_lib.errors import InputError, RecordError, SemidError
from semid_lib.pipeline import BusyError, locked, run, runs_folder
from semid_lib.results import load_record, records_folder, run_name, write_record
from semid_lib.systems import FLOORS

#: Exit codes of a worker besides 0 (done), 1 (bug) and 2 (error in words).
PAUSED, BUSY = 3, 4
#: How a worker process is started.
WORKER = (sys.executable, "-m", "semid_lib.queue")
_MARGIN = 0.05  # share of the budget, at most 20 s, left for writing checkpoints


@dataclass(frozen=True)
class Entry:
    """One run that should have a record; `minutes` is a rough guess for one data-centre GPU."""

    system: str
    dataset: str
    seed: int = 0
    variant: str = "default"
    minutes: float = 1.0
    profile: str = "paper"

    @property
    def name(self) -> str:
        """The run's name, which is also its record's."""
        return run_name(self.system, self.variant, self.dataset, self.profile, self.seed)

    @property
    def record_path(self) -> Path:
        """Where its record lies or will lie."""
        return records_folder() / f"{self.name}.json"

    @property
    def lock_path(self) -> Path:
        """The lock that a worker holds."""
        return runs_folder() / f"{self.name}.lock"


def entries() -> list[Entry]:
    """List every run of the queue, most informative first.

    Floors cost seconds and stand in every table (baby has no order). Then the papers'
    systems with one seed each on Beauty, Toys and Sports; then the other seeds.
    """
    everywhere = ("beauty", "toys", "sports", "instruments", "office", "clothing", "lastfm",
                  "ml-1m", "ml-100k")  # fmt: skip
    floors = [Entry(system, data, minutes=0.2) for data in everywhere for system in FLOORS]
    minutes = {"sasrec": 3, "sasrec*": 4, "resid": 20}
    trained = [
        Entry(system, data, seed, minutes=minutes[system] * (1.5 if data == "sports" else 1))
        for seed in range(3)
        for data in ("beauty", "toys", "sports")
        for system in minutes
    ]
    return floors + trained


def select(only: str | None = None) -> list[Entry]:
    """Entries whose name contains `only`, or matches it as a pattern with `*`; all without it.

    Raises InputError if none matches.
    """
    pattern = only if only and "*" in only else f"*{only or ''}*"
    wanted = [e for e in entries() if fnmatch.fnmatchcase(e.name, pattern)]
    if not wanted:
        raise InputError(f"no queue entry matches {only!r}; `semid queue list` shows the names")
    return wanted


def state(entry: Entry) -> str:
    """Return "done", "running", "partial" (stopped, will go on), "corrupt" or "waiting"."""
    if entry.record_path.exists():
        try:
            load_record(entry.record_path)
            return "done"
        except RecordError:
            return "corrupt"
    if entry.lock_path.exists():
        with locked(entry.lock_path) as free:
            if not free:
                return "running"
    return "partial" if any(runs_folder().glob(f"{entry.name}-*")) else "waiting"


def minutes(entry: Entry) -> tuple[float, str]:
    """Estimate a run's minutes and say from what: its record, one of another seed, or a guess."""
    others = records_folder().glob(f"{entry.name.rpartition('--')[0]}--s*.json")
    for path in (entry.record_path, *sorted(others)):
        try:
            seconds = load_record(path)["cost"]["seconds"]
        except RecordError:
            continue
        return seconds / 60, "measured" if path == entry.record_path else "another seed"
    return entry.minutes, "guess for one GPU"


def parse_duration(text: str) -> float:
    """Read "90", "90s", "9m", "2h" or "1h30m" as seconds. Raises InputError for anything else."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if not match or not any(match.groups()):
        raise InputError(f"{text!r} is not a duration such as 9m, 90s or 1h30m")
    hours, mins, seconds = (int(g or 0) for g in match.groups())
    return 3600.0 * hours + 60.0 * mins + seconds


def work(entry: Entry, *, until: float = math.inf, device: str = "auto") -> int:
    """Run one entry in this process and leave its record; return the exit code.

    At `until`, a value of `time.time()`, it has stopped and written its checkpoint.
    """
    from semid_lib.training import TrainingPaused

    deadline = time.monotonic() + until - time.time()
    with locked(entry.lock_path) as free:
        if not free:
            return BUSY
        if state(entry) == "done":
            return 0
        try:
            record = run(
                entry.system, entry.dataset, profile=entry.profile, variant=entry.variant,
                seed=entry.seed, device=device, deadline=deadline,
            )  # fmt: skip
        except TrainingPaused:
            return PAUSED
        except BusyError:
            return BUSY
        # Only a corrupt file can stand there: whoever holds the lock has looked.
        write_record(record, force=True)
        return 0


def run_queue(
    jobs: int = 1,
    budget: float | None = None,
    device: str = "auto",
    only: str | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Run the entries that have no record, several processes at once, within a budget.

    Every finished run leaves its record in `records_folder()`; a stopped one goes on next time. Two
    runners may share the folders: each takes what the other does not hold.

    Args:
        jobs: processes at once; on a CPU they share its cores.
        budget: seconds, a few of which are kept to write checkpoints; what still runs at the end
            is killed, which loses what was done since its last checkpoint.
        only: see `select`.
        say: where the one-line reports go.

    Returns:
        Whether no worker failed.

    Raises:
        InputError: `jobs` below 1, a budget not above 0, or nothing matches `only`.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}, but must be at least 1")
    budget = math.inf if budget is None else budget
    if budget <= 0:
        raise InputError(f"the budget is {budget} s, but must be above 0")
    waiting = [entry for entry in select(only) if state(entry) != "done"]
    say(f"{len(waiting)} runs without a record, {jobs} at once")
    runner = _Runner(jobs, budget, device, say)
    try:
        runner.work_off(waiting)
    finally:
        runner.stop()
    return not runner.failed


class _Runner:
    """The worker processes of one `run_queue`."""

    def __init__(self, jobs, budget, device, say):
        self.jobs, self.device, self.say = jobs, device, say
        self.end = time.time() + budget
        self.soft = self.end - min(_MARGIN * budget, 20.0)
        self.active: dict[subprocess.Popen, Entry] = {}
        self.failed: list[Entry] = []

    def work_off(self, waiting: list[Entry]) -> None:
        while self.active or (waiting and time.time() < self.soft):
            while waiting and len(self.active) < self.jobs and time.time() < self.soft:
                self.start(waiting.pop(0))
            self.collect()
            if time.time() >= self.end:
                return
            time.sleep(0.05)

    def start(self, entry: Entry) -> None:
        log = runs_folder() / f"{entry.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*WORKER, "work", entry.name, "--device", self.device]
        command += ["--until", repr(self.soft)]
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        env = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, **os.environ}
        with open(log, "ab") as file:
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            process = subprocess.Popen(command, env=env, **streams)
        self.active[process] = entry
        self.say(f"start   {entry.name}")

    def collect(self) -> None:
        for process in [p for p in self.active if p.poll() is not None]:
            entry, code = self.active.pop(process), process.returncode
            word = {0: "done", PAUSED: "paused", BUSY: "elsewhere"}.get(code, "FAILED")
            self.say(f"{word:7s} {entry.name}")
            if word == "FAILED":
                self.failed.append(entry)
                log = runs_folder() / f"{entry.name}.log"
                tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                self.say(f"        exit code {code}; {' '.join(tail)} (log: {log})")

    def stop(self) -> None:
        for process, entry in self.active.items():
            process.kill()
            process.wait()
            self.say(f"stopped {entry.name} at the end of the budget; it goes on next time")
        self.active.clear()


# ------------------------------------------------------------------ python -m semid_lib.queue


def main(argv: Sequence[str] | None = None) -> int:
    """Run, list or work on entries with nothing but the standard library for the command line."""
    parser = argparse.ArgumentParser(prog="python -m semid_lib.queue", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show every entry and its state")
    running = commands.add_parser("run", help="run the entries without a record")
    running.add_argument("--jobs", type=int, default=1)
    running.add_argument("--budget", type=parse_duration)
    working = commands.add_parser("work", help="run one entry in this process")
    working.add_argument("name")
    working.add_argument("--until", type=float, default=math.inf)
    for command in (running, working):
        command.add_argument("--device", default="auto")
    for command in (commands.choices["list"], running):
        command.add_argument("--only")
    options = parser.parse_args(argv)
    try:
        if options.command == "list":
            for entry in select(options.only):
                print(f"{entry.name:45s} {state(entry):8s} {minutes(entry)[0]:6.1f} min")
            return 0
        if options.command == "run":
            return int(not run_queue(options.jobs, options.budget, options.device, options.only))
        chosen = [entry for entry in entries() if entry.name == options.name]
        if not chosen:
            raise InputError(f"no queue entry is named {options.name!r}")
        return work(chosen[0], until=options.until, device=options.device)
    except SemidError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
