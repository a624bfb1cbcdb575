"""The runs that the book's tables wait for, and the runner that works them off.

`semid queue run` (or `run_queue`, which needs no typer) starts several processes, stops inside its
budget, and goes on from the checkpoints the next time. `queue_list` names the runs.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from semid_lib.compute.signals import end_with_parent, handling, pausing
from semid_lib.errors import InputError, RecordError, SemidError
from semid_lib.runs import queue_list
from semid_lib.runs.locks import BusyError, locked
from semid_lib.runs.pipeline import run
from semid_lib.runs.queue_list import Row
from semid_lib.runs.records import (
    CODES,
    is_smaller,
    load_record,
    records_folder,
    run_name,
    write_record,
)
from semid_lib.runs.workspace import runs_folder
from semid_lib.storage import write_atomic
from semid_lib.systems import FLOORS, SYSTEMS, TOKENIZERS, sweep_of

#: Exit codes of a worker besides 0 (done), 1 (bug) and 2 (error in words). LATER: another process
#: trains the encoder, or works in the same folder.
PAUSED, BUSY, LATER = 3, 4, 5
#: How a worker process is started.
WORKER = (sys.executable, "-m", "semid_lib.runs.queue")
_GRACE = 20.0  # seconds that workers have to pause in, when the runner is told to end
_MARGIN = 0.05  # share of the budget, at most 20 s, left for writing checkpoints


@dataclass(frozen=True)
class Entry:
    """One run that should have a record.

    `minutes` is a rough guess, for one data-centre GPU or, in the quick profile, one thread of a
    CPU. With `codes` the run ends with its codes. `overrides`: see `systems.plan`.
    """

    system: str
    dataset: str
    seed: int = 0
    variant: str = "default"
    minutes: float = 1.0
    profile: str = "paper"
    codes: bool = False
    overrides: Mapping = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The run's name, which is also its record's."""
        return run_name(self.system, self.variant, self.dataset, self.profile, self.seed)

    @property
    def record_path(self) -> Path:
        """Where its record lies or will lie."""
        return records_folder(to_write=True) / (CODES if self.codes else "") / f"{self.name}.json"

    @property
    def lock_path(self) -> Path:
        """The lock that a worker holds."""
        return runs_folder() / f"{self.name}.lock"

    @property
    def waits_path(self) -> Path:
        """Where a worker that had to go says which lock it waits for."""
        return runs_folder() / f"{self.name}.waits"


#: Steps of a learnt tokenizer in a run that ends with its codes: a minute or two of a CPU's core;
#: in R3-VAE's sweep of temperatures and top-K a quarter of that.
_CODES_STEPS, _SWEEP_STEPS = 2000, 500


def _systems(names: str) -> list[str]:
    """The systems that a row names, groups taken apart."""
    groups = {"floors": FLOORS, "tokenizers": TOKENIZERS}
    return [system for name in names.split() for system in groups.get(name, [name])]


def entries() -> list[Entry]:
    """List every run of the queue, most informative first."""
    return [entry for row in queue_list.RUNS for entry in _row(row)]


def _row(row: Row) -> Iterator[Entry]:
    """The entries that one row of the list stands for."""
    for seed, dataset, system in product(row.seeds, row.datasets.split(), _systems(row.systems)):
        guess = row.minutes or _guess(system, dataset, row.profile)
        for variant in _variants(row, system):
            yield Entry(system, dataset, seed, variant, guess, row.profile)


def _guess(system: str, dataset: str, profile: str) -> float:
    """Minutes of a run, as the tables of the list say."""
    name = "tokenizers" if system in TOKENIZERS else system
    return queue_list.MINUTES[name][profile] * queue_list.LONGER.get(dataset, 1)


def _variants(row: Row, system: str) -> list[str]:
    """The variants of a system that a row names, each once."""
    known = SYSTEMS[system].variants
    wanted = row.variants or ("" if row.sweeps else "default")
    named = []
    for name in wanted.split():
        named += fnmatch.filter(["default", *known], name) if "*" in name else [name]
    for sweep in row.sweeps.split():
        named += [name for name, variant in known.items() if variant.sweep == sweep]
    return list(dict.fromkeys(named))


def code_entries() -> list[Entry]:
    """Those of `entries` that make codes of their own, as runs that end with them.

    Learnt tokenizers of the paper profile have a smaller budget there, but for those that the
    list has as `WHOLE_CODES`: they come first.
    """
    whole = [replace(e, codes=True) for row in queue_list.WHOLE_CODES for e in _row(row)]
    return whole + [_short(entry) for entry in entries() if _has_own_codes(entry)]


