"""Run records, the papers' printed tables, and the one table that shows both.

A record is the JSON file of one finished run. Tables are assembled from records and from the
printed values in `semid_lib/papers`; nothing here is typed in by hand.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import os
import re
import tempfile
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from semid_lib.errors import InputError, RecordError
from semid_lib.settings import meant
from semid_lib.storage import sealed, unsealed, write_json, writing

PAPERS = {"resid": "ReSID", "acerec": "ACERec", "r3vae": "R³-VAE"}
CUTOFFS = (5, 10, 20)
METRICS = tuple(f"{m}@{k}" for m in ("recall", "ndcg") for k in CUTOFFS) + ("mrr",)
NOT_RUN = "not run"
SMALLER = "settings: "  # how the cut of a run with a smaller budget than its preset's begins
VERDICTS = ("confirmed", "mixed", "not confirmed", "not testable", "not tested yet")
_CLAIM = ["id", "paper", "claim", "where", "test", "verdict", "note", "evidence"]
_RECOMPUTED = "application/vnd.semid.recomputed+json"  # part of a table's output in a notebook
CODES = "codes"  # sub-folder of the records of runs that ended with their codes
#: What every record holds, nested keys joined by dots.
RECORD_KEYS = (
    "system", "variant", "dataset", "dataset_sha256", "profile", "seed", "intervals", "diagnostics",
    "cost.seconds", "cost.stages", "config", "cut", "device", "versions", "commit", "curve",
    *(f"metrics.{p}.{m}" for p in ("validation", "test", "test_unseen") for m in METRICS),
)  # fmt: skip
#: What the record of a run until the quantizer holds.
CODE_KEYS = (
    "until", "diagnostics.encoder", "diagnostics.quantizer.terms",
    *(key for key in RECORD_KEYS if not key.startswith(("metrics.", "intervals"))),
)  # fmt: skip
_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parent
_OWN = Path(".semid") / "results"  # of a user without a checkout
#: Datasets as the papers print them. ReSID's are Amazon-2023 sets, so "Sports" is not its "SO".
_DATASETS = {
    "Beauty": "beauty", "Sports": "sports", "Toys": "toys", "Instruments": "instruments",
    "Office": "office", "Baby": "baby", "Clothing": "clothing", "LastFM": "lastfm", "ML1M": "ml-1m",
}  # fmt: skip


# ------------------------------------------------------------------ records


def slug(text: str) -> str:
    """Turn a name into a safe piece of a file name: `sasrec*` -> `sasrec-star`.

    A name of which this leaves less than half, such as one in Chinese, gets eight digits of its
    hash: two such names are two.
    """
    plain = unicodedata.normalize("NFKD", text.lower().replace("*", "-star"))
    safe = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
    letters = sum(c.isalnum() for c in unicodedata.normalize("NFKC", text))
    if 2 * sum(c.isalnum() for c in safe.replace("-star", "")) >= letters and safe:
        return safe
    mark = hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()[:8]
    return "-".join(part for part in (safe, mark) if part)


def run_name(system: str, variant: str, dataset: str, profile: str, seed: int) -> str:
    """Name a run: `resid--default--beauty--paper--s0`."""
    return "--".join([*(slug(part) for part in (system, variant, dataset, profile)), f"s{seed}"])


def record_name(record: Mapping) -> str:
    """Name the run that `record` describes."""
    keys = ("system", "variant", "dataset", "profile", "seed")
    return run_name(*(record[key] for key in keys))


def records_folder(to_write: bool = False) -> Path:
    """Find the records: $SEMID_RESULTS, else the checkout's book/results, else the user's.

    The user's are in `.semid/results` below the working folder; without any, those that come with
    the package are read. With `to_write`: where records go, never into the package.
    """
    if os.environ.get("SEMID_RESULTS"):
        return Path(os.environ["SEMID_RESULTS"])
    if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "book").is_dir():
        return _CHECKOUT / "book" / "results"
    return _OWN if to_write or _OWN.is_dir() else _HERE / "_records"


def check_writable(folder: Path) -> None:
    """Raise StorageError unless files can be made in the folder, which is made if need be."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_record(record: Mapping, where: str = "record") -> None:
    """Raise RecordError if a key is missing, a name is no plain text, or a metric not in 0..1.

    The keys are `RECORD_KEYS`, or `CODE_KEYS` for a record that says how far it went ("until").
    """
    if not isinstance(record, Mapping):
        raise RecordError(f"{where} holds a {type(record).__name__}, not a JSON object")
    for key in CODE_KEYS if "until" in record else RECORD_KEYS:
        value = record
        for step in key.split("."):
            if not isinstance(value, Mapping) or step not in value:
                raise RecordError(f"{where} lacks {key!r}: unfinished run, or an edited file?")
            value = value[step]
        if key in ("system", "variant", "dataset", "device") and not is_name(value):
            raise RecordError(
                f"{where} has {key} = {value!r:.80}, but it must be one line without < > | `"
            )
        if key.startswith("metrics.") and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise RecordError(f"{where} has {key} = {value!r}, which is not a number in 0..1")


