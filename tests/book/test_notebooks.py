"""The notebook refresher and checker, on chapters written here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import notebooks

ROOT = Path(__file__).resolve().parents[2]

PROSE = '# %% [markdown]\nr"""\n# A title\n\n$\\alpha$ and `code`\n"""\n'
SETUP = '# %% tags=["hide-cell", "colab-setup"]\nimport semid_lib.part\n'
PRINT = '# %%\nprint("shape", (3, 2))\n\n# %%\nsemid_lib.part.ANSWER\n'


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of its own with a library of its own; call with a chapter's text."""
    for folder in ("notebooks", "semid_lib/papers", "book/results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "semid_lib/__init__.py").write_text("")
    (tmp_path / "semid_lib/part.py").write_text("ANSWER = 42\n")
    (tmp_path / "semid_lib/other.py").write_text("OTHER = 1\n")
    (tmp_path / "semid_lib/runs").mkdir()
    (tmp_path / "semid_lib/runs/records.py").write_text("")
    (tmp_path / "semid_lib/papers/resid_table1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "notebooks/chapters.toml").write_text('[01]\nextras = ["maps"]\n')
    (tmp_path / "requirements.txt").write_text("torch==2.0\nruff==1.0\numap-learn==0.5\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=1"]\n[project.optional-dependencies]\n'
        'fast = []\nmaps = ["umap-learn>=0.5"]\nfaiss = ["faiss-cpu"]\n'
    )
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def write(text):
        path = tmp_path / "notebooks" / "01_first.py"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def executions(monkeypatch):
    """Count executions, and make them instant: every cell prints nothing."""
    done = []

    def instant(path):
        notebook = notebooks.read_source(path)
        for count, cell in enumerate(notebooks.code_cells(notebook), 1):
            cell.execution_count = count
        notebook.metadata["semid"] = {
            "cells": notebooks._cells_digest(notebook),
            "inputs": notebooks.inputs(path, ["semid_lib/part.py", "semid_lib/runs/records.py"]),
        }
        done.append(path.stem)
        return notebook

    monkeypatch.setattr(notebooks, "execute", instant)
    return done


def test_a_chapter_runs_is_clean_and_the_second_run_is_byte_identical(book):
    path = book(PROSE + SETUP + PRINT)
    notebooks.run("1", force=False)
    assert notebooks.faults(path) == [] and notebooks.stale(path) == []
    first = path.with_suffix(".ipynb").read_bytes()
    stored = json.loads(first)
    assert [cell["id"] for cell in stored["cells"]] == ["01-000", "01-001", "01-002", "01-003"]
    assert stored["cells"][0]["source"][-1] == "$\\alpha$ and `code`"
    assert stored["cells"][2]["outputs"][0]["text"] == ["shape (3, 2)\n"]
    assert stored["cells"][3]["outputs"][0]["data"]["text/plain"] == ["42"]
    assert stored["metadata"]["language_info"] == {"name": "python", "pygments_lexer": "ipython3"}
    assert set(stored["metadata"]["semid"]["inputs"]) == {
        "semid_lib/__init__.py",
        "semid_lib/part.py",
        "pins",
        "pins of maps",
    }
    assert notebooks._pins("maps") == ["umap-learn==0.5"]
    notebooks.run("01", force=True)
    assert path.with_suffix(".ipynb").read_bytes() == first


def test_a_notebook_names_the_processor_that_made_it_and_may_name_another(book):
    import torch

    path = book(PROSE + SETUP + PRINT)
    notebooks.run("1", force=False)
    stored = notebooks.read_stored(path)
    made_on = stored.metadata["semid"]["made_on"]
    assert made_on["torch"] == torch.__version__ and made_on["processor"]
    assert made_on["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert any(of["internal_api"] == "openblas" and of["architecture"] for of in made_on["blas"])
    stored.metadata["semid"]["made_on"] = {"processor": "another"}
    notebooks._write(path, stored)
    assert notebooks.faults(path) == [] and notebooks.stale(path) == []


@pytest.mark.parametrize("ignored, of, too_many", [(1, 4, False), (2, 4, True), (15, 60, False)])
def test_outputs_of_at_most_a_quarter_of_the_cells_are_ignored(
    book, executions, ignored, of, too_many
):
    tag = '# %% tags=["nbval-ignore-output"]\n1\n\n'
    path = book(PROSE + SETUP + "\n" + tag * ignored + "# %%\n1\n\n" * (of - ignored - 1))
    notebooks.run(None, force=False)
    assert any("ignored" in fault for fault in notebooks.faults(path)) == too_many


def test_an_error_in_a_chapter_stops_and_names_the_cell(book):
    path = book(PROSE + SETUP + "# %%\n1 / 0\n")
    with pytest.raises(SystemExit, match="01_first.py, cell 2:(.|\n)*ZeroDivisionError"):
        notebooks.run(None, force=False)
    assert not path.with_suffix(".ipynb").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("notebooks/01_first.py", "its code changed"),
        ("semid_lib/part.py", "semid_lib/part.py"),
        ("semid_lib/papers/resid_table1.csv", "semid_lib/papers"),
        ("book/results/new.json", "book/results"),
        ("requirements.txt", "pins"),
        ("requirements.txt: umap-learn", "pins of maps"),
    ],
)
def test_what_makes_a_chapter_stale(book, executions, tmp_path, change, reason):
    path = book(PROSE + SETUP + PRINT)
    assert notebooks.stale(path) == ["never executed"]
    notebooks.run(None, force=False)
    assert notebooks.stale(path) == []
    name, _, pin = change.partition(": ")
    target = tmp_path / name
    old = target.read_text() if target.exists() else ""
    new = old.replace("shape", "size").replace(f"{pin or 'torch'}==", f"{pin or 'torch'}==9")
    target.write_text(new + "\n# %%\n1\n")
    assert notebooks.stale(path) == [reason]
    notebooks.run(None, force=False)
    notebooks.run(None, force=False)
    assert executions == ["01_first"] * 2