def _has_own_codes(entry: Entry) -> bool:
    """Whether its codes are not those of the system's default."""
    system = SYSTEMS[entry.system]
    if system.quantizer is None or entry.variant == "default":
        return system.quantizer is not None
    variant = system.variants[entry.variant]
    changed = {"encoder", "quantizer"} & {*variant.settings, *variant.stages}
    return bool(changed) or variant.checkpoint is not None or variant.centred


def _short(entry: Entry) -> Entry:
    """The entry as a run that ends with its codes, a learnt tokenizer's with fewer steps."""
    cut = {}
    if "steps" in SYSTEMS[entry.system].paper["quantizer"] and entry.profile == "paper":
        swept = sweep_of(entry.system, entry.variant) == "temperature"
        steps = _SWEEP_STEPS if swept else _CODES_STEPS
        cut = {"quantizer": {"steps": steps, "batch_size": 512}}
    return replace(entry, codes=True, minutes=min(entry.minutes, 5), overrides=cut)


def select(only: str | None = None, codes: bool = False) -> list[Entry]:
    """Entries whose name contains `only`, or matches it as a pattern with `*`; all without it.

    With `codes` those of `code_entries`. Raises InputError if none matches.
    """
    pattern = only if only and "*" in only else f"*{only or ''}*"
    known = code_entries() if codes else entries()
    wanted = [e for e in known if fnmatch.fnmatchcase(e.name, pattern)]
    if not wanted:
        raise InputError(f"no queue entry matches {only!r}; `semid queue list` shows the names")
    return wanted


def state(entry: Entry) -> str:
    """Return "done", "cut", "running", "partial" (stopped, will go on), "corrupt" or "waiting".

    "cut": its record is of a run with a smaller budget, which the queue's own replaces. Codes are
    also done where the whole run has its record.
    """
    if entry.codes and state(replace(entry, codes=False)) == "done":
        return "done"
    if entry.record_path.exists():
        try:
            return "cut" if is_smaller(load_record(entry.record_path)) else "done"
        except RecordError:
            return "corrupt"
    if entry.lock_path.exists():
        with locked(entry.lock_path) as free:
            if not free:
                return "running"
    return "partial" if any(runs_folder().glob(f"{entry.name}-*")) else "waiting"


def minutes(entry: Entry) -> tuple[float, str]:
    """Estimate a run's minutes and say from what: its record, one of another seed, or a guess."""
    folder, pattern = entry.record_path.parent, f"{entry.name.rpartition('--')[0]}--s*.json"
    for path in (entry.record_path, *sorted(folder.glob(pattern))):
        try:
            seconds = load_record(path)["cost"]["seconds"]
        except RecordError:
            continue
        return seconds / 60, "measured" if path == entry.record_path else "another seed"
    return entry.minutes, f"guess for one {'GPU' if entry.profile == 'paper' else 'thread'}"


def parse_duration(text: str) -> float:
    """Read "90", "90s", "9m", "2h" or "1h30m" as seconds. Raises InputError for anything else."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if not match or not any(match.groups()):
        raise InputError(f"{text!r} is not a duration such as 9m, 90s or 1h30m")
    hours, mins, seconds = (int(g or 0) for g in match.groups())
    return 3600.0 * hours + 60.0 * mins + seconds


def work(entry: Entry, *, until: float = math.inf, device: str = "auto") -> int:
    """Run one entry in this process and leave its record; return the exit code.

    At `until`, a value of `time.monotonic()`, it has stopped and written its checkpoint, and so it
    does at a signal that ends processes (`signals.pausing`).
    """
    with pausing(until - time.monotonic()) as deadline:
        return _work(entry, deadline, device)


def _work(entry: Entry, deadline: float, device: str) -> int:
    from semid_lib.training import TrainingPaused

    with locked(entry.lock_path) as free:
        if not free:
            return BUSY
        if state(entry) == "done":
            return 0
        try:
            record = run(
                entry.system, entry.dataset, profile=entry.profile, variant=entry.variant,
                until="quantizer" if entry.codes else None, seed=entry.seed, device=device,
                deadline=deadline, overrides=entry.overrides,
            )  # fmt: skip
        except TrainingPaused:
            return PAUSED
        except BusyError as busy:
            write_atomic(entry.waits_path, str(busy.lock).encode())
            return LATER
        # A corrupt file may stand there, or a smaller run's: whoever holds the lock has looked.
        write_record(record, force=True)
        return 0


def run_queue(
    jobs: int = 1,
    budget: float | None = None,
    device: str = "auto",
    only: str | None = None,
    say: Callable[[str], None] = print,
    codes: bool = False,
) -> bool:
    """Run the entries that have no record, several processes at once, within a budget.

    Last come those whose record is of a smaller run.

    Every finished run leaves its record in `records_folder()`; a stopped one goes on next time. Two
    runners may share the folders: each takes what the other does not hold. Runs whose encoder
    another one is training are put off until that is done.

    Args:
        jobs: processes at once; on a CPU they share its cores.
        budget: seconds, of a clock that nobody sets, a few of which are kept to write checkpoints;
            what still runs at the end is killed, which loses what was done since its last
            checkpoint.
        only, codes: see `select`.
        say: where the one-line reports go.

    Returns:
        Whether no worker failed.

    Raises:
        InputError: `jobs` below 1, a budget not above 0, or nothing matches `only`.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the workers have paused before.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}, but must be at least 1")
    budget = math.inf if budget is None else budget
    if budget <= 0:
        raise InputError(f"the budget is {budget} s, but must be above 0")
    states = [(state(entry), entry) for entry in select(only, codes)]
    waiting = [entry for now, entry in states if now not in ("done", "cut")]
    waiting += [entry for now, entry in states if now == "cut"]
    say(f"{len(waiting)} runs without a record, {jobs} at once")
    runner = _Runner(jobs, budget, device, say)
    with handling(signal.default_int_handler):
        try:
            runner.work_off(waiting)
        except KeyboardInterrupt:
            runner.pause()
            raise
        finally:
            runner.stop()
    return not runner.failed


