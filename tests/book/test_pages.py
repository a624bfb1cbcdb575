"""When the pages are built: after a change, after a failure, and not otherwise."""

import subprocess
import types

import pytest

import check_html
import pages


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one page; `book.calls` are its builds, `book.status` is how the next one ends."""
    for name in pages.FRAME:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if "." in name:
            place.write_text(name)
        else:
            place.mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_a.ipynb").write_text("{}")
    (tmp_path / "book/page.md").write_text("# A\n")
    (tmp_path / "semid_lib/part.py").write_text("A = 1\n")
    made = types.SimpleNamespace(root=tmp_path, calls=[], status=0, faults=0)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "BUILT", tmp_path / "_build")
    monkeypatch.setattr(pages, "STAMP", tmp_path / "_build/pages.json")
    monkeypatch.setattr(pages.sys, "argv", ["pages.py"])

    def build(command, **_):
        doctrees = tmp_path / "_build/.doctrees"
        made.calls.append("changed" if doctrees.exists() else "all")
        doctrees.mkdir(parents=True, exist_ok=True)
        html = tmp_path / "_build/html"
        assert not html.exists()
        html.mkdir()
        (html / "index.html").write_text("")
        return types.SimpleNamespace(returncode=made.status)

    monkeypatch.setattr(subprocess, "run", build)
    monkeypatch.setattr(check_html, "main", lambda folder: made.faults)
    return made


def test_nothing_is_built_twice(book):
    assert [pages.main(), pages.main()] == [0, 0]
    assert book.calls == ["all"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("book/page.md", "changed"),
        ("notebooks/01_a.ipynb", "changed"),
        ("semid_lib/part.py", "all"),
        ("_config.yml", "all"),
        ("book/results/new.json", "all"),
    ],
)
def test_a_change_is_built(book, name, read):
    pages.main()
    (book.root / name).parent.mkdir(exist_ok=True)
    (book.root / name).write_text("other")
    assert pages.main() == 0
    assert book.calls == ["all", read]


@pytest.mark.parametrize("fault", ["status", "faults"])
def test_after_a_failure_every_page_is_read_again(book, fault):
    pages.main()
    setattr(book, fault, 1)
    (book.root / "book/page.md").write_text("# B\n")
    assert pages.main() == 1
    assert pages.main() == 1  # its warning shows again
    setattr(book, fault, 0)
    assert pages.main() == 0
    assert book.calls == ["all", "changed", "all", "all"]


def test_pages_that_were_removed_are_built_again(book):
    pages.main()
    (book.root / "_build/html/index.html").unlink()
    pages.main()
    assert len(book.calls) == 2
