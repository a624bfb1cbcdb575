"""How far every table and figure of the papers is recorded, and how far ours are from print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from semid_lib.environment import CHECKOUT
from semid_lib.reports.printed import paper_table, printed_cells, printed_items
from semid_lib.reports.tables import KEY, RECOMPUTED, summarise
from semid_lib.runs.records import (
    CODES,
    _read_json,
    cuts_of,
    load_records,
    records_folder,
)


def status(records: Iterable[Mapping] | None = None) -> pd.DataFrame:
    """List the 25 tables and 24 figures of the three papers and how far each is reproduced.

    What is live is read from the executed chapters: the tables that say what they recompute
    (`table`), and the figures that `papers/status.toml` names.

    Args:
        records: run records, also of codes; default all recorded ones of the paper profile.

    Returns:
        Columns `paper`, `kind`, `number`, `title`, `state`, `chapter` (file stem, empty while there
        is none), `cells` (printed numbers; 0 for figures), `ours` (those with a number of ours),
        `note`. The state is "live" (a chapter recomputes it), "recorded" (records fill every
        cell), "partly", "not yet" or "not possible".
    """
    if records is None:
        folder = records_folder()
        records = [r for f in (folder, folder / CODES) for r in load_records(f, profile="paper")]
    have = {cell for record in records for cell in _measured(record)}
    written = (CHECKOUT / "notebooks").glob("[0-9][0-9]_*.py")
    chapters = {path.name[:2]: path.stem for path in written}
    figures, recomputed = _executed()
    rows = []
    for item in printed_items():
        cells, ours, live = 0, 0, int(item.get("figure") in figures)
        if item["kind"] == "table":
            printed = paper_table(item["paper"], item["number"])
            cells = int(printed.drop(columns=item["keys"]).notna().to_numpy().sum())
            named = ["system", "variant", "dataset", "metric"]
            long = printed_cells(item["paper"], item["number"])
            ours = sum(cell in have for cell in long[named].itertuples(index=False, name=None))
            live = recomputed.get(item["id"], 0)
        if "impossible" in item:
            state = "not possible"
        elif live >= max(cells, 1):
            state = "live"
        elif cells and ours >= cells:
            state = "recorded"
        else:
            state = "partly" if live or ours else "not yet"
        rows.append({
            **{k: item[k] for k in ("paper", "kind", "number", "title")},
            "state": state, "chapter": chapters.get(f"{item['chapter']:02d}", ""), "cells": cells,
            "ours": max(ours, live if cells else 0),
            "note": item.get("impossible", item.get("note", "")),
        })  # fmt: skip
    return pd.DataFrame(rows)


_CODE_MEASURES = {"sc": "SC", "pd": "PD", "collision_rate": "CR", "gini": "Gini"}


def _measured(record) -> list[tuple]:
    """System, variant, dataset and metric of every number of a record that a paper may print."""
    run = record["system"], record["variant"], record["dataset"]
    codes = record["diagnostics"].get("quantizer", {})
    metrics = [name for key, name in _CODE_MEASURES.items() if key in codes]
    return [(*run, m) for m in [*metrics, *record.get("metrics", {}).get("test", ())]]


def _executed() -> tuple[set[str], dict[str, int]]:
    """Names of the figures that executed chapters hold, and how many numbers tables recompute."""
    figures, recomputed = set(), {}
    for path in sorted((CHECKOUT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for cell in _read_json(path)["cells"]:
            name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                if any(kind.startswith("image/") for kind in data):
                    figures.add(name)
                recomputed |= data.get(RECOMPUTED, {})
    return figures, recomputed


def ratios(records: Iterable[Mapping] | None = None) -> pd.DataFrame:
    """Divide our Recall@10 and NDCG@10 by the printed ones, for each system and dataset.

    Args:
        records: run records; default all recorded ones of the paper profile, smaller ones too.

    Returns:
        One row for each paper, system and dataset that both have: `paper`, `system` (as printed),
        `dataset`, `seeds`, `smaller` (what settings a run with a smaller budget cut, else empty),
        and for each of the two metrics `METRIC printed`, `METRIC ours` (mean over seeds) and
        `METRIC ratio`.
    """
    from semid_lib.systems import system_printed_as

    records = load_records(profile="paper", smaller=True) if records is None else list(records)
    wanted, keys = ["recall@10", "ndcg@10"], ["paper_id", "model", "dataset", "seeds", "smaller"]
    tables = [(i["paper"], i["number"]) for i in printed_items() if i["kind"] == "table"]
    printed = pd.concat([printed_cells(p, n).assign(paper_id=p) for p, n in tables])
    printed = printed[[system_printed_as(str(m)) is not None for m in printed["model"]]]
    both = printed[printed["metric"].isin(wanted)].merge(summarise(records, wanted), on=KEY)
    both["smaller"] = _changed_settings(records, both)
    both = both[both["variant"] == "default"].drop_duplicates([*keys, "metric"])
    both["ratio"] = both["value"] / both["paper"]
    found = both[[*keys, "metric"]].assign(
        printed=both["paper"], ours=both["value"], ratio=both["ratio"]
    )
    found = found.pivot(index=keys, columns="metric", values=["printed", "ours", "ratio"])
    order = [(kind, metric) for metric in wanted for kind in ("printed", "ours", "ratio")]
    found = found.reindex(columns=order)
    found.columns = [f"{metric} {kind}" for kind, metric in order]
    return found.reset_index().rename(columns={"paper_id": "paper", "model": "system"})


def _changed_settings(records: Iterable[Mapping], rows: pd.DataFrame) -> list[str]:
    """For each row's system, variant and dataset: the settings that its runs changed, as words."""
    found: dict[tuple, dict[str, None]] = {}
    for record in records:
        run = record["system"], record["variant"], record["dataset"]
        words = ", ".join(cut.words for cut in cuts_of(record) if cut.kind == "setting")
        found.setdefault(run, {}).update({words: None} if words else {})
    runs = rows[KEY[:3]].itertuples(index=False, name=None)
    return ["; ".join(found[run]) for run in runs]