def _is_free(entry: Entry) -> bool:
    """Whether what the entry's last worker waited for has ended."""
    with locked(Path(entry.waits_path.read_text(encoding="utf-8"))) as free:
        return free


class _Runner:
    """The worker processes of one `run_queue`."""

    def __init__(self, jobs, budget, device, say):
        self.jobs, self.device, self.say = jobs, device, say
        self.end = time.monotonic() + budget
        self.soft = self.end - min(_MARGIN * budget, 20.0)
        self.active: dict[subprocess.Popen, Entry] = {}
        self.put_off: list[Entry] = []  # wait for what another process does
        self.failed: list[Entry] = []

    def work_off(self, waiting: list[Entry]) -> None:
        while self.active or ((waiting or self.put_off) and time.monotonic() < self.soft):
            if len(self.active) < self.jobs:
                ready = [entry for entry in self.put_off if _is_free(entry)]
                self.put_off = [entry for entry in self.put_off if entry not in ready]
                waiting[:0] = ready
            while waiting and len(self.active) < self.jobs and time.monotonic() < self.soft:
                self.start(waiting.pop(0))
            self.collect()
            if time.monotonic() >= self.end:
                return
            time.sleep(0.05)

    def start(self, entry: Entry) -> None:
        log = runs_folder() / f"{entry.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*WORKER, entry.name, "--device", self.device]
        command += ["--until", repr(self.soft), "--parent", str(os.getpid())]
        command += ["--codes"] * entry.codes
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
            words = {0: "done", PAUSED: "paused", BUSY: "elsewhere", LATER: "later"}
            words[-signal.SIGTERM] = "stopped"  # it had hardly begun
            word = words.get(code, "FAILED")
            self.say(f"{word:7s} {entry.name}")
            if word == "later":
                self.put_off.append(entry)
            if word == "FAILED":
                self.failed.append(entry)
                log = runs_folder() / f"{entry.name}.log"
                tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                self.say(f"        exit code {code}; {' '.join(tail)} (log: {log})")

    def pause(self) -> None:
        """Ask the workers to write their checkpoints and end, and give them the time for it."""
        for process in self.active:
            process.terminate()
        patience = time.monotonic() + _GRACE
        while self.active and time.monotonic() < patience:
            self.collect()
            time.sleep(0.05)

    def stop(self) -> None:
        for process, entry in self.active.items():
            process.kill()
            process.wait()
            self.say(f"stopped {entry.name}; it goes on next time, from its last checkpoint")
        self.active.clear()


def main(argv: Sequence[str] | None = None) -> int:
    """The worker's command line: run one entry in this process and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m semid_lib.runs.queue")
    parser.add_argument("name", help="of an entry")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--until", type=float, default=math.inf)
    parser.add_argument("--parent", type=int, help="the process to end with")
    parser.add_argument("--codes", action="store_true", help="end with the codes")
    options = parser.parse_args(argv)
    known = code_entries() if options.codes else entries()
    chosen = [entry for entry in known if entry.name == options.name]
    try:
        if not chosen:
            raise InputError(f"no queue entry is named {options.name!r}")
        with handling(signal.default_int_handler):
            if options.parent is not None:
                end_with_parent(options.parent)
            return work(chosen[0], until=options.until, device=options.device)
    except KeyboardInterrupt:
        return PAUSED
    except SemidError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
