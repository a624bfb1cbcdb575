"""Build the pages and check them, unless nothing that they are made from has changed.

    python scripts/pages.py           build into _build/html if something changed, and check
    python scripts/pages.py --all     build every page anew

The stamp in _build says what the pages were made from, and is written only after a build without
a warning and a check without a fault. Without it, or when anything but the texts of pages changed,
every page is read anew, so that every warning shows. Where only texts changed, Sphinx reads those,
and writes all pages, as references and numbers of one page stand on others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import check_html

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build"
STAMP = BUILT / "pages.json"
# What a build reads besides the texts of the pages.
FRAME = ("_config.yml", "_toc.yml", "pyproject.toml", "book", "semid_lib", "scripts/pages.py")
FRAME += ("scripts/check_html.py",)
TEXTS = {".md", ".ipynb"}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(place: Path) -> list[Path]:
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def made_from() -> dict[str, dict[str, str]]:
    """Digests of all that the pages are made from: the pages' texts, and everything else."""
    frame = [path for name in FRAME for path in _files(ROOT / name)]
    texts = [path for path in frame if path.suffix in TEXTS] + _files(ROOT / "notebooks")
    texts = [path for path in texts if path.suffix in TEXTS]
    named = {
        path.relative_to(ROOT).as_posix(): _digest(path) for path in frame if path not in texts
    }
    versions = sorted(f"{found.name}=={found.version}" for found in distributions())
    named["packages"] = hashlib.sha256("\n".join(versions).encode()).hexdigest()
    return {
        "texts": {path.relative_to(ROOT).as_posix(): _digest(path) for path in texts},
        "frame": named,
    }


def _stored() -> dict:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def main() -> int:
    if sys.argv[1:] not in ([], ["--all"]):
        raise SystemExit(__doc__)
    now, before = made_from(), {} if sys.argv[1:] else _stored()
    html = BUILT / "html"
    if before == now and (html / "index.html").exists():
        print("pages: nothing changed since they were built and checked")
        return 0
    STAMP.unlink(missing_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    if before.get("frame") != now["frame"]:
        shutil.rmtree(BUILT / ".doctrees", ignore_errors=True)
    build = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n"]
    if subprocess.run([*build, "--keep-going", "-q"], cwd=ROOT).returncode:
        return 1
    if check_html.main(html):
        return 1
    STAMP.write_text(json.dumps(now, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
