"""The versions that the library is tried with besides those of requirements.lock.

    python scripts/versions.py lowest [PYTEST...]   the lowest that pyproject.toml allows
    python scripts/versions.py newest [PYTEST...]   the newest that can be installed
    python scripts/versions.py lock                 write requirements.lock anew

`lowest` and `newest` make an environment of their own in build/ and run the unit tests in it, or
what is given as pytest's arguments. $TORCH names the torch to take instead, such as 2.13.0: the
lowest one's build for CPUs is not to be had everywhere. `lock` keeps the versions of the lock that
still fit. All three resolve with `uv`, which gets an environment of its own, and leave torch out of
it (scripts/environment.py says why).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEAD = """\
# Everything that requirements.txt needs, with hashes, for Python 3.11 to 3.13; torch stands apart
# (scripts/environment.py says why). Written by: python scripts/versions.py lock
"""


def declared() -> list[str]:
    """What pyproject.toml asks for with every extra but `bench`, less the library itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [x for e in extras if e != "bench" for x in extras[e]]
    return [line for line in lines if not line.startswith(f"{project['name']}[")]


def lowest() -> list[str]:
    """Each declared requirement at its lower bound; one without a bound as it is."""
    return [re.sub(r">=([\w.]+).*$", r"==\1", line) for line in declared()]


def wanted(which: str) -> list[str]:
    """The requirements of an environment, with the torch that $TORCH names."""
    lines = {"lowest": lowest, "newest": declared}[which]()
    chosen = os.environ.get("TORCH")
    return [f"torch=={chosen}" if chosen and _is_torch(line) else line for line in lines]


def _is_torch(line: str) -> bool:
    return re.match(r"[\w.-]+", line)[0] == "torch"


def resolve(lines: list[str], to: Path, *options: str) -> None:
    """Write every package that `lines` need, but torch and what only torch needs, to a file."""
    home, work = ROOT / "build" / "uv", ROOT / "build" / "resolved"
    uv = home / "bin" / "uv"
    if not uv.exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", "uv"], check=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "in.txt").write_text("\n".join(line for line in lines if not _is_torch(line)))
    (work / "without.txt").write_text("torch\n")
    command = [uv, "pip", "compile", work / "in.txt", "-o", to, "--excludes", work / "without.txt"]
    subprocess.run([*command, "--no-annotate", "--no-header", "-q", *options], check=True)


def try_versions(which: str, tests: list[str]) -> int:
    """Make the environment and run the tests in it; pytest's exit status."""
    folder = ROOT / "build" / which
    lines = wanted(which)
    python = "{}.{}".format(*sys.version_info)
    resolved = ROOT / "build" / f"{which}.txt"
    resolved.unlink(missing_ok=True)
    resolve(lines, resolved, "--python-version", python)
    venv.create(folder, with_pip=True, clear=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "-r", resolved], check=True)
    subprocess.run([*pip, "install", "-q", *filter(_is_torch, lines)], check=True)
    subprocess.run([*pip, "install", "-q", "--no-deps", "-e", ROOT], check=True)
    for command in ("check", "list"):
        subprocess.run([*pip, command], check=True)
    # The book's own tests are about the versions that it is made with.
    tests = tests or ["tests", "--ignore=tests/book", "-n", "2", "--dist", "loadfile", "-q"]
    return subprocess.run([folder / "bin" / "python", "-m", "pytest", *tests], cwd=ROOT).returncode


def lock() -> int:
    """Resolve requirements.txt for every Python that the book supports."""
    pins = (ROOT / "requirements.txt").read_text().split()
    resolve(pins, LOCK, "--universal", "--python-version", "3.11", "--generate-hashes")
    LOCK.write_text(HEAD + LOCK.read_text())
    return 0


def main() -> int:
    which, tests = (sys.argv + [""])[1], sys.argv[2:]
    if which in {"lowest", "newest"}:
        return try_versions(which, tests)
    if which == "lock" and not tests:
        return lock()
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
