"""Write, or check, every copy of a fact that stands in one place.

    python scripts/copies.py write
    python scripts/copies.py check
    python scripts/copies.py release   say what still stands between this checkout and a release

The repository's address, the name and the version stand in pyproject.toml, the pins in
requirements.txt, the chapters' titles and numbers in notebooks/, the extras that a chapter needs
besides `fast` in notebooks/chapters.toml. Copies of them are needed in
_config.yml, CITATION.cff, environment.yml, README.md, .binder/ and the chapters' set-up cells.
As long as pyproject.toml has no address, nothing points to one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
SETUP_CELL = """\
# %% tags=["hide-cell", "colab-setup"]
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

if importlib.util.find_spec("semid_lib") is None:
    told = os.environ.get("SEMID_SOURCE", "")
    places = [told] if told else [".", "/content"]
    wheels = [w for p in places for w in Path(p).glob("{wheel}*.whl")]
    release = "{release}"
    source = str(max(wheels, default=told or release))
    if source.startswith("https://") and not source.endswith(".whl"):
        source = f"git+{{source}}"
    elif source and "://" not in source:
        source = Path(source).resolve().as_uri()
    have = {{d.name: d.version for d in reversed([*distributions()])}}
    keep = {{"torch", "numpy", "pandas", "scipy", "scikit-learn"}}
    wanted = [f"{{name}}=={{have[name]}}" for name in keep & set(have)]
    wanted.append(f"{name}[{extras}] @ {{source}}")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    pip += ["install", "-q", *wanted]
    if source:
        done = subprocess.run(pip, capture_output=True, text=True)
        source += ": " + done.stderr.strip().split("\\n")[-1]
        importlib.invalidate_caches()
    if importlib.util.find_spec("semid_lib") is None:
        fault = ModuleNotFoundError(
            f"The library is not here ({{source or 'no source set'}}): "
            "upload its wheel, or set os.environ['SEMID_SOURCE'] to a "
            "repository's address, a wheel or a folder; run this again."
        )
        fault._render_traceback_ = lambda: [str(fault)]
        raise fault

from semid_lib import setup

run = setup(chapter="{chapter}")
"""
CONFIG = """\
repository:
  url: {address}
  branch: main
  path_to_book: ""
launch_buttons:
  colab_url: https://colab.research.google.com
html:
  use_repository_button: true
  use_issues_button: true
  extra_footer: ""
"""
CONFIG_UNPUBLISHED = """\
repository:
  url: ""
html:
  extra_footer: ""
"""
BINDER = """\
# What a Binder service installs; python scripts/copies.py write renews the pin.
--extra-index-url https://download.pytorch.org/whl/cpu
{torch}
.[fast,faiss,text,behaviour,maps]
"""
ENVIRONMENT = """\
# conda env create -f environment.yml && conda activate semid && pip install --no-deps -e .
# The pins are those of requirements.txt; python scripts/copies.py write renews them.
name: semid
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def project() -> dict:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def address() -> str:
    """The published repository's address without a slash at the end, or "" if there is none."""
    return project().get("urls", {}).get("Repository", "").rstrip("/")


def release() -> str:
    """What pip installs the release from: the address with its tag; "" without an address."""
    return f"git+{address()}@{tag()}" if address() else ""


def tag() -> str:
    """The tag that a release carries."""
    return f"v{project()['version']}"


def pins() -> list[str]:
    """The lines `name==version` of requirements.txt."""
    return (ROOT / "requirements.txt").read_text().split()


