"""Refresh and check the chapters: `NN_topic.py` is edited, `NN_topic.ipynb` is made from it.

    python scripts/notebooks.py run [NAME]           execute what is stale, refresh other text
    python scripts/notebooks.py run [NAME] --force   execute even what is up to date
    python scripts/notebooks.py stale                say which chapters are stale, and why
    python scripts/notebooks.py check                check the stored notebooks, no execution

NAME is a chapter's number or the start of its file name. What a chapter's outputs depend on is
written into its notebook when it is executed: its code cells, the `semid_lib` modules that it
loaded, the pins of the libraries below them (and of the extras that `chapters.toml` names) and, if
it reads results, the records and the papers' tables. Contents are compared, never file times, so a
fresh clone executes nothing. Datasets are not compared: `semid_lib` pins their checksums. Nor is
the processor that made the outputs, which the notebook names beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
import tomllib
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
SETUP = "colab-setup"  # the tag of the cell that scripts/copies.py writes
CODE_WIDTH, CELL_LINES, STORED_BYTES, ALT_CHARACTERS = 72, 40, 1_000_000, 200
CELL_SECONDS = 1200  # ten times what a whole chapter may take on idle cores
IGNORED = 1 / 4  # the largest share of code cells whose outputs are not compared
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
# An absolute path: it starts a word and has at least two parts. Or a Windows one.
MACHINE_PATH = re.compile(r"(?:^|[\s\"'(=\[])(?:/[\w.-]+/[\w.-]+|[A-Z]:\\\w)|\bipykernel_\d")
LOADED = """
import sys
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").split(".")[0] == "semid_lib":
        print(getattr(module, "__file__", None) or "")
"""
MACHINE = """
import json, platform
from pathlib import Path
import numpy, threadpoolctl, torch
known = Path("/proc/cpuinfo")
lines = known.read_text().split("\\n") if known.exists() else []
names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
products = [
    {key: of.get(key) for key in ("internal_api", "version", "architecture")}
    for of in threadpoolctl.threadpool_info()
    if of["user_api"] == "blas"
]
print(json.dumps({
    "processor": names[0] if names else platform.processor() or platform.machine(),
    "torch": torch.__version__,
    "instructions": torch.backends.cpu.get_cpu_capability(),
    "blas": products,
}))
"""


def chapters(name: str | None = None) -> list[Path]:
    """The chapters' `.py` files in order, or those whose file name starts with `name`."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    if name is None:
        return found
    chosen = [path for path in found if path.stem.startswith(name.zfill(2))]
    if not chosen:
        known = ", ".join(path.stem for path in found) or "none yet"
        raise SystemExit(f"no chapter starts with {name!r}; there are: {known}")
    return chosen


def declared_data(path: Path) -> list[str]:
    """The datasets that `notebooks/chapters.toml` says a chapter needs."""
    table = tomllib.loads((FOLDER / "chapters.toml").read_text())
    return table.get(path.stem[:2], {}).get("data", [])


def declared_extras(path: Path) -> list[str]:
    """The extras that it says a chapter's set-up cell installs besides `fast`."""
    table = tomllib.loads((FOLDER / "chapters.toml").read_text())
    return table.get(path.stem[:2], {}).get("extras", [])


def missing_data(path: Path) -> list[str]:
    """The datasets that a chapter needs and this machine does not hold."""
    from semid_lib.data.sources import local_folder

    return [name for name in declared_data(path) if local_folder(name) is None]


def read_source(path: Path) -> nbformat.NotebookNode:
    """The chapter as written: cells with fixed ids, no outputs."""
    notebook = nbformat.v4.new_notebook(metadata=METADATA)
    for index, cell in enumerate(jupytext.read(path).cells):
        kept = {key: cell.metadata[key] for key in ("tags", "mystnb") if key in cell.metadata}
        make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
        made = make[cell.cell_type](cell.source, metadata=kept, id=f"{path.stem[:2]}-{index:03d}")
        notebook.cells.append(made)
    return notebook


def read_stored(path: Path) -> nbformat.NotebookNode | None:
    """The generated notebook beside a chapter, or None."""
    stored = path.with_suffix(".ipynb")
    return nbformat.read(stored, as_version=4) if stored.exists() else None


def code_cells(notebook) -> list:
    """The code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _cells_digest(notebook) -> str:
    """Digest of the code that is run. The set-up cell is left out: it only installs and seeds."""
    cells = [cell for cell in code_cells(notebook) if SETUP not in tags(cell)]
    return _digest(
        *(f"{cell.source}\0{'raises-exception' in tags(cell)}".encode() for cell in cells)
    )


def _pins(extra: str = "") -> list[str]:
    """The lines of requirements.txt that name a library below `semid_lib`, or one of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = extras[extra] if extra else project["dependencies"] + extras["fast"]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted}
    lines = (ROOT / "requirements.txt").read_text().split()
    return [line for line in lines if line.split("==")[0] in names]


