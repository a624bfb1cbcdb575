"""Run records: the JSON file of one finished run. Names, checks, reading and writing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas as pd

from semid_lib.environment import CHECKOUT, PACKAGE
from semid_lib.errors import RecordError
from semid_lib.storage import sealed, unsealed, write_json, writing
from semid_lib.systems import ROLES, Cut, sentences
from semid_lib.systems.cuts import KINDS

CUTOFFS = (5, 10, 20)
METRICS = tuple(f"{m}@{k}" for m in ("recall", "ndcg") for k in CUTOFFS) + ("mrr",)
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
_OWN = Path(".semid") / "results"  # of a user without a checkout


class Record(TypedDict):
    """What the JSON file of a finished run holds; `check_record` says what must be there.

    `cut` are the sentences of what differs from the paper, `cuts` the same as fields of `Cut`.
    Records of before have no `cuts`: `cuts_of` reads both.
    """

    system: str
    variant: str
    dataset: str
    dataset_sha256: str
    profile: str
    seed: int
    metrics: NotRequired[dict[str, dict[str, float]]]
    intervals: NotRequired[dict[str, dict[str, list[float]]]]
    diagnostics: dict[str, Any]
    cost: dict[str, Any]
    config: dict[str, Any]
    cut: list[str]
    cuts: NotRequired[list[dict[str, str | None]]]
    device: str
    versions: dict[str, str]
    commit: str
    curve: dict[str, list[dict]]
    until: NotRequired[str]


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
    if (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "book").is_dir():
        return CHECKOUT / "book" / "results"
    return _OWN if to_write or _OWN.is_dir() else PACKAGE / "_records"


def check_writable(folder: Path) -> None:
    """Raise StorageError unless files can be made in the folder, which is made if need be."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_record(record: Mapping, where: str = "record") -> None:
    """Raise RecordError if a key is missing, a name is no plain text, or a metric not in 0..1.

    Nor may `cuts`, where it is there, say anything else than `cut`.

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
    if "cuts" in record and not _cuts_agree(record):
        raise RecordError(f"{where} has other cuts than its sentences say: was it edited?")


def _cuts_agree(record: Mapping) -> bool:
    """Whether the two forms of what a run leaves out say the same."""
    try:
        return sentences(cuts_of(record)) == list(record["cut"])
    except (TypeError, KeyError):  # not the fields of cuts
        return False


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


def load_record(path: str | Path) -> Record:
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


def load_records(folder: str | Path | None = None, *, smaller=False, **wanted) -> list[Record]:
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
        folders.insert(0, PACKAGE / "_records")  # those that came with the package, unless replaced
    paths = {path.name: path for place in folders for path in place.glob("*.json")}
    records = [load_record(paths[name]) for name in sorted(paths)]
    for key, value in wanted.items():
        allowed = value if isinstance(value, list | tuple) else [value]
        records = [r for r in records if r[key] in allowed]
    return [r for r in records if smaller or not is_smaller(r)]


def cut_keys(cuts) -> dict[str, list]:
    """What a record holds of a plan's `Cut`s: `cut`, to be read, and `cuts`, their fields."""
    return {"cut": sentences(cuts), "cuts": [asdict(cut) for cut in cuts]}


def cuts_of(record: Mapping) -> list[Cut]:
    """What a run leaves out of its paper, typed; of a record of before read from its sentences."""
    if "cuts" in record:
        return [Cut(**fields) for fields in record["cuts"]]
    return [cut for sentence in record["cut"] for cut in read_cut(sentence)]


def read_cut(sentence: str) -> list[Cut]:
    """Read a sentence of a record's `cut`: one `Cut`, or one for each of its settings."""
    roles = "|".join(ROLES)
    for kind, start in KINDS.items():
        if start and sentence.startswith(start):
            rest = sentence.removeprefix(start)
            if kind != "setting":
                return [Cut(kind, note=rest)]
            return [_read_setting(part) for part in re.split(rf", (?=(?:{roles}) )", rest)]
    match = re.fullmatch(rf"({roles}): (.*)", sentence)
    return [Cut("method", match[1], note=match[2]) if match else Cut("method", note=sentence)]


def _read_setting(text: str) -> Cut:
    """Read `recommender epochs 5 (paper 500)`, or `encoder ALS (paper TextEncoder)`."""
    match = re.fullmatch(r"(\w+) (\S+)(?: (.*?))??(?: \(paper (.*)\))?", text)
    stage, name, value, paper = match.groups()
    if value is None:
        return Cut("setting", stage, "class", ours=name, paper=paper)
    return Cut("setting", stage, name, ours=value, paper=paper)


def is_smaller(record: Mapping) -> bool:
    """Whether a whole run of the paper profile had a smaller budget than its preset: it says so."""
    whole = record["profile"] == "paper" and "until" not in record
    return whole and any(cut.kind == "setting" for cut in cuts_of(record))


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
    """Collect the recorded click models (chapter 08), made by `semid clicks`.

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
