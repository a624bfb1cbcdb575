"""Write, or check, every copy of a fact that stands in one place.

    python scripts/copies.py write
    python scripts/copies.py check

The repository's address, the name and the version stand in pyproject.toml, the pins in
requirements.txt, the chapters' titles and numbers in notebooks/, the extras that a chapter needs
besides `fast` in notebooks/chapters.toml. Copies of them are needed in
_config.yml, CITATION.cff, environment.yml, README.md and the chapters' set-up cells.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
SETUP_CELL = """\
# %% tags=["hide-cell", "colab-setup"]
import os
import sys

if "google.colab" in sys.modules:
    address = "{address}"
    source = f"semid-lib[{extras}] @ git+{{address}}@v{version}"
    source = os.environ.get("SEMID_INSTALL", source)
    get_ipython().run_line_magic("pip", f"install -q '{{source}}'")

from semid_lib import setup

run = setup(chapter="{chapter}")
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
    """The repository's address, without a slash at the end."""
    return project()["urls"]["Repository"].rstrip("/")


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
    return SETUP_CELL.format(
        address=address(), version=project()["version"], chapter=number, extras=extras(number)
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
    """The README's table of chapters."""
    rows = [
        f"| {path.stem[:2]} | [{title(path)}](notebooks/{path.stem}.ipynb) | {colab_badge(path)} |"
        for path in chapters()
    ]
    return "\n".join(["| | chapter | run it |", "| --- | --- | --- |", *rows])


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

    renew("_config.yml", (r"^  url: [^\n]*$", f"  url: {address()}"))
    renew(
        "CITATION.cff",
        (r"^repository-code: [^\n]*$", f"repository-code: {address()}"),
        (r"^version: [^\n]*$", f"version: {version}"),
    )
    renew("semid_lib/__init__.py", (r'^__version__ = "[^\n]*$', f'__version__ = "{version}"'))
    table = f"<!-- chapters -->\n\n{chapter_table()}\n\n<!-- /chapters -->"
    renew("README.md", (r"<!-- chapters -->.*<!-- /chapters -->", table))
    texts[ROOT / "environment.yml"] = ENVIRONMENT + "".join(f"      - {pin}\n" for pin in pins())
    for path in chapters():
        # From the header of the tagged cell to the next cell.
        cell = r"^# %%[^\n]*colab-setup.*?(?=^# %%)"
        name = path.relative_to(ROOT).as_posix()
        renew(name, (cell, setup_cell(path) + "\n"))
    return texts


def main() -> int:
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