def test_what_does_not_make_a_chapter_stale(book, executions, tmp_path):
    path = book(PROSE + SETUP + PRINT)
    notebooks.run(None, force=False)
    (tmp_path / "semid_lib/other.py").write_text("OTHER = 2\n")  # not loaded
    (tmp_path / "requirements.txt").write_text(
        "torch==2.0\nruff==2.0\numap-learn==0.5\nfaiss-cpu==2\n"
    )  # below nothing
    book(PROSE.replace("A title", "Another title") + SETUP + PRINT)
    assert notebooks.faults(path) == ["cell 0 differs between the .py and the .ipynb"]
    notebooks.run(None, force=False)
    assert notebooks.faults(path) == [] and executions == ["01_first"]
    assert "Another title" in path.with_suffix(".ipynb").read_text()


def test_a_fresh_clone_executes_nothing(book, executions, tmp_path):
    """File times say nothing: the .py and the library may look newer than the notebook."""
    path = book(PROSE + SETUP + PRINT)
    notebooks.run(None, force=False)
    path.touch()
    (tmp_path / "semid_lib/part.py").touch()
    notebooks.run(None, force=False)
    assert executions == ["01_first"]


def test_a_stale_chapter_without_its_data_keeps_its_outputs(book, executions, tmp_path, capsys):
    path = book(PROSE + SETUP + PRINT)
    notebooks.run(None, force=False)
    before = path.with_suffix(".ipynb").read_bytes()
    (tmp_path / "semid_lib/part.py").write_text("ANSWER = 43\n")
    (tmp_path / "notebooks/chapters.toml").write_text('[01]\ndata = ["sports"]\n')
    (tmp_path / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        from semid_lib.data import sources

        patch.setattr(sources, "search_path", lambda: [tmp_path / "home"])
        notebooks.run(None, force=False)
    assert "NOT refreshed (semid_lib/part.py): needs sports" in capsys.readouterr().out
    assert path.with_suffix(".ipynb").read_bytes() == before and executions == ["01_first"]


def _image(**metadata):
    output = nbformat.v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    return output, {"mystnb": metadata} if metadata else {}


@pytest.mark.parametrize(
    ("output", "metadata", "fault"),
    [
        (nbformat.v4.new_output("stream", name="stdout", text="fine\n"), {}, None),
        (nbformat.v4.new_output("stream", name="stderr", text="oh\n"), {}, "stderr: 'oh"),
        (
            nbformat.v4.new_output("stream", name="stdout", text="in /usr/lib/python3\n"),
            {},
            "a path of the machine: '/usr/lib",
        ),
        (nbformat.v4.new_output("stream", text="and/or 1/2 a//b https://x.org/y/z\n"), {}, None),
        (nbformat.v4.new_output("stream", text="at C:\\Users\\me\n"), {}, "a path of the machine"),
        (
            nbformat.v4.new_output("display_data", {"text/html": '<a href="/root/x">'}),
            {},
            "a path of the machine",
        ),
        (nbformat.v4.new_output("error", ename="E", evalue="no"), {}, "error E: no"),
        (nbformat.v4.new_output("error", ename="E"), {"tags": ["raises-exception"]}, None),
        (*_image(), "image without mystnb"),
        (*_image(figure={"caption": "A"}), "image without mystnb"),
        (*_image(figure={"caption": "A"}, image={"alt": "A"}), "alt text repeats"),
        (*_image(figure={"caption": "A"}, image={"alt": "B" * 201}), "alt text repeats"),
        (*_image(figure={"caption": "A"}, image={"alt": "B"}), None),
    ],
)
def test_what_the_check_sees_in_an_output(output, metadata, fault):
    cell = nbformat.v4.new_code_cell("1", metadata=metadata)
    found = notebooks._faults_of_output(cell, nbformat.from_dict(output))
    assert found == [] if fault is None else len(found) == 1 and fault in found[0]


def test_what_the_check_sees_in_a_chapter(book, executions, monkeypatch):
    long, many = "x = " + "1" * 69, "y = 1\n" * 41
    path = book(
        PROSE + f'# %% tags=["nbval-ignore-output"]\n{long}\n\n# %%\n{many}\n'
        '# %% mystnb={"figure": {"caption": "A"}}\nload_dataset("toys")\n'
    )
    assert notebooks.faults(path) == ["has no .ipynb: run `make run`"]
    notebooks.run(None, force=False)
    stored = notebooks.read_stored(path)
    stored.cells[3].execution_count = None
    for cell in stored.cells[2:]:
        cell.metadata["tags"] = ["nbval-ignore-output"]
    notebooks._write(path, stored)
    monkeypatch.setattr(notebooks, "STORED_BYTES", 100)
    found = "\n".join(notebooks.faults(path))
    for fault in (
        "cell 2 differs between",
        "cell 3 differs between",
        "execution counts are not 1, 2, 3",
        "the first code cell is not tagged colab-setup",
        "3 of 3 code cells have their output ignored, over a quarter",
        "cell 01-001: line of 73 > 72 characters",
        "cell 01-002: 41 lines, more than 40",
        "cell 01-003: a figure of 0 outputs, not 1",
        "bytes, more than 100",
        "loads 'toys', which notebooks/chapters.toml does not declare",
    ):
        assert fault in found
    assert len(found.split("\n")) == 10


def test_notebooks_without_a_source_are_found(book, executions, tmp_path, capsys):
    book(PROSE + SETUP + PRINT)
    notebooks.run(None, force=False)
    assert notebooks.check() == 0
    (tmp_path / "notebooks/09_orphan.ipynb").write_text("{}")
    assert notebooks.check() == 1
    assert "09_orphan.ipynb has no .py beside it" in capsys.readouterr().out


def test_an_unknown_chapter_is_an_error(book):
    book(PROSE)
    with pytest.raises(SystemExit, match="no chapter starts with '7'; there are: 01_first"):
        notebooks.run("7", force=False)


@pytest.mark.parametrize("here", ["outside", "notebooks"])
def test_a_single_chapter_is_compared_from_any_folder(here, tmp_path):
    """Its first cell; chapter 90 needs no data."""
    folder = tmp_path if here == "outside" else ROOT / "notebooks"
    chapter = ROOT / "notebooks" / "90_errata.ipynb"
    command = [sys.executable, "-m", "pytest", "--nbval", "-q"]
    name = str(chapter) if here == "outside" else chapter.name
    done = subprocess.run(
        [*command, f"{name}::Cell 0"], cwd=folder, capture_output=True, text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
