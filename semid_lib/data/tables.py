"""Tables in: a pandas table or the bring-your-own folder becomes `Interactions`."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from semid_lib.data.interactions import MISSING, Interactions
from semid_lib.errors import DataError

_LATEST = 100_000_000_000  # UNIX seconds in the year 5138: larger values are milliseconds
_COLUMNS = ("user", "item", "timestamp", "position", "rating")


def interactions_from_frame(
    frame: pd.DataFrame,
    items: pd.DataFrame | None = None,
    fields: Sequence[str] | None = None,
    *,
    columns: dict[str, str] | None = None,
    ordered: bool | None = None,
    name: str = "table",
) -> Interactions:
    """Do the work of `Interactions.from_frame`, whose docstring says what."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"expected a pandas DataFrame, not {type(frame).__name__}")
    place = _places(frame, columns or {})
    if not len(frame):
        raise DataError(f"{name!r} has no interactions: the table is empty")
    users, user_ids = _encode(_ids(frame[place["user"]], "user"), None, "user")
    catalogue = None if items is None else _catalogue(items, place["item"])
    codes, item_ids = _encode(_ids(frame[place["item"]], "item"), catalogue, "item")
    keys = [_numbers(frame[place[key]], key) for key in ("position", "timestamp") if key in place]
    order = np.lexsort((*keys, users))
    num_items = max(int(codes.max()) + 1, 0 if catalogue is None else len(catalogue))
    table = None
    if items is not None:
        row_of = np.argsort(catalogue) if item_ids is None else np.arange(num_items)
        table = items.iloc[row_of].reset_index(drop=True)
    coded, values = _fields(table, fields, place["item"])
    stamps = keys[-1].astype(np.int64) if "timestamp" in place else None
    return Interactions(
        user=users[order],
        item=codes[order],
        num_users=int(users.max()) + 1,
        num_items=num_items,
        ordered=bool(keys) if ordered is None else ordered,
        timestamp=None if stamps is None else stamps[order],
        rating=_ratings(frame[place["rating"]])[order] if "rating" in place else None,
        fields=coded,
        field_values=values,
        items=table,
        item_ids=item_ids,
        user_ids=user_ids,
        name=name,
    )


def _places(frame: pd.DataFrame, renamed: dict[str, str]) -> dict[str, str]:
    """Which column plays which part, for the parts that there are."""
    unknown = set(renamed) - set(_COLUMNS)
    if unknown:
        raise DataError(f"columns names {sorted(unknown)}, but the parts are {list(_COLUMNS)}")
    place = {part: renamed.get(part, part) for part in _COLUMNS}
    present = frame.columns
    for part, column in place.items():
        if column not in present and (part in ("user", "item") or part in renamed):
            raise DataError(
                f"no column {column!r} for the {part}; the table has {list(map(str, present))}. "
                "Name it with columns={...}."
            )
    place = {part: column for part, column in place.items() if column in present}
    for column in place.values():
        if (present == column).sum() > 1:
            raise DataError(f"column {column!r} occurs {(present == column).sum()} times")
    return place


