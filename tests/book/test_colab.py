"""A chapter's first cell on Colab: faked, offline, beside a torch that must stay as it is."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import types
import zipfile
from pathlib import Path

import pytest

import copies
import notebooks

ROOT = Path(__file__).resolve().parents[2]

# What Colab does with a cell, in the shell that Colab uses; then what the chapter may rely on.
SESSION = """
import json, sys, types
sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell(open("cell.py").read()).raise_error()
import semid_lib, torch
from semid_lib.reports import paper_table
from semid_lib.runs import records_folder
from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.recommenders import Popularity
split = leave_one_out(synthetic_catalogue(num_users=50, num_items=40)[0])
items = Popularity().fit(split).recommend(split.histories("test")[:2], k=3)
print(json.dumps({
    "library": semid_lib.__file__, "torch": torch.__version__, "run": shell.user_ns["run"].chapter,
    "printed": len(paper_table("resid", 4)), "records": str(records_folder()),
    "records_there": records_folder().is_dir(), "items": items.shape,
}))
"""


def _first_cell(chapter=None):
    if chapter is None:
        return copies.setup_cell(Path("01_any.py")).split("\n", 1)[1]
    return notebooks.code_cells(notebooks.read_source(chapter))[0].source


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def colab(tmp_path):
    """A Python that sees this environment's packages, but not this checkout.

    Its own site-packages are empty; the others are links, so that a change to one would show.
    """
    site = Path(sysconfig.get_paths()["purelib"])
    links = tmp_path / "preinstalled"
    links.mkdir()
    for entry in site.iterdir():
        if "semid" not in entry.name.lower() and entry.suffix != ".pth":
            (links / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (own,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    (own / "preinstalled.pth").write_text(f"{links}\n")
    return tmp_path / "env" / "bin" / "python", own, links


def _state(folder: Path) -> dict:
    """Name, size and time of every file of what Colab brings and what it is built on."""
    kept = {"torch", "numpy", "pandas", "scipy", "sklearn", "scikit_learn"}
    names = [path for path in folder.iterdir() if path.name.split("-")[0] in kept]
    files = [f for name in names for f in [name, *name.resolve().glob("*")]]
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


def _session(colab, folder: Path, code: str, **variables) -> subprocess.CompletedProcess:
    """Run `code` as Colab would: in its Python, in `folder`, with no network."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SEMID", "PYTHON"))}
    (folder / "home").mkdir(exist_ok=True)
    environment |= {"PIP_NO_INDEX": "1", "HOME": str(folder / "home"), "MPLBACKEND": "agg"}
    return subprocess.run(
        [colab[0], "-c", code],
        cwd=folder, env=environment | variables, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["upload", "drive"])
