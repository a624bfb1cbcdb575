"""Would another processor print the same? Run chapters and tests of trained models as if on it.

    python scripts/portable.py [--draws 10] [--only NAME] [--jobs 2] [--again]

One machine is one processor, so others are stood in for by

- settings that hold the libraries to older instructions, and by one and two threads: `SETTINGS`;
- a rounding jitter: the results of matrix products times 1 + e, drawn anew for each run
  (tests/portable/sitecustomize.py), as many draws as asked for.

Under each of them every chapter goes through nbval against its stored outputs, and the tests marked
`trained` run. What passed is kept in _build/portable and not run a second time while the library
and the part's own files are the same (--again runs all). The end names what failed and its log.
NAME is part of a chapter's or a setting's name, or "trained".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "_build" / "portable"
JITTER = ROOT / "tests" / "portable"
TRAINED = "trained"
ULPS = 4  # largest |e| in units in the last place

_ONE = {"OMP_NUM_THREADS": "1"}
#: name -> environment. The names of instruction sets are those that each library reads.
SETTINGS = {
    "native, 1 thread": _ONE,
    "native, 2 threads": {"OMP_NUM_THREADS": "2"},
    "AVX2": {
        **_ONE,
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
    },
    "lowest": {
        **_ONE,
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    },
    "oneDNN AVX2, 2 threads": {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "ATen AVX2, 2 threads": {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2"},
}


def jittered() -> dict[str, str]:
    """The environment of one draw; its seed is new, and stands in the log."""
    return {
        **_ONE,
        "SEMID_JITTER": str(ULPS),
        "SEMID_JITTER_SEED": str(int.from_bytes(os.urandom(4), "little")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(JITTER), os.environ.get("PYTHONPATH")])),
    }


def state_of(part: str) -> str:
    """Digest of the files that decide what a part prints: the library, and its own."""
    own = ["tests"] if part == TRAINED else [f"notebooks/{part}.ipynb", "notebooks/sanitize.cfg"]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--"]
    listed += ["semid_lib", "tests/portable", *own]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    digest = hashlib.sha256()
    for name in sorted(filter(None, names)):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def parts() -> dict[str, list[str]]:
    """What is run: name -> pytest's arguments."""
    found = {
        path.stem: ["--nbval", str(path)]
        for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    }
    return {**found, TRAINED: ["tests", "-m", TRAINED, "--ignore=tests/book"]}


def run(setting: str, environment: dict[str, str], part: str, arguments: list[str]) -> dict:
    """Run one part under one setting; return what became of it."""
    log = FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', setting.lower())}--{part}.log"
    command = [sys.executable, "-m", "pytest", *arguments, "-q", "--tb=short"]
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        file.write(f"{setting}: {json.dumps(environment)}\n{' '.join(command)}\n")
        file.flush()
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    return {
        "passed": done.returncode == 0,
        "said": last.strip("= "),
        "seconds": round(time.monotonic() - began),
        "log": str(log.relative_to(ROOT)),
    }


def main() -> int:
    """Run what is asked for; return how the process ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10, help="draws of the rounding jitter")
    parser.add_argument("--only", default="", help="part of a chapter's or a setting's name")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--again", action="store_true", help="also what has passed before")
    options = parser.parse_args()

    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = FOLDER / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() and not options.again else {}
    states = {part: state_of(part) for part in parts()}
    settings = {**SETTINGS, **{f"jitter {n}": jittered() for n in range(1, options.draws + 1)}}
    wanted = [
        (setting, part)
        for setting in settings
        for part in parts()
        if options.only in setting or options.only in part
    ]
    if not wanted:
        print(f"nothing is named {options.only!r}: {', '.join([*settings, *parts()])}")
        return 2

    def has_passed(pair):
        known = results.get(" | ".join(pair), {})
        return known.get("passed") and known["state"] == states[pair[1]]

    todo = [pair for pair in wanted if not has_passed(pair)]
    print(f"{len(wanted)} runs, {len(wanted) - len(todo)} of which have passed before", flush=True)

    def work(pair):
        setting, part = pair
        result = run(setting, settings[setting], part, parts()[part])
        results[" | ".join(pair)] = {**result, "state": states[part]}
        kept.write_text(json.dumps(results, indent=1))
        word = "passed" if result["passed"] else "FAILED"
        print(f"{word} {part}, {setting}: {result['said']}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, todo))

    failed = [pair for pair in wanted if not has_passed(pair)]
    print(f"{len(wanted) - len(failed)} of {len(wanted)} passed")
    for setting, part in failed:
        print(f"FAILED {part}, {setting}: see {results[f'{setting} | {part}']['log']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