def is_name(value) -> bool:
    """Whether a value can stand in a table: text of one line, with nothing that is mark-up."""
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        return False
    return value.isprintable() and not set(value) & set("<>|`")


def write_record(record: Mapping, folder: str | Path | None = None, *, force: bool = False) -> Path:
    """Write a record atomically under its own name (again: nothing happens).

    One of codes alone goes to the sub-folder `codes`. Another record of that name may stand in a
    table already, so only `force` replaces it.

    Raises:
        RecordError: incomplete, or a different record of this name exists and `force` is off.
    """
    check_record(record, where=record_name(record) if "seed" in record else "record")
    folder = Path(folder or records_folder(to_write=True))
    folder = folder / (CODES if "until" in record else "")
    path = folder / f"{record_name(record)}.json"
    if path.exists() and not force:
        if json.loads(json.dumps(record)) == load_record(path):
            return path
        raise RecordError(
            f"{path.name} exists and differs (written at commit "
            f"{str(load_record(path)['commit'])[:12]}); replace it with force, or remove it"
        )
    return write_json(path, sealed(record))


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"no record {path.name}: the run has not finished") from None
    except (ValueError, RecursionError, OSError) as error:
        raise RecordError(
            f"{path.name} ({path.stat().st_size} bytes) is not JSON: {error}. Delete it, run again."
        ) from error


def load_record(path: str | Path) -> dict:
    """Read and check one record.

    Raises RecordError, naming the file, if it is not a whole one, or not the one that was written.
    """
    path = Path(path)
    record = _read_json(path)
    check_record(record, path.name)
    record = unsealed(record, path.name)
    if path.stem != record_name(record):
        raise RecordError(f"{path.name} holds the run {record_name(record)!r}: was it renamed?")
    return record


def load_records(folder: str | Path | None = None, *, smaller=False, **wanted) -> list[dict]:
    """Read all records, sorted by name, of a folder (default: `records_folder()`).

    Args:
        smaller: also whole runs of the paper profile with a smaller budget (`is_smaller`).
        wanted: keep those whose key equals the value, or one of them if it is a list:
            `load_records(profile="paper", dataset=["beauty", "toys"])`.

    Raises:
        RecordError: a file is corrupt or incomplete.
    """
    folders = [records_folder()] if folder is None else [Path(folder)]
    if folder is None and folders[0] == _OWN:
        folders.insert(0, _HERE / "_records")  # those that came with the package, unless replaced
    paths = {path.name: path for place in folders for path in place.glob("*.json")}
    records = [load_record(paths[name]) for name in sorted(paths)]
    for key, value in wanted.items():
        allowed = value if isinstance(value, list | tuple) else [value]
        records = [r for r in records if r[key] in allowed]
    return [r for r in records if smaller or not is_smaller(r)]


def is_smaller(record: Mapping) -> bool:
    """Whether a whole run of the paper profile had a smaller budget than its preset: it says so."""
    whole = record["profile"] == "paper" and "until" not in record
    return whole and any(text.startswith(SMALLER) for text in record["cut"])


