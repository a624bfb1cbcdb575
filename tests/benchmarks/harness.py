"""Paired benchmarks: our code against the best tool for the job, in one process and one run.

pytest-benchmark times one function at a time, and this machine's speed drifts between two
functions. So each of its rounds runs the peer first, in the untimed set-up, and then ours: peer,
ours, peer, ours, ... Every call is timed here by the wall clock and by the CPU time of the process
(the steadier of the two where other programs run). Both sides have the threads of
OMP_NUM_THREADS. The results of all rounds pass a quality gate before any ratio is worked out; a
gate that fails ends the job with an error and leaves its old row as it was.

The benchmark files are called `bench_*.py`, which pytest does not collect by itself: `make bench`
runs them, `make bench ONLY=gaoq_root` some. Rows are kept in `results.json`, of which
`RESULTS.md` is the readable form; a partial run renews only its rows.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COLUMNS = (
    "job", "threads", "input", "peer", "quality", "peer s", "our s", "ratio", "target", "met",
)  # fmt: skip


class GateError(AssertionError):
    """The results are not as good as the peer's, so their speed does not count."""


def require(good: bool, message: str) -> None:
    """Raise GateError with the message unless `good`."""
    if not good:
        raise GateError(message)


@dataclass(frozen=True)
class Job:
    """One comparison.

    Args:
        name: the row's name, such as "gaoq_root".
        input: what both sides are given, in words.
        peer: the distribution that the peer comes from, as pip calls it.
        target: least ratio of the peer's time to ours; None: none is asked for here.
        setup: `setup(round) -> tuple` of arguments for both sides, not timed.
        ours, theirs: called with these arguments; what they return goes to the gate.
        gate: `gate([(arguments, ours, theirs), ...]) -> str`: the quality figures in words, or
            `require` fails.
        stretch: the ratio hoped for. within: most seconds that ours may take.
        rounds: how many pairs; each may have other arguments.
    """

    name: str
    input: str
    peer: str
    target: float | None
    setup: Callable
    ours: Callable
    theirs: Callable
    gate: Callable
    stretch: float | None = None
    within: float | None = None
    rounds: int = 5


def timed(function, arguments):
    """Call it; return what it returns, its wall seconds and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def measure(job: Job, benchmark) -> dict:
    """Run a job with pytest-benchmark's fixture and store its row.

    One pair before the rounds is not timed: it compiles what is compiled on first use.

    Raises:
        GateError: the quality gate failed; nothing is stored or printed.
    """
    first = job.setup(0)
    job.theirs(*first), job.ours(*first)
    rounds, peer_times, our_times = [], [], []

    def prepare():
        arguments = job.setup(len(rounds))
        theirs, *times = timed(job.theirs, arguments)
        peer_times.append(times)
        return (arguments, theirs), {}

    def run(arguments, theirs):
        ours, *times = timed(job.ours, arguments)
        our_times.append(times)
        rounds.append((arguments, ours, theirs))

    benchmark.pedantic(run, setup=prepare, rounds=job.rounds, iterations=1)
    quality = job.gate(rounds)
    (peer_wall, peer_cpu), (wall, cpu) = (
        [statistics.median(column) for column in zip(*times)] for times in (peer_times, our_times)
    )
    ratios = peer_wall / wall, peer_cpu / cpu
    by_cpu = num_threads() == 1 and DEVICE == "cpu"
    ratio, seconds = (ratios[1], cpu) if by_cpu else (ratios[0], wall)
    target = "none" if job.target is None else f">= {job.target:g}x"
    target += f", stretch {job.stretch:g}x" if job.stretch else ""
    met = ratio >= (job.target or 0) and (job.within is None or seconds <= job.within)
    verdict = "stretch" if met and job.stretch and ratio >= job.stretch else _yes(met)
    return store({
        "job": job.name,
        "input": job.input,
        "peer": f"{job.peer} {version(job.peer)}",
        "quality": quality,
        "peer s": f"{peer_wall:.3g} (CPU {peer_cpu:.3g})",
        "our s": f"{wall:.3g} (CPU {cpu:.3g})",
        "ratio": f"{ratios[0]:.1f}x (CPU {ratios[1]:.1f}x)",
        "target": target + ("" if job.within is None else f", < {job.within:g} s"),
        "met": "" if job.target is None else verdict,
        "raw": {"peer": peer_times, "ours": our_times},
    })  # fmt: skip


def num_threads() -> int:
    """Threads that both sides may use."""
    return int(os.environ["OMP_NUM_THREADS"])


def store(row: dict) -> dict:
    """Put a row (`COLUMNS` but threads; "met" may be a bool) into results.json and RESULTS.md."""
    row = {**row, "threads": num_threads(), "machine": machine(), "versions": versions()}
    if isinstance(row["met"], bool):
        row["met"] = _yes(row["met"])
    row["run"] = f"{date.today()} {commit()}"
    path = HERE / "results.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    key = ("job", "threads", "machine")
    rows = [old for old in rows if any(old[name] != row[name] for name in key)] + [row]
    rows.sort(key=lambda row: [row[name] for name in ("machine", "job", "threads")])
    path.write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "RESULTS.md").write_text(render(rows))
    print("\n" + "\n".join(f"{name}: {row[name]}" for name in (*COLUMNS, "run")))
    return row


def render(rows) -> str:
    """The rows as a page: one table for each machine."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (how: `harness.py`); do not edit. Times are medians of at least 5",
        "paired rounds: wall seconds, and CPU seconds of the process in brackets. At one thread",
        "the CPU time decides whether the target is met, else, and on a GPU, the wall time.",
    ]
    for place in dict.fromkeys(row["machine"] for row in rows):
        here = [row for row in rows if row["machine"] == place]
        newest = max(here, key=lambda row: row["run"])
        lines += ["", f"## {place}", "", newest["versions"], ""]
        columns = (*COLUMNS, "run")
        lines += [
            "| " + " | ".join(columns) + " |",
            "| " + " | ".join("---" for _ in columns) + " |",
        ]
        lines += ["| " + " | ".join(str(row[name]) for name in columns) + " |" for row in here]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """GPU, processor, cores and the matrix extensions that matter for speed."""
    model, flags = platform.processor() or platform.machine(), set()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        if name.strip() == "flags":
            flags = set(value.split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f"{torch.cuda.get_device_name()}, " if DEVICE == "cuda" else ""
    return f"{gpu}{model}, {cores} cores, {' '.join(known) or 'flags unknown'}"


def versions() -> str:
    """Python and the libraries that the times depend on."""
    names = ("numpy", "scipy", "scikit-learn", "numba", "torch")
    return f"Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names)


def commit() -> str:
    """Short commit of the checkout, with a + where the library differs from it."""

    def git(*arguments):
        run = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)
        return run.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + "+" * bool(git("diff", "HEAD", "../../semid_lib"))


def _yes(met: bool) -> str:
    return "yes" if met else "no"