def test_the_first_cell_installs_the_library_and_leaves_torch_alone(colab, wheel, tmp_path, way):
    _, own, links = colab
    (tmp_path / "cell.py").write_text(_first_cell(copies.chapters()[0]))
    drive = tmp_path / "My Drive"
    place = {"upload": tmp_path, "drive": drive}[way]
    place.mkdir(exist_ok=True)
    shutil.copy(wheel, place)
    before = _state(links)
    variables = {"drive": {"SEMID_SOURCE": str(drive)}}.get(way, {})
    done = _session(colab, tmp_path, SESSION, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().split("\n")
    assert "chapter 01 | profile quick | device cpu | seed 0" in lines
    said = json.loads(lines[-1])
    assert Path(said["library"]).is_relative_to(own)
    assert not Path(said["library"]).is_relative_to(ROOT)
    import torch

    assert said["torch"] == torch.__version__
    assert {path.name.split("-")[0] for path in own.iterdir()} == {
        "preinstalled.pth", "semid_lib",
    }  # fmt: skip
    assert _state(links) == before
    assert said["printed"] == 560 and said["items"] == [2, 3] and said["run"] == "01"
    assert Path(said["records"]).is_relative_to(own) and said["records_there"]


BARE = """
import sys, types
sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
done = shell.run_cell(open("cell.py").read())
assert not done.success
"""


def test_without_a_source_the_reader_gets_one_sentence(colab, tmp_path):
    (tmp_path / "cell.py").write_text(_first_cell(copies.chapters()[0]))
    for variables in ({}, {"SEMID_SOURCE": "nowhere/at/all"}):
        done = _session(colab, tmp_path, BARE, **variables)
        assert done.returncode == 0, done.stderr
        (sentence,) = (done.stdout + done.stderr).strip().split("\n")
        assert "SEMID_SOURCE" in sentence and "wheel" in sentence and "folder" in sentence
        assert variables.get("SEMID_SOURCE", "no source set") in sentence


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Run a set-up cell where the library is missing; what it asks pip for, besides what stays."""
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "semid_lib" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    calls = []

    def run(command, **_):
        calls.append(command)
        return types.SimpleNamespace(stderr="ERROR: none")

    monkeypatch.setattr(subprocess, "run", run)

    def ask(cell, source=None):
        calls.clear()
        if source is not None:
            monkeypatch.setenv("SEMID_SOURCE", source)
        else:
            monkeypatch.delenv("SEMID_SOURCE", raising=False)
        with pytest.raises(ModuleNotFoundError, match="set os.environ"):
            exec(cell, {})
        for command in calls:
            assert command[:3] == [sys.executable, "-m", "pip"]
            assert {w.split("==")[0] for w in command[6:-1]} >= {"torch", "numpy", "pandas"}
            assert all("==" in w for w in command[6:-1])
        return [command[-1] for command in calls]

    return ask


def test_the_source_may_be_an_address_a_wheel_or_a_folder(asked, tmp_path):
    cell = _first_cell()
    address = "https://example.org/me/book"
    assert asked(cell, address) == [f"semid-lib[fast] @ git+{address}"]
    assert asked(cell, f"git+{address}@v9") == [f"semid-lib[fast] @ git+{address}@v9"]
    assert asked(cell, f"{address}/semid_lib-1-py3-none-any.whl") == [
        f"semid-lib[fast] @ {address}/semid_lib-1-py3-none-any.whl"
    ]
    drive = tmp_path / "My Drive"
    drive.mkdir()
    place = f"semid-lib[fast] @ {tmp_path.as_uri()}"
    assert asked(cell, str(drive)) == [f"{place}/My%20Drive"]  # a copy of the repository
    for version in "0.1.0", "0.2.0":
        (drive / f"semid_lib-{version}-py3-none-any.whl").touch()
    newest = f"{place}/My%20Drive/semid_lib-0.2.0-py3-none-any.whl"
    assert asked(cell, str(drive)) == [newest]
    assert asked(cell, str(drive / "semid_lib-0.2.0-py3-none-any.whl")) == [newest]


def test_an_uploaded_wheel_goes_before_the_published_address(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(copies, "address", lambda: "https://example.org/me/book")
    cell = _first_cell()
    published = f"git+https://example.org/me/book@v{copies.project()['version']}"
    assert asked(cell) == [f"semid-lib[fast] @ {published}"]
    wheel = tmp_path / "semid_lib-0.1.0-py3-none-any.whl"
    wheel.touch()
    assert asked(cell) == [f"semid-lib[fast] @ {wheel.as_uri()}"]
    assert asked(cell, "https://example.org/b") == ["semid-lib[fast] @ git+https://example.org/b"]


def test_without_an_address_nothing_is_asked_for(asked, monkeypatch):
    monkeypatch.setattr(copies, "address", lambda: "")
    assert asked(_first_cell()) == []


def test_the_wheel_names_no_address_that_nobody_owns(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        metadata = archive.read(name).decode()
    urls = [line for line in metadata.split("\n") if line.startswith(("Project-URL", "Home-page"))]
    address = copies.address()
    assert urls == ([f"Project-URL: Repository, {address}"] if address else [])


def test_a_chapter_installs_the_extras_that_it_declares(monkeypatch, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    declared = tmp_path / "notebooks" / "chapters.toml"
    declared.write_text('[05]\nextras = ["faiss", "text"]\n[06]\ndata = []\n')
    monkeypatch.setattr(copies, "ROOT", tmp_path)
    found = [copies.setup_cell(Path(name)) for name in ("05_a.py", "06_b.py", "07_c.py")]
    assert "semid-lib[fast,faiss,text] @" in found[0]
    assert all("semid-lib[fast] @" in cell for cell in found[1:])
    declared.write_text('[05]\nextras = ["fais"]\n')
    with pytest.raises(SystemExit, match="no extra {'fais'}"):
        copies.setup_cell(Path("05_a.py"))


def test_elsewhere_the_first_cell_installs_nothing(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    exec(_first_cell(), {})  # get_ipython is not even looked up
    assert capsys.readouterr().out == "chapter 01 | profile quick | device cpu | seed 0\n"


def test_every_chapter_begins_with_its_own_set_up_cell():
    for chapter in copies.chapters():
        expected = copies.setup_cell(chapter).split("\n", 1)[1].strip()
        assert _first_cell(chapter).strip() == expected
