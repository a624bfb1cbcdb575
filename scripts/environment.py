"""Make `.venv` hold exactly what requirements.lock names, and do nothing if it does already.

Run by any Python 3.11 to 3.13 before anything is installed, so it uses the standard library only.
Every file that is installed has one of the lock's hashes, with one exception: torch. Its builds
for CPUs and for GPUs share a version, and a machine may have its own file of it, so it is
installed by version; what it needs besides the lock, it pins itself.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
PYTHON = FOLDER / "bin" / "python"
STAMP = FOLDER / "semid-stamp"  # written last, so a set-up that was stopped is done again


def wanted_stamp() -> str:
    """Digest of what the environment is to hold."""
    files = [ROOT / "requirements.txt", ROOT / "requirements.lock"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def is_current() -> bool:
    """Whether the environment was made from the present lock and its Python still starts."""
    if not STAMP.exists() or STAMP.read_text().strip() != wanted_stamp():
        return False
    return subprocess.run([PYTHON, "-c", ""], capture_output=True).returncode == 0


def torch() -> str:
    """The pin of torch in requirements.txt."""
    (pin,) = [
        line
        for line in (ROOT / "requirements.txt").read_text().split()
        if line.startswith("torch==")
    ]
    return pin


def main() -> None:
    if is_current():
        return
    print("setting up .venv from requirements.lock (some minutes, once)", flush=True)
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    venv.create(FOLDER, with_pip=True)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
    locked = ["--no-deps", "--require-hashes", "-r", "requirements.lock"]
    own = ["--no-deps", "--no-build-isolation", "-e", "."]
    for what in (locked, [torch()], own):
        subprocess.run([*pip, "install", "-q", *what], cwd=ROOT, check=True)
    subprocess.run([*pip, "check"], cwd=ROOT, check=True)
    STAMP.write_text(wanted_stamp() + "\n")


if __name__ == "__main__":
    main()
