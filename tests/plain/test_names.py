"""What the package promises: names that exist, short functions, none that calls the fast code."""

import ast
from pathlib import Path

from semid_lib import plain

FOLDER = Path(plain.__file__).parent


def test_every_name_is_there_and_says_what_it_is():
    for name in plain.__all__:
        assert getattr(plain, name).__doc__, name


def test_twins_are_short_and_stand_on_their_own():
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("semid_lib"):
                assert node.module.startswith(("semid_lib.plain", "semid_lib._lazy")), path.name
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, node.name
