"""The built pages in a real browser, at desktop and phone width, with no other network.

`make test` builds the pages first. Without them, or without Chromium, these tests are skipped.
"""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

import screenshot

ROOT = Path(__file__).resolve().parents[2]

HTML = ROOT / "_build" / "html"
WAIT = 60_000  # milliseconds, at most; on idle cores a fraction of a second
WIDTHS = {"desktop": 1280, "phone": 390}

pytestmark = [
    pytest.mark.skipif(screenshot.chromium() is None, reason="needs Chromium on the PATH"),
    pytest.mark.skipif(not HTML.is_dir(), reason="needs the built pages: make html"),
]


@pytest.fixture(scope="module")
def address():
    """The pages over HTTP, on a free port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=HTML)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with screenshot.browser() as opened:
        yield opened


@pytest.fixture(params=WIDTHS)
def page(browser, request, address):
    """A page whose requests to anywhere else are blocked and remembered."""
    context = browser.new_context(viewport={"width": WIDTHS[request.param], "height": 900})
    opened = context.new_page()
    opened.foreign, opened.errors = [], []

    def route(handle):
        url = handle.request.url
        if url.startswith((address, "file:", "data:", "blob:")):
            handle.continue_()
        else:
            opened.foreign.append(url)
            handle.abort()

    opened.route("**/*", route)
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    yield opened
    context.close()


def _pages():
    """The pages of the table of contents, not the indexes that Sphinx adds."""
    return sorted(path for part in ("book", "notebooks") for path in (HTML / part).glob("*.html"))


def _chapters():
    return [p for p in _pages() if p.parent.name == "notebooks"]


def _open(page, url):
    page.goto(url, wait_until="load")
    page.wait_for_function(
        "!window.MathJax || !MathJax.startup || !MathJax.startup.promise || true"
    )
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")


@pytest.mark.parametrize("path", _pages(), ids=lambda path: path.stem)
def test_a_page_reads_well(page, address, path):
    _open(page, address + path.relative_to(HTML).as_posix())
    assert page.errors == [] and page.foreign == []
    widths = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] == widths[1], "the page scrolls sideways"
    assert page.evaluate("[...document.images].filter(i => !i.alt.trim()).map(i => i.src)") == []
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert page.evaluate(broken) == []
    asked = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container").count() >= asked
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    text = page.locator("article").inner_text()
    assert "$$" not in text and "\\(" not in text and "\\[" not in text


def test_mathematics_is_rendered_from_disk_too(page):
    _open(page, (HTML / "book" / "notation.html").as_uri())
    assert page.foreign == [] and page.errors == []
    assert page.locator("mjx-container").count() > 20
    assert page.evaluate("document.fonts.size") > 0


def test_solutions_open_on_a_click(page, address):
    found = 0
    for path in _chapters():
        _open(page, address + path.relative_to(HTML).as_posix())
        for solution in page.locator("div.solution.dropdown, div.solution.toggle").all():
            body = solution.locator("section, .solution-content, p:not(.admonition-title)").first
            assert not body.is_visible()
            solution.locator(".toggle-button, .admonition-title").first.click()
            body.wait_for(state="visible", timeout=WAIT)
            found += 1
    assert found >= len(_chapters()) > 0, "every chapter has an exercise with a hidden solution"


def test_hidden_cells_open_on_a_click(page, address):
    assert _chapters()
    for path in _chapters():
        _open(page, address + path.relative_to(HTML).as_posix())
        hidden = page.locator("details.hide").first
        code = hidden.locator("pre").first
        assert not code.is_visible()
        hidden.locator("summary").first.click()
        code.wait_for(state="visible", timeout=WAIT)


def test_search_finds_pages(page, address):
    page.goto(address + "search.html?q=trie")
    found = page.locator("#search-results li a")  # the list fills itself bit by bit
    for title in ("Generating codes", "Notation"):
        found.filter(has_text=title).first.wait_for(timeout=WAIT)
    assert page.foreign == [] and page.errors == []


def test_the_side_bar_lists_every_page(page, address):
    page.goto(address + "book/intro.html")
    links = page.locator(".bd-sidebar-primary a").evaluate_all("all => all.map(a => a.href)")
    linked = {link.split("#")[0].removeprefix(address) for link in links}
    for path in _pages():
        assert path.relative_to(HTML).as_posix() in linked | {"book/intro.html"}


def test_chromium_is_looked_for_on_the_path(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert screenshot.chromium() is None
