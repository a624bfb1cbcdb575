"""The papers' claims and our verdicts."""

from __future__ import annotations

import tomllib

import pandas as pd

from semid_lib.environment import PACKAGE
from semid_lib.errors import RecordError
from semid_lib.reports.printed import PAPERS

VERDICTS = ("confirmed", "mixed", "not confirmed", "not testable", "not tested yet")
_CLAIM = ["id", "paper", "claim", "where", "test", "verdict", "note", "evidence"]


def claims() -> pd.DataFrame:
    """Read the papers' claims and their verdicts so far (`papers/claims.toml`), as they are listed.

    Returns:
        Columns of text `id`, `paper`, `claim` (in our words), `where` (section or table), `test`
        (what would confirm or refute it), `verdict` (one of `VERDICTS`), `note` (why), and
        `evidence` (list of anchors of the book, such as "fig-gaoq-eight", and names of records).

    Raises:
        RecordError: a field is missing, an id occurs twice, a verdict is unknown, or one other
            than the last two has no evidence.
    """
    listed = tomllib.loads((PACKAGE / "papers" / "claims.toml").read_text(encoding="utf-8"))[
        "claim"
    ]
    for claim in listed:
        name = f"claims.toml, {claim.get('id', 'a claim without id')!r}"
        if missing := [key for key in _CLAIM if key not in claim]:
            raise RecordError(f"{name} lacks {', '.join(missing)}")
        if claim["verdict"] not in VERDICTS or claim["paper"] not in PAPERS:
            raise RecordError(f"{name}: verdict {claim['verdict']!r} of paper {claim['paper']!r}")
        if not claim["evidence"] and claim["verdict"] not in VERDICTS[-2:]:
            raise RecordError(f"{name} is {claim['verdict']!r} but names no evidence")
    frame = pd.DataFrame(listed, columns=_CLAIM)
    if frame["id"].duplicated().any():
        raise RecordError(f"claims.toml: twice {frame['id'][frame['id'].duplicated()].tolist()}")
    return frame