def code_records(
    system: str | list | None = None, dataset: str | list | None = None, folder=None
) -> pd.DataFrame:
    """Collect the diagnostics of all recorded codes, of whole runs and of codes alone.

    Args:
        system, dataset: keep these (a name, or a list of names). folder: see `load_records`.

    Returns:
        One row a run: `system`, `variant`, `dataset`, `profile`, `seed`, `kind` ("run" or
        "codes"), `cut` (list), `encoder.*` and `quantizer.*` (the record's diagnostics, nested
        keys joined by dots, such as `encoder.purity.category` or
        `quantizer.terms.variance.H(z|c_l)`; one value a level is a list), and the stages' seconds
        as `encoder.seconds` and `quantizer.seconds`. Empty, with the first six columns, if
        nothing is recorded.

    Raises:
        RecordError: a file is corrupt or incomplete.
    """
    folder = Path(folder or records_folder())
    wanted = {"system": system, "dataset": dataset}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    runs = [
        r for r in load_records(folder, smaller=True, **wanted)
        if "terms" in r["diagnostics"].get("quantizer", {})
    ]  # fmt: skip
    whole = {record_name(r) for r in runs}
    codes = [r for r in load_records(folder / CODES, **wanted) if record_name(r) not in whole]
    keys, rows = ["system", "variant", "dataset", "profile", "seed"], []
    for record in runs + codes:
        row = {key: record[key] for key in keys}
        row |= {"kind": CODES if "until" in record else "run", "cut": record["cut"]}
        found = {k: dict(record["diagnostics"][k]) for k in ("encoder", "quantizer")}
        for stage, values in found.items():
            values["seconds"] = record["cost"]["stages"][stage]["seconds"]
        rows.append({**row, **pd.json_normalize(found).iloc[0].to_dict()})
    return pd.DataFrame(rows, columns=None if rows else [*keys, "kind"])


def click_records(folder: str | Path | None = None) -> pd.DataFrame:
    """Collect the recorded click models (chapter 08), made by `scripts/clicks.py`.

    Returns:
        One row a run, sorted by file name: `tokenizer`, `vectors`, `form`, `seed`, `dataset`,
        `diagnostics.*`, `cost.*` and, for the rows PART "all", "cold_items", "coldest_items" and
        "cold_users", `metrics.PART.uauc` and the like, nested keys joined by dots. Empty, without
        columns, if nothing is recorded.

    Raises:
        RecordError: a file is corrupt.
    """
    paths = sorted((Path(folder or records_folder()) / "clicks").glob("*.json"))
    return pd.json_normalize([_read_json(path) for path in paths])


# ------------------------------------------------------------------ printed tables


def paper_table(paper: str, number: int, *, as_printed: bool = False) -> pd.DataFrame:
    """Read a printed table of `paper`: "resid", "acerec" or "r3vae".

    With `as_printed` every cell is the string that was printed, trailing zeros and all. Raises
    InputError if there is no such table.
    """
    path = _HERE / "papers" / f"{paper}_table{number}.csv"
    if paper not in PAPERS or not path.is_file():
        known = sorted(p.stem.replace("_table", ".") for p in path.parent.glob("*_table*.csv"))
        raise InputError(f"no printed table {paper}.{number}; there are {', '.join(known)}")
    kind = str if as_printed else None
    return pd.read_csv(path, dtype=kind, keep_default_na=False, na_values=[""])


def _items() -> list[dict]:
    """The 49 tables and figures as `status.toml` lists them."""
    items = tomllib.loads((_HERE / "papers" / "status.toml").read_text(encoding="utf-8"))["item"]
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
    item = next(i for i in _items() if i["id"] == f"{paper}.table.{number}")
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


# ------------------------------------------------------------------ the one formatter


def format_number(value, kind: str = "metric") -> str:
    """Format one number as the whole book does.

    Args:
        value: a number; None or NaN gives "not run". Text is returned as it is.
        kind: "metric" (0.0605), "count" (12,101), "percent" (+3.2 %, of a ratio minus 1), "share"
            (3.2 %, of a fraction), "seconds" (2 h 05 min), "bytes" (1.5 GB), "real" (4 digits).
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_RUN
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
        kinds: column -> a kind of `format_number`; "real" for other numbers.
        recomputes: id of a printed table, such as "acerec.table.5" -> our values of its cells, NaN
            where there is none; the page of status counts them.
    """

    frame: pd.DataFrame
    caption: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    recomputes: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def formatted(self) -> pd.DataFrame:
        """Every cell as text; a column `x_std` is folded into its column `x` as `mean ± std`."""
        cells = {}
        for name, values in self.frame.items():
            if str(name).removesuffix("_std") in cells:
                continue
            default = "count" if pd.api.types.is_integer_dtype(values) else "real"
            kind = self.kinds.get(name, default)
            spread = self.frame.get(f"{name}_std", [None] * len(values))
            cells[name] = [
                format_number(v, kind) + ("" if pd.isna(s) else f" ± {format_number(s, kind)}")
                for v, s in zip(values, spread)
            ]
        return pd.DataFrame(cells, index=self.frame.index)

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
        return {_RECOMPUTED: counts} if counts else {}


