"""Check the built pages: every local link and anchor leads somewhere, every image has an
alternative text, nothing is loaded from another site, and no raw mathematics is left.

    python scripts/check_html.py _build/html
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

# What the browser loads by itself, as opposed to links that a reader may follow.
LOADED = (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"))
# <link> of these kinds are addresses, not resources.
ADDRESSES = {"canonical", "next", "prev", "index", "search", "author", "copyright", "alternate"}


@cache
def parsed(page: Path) -> BeautifulSoup:
    """A page's parse tree."""
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Every id and name on a page."""
    tags = parsed(page).find_all(True)
    return frozenset(tag.get(key) for tag in tags for key in ("id", "name") if tag.get(key))


def _fault_of_link(page: Path, target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    path = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if path.is_dir():
        path /= "index.html"
    if not path.is_file():
        return f"link to a missing file: {target}"
    if parts.fragment and path.suffix == ".html" and unquote(parts.fragment) not in anchors(path):
        return f"link to a missing anchor: {target}"
    return None


def _faults_of_resources(soup: BeautifulSoup) -> list[str]:
    found = []
    for name, key in LOADED:
        for tag in soup.find_all(name, attrs={key: True}):
            parts = urlsplit(tag[key])
            kinds = set(tag.get("rel", []))
            foreign = parts.scheme in {"http", "https"} or parts.netloc
            if foreign and not (name == "link" and kinds & ADDRESSES):
                found.append(f"loads {tag[key]} from another site")
    return found


def _faults_of_images(soup: BeautifulSoup) -> list[str]:
    found = []
    for image in soup.find_all("img"):
        alt, name = (image.get("alt") or "").strip(), Path(image.get("src", "")).name
        # Where no text was given, myst-nb writes the file's name.
        if not alt or alt.endswith(name) or Path(alt).suffix in {".svg", ".png", ".jpeg"}:
            found.append(f"image without alternative text: {name} (alt {alt!r})")
    return found


def faults(page: Path) -> tuple[int, list[str]]:
    """How many links and images a page has, and everything that is wrong with it."""
    soup = parsed(page)
    links = [tag["href"] for tag in soup.find_all("a", href=True)]
    local = [tag[key] for name, key in LOADED for tag in soup.find_all(name, attrs={key: True})]
    found = [fault for target in [*links, *local] if (fault := _fault_of_link(page, target))]
    found += _faults_of_resources(soup) + _faults_of_images(soup)
    for tag in soup(["script", "style", "pre", "code"]):
        tag.extract()
    if "$$" in soup.get_text():
        found.append("raw $$ in the text")
    return len(links) + len(local), found


def pages(folder: Path) -> list[Path]:
    """The pages of a built book; the theme's templates in _static are none."""
    return [p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts]


def main(folder: str) -> int:
    root = Path(folder).resolve()
    found = pages(root)
    if not found:
        print(f"{folder} holds no pages: build the book first")
        return 1
    for page in found:  # read every page's anchors before its text is taken apart
        anchors(page)
    results = {page: faults(page) for page in found}
    for page, (_, wrong) in results.items():
        for fault in dict.fromkeys(wrong):
            print(f"{page.relative_to(root)}: {fault}")
    count = sum(len(wrong) for _, wrong in results.values())
    checked = sum(number for number, _ in results.values())
    print(f"pages: {len(found)} with {checked} links and resources checked, {count} faults")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
