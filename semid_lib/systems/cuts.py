"""What a run leaves out of its paper, as typed values and as the sentences that records hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Kind -> how its sentence begins. "method": what the implementation leaves out, of one stage or of
#: all; "setting": a value that is not the paper's; the others: what the data change.
KINDS = {
    "setting": "settings: ",
    "vectors": "vectors: ",
    "data": "data: ",
    "fields": "fields: ",
    "missing": "items without a value are kept: ",
    "method": "",
}


@dataclass(frozen=True)
class Cut:
    """One thing in which a run differs from its paper; `str` gives its sentence.

    Attributes:
        kind: one of `KINDS`.
        stage: the role that it concerns, None for the run as a whole.
        setting: of kind "setting", the setting's name; "class" where another class runs.
        ours, paper: its values as they are shown; `paper` is None where the paper's has none.
        note: of the other kinds, what is said.
    """

    kind: str
    stage: str | None = None
    setting: str | None = None
    ours: str | None = None
    paper: str | None = None
    note: str = ""

    @property
    def words(self) -> str:
        """The sentence without its beginning, such as `recommender epochs 5 (paper 500)`."""
        if self.kind != "setting":
            return self.note
        name = () if self.setting == "class" else (self.setting,)
        words = " ".join([self.stage, *name, self.ours])
        return words if self.paper is None else f"{words} (paper {self.paper})"

    def __str__(self) -> str:
        stage = f"{self.stage}: " if self.kind == "method" and self.stage else ""
        return f"{KINDS[self.kind]}{stage}{self.words}"


def sentences(cuts: Iterable[Cut]) -> list[str]:
    """A record's `cut`: a sentence for each, but one for all settings, which comes last."""
    cuts = list(cuts)
    settings = ", ".join(cut.words for cut in cuts if cut.kind == "setting")
    others = [str(cut) for cut in cuts if cut.kind != "setting"]
    return others + ([KINDS["setting"] + settings] if settings else [])
