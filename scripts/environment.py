"""Make `.venv` hold exactly what requirements.txt pins, and do nothing if it does already.

Run by any Python 3.11 to 3.13 before anything is installed, so it uses the standard library only.
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
    """Digest of the pins that the environment is to hold."""
    return hashlib.sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()


def is_current() -> bool:
    """Whether the environment was made from the present pins and its Python still starts."""
    if not STAMP.exists() or STAMP.read_text().strip() != wanted_stamp():
        return False
    return subprocess.run([PYTHON, "-c", ""], capture_output=True).returncode == 0


def main() -> None:
    if is_current():
        return
    print("setting up .venv from requirements.txt (some minutes, once)", flush=True)
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    venv.create(FOLDER, with_pip=True)
    install = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*install, "-r", "requirements.txt"], cwd=ROOT, check=True)
    own = ["--no-deps", "--no-build-isolation", "-e", "."]
    subprocess.run([*install, *own], cwd=ROOT, check=True)
    STAMP.write_text(wanted_stamp() + "\n")


if __name__ == "__main__":
    main()
