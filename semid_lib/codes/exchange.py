"""Codes as files: the form of this library, and the one that LC-Rec and its successors exchange."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semid_lib.errors import CodesError
from semid_lib.storage import sealed, unsealed, write_atomic

FORMAT = "semid_lib.SemanticIds"
TOKEN = re.compile(r"<([a-z]+)_(0|[1-9][0-9]{0,17})>")


def to_index(codes: np.ndarray) -> dict[str, list[str]]:
    """Codes `[N, L]` in the exchange form, item -> `["<a_12>", "<b_7>", ...]`."""
    names = [level_letters(level) for level in range(codes.shape[1])]
    return {
        str(item): [f"<{name}_{code}>" for name, code in zip(names, row)]
        for item, row in enumerate(codes.tolist())
    }


def from_index(source: str | Path | Mapping) -> list[list[int]]:
    """The codes of items 0..N-1 from the exchange form, a file or a mapping.

    Raises:
        CodesError: keys that are not 0..N-1, a token that is not `<letter_number>`, letters out of
            order, a file cut short.
    """
    index = read_codes(source) if isinstance(source, str | Path) else source
    if not isinstance(index, Mapping) or not index:
        raise CodesError("an index must be an object item -> ['<a_12>', ...], not empty")
    by_key = {str(key): tokens for key, tokens in index.items()}
    items = [str(item) for item in range(len(index))]
    if by_key.keys() != set(items):
        wrong = [key[:40] for key in sorted(by_key.keys() - set(items))[:3]]
        raise CodesError(
            f"the {len(index)} item keys must be the numbers 0..{len(index) - 1}, each once, "
            f"not {wrong}: map other ids to positions (some repositories count from 1)"
        )
    return [parse_tokens(by_key[item], item) for item in items]


def write_own(path: str | Path, codes: np.ndarray, level_sizes, catalogue: str | None) -> Path:
    """Write codes `[N, L]`, level sizes and, if it is known, the catalogue's hash, atomically."""
    value = {"format": FORMAT, "version": 1, "level_sizes": level_sizes, "codes": codes.tolist()}
    if catalogue is not None:
        value["catalogue"] = catalogue
    return write_codes(path, sealed(value))


def read_own(path: str | Path) -> dict[str, Any]:
    """Read what `write_own` wrote: codes, level_sizes, and catalogue (None in older files).

    Raises CodesError for anything else: cut files, and codes that are not those written.
    """
    value = read_codes(path)
    ours = isinstance(value, dict) and value.get("format") == FORMAT
    if not ours or value.get("version") != 1 or value.get("level_sizes") is None:
        raise CodesError(
            f"{Path(path).name} is not a file of SemanticIds.to_json, version 1; "
            "for the exchange form (item -> ['<a_12>', ...]) use from_index_json"
        )
    value = unsealed(value, str(path), CodesError)
    return {key: value.get(key) for key in ("codes", "level_sizes", "catalogue")}


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
