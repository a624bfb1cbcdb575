"""Photograph built pages in Chromium.

    python scripts/screenshot.py FOLDER [PAGE ...]   such as: out book/intro notebooks/01_pipeline
    python scripts/screenshot.py README.png PAGE#ANCHOR

The first writes FOLDER/PAGE-desktop.png and -phone.png, whole pages of _build/html (all of them by
default). The second writes one desktop view with the anchor in its middle, for the README.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
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


def photograph(opened, page: str, kind: str, target: Path) -> None:
    """Write a picture of `page` ("folder/name", or "folder/name#anchor" for one view of it)."""
    name, _, anchor = page.partition("#")
    width, height = SIZES[kind]
    context = opened.new_context(viewport={"width": width, "height": height})
    shown = context.new_page()
    shown.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
    shown.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    if anchor:
        where = "{block: 'center', behavior: 'instant'}"
        shown.evaluate(f"(id) => document.getElementById(id).scrollIntoView({where})", anchor)
    target.parent.mkdir(parents=True, exist_ok=True)
    shown.screenshot(path=target, full_page=not anchor)
    context.close()


def main(target: str, *pages: str) -> None:
    """Photograph the named pages, or all."""
    if chromium() is None:
        raise SystemExit("no Chromium on the PATH")
    chosen = list(pages)
    if not chosen:
        found = [path for part in ("book", "notebooks") for path in (HTML / part).glob("*.html")]
        chosen = [path.relative_to(HTML).with_suffix("").as_posix() for path in sorted(found)]
    with browser() as opened:
        if target.endswith(".png"):
            photograph(opened, chosen[0], "desktop", Path(target))
            _few_colours(Path(target))
            return
        for page in chosen:
            for kind in SIZES:
                file = Path(target) / f"{Path(page).name}-{kind}.png"
                photograph(opened, page, kind, file)
                print(file)


def _few_colours(path: Path) -> None:
    """Rewrite a picture with a palette: a quarter of the bytes, no difference to see."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
