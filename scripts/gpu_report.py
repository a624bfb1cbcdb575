"""Run the GPU tests (tests/gpu) and print one table of what ran, to send with a report.

    python scripts/gpu_report.py [--device cuda] [-k EXPRESSION]

A test is skipped without a GPU. With `--device cpu` the same tests compare the CPU with itself,
which shows that the tests work. The exit code is pytest's.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "safetensors")
HEAD = f"{'test':<72} {'seconds':>8}  outcome"


class Outcomes:
    """What pytest reports of each test: its name, its seconds, and what became of it."""

    def __init__(self):
        self.rows: dict[str, list] = {}

    def pytest_runtest_logreport(self, report):
        """Add a part of a test (set-up, call, tear-down)."""
        name = report.nodeid.partition("::")[2]
        row = self.rows.setdefault(name, [0.0, "passed"])
        row[0] += report.duration
        if report.outcome != "passed":
            row[1] = report.outcome

    def table(self) -> str:
        """One line a test, and how many passed, failed and were skipped."""
        lines = [HEAD, "-" * len(HEAD)]
        lines += [f"{name:<72} {spent:8.1f}  {word}" for name, (spent, word) in self.rows.items()]
        words = [word for _, word in self.rows.values()]
        counts = ", ".join(f"{words.count(w)} {w}" for w in ("passed", "failed", "skipped"))
        seconds = sum(spent for spent, _ in self.rows.values())
        return "\n".join([*lines, f"{counts}; {seconds:.0f} s"])


def machine(device: str) -> str:
    """The device, its driver and the versions, a line each."""
    from importlib.metadata import version

    import torch

    lines = [f"device: {device}", f"python: {platform.python_version()} on {platform.platform()}"]
    if torch.cuda.is_available():
        shown = torch.cuda.get_device_properties(0)
        memory, capability = shown.total_memory / 2**30, f"{shown.major}.{shown.minor}"
        lines.append(f"GPU: {shown.name}, {memory:.0f} GB, compute capability {capability}")
    lines.append(f"CUDA: {torch.version.cuda}, cuDNN: {torch.backends.cudnn.version()}")
    return "\n".join([*lines, *(f"{name}: {version(name)}" for name in PACKAGES)])


def main() -> int:
    """Run the tests; return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu")
    parser.add_argument("-k", default="", help="only tests of such names")
    options = parser.parse_args()
    os.environ["SEMID_GPU_TESTS_DEVICE"] = options.device
    outcomes = Outcomes()
    command = [str(ROOT / "tests" / "gpu"), "-q", "--tb=short", "-k", options.k]
    code = pytest.main([*command, f"--rootdir={ROOT}"], plugins=[outcomes])
    print(f"\n{outcomes.table()}\n{machine(options.device)}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
