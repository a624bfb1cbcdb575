"""The page checker, on pages written here."""

from pathlib import Path

import pytest

import check_html

ROOT = Path(__file__).resolve().parents[2]

GOOD = """<html><head>
<link rel="stylesheet" href="_static/a.css"><link rel="canonical" href="https://example.org/x">
<script>let a = "$$";</script></head><body><h1 id="top">T</h1>
<a href="#top">up</a> <a href="sub/two.html#there">two</a> <a href="https://example.org">out</a>
<a href="mailto:a@example.org">mail</a> <a href="sub/">folder</a> <a href="a%20b.html">space</a>
<img src="_static/p.svg" alt="A line that rises."></body></html>"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "_static/a.css").write_text("")
    (tmp_path / "_static/p.svg").write_text("<svg/>")
    (tmp_path / "_static/webpack-macros.html").write_text('<a href="{{ nothing }}">template</a>')
    (tmp_path / "sub/two.html").write_text('<p id="there">two</p><a href="../index.html">back</a>')
    (tmp_path / "sub/index.html").write_text("<p>sub</p>")
    (tmp_path / "a b.html").write_text("<p>space</p>")
    (tmp_path / "index.html").write_text(GOOD)
    return tmp_path


def test_a_good_site_has_no_faults(site, capsys):
    assert check_html.main(str(site)) == 0
    assert "pages: 4 with 10 links and resources checked, 0 faults" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ('<a href="three.html">x</a>', "link to a missing file: three.html"),
        ('<a href="#nowhere">x</a>', "link to a missing anchor: #nowhere"),
        ('<a href="sub/two.html#nowhere">x</a>', "missing anchor: sub/two.html#nowhere"),
        ('<img src="_static/q.png" alt="A.">', "link to a missing file: _static/q.png"),
        ('<img src="_static/p.svg">', "image without alternative text: p.svg"),
        ('<img src="_static/p.svg" alt="_images/p.svg">', "image without alternative text"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads https://cdn.example.org"),
        ('<link rel="stylesheet" href="//fonts.example.org/f.css">', "from another site"),
        ("<p>$$ x^2 $$</p>", "raw $$ in the text"),
    ],
)
def test_each_fault_is_found(site, capsys, added, fault):
    page = site / "index.html"
    page.write_text(GOOD.replace("</body>", added + "</body>"))
    check_html.parsed.cache_clear()
    check_html.anchors.cache_clear()
    assert check_html.main(str(site)) == 1
    out = capsys.readouterr().out
    assert fault in out and "index.html: " in out


def test_an_empty_folder_is_not_a_book(tmp_path, capsys):
    assert check_html.main(str(tmp_path)) == 1
    assert "holds no pages" in capsys.readouterr().out