def _input_digest(name: str) -> str:
    if name.startswith("pins"):
        extra = name.removeprefix("pins").removeprefix(" of ")
        return _digest("\n".join(_pins(extra)).encode())
    place = ROOT / name
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix in {".csv", ".json"})
        return _digest(*(f"{p.name}\0".encode() + p.read_bytes() for p in files))
    files = [p for p in (place, place.with_suffix(".toml")) if p.exists()]  # a module and its data
    return _digest(*(p.read_bytes() for p in files)) if place.exists() else "missing"


def inputs(path: Path, modules: list[str]) -> dict[str, str]:
    """Digest of everything besides its own cells that a chapter's outputs depend on."""
    names = [*sorted(modules), "pins", *(f"pins of {extra}" for extra in declared_extras(path))]
    if "semid_lib/runs/records.py" in modules:
        names += ["semid_lib/papers", "book/results"]
    return {name: _input_digest(name) for name in names}


def stale(path: Path) -> list[str]:
    """Why the stored outputs are not those of the present sources; empty if they are."""
    stored = read_stored(path)
    if stored is None:
        return ["never executed"]
    known = stored.metadata.get("semid", {})
    if known.get("cells") != _cells_digest(read_source(path)):
        return ["its code changed"]
    extras = [f"pins of {extra}" for extra in declared_extras(path)]
    kept = {**dict.fromkeys(extras), **known["inputs"]}
    return [name for name, old in kept.items() if _input_digest(name) != old]


def execute(path: Path) -> nbformat.NotebookNode:
    """Run a chapter in a new kernel, quick profile on the CPU, and return it with its outputs."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = read_source(path)
    dropped = ("SEMID_PROFILE", "SEMID_DEVICE")  # what is committed is always the quick profile
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(ROOT)}},
    )
    with client.setup_kernel(env=environment):
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                raise SystemExit(f"{path.name}, cell {index}:\n{error}") from None
        loaded, machine = (_answer(client, notebook, code) for code in (LOADED, MACHINE))
    files = [Path(line) for line in loaded.split("\n") if line]
    outside = [file for file in files if ROOT not in file.resolve().parents]
    if outside:
        raise SystemExit(f"the kernel imports semid_lib from {outside[0].parent}, not from here")
    modules = [file.resolve().relative_to(ROOT).as_posix() for file in files]
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            output.pop("transient", None)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.metadata["semid"] = {
        "cells": _cells_digest(notebook),
        "inputs": inputs(path, modules),
        "made_on": json.loads(machine),
    }
    return notebook


def _answer(client, notebook, code: str) -> str:
    """What code prints in the chapter's kernel, when all its cells have been run."""
    notebook.cells.append(nbformat.v4.new_code_cell(code))
    client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1, store_history=False)
    return "".join(output.text for output in notebook.cells.pop().outputs)


def _with_stored_outputs(path: Path) -> nbformat.NotebookNode:
    """The chapter's present text with the outputs that are stored already."""
    notebook, stored = read_source(path), read_stored(path)
    for new, old in zip(code_cells(notebook), code_cells(stored), strict=True):
        new.outputs, new.execution_count = old.outputs, old.execution_count
    notebook.metadata = stored.metadata
    return notebook


def _write(path: Path, notebook) -> bool:
    """Write the notebook if it differs from what is stored; say whether it did."""
    target = path.with_suffix(".ipynb")
    text = nbformat.writes(notebook, indent=1) + "\n"
    if target.exists() and target.read_text() == text:
        return False
    temporary = target.with_suffix(".partial")
    temporary.write_text(text)
    temporary.replace(target)
    return True


def run(name: str | None, force: bool) -> None:
    """Bring the notebooks up to date, executing only the stale ones, or all if `force`."""
    for path in chapters(name):
        reasons = ["asked for"] if force else stale(path)
        lacking = missing_data(path) if reasons else []
        if lacking:
            print(f"{path.stem}: NOT refreshed ({', '.join(reasons)}): needs {', '.join(lacking)}")
        elif reasons:
            print(f"{path.stem}: executing ({', '.join(reasons)})", flush=True)
            began = time.monotonic()
            _write(path, execute(path))
            print(f"{path.stem}: executed in {time.monotonic() - began:.0f} s")
        else:
            changed = _write(path, _with_stored_outputs(path))
            print(f"{path.stem}: {'text refreshed' if changed else 'up to date'}")