def _ids(column: pd.Series, what: str) -> np.ndarray:
    """Ids as int64 where they are whole numbers, else as objects; none may be missing."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{what} id missing in {missing.sum()} rows (first: row {missing.argmax()}): "
            "drop those rows, or check that the file is whole"
        )
    kind = column.dtype
    if pd.api.types.is_float_dtype(kind):
        values = column.to_numpy(np.float64)
        if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise DataError(f"{what} ids are fractional or infinite numbers: {values[:3]}")
        kind = np.dtype(np.int64) if np.abs(values).max(initial=0) < 2**53 else np.dtype(object)
    if pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_integer_dtype(kind):
        return column.to_numpy(object)
    values = column.to_numpy()
    if values.dtype.kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max:
        return values.astype(object)
    return values.astype(np.int64)


def _encode(ids: np.ndarray, catalogue: np.ndarray | None, what: str):
    """`(index of each id, the ids by index)`; the ids are None where they are 0..n-1 already."""
    try:
        codes, present = pd.factorize(ids)
    except TypeError as error:
        raise DataError(f"{what} ids must be hashable values such as text: {error}") from error
    known = present if catalogue is None else catalogue
    whole = known.dtype == np.int64 and present.dtype == np.int64
    if whole and len(known) and known.min() == 0 and known.max() == len(known) - 1:
        if present.min() >= 0 and present.max() < len(known):
            return ids.astype(np.int64), None
    if catalogue is None:
        known = _sorted(present)
    index = pd.Index(known).get_indexer(present)
    if (index < 0).any():
        lost, first = present[index < 0].tolist(), known[:1].tolist()[0]
        raise DataError(
            f"{len(lost)} {what}s of the interactions are not in the items table, such as "
            f"{lost[0]!r}: it is cut short, or its ids are of another kind "
            f"({type(first).__name__} there, {type(lost[0]).__name__} here)"
        )
    return index[codes].astype(np.int64), known


def _sorted(values: np.ndarray) -> np.ndarray:
    try:
        return np.sort(values)
    except TypeError:  # ids of several types: keep the order of first appearance
        return values


def _catalogue(items: pd.DataFrame, column: str) -> np.ndarray:
    """The ids of the items table, checked to be unique."""
    if not isinstance(items, pd.DataFrame) or (items.columns == column).sum() != 1:
        raise DataError(f"the items table needs exactly one column {column!r}")
    if items.columns.duplicated().any():
        raise DataError(
            f"items column {items.columns[items.columns.duplicated()][0]!r} occurs twice"
        )
    if not len(items):
        raise DataError("the items table is empty")
    ids = _ids(items[column], "item")
    again = pd.Series(ids).duplicated().to_numpy()
    if again.any():
        twice = ids[again].tolist()[0]
        raise DataError(f"item {twice!r} has {(ids == twice).sum()} rows in the items table")
    return ids


def _numbers(column: pd.Series, what: str) -> np.ndarray:
    """A column of finite numbers; dates become UNIX seconds."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype) and not column.isna().any():
        utc = column.dt.tz_convert(None) if column.dt.tz is not None else column
        return utc.to_numpy("datetime64[s]").astype(np.int64)
    try:
        values = pd.to_numeric(column).to_numpy()
        whole = values.dtype.kind in "iu" and values.max(initial=0) < 2**53
        values = values.astype(np.int64 if whole else np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{what} is not numeric ({error}). Convert dates with pandas.to_datetime first."
        ) from error
    if not np.isfinite(values).all():
        raise DataError(f"{what} is missing or infinite in {(~np.isfinite(values)).sum()} rows")
    if what == "timestamp" and np.abs(values).max(initial=0) > _LATEST:
        worst = values[np.abs(values).argmax()]
        raise DataError(
            f"timestamp {worst} is beyond the year 5000 in UNIX seconds: milliseconds? "
            "Divide by 1000."
        )
    return values


def _ratings(column: pd.Series) -> np.ndarray:
    try:
        values = pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"rating is not numeric ({error})") from error
    if (np.abs(values) > np.finfo(np.float32).max).any():
        raise DataError("rating is infinite or beyond float32; an absent rating is an empty cell")
    return values.astype(np.float32)


def _fields(table, names, id_column) -> tuple[dict, dict]:
    """Codes and printed values of the chosen columns of the items table."""
    if table is None:
        if names:
            raise DataError(f"fields {list(names)} asked for, but there is no items table")
        return {}, {}
    if names is None:
        names = [c for c in table.columns if c != id_column and _repeats(table[c])]
    codes, values = {}, {}
    for name in names:
        if name not in table.columns:
            raise DataError(f"no field {name!r}; the items have {list(map(str, table.columns))}")
        codes[str(name)], values[str(name)] = encode_field(table[name])
    return codes, values


def _texts(column: pd.Series) -> pd.Series:
    """The column as text: whole floats lose their '.0', empty cells are missing."""
    if pd.api.types.is_float_dtype(column.dtype):
        filled = column.dropna()
        if (np.floor(filled) == filled).all() and (np.abs(filled) < 2**53).all():
            column = column.astype("Int64")
    texts = column.astype(object).map(str, na_action="ignore")
    return texts.mask(
        texts.map(lambda text: text == "", na_action="ignore").fillna(False).astype(bool)
    )


def _repeats(column: pd.Series) -> bool:
    """Whether values occur at least twice on average: a category rather than a text."""
    texts = _texts(column)
    distinct = texts.nunique()
    return distinct > 1 and 2 * distinct <= texts.notna().sum()


