"""The one formatter of tables, and what averages records into rows."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from semid_lib.errors import InputError, RecordError
from semid_lib.runs.records import METRICS, record_name
from semid_lib.settings import meant

NOT_RUN = "not run"
RECOMPUTED = "application/vnd.semid.recomputed+json"  # part of a table's output in a notebook


def format_number(
    value, kind: str = "metric", *, digits: int | None = None, missing: str = NOT_RUN
) -> str:
    """Format one number as the whole book does.

    Args:
        value: a number. Text is returned as it is.
        kind: "metric" (0.0605), "count" (12,101), "percent" (+3.2 %, of a ratio minus 1), "share"
            (3.2 %, of a fraction), "seconds" (2 h 05 min), "bytes" (1.5 GB), "real" (4 digits).
        digits: in place of a kind: so many decimals of a float; an integer as it is; and text that
            is a number below 0, such as a printed cell, with the minus sign of the others.
        missing: what None and NaN give.
    """
    if isinstance(value, str):
        negative = digits is not None and value.startswith("-")
        return "−" + value[1:] if negative else value
    real = isinstance(value, float | np.floating)
    if value is None or (real and math.isnan(value)):
        return missing
    if digits is not None:
        return f"{value:.{digits}f}".replace("-", "−") if real else str(value)
    if kind == "seconds":
        return _duration(value)
    if kind == "bytes":
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    patterns = {"metric": ".4f", "count": ",.0f", "percent": "+.1%", "share": ".1%", "real": ".4g"}
    if kind not in patterns:
        return str(value)
    return format(value, patterns[kind]).replace("%", " %").replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True, eq=False)
class Table:
    """A table of numbers that prints itself as text and, in a notebook, as HTML.

    Attributes:
        frame: the raw values, NaN where there is none.
        caption: shown above it.
        kinds: column -> a kind of `format_number`.
        recomputes: id of a printed table, such as "acerec.table.5" -> our values of its cells, NaN
            where there is none; the page of status counts them.
        digits: decimals of the floats in columns without a kind, of all or column -> decimals;
            without any, integers are "count" and other numbers "real".
        missing: what stands for NaN and None.
    """

    frame: pd.DataFrame
    caption: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    recomputes: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    digits: int | Mapping[str, int] | None = None
    missing: str = NOT_RUN

    def formatted(self) -> pd.DataFrame:
        """Every cell as text; a column `x_std` is folded into its column `x` as `mean ± std`."""
        cells = {}
        for name, values in self.frame.items():
            if str(name).removesuffix("_std") in cells:
                continue
            how = self._format_of(name, values)
            spread = self.frame.get(f"{name}_std", [None] * len(values))
            cells[name] = [
                format_number(v, **how, missing=self.missing)
                + ("" if pd.isna(s) else f" ± {format_number(s, **how)}")
                for v, s in zip(values, spread)
            ]
        return pd.DataFrame(cells, index=self.frame.index)

    def _format_of(self, name, values) -> dict:
        """The kind or the digits of a column, as `format_number` takes them."""
        if name in self.kinds:
            return {"kind": self.kinds[name]}
        digits = self.digits.get(name) if isinstance(self.digits, Mapping) else self.digits
        if digits is not None:
            return {"digits": digits}
        return {"kind": "count" if pd.api.types.is_integer_dtype(values) else "real"}

    def __str__(self) -> str:
        text = self.formatted().to_string(index=not isinstance(self.frame.index, pd.RangeIndex))
        return f"{self.caption}\n{text}" if self.caption else text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        index = not isinstance(self.frame.index, pd.RangeIndex)
        body = self.formatted().to_html(index=index, border=0, classes="semid-table")
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        head, bracket, rest = body.partition(">")
        return head + bracket + caption + rest

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        counts = {name: int(values.count().sum()) for name, values in self.recomputes.items()}
        return {RECOMPUTED: counts} if counts else {}


def table(
    frame: pd.DataFrame, caption: str = "", kinds: Mapping[str, str] | None = None,
    recomputes: Mapping[str, pd.DataFrame] | None = None, *,
    digits: int | Mapping[str, int] | None = None, missing: str = NOT_RUN,
) -> Table:  # fmt: skip
    """Show `frame` with the book's number formats; see `Table` and `format_number`."""
    return Table(frame, caption, dict(kinds or {}), dict(recomputes or {}), digits, missing)


def summarise(
    records: Iterable[Mapping], metrics: Iterable[str] = METRICS, part: str = "test"
) -> pd.DataFrame:
    """Average records over seeds, in long form.

    Returns:
        Columns `system`, `variant`, `dataset`, `metric`, `value` (mean), `std` (sample standard
        deviation, NaN for one seed), `seeds`, `cut` (what any of them cut, "; " between).

    Raises:
        InputError: a part, or a metric, that the records do not have.
        RecordError: two of them are of different data that have one name.
    """
    records, metrics = list(records), list(metrics)
    check_asked(metrics, part, records)
    return averages(records, metrics, part)


def averages(records, metrics, part) -> pd.DataFrame:
    """What `summarise` returns; a metric that a record lacks is NaN."""
    check_same_data(records)
    rows = [
        (r["system"], r["variant"], r["dataset"], m, r["metrics"][part].get(m), r["cut"])
        for r in records
        for m in metrics
    ]
    frame = pd.DataFrame(rows, columns=[*KEY, "value", "cut"])
    seeds = frame.groupby(KEY, sort=False)
    return seeds.agg(
        value=("value", "mean"),
        std=("value", "std"),
        seeds=("value", "size"),
        cut=("cut", lambda cuts: "; ".join(dict.fromkeys(c for cut in cuts for c in cut))),
    ).reset_index()


KEY = ["system", "variant", "dataset", "metric"]
PARTS = ("test", "validation", "test_unseen", "validation_unseen")


def check_same_data(records) -> None:
    """Raise RecordError if two records name one dataset but were made of different data."""
    seen: dict[str, Mapping] = {}
    for record in records:
        other = seen.setdefault(record["dataset"], record)
        if other.get("dataset_sha256") != record.get("dataset_sha256"):
            raise RecordError(
                f"{record_name(other)} and {record_name(record)} were made of different data that "
                f"are both called {record['dataset']!r} (dataset_sha256 "
                f"{other['dataset_sha256'][:8]}... and {record['dataset_sha256'][:8]}...): remove "
                "one, or rename its folder and run again"
            )


def check_asked(metrics, part: str, records, more=()) -> None:
    """Raise InputError for a part or a metric that no record, and none of `more`, knows."""
    if part not in PARTS:
        raise InputError(f"part is {part!r}, but must be one of {PARTS}{meant(part, PARTS)}")
    known = dict.fromkeys([*METRICS, *more])
    for record in records:
        if part not in record["metrics"]:
            raise InputError(f"{record_name(record)} has no part {part!r}")
        known |= record["metrics"][part]
    for metric in metrics:
        if metric not in known:
            close = meant(metric, known)
            raise InputError(f"unknown metric {metric!r}{close}; there are {', '.join(known)}")
