"""What every test and every notebook shares: a fixed profile, honest skips."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


def pytest_configure(config):
    """Fix the profile; keep the cells of one notebook on one worker (`-n 2` would spread them).

    What nbval must not compare is named by its place in this checkout: in `pyproject.toml` it would
    be looked for below the folder that pytest was called from.
    """
    for name in ("SEMID_PROFILE", "SEMID_DEVICE"):
        os.environ.pop(name, None)
    if getattr(config.option, "nbval_sanitize_with", "none here") is None:
        config.option.nbval_sanitize_with = str(ROOT / "notebooks" / "sanitize.cfg")
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadfile"


def pytest_collection_modifyitems(items):
    """Skip chapters whose declared datasets this machine does not hold; tests never download."""
    if not any(item.path.suffix == ".ipynb" for item in items):
        return
    from notebooks import missing_data

    missing = {path: missing_data(path) for path in {i.path for i in items} if _is_chapter(path)}
    for item in items:
        if lacking := missing.get(item.path):
            reason = f"{item.path.name} needs {', '.join(lacking)}: not in ../shared/data or cache"
            item.add_marker(pytest.mark.skip(reason=reason))


def _is_chapter(path: Path) -> bool:
    return path.suffix == ".ipynb" and path.parent == ROOT / "notebooks"


def pytest_terminal_summary(terminalreporter):
    """Say what did not run, and why, however quiet the output is."""
    skipped = defaultdict(set)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[reason.removeprefix("Skipped: ")].add(report.nodeid.split("[")[0])
    if not skipped:
        return
    terminalreporter.section("not run, and why")
    for reason, tests in sorted(skipped.items()):
        places = sorted({test.split("::")[0] for test in tests})
        terminalreporter.line(f"{reason}: {len(tests)} in {', '.join(places)}")
