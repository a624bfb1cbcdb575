"""A chapter's first cell on Colab: faked, offline, beside a torch that must stay as it is."""

import json
import os
import subprocess
import sys
import sysconfig
import types
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
from semid_lib import results
from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.recommenders import Popularity
split = leave_one_out(synthetic_catalogue(num_users=50, num_items=40)[0])
items = Popularity().fit(split).recommend(split.histories("test")[:2], k=3)
print(json.dumps({
    "library": semid_lib.__file__, "torch": torch.__version__, "run": shell.user_ns["run"].chapter,
    "printed": len(results.paper_table("resid", 4)), "records": str(results.records_folder()),
    "records_there": results.records_folder().is_dir(), "items": items.shape,
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
    """Name, size and time of every file of torch and of what it is built on."""
    names = [p for p in folder.iterdir() if p.name.split("-")[0] in {"torch", "numpy", "sklearn"}]
    files = [f for name in names for f in [name, *name.resolve().glob("*")]]
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


def test_the_first_cell_installs_the_library_and_leaves_torch_alone(colab, wheel, tmp_path):
    python, own, links = colab
    chapters = copies.chapters()
    (tmp_path / "cell.py").write_text(_first_cell(chapters[0] if chapters else None))
    before = _state(links)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SEMID", "PYTHON"))}
    environment |= {
        "SEMID_INSTALL": f"semid-lib[fast] @ {wheel.as_uri()}",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HOME": str(tmp_path / "home"),
        "MPLBACKEND": "agg",
    }
    done = subprocess.run(
        [python, "-c", SESSION], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().split("\n")
    assert "chapter 01 | profile quick | device cpu | seed 0" in lines
    said = json.loads(lines[-1])
    assert Path(said["library"]).is_relative_to(own)
    assert not Path(said["library"]).is_relative_to(ROOT)
    import torch

    assert said["torch"] == torch.__version__
    assert not list(own.glob("torch*")) and _state(links) == before
    assert said["printed"] == 560 and said["items"] == [2, 3] and said["run"] == "01"
    assert Path(said["records"]).is_relative_to(own) and said["records_there"]


def test_the_wheel_asks_for_the_release_and_for_no_newer_torch(monkeypatch):
    asked = []
    shell = types.SimpleNamespace(run_line_magic=lambda *words: asked.append(words))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.delenv("SEMID_INSTALL", raising=False)
    exec(_first_cell(), {"get_ipython": lambda: shell})
    where = f"git+{copies.address()}@v{copies.project()['version']}"
    assert asked == [("pip", f"install -q 'semid-lib[fast] @ {where}'")]


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
