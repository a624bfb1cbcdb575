"""Photograph built pages in Chromium, at desktop and phone width.

    python scripts/screenshot.py FOLDER [PAGE ...]     such as: out book/intro notebooks/01_pipeline

Writes FOLDER/PAGE-desktop.png and -phone.png of each page of _build/html (all of them by default).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The first Chromium on the PATH, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield opened
        opened.close()


def photograph(page_path: Path, target: Path, size: tuple[int, int], opened, whole: bool) -> None:
    """Write one picture of one page, equations rendered."""
    width, height = size
    context = opened.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto(page_path.as_uri(), wait_until="load")
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    target.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=target, full_page=whole)
    context.close()


def main(folder: str, *names: str) -> None:
    """Photograph the named pages, or all."""
    if chromium() is None:
        raise SystemExit("no Chromium on the PATH")
    chosen = [HTML / f"{name}.html" for name in names]
    with browser() as opened:
        for path in chosen or sorted(HTML.glob("[bn]*/*.html")):
            for kind, size in SIZES.items():
                target = Path(folder) / f"{path.stem}-{kind}.png"
                photograph(path, target, size, opened, whole=True)
                print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