def encode_field(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Number a column's values in order of first appearance.

    Args:
        column: N values of any kind; empty text and NaN mean "no value".

    Returns:
        `[N]` int64 codes, `MISSING` (-1) for no value, and the V values as text.
    """
    codes, values = pd.factorize(_texts(column), use_na_sentinel=True)
    return np.where(codes < 0, MISSING, codes).astype(np.int64), [str(value) for value in values]


def read_bytes(path: str | Path) -> bytes:
    """Read a file whole, unpacking `.gz`.

    Raises:
        DataError: it cannot be read, or the gzip stream is corrupt or ends early.
    """
    path = Path(path)
    try:
        payload = path.read_bytes()
        return gzip.decompress(payload) if path.suffix == ".gz" else payload
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): it was probably cut short. Fetch it again."
        ) from error


def find_file(folder: str | Path, name: str) -> Path | None:
    """`folder/name` or `folder/name.gz`, whichever exists."""
    for path in (Path(folder) / f"{name}.gz", Path(folder) / name):
        if path.is_file():
            return path
    return None


def read_table(
    path: Path, separator: str = ",", encoding: str = "utf-8", **options
) -> pd.DataFrame:
    """Read a delimited text file, every cell as text and empty cells as missing.

    Raises:
        DataError: not text of that encoding, no header, a column twice, or rows of unequal width.
    """
    payload = read_bytes(path)
    try:
        if "names" not in options:
            header = pd.read_csv(
                io.BytesIO(payload), sep=separator, header=None, nrows=1, dtype=str,
                encoding=encoding, keep_default_na=False, index_col=False, **options,
            ).iloc[0]  # fmt: skip
            if header.duplicated().any():
                raise DataError(
                    f"{path}: column {header[header.duplicated()].iloc[0]!r} occurs twice"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.BytesIO(payload), sep=separator, dtype=str, encoding=encoding, na_values=[""],
                keep_default_na=False, index_col=False, skip_blank_lines=True, **options,
            )  # fmt: skip
    except DataError:
        raise
    except (ValueError, pd.errors.ParserWarning, IndexError, OverflowError) as error:
        # ParserError, EmptyDataError and UnicodeDecodeError are ValueErrors
        raise DataError(
            f"{path} is not a readable table ({error}): cut short, or not text?"
        ) from error


def read_folder(
    folder: str | Path, fields: Sequence[str] | None = None, name: str | None = None
) -> Interactions:
    """Read a folder in the bring-your-own form.

    `interactions.csv` (or `.csv.gz`) holds `user,item` and, if known, `position`, `timestamp`
    (UNIX seconds) and `rating`; `items.csv[.gz]` (optional) holds `item` and any columns. An empty
    cell means no value. Ids may be numbers or text; whole numbers 0..N-1 are kept as they are.
    Without `position` and `timestamp` the data counts as unordered.

    Args:
        folder: where the files are.
        fields: item columns that encoders should use; None takes the columns whose values
            repeat at least twice on average (a category, not a title).
        name: what to call the dataset; the folder's name by default.

    Raises:
        DataError: a file is missing, cut short or malformed, or names items that `items` lacks.
    """
    folder = Path(folder)
    path = find_file(folder, "interactions.csv")
    if path is None:
        raise DataError(
            f"{folder} holds no interactions.csv or interactions.csv.gz with the columns user,item"
            "[,position][,timestamp][,rating]"
        )
    frame = read_table(path)
    items_path = find_file(folder, "items.csv")
    items = None if items_path is None else read_table(items_path)
    tables = [(table, "item") for table in (frame, items) if table is not None] + [(frame, "user")]
    for column in ("item", "user"):
        holders = [table for table, name_ in tables if name_ == column and column in table]
        _whole_numbers(holders, column)
    return interactions_from_frame(frame, items, fields, name=name or folder.name)


def _whole_numbers(tables: list[pd.DataFrame], column: str) -> None:
    """Turn the ids of all `tables` into integers, if every one is written as an integer is."""
    for table in tables:
        written = pd.Series(table[column].unique()).dropna().astype(str)
        if not written.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all():
            return
    for table in tables:
        if not table[column].isna().any():
            table[column] = table[column].astype(np.int64)