def chapters() -> list[Path]:
    """The chapters' `.py` files in order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


def title(chapter: Path) -> str:
    """The first heading of a chapter."""
    found = re.search(r"^# (?!%%|---)(\S.*)$", chapter.read_text(), flags=re.MULTILINE)
    if found is None:
        raise SystemExit(f"{chapter.name} has no line '# Title' in a markdown cell")
    return found[1]


def setup_cell(chapter: Path) -> str:
    """The first code cell of a chapter, from its `# %%` line on."""
    number = chapter.stem[:2]
    name = project()["name"]
    return SETUP_CELL.format(
        release=release(),
        name=name,
        wheel=re.sub(r"[-_.]+", "_", name).lower(),
        chapter=number,
        extras=extras(number),
    )


def extras(number: str) -> str:
    """What Colab installs beside the library for a chapter: `fast` and what chapters.toml names."""
    declared = tomllib.loads((ROOT / "notebooks" / "chapters.toml").read_text())
    wanted = declared.get(number, {}).get("extras", [])
    unknown = set(wanted) - set(project()["optional-dependencies"])
    if unknown:
        raise SystemExit(f"chapters.toml, [{number}]: pyproject.toml has no extra {unknown}")
    return ",".join(["fast", *wanted])


def colab_badge(chapter: Path) -> str:
    """A badge that opens a chapter in Colab, in Markdown."""
    where = f"{address().removeprefix('https://')}/blob/main/notebooks/{chapter.stem}.ipynb"
    image = f"![Open in Colab]({COLAB}/assets/colab-badge.svg)"
    return f"[{image}]({COLAB}/{where.replace('github.com', 'github', 1)})"


def chapter_table() -> str:
    """The README's table of chapters; with badges once the repository has an address."""
    rows = [["", "chapter", "run it"], ["---"] * 3]
    for path in chapters():
        link = f"[{title(path)}](notebooks/{path.stem}.ipynb)"
        rows.append([path.stem[:2], link, colab_badge(path) if address() else ""])
    columns = 3 if address() else 2
    return "\n".join("| " + " | ".join(row[:columns]) + " |" for row in rows).replace("|  |", "| |")


def _replaced(text: str, pattern: str, new: str, where: str) -> str:
    """`text` with the one match of `pattern` replaced; an error if it does not stand there."""
    text, count = re.subn(pattern, lambda _: new, text, flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise SystemExit(f"{where}: found {count} places like {pattern!r}, expected one")
    return text


def copies() -> dict[Path, str]:
    """Every file that holds a copy, with the text that it should have."""
    version, texts = project()["version"], {}

    def renew(name: str, *rules: tuple[str, str]) -> None:
        path = ROOT / name
        texts[path] = path.read_text()
        for pattern, new in rules:
            texts[path] = _replaced(texts[path], pattern, new, name)

    config = CONFIG.format(address=address()) if address() else CONFIG_UNPUBLISHED
    renew("_config.yml", (r"^repository:\n.*?\n(?=\n)", config))
    code = f"repository-code: {address()}\n" if address() else ""
    renew(
        "CITATION.cff",
        (r"^version: [^\n]*\n(repository-code: [^\n]*\n)?", f"version: {version}\n{code}"),
    )
    renew("semid_lib/__init__.py", (r'^__version__ = "[^\n]*$', f'__version__ = "{version}"'))
    table = f"<!-- chapters -->\n\n{chapter_table()}\n\n<!-- /chapters -->"
    renew("README.md", (r"<!-- chapters -->.*<!-- /chapters -->", table))
    texts[ROOT / "environment.yml"] = ENVIRONMENT + "".join(f"      - {pin}\n" for pin in pins())
    torch = next(pin for pin in pins() if pin.startswith("torch=="))
    texts[ROOT / ".binder" / "requirements.txt"] = BINDER.format(torch=torch)
    for path in chapters():
        # From the header of the tagged cell to the next cell.
        cell = r"^# %%[^\n]*colab-setup.*?(?=^# %%)"
        name = path.relative_to(ROOT).as_posix()
        renew(name, (cell, setup_cell(path) + "\n"))
    return texts


def before_release() -> list[str]:
    """What RELEASING.md asks for and this checkout does not have yet."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout

    missing = []
    if not address():
        missing.append("pyproject.toml has no [project.urls] Repository")
    if tag() not in git("tag", "--points-at", "HEAD").split():
        missing.append(f"the commit has no tag {tag()}")
    if git("status", "--porcelain"):
        missing.append("there are changes that are not committed")
    old = [path for path, text in copies().items() if not path.exists() or path.read_text() != text]
    return missing + [f"{path.relative_to(ROOT)} is out of date" for path in old]


def main() -> int:
    if sys.argv[1:] == ["release"]:
        missing = before_release()
        print("\n".join(missing) or f"{project()['name']} {tag()} of {address()} can go out")
        return 1 if missing else 0
    if sys.argv[1:] not in (["write"], ["check"]):
        raise SystemExit(__doc__)
    differing = [
        path for path, text in copies().items() if not path.exists() or path.read_text() != text
    ]
    for path in differing:
        if sys.argv[1] == "write":
            path.write_text(copies()[path])
        print(f"{path.relative_to(ROOT)}: {'written' if sys.argv[1] == 'write' else 'out of date'}")
    if differing and sys.argv[1] == "check":
        print("renew them with: python scripts/copies.py write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
