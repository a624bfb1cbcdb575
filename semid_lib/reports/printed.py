"""The papers' printed tables."""

from __future__ import annotations

import re
import tomllib

import pandas as pd

from semid_lib.environment import PACKAGE
from semid_lib.errors import InputError

PAPERS = {"resid": "ReSID", "acerec": "ACERec", "r3vae": "R³-VAE"}
#: Datasets as the papers print them. ReSID's are Amazon-2023 sets, so "Sports" is not its "SO".
_DATASETS = {
    "Beauty": "beauty", "Sports": "sports", "Toys": "toys", "Instruments": "instruments",
    "Office": "office", "Baby": "baby", "Clothing": "clothing", "LastFM": "lastfm", "ML1M": "ml-1m",
}  # fmt: skip


def paper_table(paper: str, number: int, *, as_printed: bool = False) -> pd.DataFrame:
    """Read a printed table of `paper`: "resid", "acerec" or "r3vae".

    With `as_printed` every cell is the string that was printed, trailing zeros and all. Raises
    InputError if there is no such table.
    """
    path = PACKAGE / "papers" / f"{paper}_table{number}.csv"
    if paper not in PAPERS or not path.is_file():
        known = sorted(p.stem.replace("_table", ".") for p in path.parent.glob("*_table*.csv"))
        raise InputError(f"no printed table {paper}.{number}; there are {', '.join(known)}")
    kind = str if as_printed else None
    return pd.read_csv(path, dtype=kind, keep_default_na=False, na_values=[""])


def printed_items() -> list[dict]:
    """The 49 tables and figures as `status.toml` lists them."""
    items = tomllib.loads((PACKAGE / "papers" / "status.toml").read_text(encoding="utf-8"))["item"]
    for item in items:
        item["paper"], item["kind"], number = item["id"].split(".")
        item["number"] = int(number)
    return items


def printed_cells(paper: str, number: int) -> pd.DataFrame:
    """Bring a printed table of metrics into long form, named as our records are.

    Returns:
        Columns `model` (as printed), `system` (ours, or None) and its `variant`,
        `dataset_printed`, `dataset` (ours, or None where the paper's data are not here), `metric`
        ("recall@10", ..., and as printed "SC", "PD", "CR" and "Gini"), `paper` (float). Empty for
        tables that do not print metrics of recommenders.
    """
    from semid_lib.systems import system_printed_as

    frame = paper_table(paper, number)
    item = next(i for i in printed_items() if i["id"] == f"{paper}.table.{number}")
    wide = [c for c in frame.columns if re.fullmatch(r"[RN]@\d+|MRR|SC|PD|CR|Gini", c)]
    if wide and "dataset" in item:
        frame = frame.melt(item["keys"], wide, "metric", "value").assign(dataset=item["dataset"])
    rows = item.get("rows", [c for c in ("model", "method", "variant") if c in frame][:1])
    columns = ["model", "system", "variant", "dataset_printed", "dataset", "metric", "paper"]
    if not rows or "metric" not in frame:
        return pd.DataFrame(columns=columns)
    model = frame[rows].astype(str).agg(" ".join, axis=1)
    frame = frame.drop(columns={"variant", "model"} & {*frame}).assign(model=model)
    frame = frame.rename(columns={"value": "paper", "dataset": "dataset_printed"})
    longer = {"^R@": "recall@", "^N@": "ndcg@", "^MRR$": "mrr"}
    frame["metric"] = frame["metric"].replace(longer, regex=True)
    runs = {name: run.split("--") for name, run in item.get("runs", {}).items()}
    frame["system"] = [runs[m][0] if m in runs else system_printed_as(m) for m in model]
    frame["variant"] = [runs[m][1] if m in runs else "default" for m in model]
    frame["dataset"] = frame["dataset_printed"].map(_DATASETS.get)
    return frame[frame["model"] != "Improv._pct"][columns].reset_index(drop=True)
