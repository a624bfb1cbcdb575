"""Where, with what and at which commit a number was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from semid_lib import __version__
from semid_lib.environment import CHECKOUT

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "numba")


def peak_memory(device: str) -> tuple[int, int]:
    """Largest resident memory of the process and largest memory on the GPU so far, in bytes."""
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows
        resident = 0
    if not device.startswith("cuda"):
        return resident, 0
    import torch

    return resident, torch.cuda.max_memory_allocated(device)


def device_name(device: str) -> str:
    """Name the device in words: `NVIDIA H200`, or the processor with its cores and threads."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of Python, this library and what it computes with."""
    found = {"python": platform.python_version(), "semid_lib": __version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str:
    """Return the checkout's commit (`-dirty` if changed), else `$SEMID_COMMIT`, else "unknown"."""
    if (CHECKOUT / ".git").exists():
        with suppress(OSError, subprocess.CalledProcessError):
            done = subprocess.run(
                ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
                cwd=CHECKOUT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            return done.stdout.strip()
    return os.environ.get("SEMID_COMMIT") or "unknown"