def _faults_of_pair(source, stored) -> list[str]:
    if len(source.cells) != len(stored.cells):
        return [f"{len(source.cells)} cells in the .py, {len(stored.cells)} in the .ipynb"]
    return [
        f"cell {index} differs between the .py and the .ipynb"
        for index, (a, b) in enumerate(zip(source.cells, stored.cells, strict=True))
        if (a.cell_type, a.source, a.id, a.metadata) != (b.cell_type, b.source, b.id, b.metadata)
    ]


def _faults_of_cell(cell) -> list[str]:
    lines = cell.source.split("\n")
    faults = [
        f"line of {len(x)} > {CODE_WIDTH} characters: {x}" for x in lines if len(x) > CODE_WIDTH
    ]
    if len(lines) > CELL_LINES:
        faults.append(f"{len(lines)} lines, more than {CELL_LINES}")
    shown = [output for output in cell.outputs if output.output_type != "stream"]
    if "figure" in cell.metadata.get("mystnb", {}) and len(shown) != 1:
        faults.append(f"a figure of {len(shown)} outputs, not 1: end the last line with ';'")
    return faults


def _faults_of_output(cell, output) -> list[str]:
    faults = []
    if output.output_type == "error" and "raises-exception" not in tags(cell):
        faults.append(f"error {output.ename}: {output.evalue}")
    if output.output_type == "stream" and output.name == "stderr":
        faults.append(f"stderr: {output.text[:80]!r}")
    data = output.get("data", {})
    leak = MACHINE_PATH.search("\n".join([output.get("text", ""), *map(str, data.values())]))
    if leak:
        faults.append(f"a path of the machine: {leak[0].strip()!r}")
    if any(kind.startswith("image/") for kind in data):
        shown = cell.metadata.get("mystnb", {})
        caption = shown.get("figure", {}).get("caption", "").strip()
        alt = shown.get("image", {}).get("alt", "").strip()
        if not caption or not alt:
            faults.append("image without mystnb figure.caption and image.alt")
        elif alt == caption or len(alt) > ALT_CHARACTERS:
            faults.append(f"alt text repeats the caption or exceeds {ALT_CHARACTERS} characters")
    return faults


def faults(path: Path) -> list[str]:
    """Everything wrong with a stored notebook that can be seen without executing it."""
    stored = read_stored(path)
    if stored is None:
        return ["has no .ipynb: run `make run`"]
    found = _faults_of_pair(read_source(path), stored)
    code = code_cells(stored)
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("execution counts are not 1, 2, 3, ...: a cell was not executed, or twice")
    if not code or SETUP not in tags(code[0]):
        found.append(f"the first code cell is not tagged {SETUP}")
    ignored = sum("nbval-ignore-output" in tags(cell) for cell in code)
    if ignored > len(code) * IGNORED:
        found.append(
            f"{ignored} of {len(code)} code cells have their output ignored, over a quarter"
        )
    for cell in code:
        found += [f"cell {cell.id}: {fault}" for fault in _faults_of_cell(cell)]
        for output in cell.outputs:
            found += [f"cell {cell.id}: {fault}" for fault in _faults_of_output(cell, output)]
    size = path.with_suffix(".ipynb").stat().st_size
    if size > STORED_BYTES:
        found.append(f"{size:,} bytes, more than {STORED_BYTES:,}")
    named = re.findall(r"load_dataset\(\s*[\"']([\w-]+)[\"']", path.read_text())
    for name in sorted(set(named) - set(declared_data(path)) - {"synthetic"}):
        found.append(f"loads {name!r}, which notebooks/chapters.toml does not declare")
    return found


def check() -> int:
    """Print every fault, and which chapters are stale; the number of faults."""
    count = 0
    for path in chapters():
        for fault in faults(path):
            print(f"{path.stem}: {fault}")
            count += 1
        if reasons := stale(path):
            print(f"note: {path.stem} is stale ({', '.join(reasons)}); `make book` executes it")
    orphans = {p.stem for p in FOLDER.glob("*.ipynb")} - {p.stem for p in chapters()}
    for name in sorted(orphans):
        print(f"{name}.ipynb has no .py beside it")
    print(f"notebooks: {len(chapters())} checked, {count + len(orphans)} faults")
    return count + len(orphans)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="execute what is stale, refresh the text of the rest")
    runs.add_argument("name", nargs="?", help="a chapter's number or the start of its name")
    runs.add_argument("--force", action="store_true", help="execute even what is up to date")
    commands.add_parser("stale", help="say which chapters are stale, and why")
    commands.add_parser("check", help="check the stored notebooks without executing")
    options = parser.parse_args()
    if options.command == "run":
        run(options.name, options.force)
        return 0
    if options.command == "check":
        return 1 if check() else 0
    reasons = {path.stem: stale(path) for path in chapters()}
    for name, why in reasons.items():
        print(f"{name}: {'stale: ' + ', '.join(why) if why else 'up to date'}")
    return 1 if any(reasons.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
