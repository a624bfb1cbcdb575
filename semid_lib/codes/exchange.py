"""Codes as files: the form of this library, and the one that LC-Rec and its successors exchange."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from semid_lib.errors import CodesError
from semid_lib.storage import write_atomic

FORMAT = "semid_lib.SemanticIds"
TOKEN = re.compile(r"<([a-z]+)_(0|[1-9][0-9]{0,17})>")


def level_letters(level: int) -> str:
    """Name of a level: a..z, then aa, ab, ... as in a spreadsheet."""
    name = ""
    level += 1
    while level:
        level, rest = divmod(level - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def parse_tokens(tokens, item: str) -> list[int]:
    if not isinstance(tokens, list | tuple):
        raise CodesError(f"item {item} has {str(tokens)[:40]!r} instead of a list of tokens")
    codes = []
    for level, token in enumerate(tokens):
        match = TOKEN.fullmatch(str(token))
        if match is None or match[1] != level_letters(level):
            raise CodesError(
                f"item {item}, level {level}: {str(token)[:40]!r} is not of the form "
                f"'<{level_letters(level)}_12>'; are the levels out of order?"
            )
        codes.append(int(match[2]))
    return codes


def write_codes(path, value) -> Path:
    return write_atomic(path, json.dumps(value, separators=(",", ":")).encode())


def _no_duplicates(pairs) -> dict:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise CodesError(f"key {key[:40]!r} occurs twice")
    return dict(pairs)


def read_codes(path) -> Any:
    path = Path(path)
    if not path.is_file():
        raise CodesError(f"no such file: {path.name}")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates)
    except CodesError:
        raise
    except (ValueError, RecursionError) as error:
        raise CodesError(
            f"{path.name} ({path.stat().st_size} bytes) is not whole JSON ({error}): "
            "it was probably cut short while copying"
        ) from error
