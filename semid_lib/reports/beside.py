"""Printed, recorded and live numbers in one table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

import pandas as pd

from semid_lib.reports.tables import KEY, NOT_RUN, Table, averages, check_asked


def side_by_side(
    printed: pd.DataFrame | None = None, recorded: Iterable[Mapping] = (),
    live: Iterable[Mapping] | None = None, *, part: str = "test", caption: str = "",
    metrics: Iterable[str] = ("recall@10", "ndcg@10"),
) -> Table:  # fmt: skip
    """Put the printed number, the recorded one and the live one in one table.

    Args:
        printed: what `printed_cells` returns (rows of it, if only some are wanted).
        recorded: records of the paper profile; averaged over seeds.
        live: records of the quick profile; None leaves their column out.
        metrics: which metrics; one row each. part: "test", "validation", or one of them with
            "_unseen".

    Returns:
        Rows system x variant x dataset x metric. Rows that the paper prints come first; ours on
        other data follow. Columns `paper`, `recorded` (± standard deviation over seeds), `seeds`,
        `gap` (recorded / paper - 1), `quick`, `cut`. A number that does not exist is "not run"
        (ours) or "none" (the paper's).
    """
    from semid_lib.systems import title

    recorded, live, metrics = list(recorded), live and list(live), list(metrics)
    more = () if printed is None else printed["metric"].dropna().unique()
    check_asked(metrics, part, [*recorded, *(live or ())], more)
    paper = pd.DataFrame(columns=[*KEY, "paper"])
    if printed is not None:
        paper = printed[printed["metric"].isin(metrics)].copy()
        paper["system"] = paper["system"].fillna(paper["model"])
        paper["dataset"] = paper["dataset"].fillna(paper["dataset_printed"])
    ours = averages(recorded, metrics, part)
    ours = ours.rename(columns={"value": "recorded", "std": "recorded_std"})
    quick = averages(live or (), metrics, part).rename(columns={"value": "quick"})
    sides = [paper[[*KEY, "paper"]], ours, quick[[*KEY, "quick"]]]
    frame = pd.concat([side[KEY] for side in sides]).drop_duplicates()
    for side in sides:
        frame = frame.merge(side, on=KEY, how="left")
    frame["gap"] = frame["recorded"].astype(float) / frame["paper"].astype(float) - 1
    frame["cut"] = frame["cut"].fillna("")
    frame["seeds"] = frame["seeds"].fillna(0).astype(int)
    frame["system"] = [title(s) for s in frame["system"]]
    left_out = ["variant"] if (frame["variant"] == "default").all() else []
    left_out += ["quick"] if live is None else []
    columns = [*KEY, "paper", "recorded", "recorded_std", "seeds", "gap", "quick", "cut"]
    return _SideBySide(frame[columns].drop(columns=left_out), caption, _SIDE_KINDS)


_SIDE_KINDS = {"paper": "metric", "recorded": "metric", "quick": "metric", "gap": "percent"}


class _SideBySide(Table):
    """What the paper does not print is "none", not "not run"; so is a gap without both sides.

    What a run cut stands below the table, once for each system and dataset.
    """

    def formatted(self) -> pd.DataFrame:
        cells = super().formatted().drop(columns="cut")
        return cells.replace({c: {NOT_RUN: "none"} for c in ("paper", "gap")})

    def notes(self) -> list[str]:
        """One line for each system and dataset whose runs cut something."""
        rows = self.frame[["system", "dataset", "cut"]].drop_duplicates()
        return [f"{system}, {data}: {cut}." for system, data, cut in rows.to_numpy() if cut]

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes())
        return super()._repr_html_() + (f"<ul>{items}</ul>" if items else "")