def table(
    frame: pd.DataFrame, caption: str = "", kinds: Mapping[str, str] | None = None,
    recomputes: Mapping[str, pd.DataFrame] | None = None,
) -> Table:  # fmt: skip
    """Show `frame` with the book's number formats; see `Table` and `format_number`."""
    return Table(frame, caption, dict(kinds or {}), dict(recomputes or {}))


# ------------------------------------------------------------------ side by side


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
    _check_asked(metrics, part, records)
    return _averages(records, metrics, part)


def _averages(records, metrics, part) -> pd.DataFrame:
    """What `summarise` returns; a metric that a record lacks is NaN."""
    _check_same_data(records)
    rows = [
        (r["system"], r["variant"], r["dataset"], m, r["metrics"][part].get(m), r["cut"])
        for r in records
        for m in metrics
    ]
    frame = pd.DataFrame(rows, columns=[*_KEY, "value", "cut"])
    seeds = frame.groupby(_KEY, sort=False)
    return seeds.agg(
        value=("value", "mean"),
        std=("value", "std"),
        seeds=("value", "size"),
        cut=("cut", lambda cuts: "; ".join(dict.fromkeys(c for cut in cuts for c in cut))),
    ).reset_index()


_KEY = ["system", "variant", "dataset", "metric"]
PARTS = ("test", "validation", "test_unseen", "validation_unseen")


def _check_same_data(records) -> None:
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


def _check_asked(metrics, part: str, records, more=()) -> None:
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
    _check_asked(metrics, part, [*recorded, *(live or ())], more)
    paper = pd.DataFrame(columns=[*_KEY, "paper"])
    if printed is not None:
        paper = printed[printed["metric"].isin(metrics)].copy()
        paper["system"] = paper["system"].fillna(paper["model"])
        paper["dataset"] = paper["dataset"].fillna(paper["dataset_printed"])
    ours = _averages(recorded, metrics, part)
    ours = ours.rename(columns={"value": "recorded", "std": "recorded_std"})
    quick = _averages(live or (), metrics, part).rename(columns={"value": "quick"})
    sides = [paper[[*_KEY, "paper"]], ours, quick[[*_KEY, "quick"]]]
    frame = pd.concat([side[_KEY] for side in sides]).drop_duplicates()
    for side in sides:
        frame = frame.merge(side, on=_KEY, how="left")
    frame["gap"] = frame["recorded"].astype(float) / frame["paper"].astype(float) - 1
    frame["cut"] = frame["cut"].fillna("")
    frame["seeds"] = frame["seeds"].fillna(0).astype(int)
    frame["system"] = [title(s) for s in frame["system"]]
    left_out = ["variant"] if (frame["variant"] == "default").all() else []
    left_out += ["quick"] if live is None else []
    columns = [*_KEY, "paper", "recorded", "recorded_std", "seeds", "gap", "quick", "cut"]
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


# ------------------------------------------------------------------ claims, status


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
    listed = tomllib.loads((_HERE / "papers" / "claims.toml").read_text(encoding="utf-8"))["claim"]
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
    written = (_CHECKOUT / "notebooks").glob("[0-9][0-9]_*.py")
    chapters = {path.name[:2]: path.stem for path in written}
    figures, recomputed = _executed()
    rows = []
    for item in _items():
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
    for path in sorted((_CHECKOUT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for cell in _read_json(path)["cells"]:
            name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                if any(kind.startswith("image/") for kind in data):
                    figures.add(name)
                recomputed |= data.get(_RECOMPUTED, {})
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

    records = load_records(profile="paper", smaller=True) if records is None else records
    wanted, keys = ["recall@10", "ndcg@10"], ["paper_id", "model", "dataset", "seeds", "smaller"]
    tables = [(i["paper"], i["number"]) for i in _items() if i["kind"] == "table"]
    printed = pd.concat([printed_cells(p, n).assign(paper_id=p) for p, n in tables])
    printed = printed[[system_printed_as(str(m)) is not None for m in printed["model"]]]
    both = printed[printed["metric"].isin(wanted)].merge(summarise(records, wanted), on=_KEY)
    both["smaller"] = [
        "; ".join(c for c in cut.split("; ") if c.startswith(SMALLER)) for cut in both["cut"]
    ]
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
