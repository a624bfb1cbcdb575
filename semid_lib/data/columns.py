"""Columns of tables, typed and checked: ids, times, ratings, fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from semid_lib.data.interactions import MISSING, Interactions
from semid_lib.errors import DataError

_LATEST = 100_000_000_000  # UNIX seconds in the year 5138: larger values are milliseconds
_COLUMNS = ("user", "item", "timestamp", "position", "rating")


def interactions_from_frame(frame, items, fields, ordered, name) -> Interactions:
    """Do the work of `Interactions.from_frame`, whose docstring says what."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"expected a pandas DataFrame, not {type(frame).__name__}")
    there = _check_columns(frame)
    if not len(frame):
        raise DataError(f"{name!r} has no interactions: the table is empty")
    users, user_ids = _encode(_ids(frame["user"], "user"), None, "user")
    catalogue = None if items is None else _catalogue(items)
    codes, item_ids = _encode(_ids(frame["item"], "item"), catalogue, "item")
    keys = [_numbers(frame[key], key) for key in ("position", "timestamp") if key in there]
    order = np.lexsort((*keys, users))
    stamps = keys[-1].astype(np.int64)[order] if "timestamp" in there else None
    ratings = _numbers(frame["rating"], "rating")[order] if "rating" in there else None
    coded, values = {}, {}
    if items is not None:
        rows = np.argsort(catalogue) if item_ids is None else np.arange(len(items))
        items = items.iloc[rows].reset_index(drop=True)
        if fields is None:
            fields = [c for c in items.columns if c != "item" and _repeats(items[c])]
        coded, values = encode_fields(items, fields)
    elif fields:
        raise DataError(f"fields {list(fields)} asked for, but there is no items table")
    return Interactions(
        users[order], codes[order], num_users=int(users.max()) + 1,
        num_items=int(codes.max()) + 1 if items is None else len(items),
        ordered=bool(keys) if ordered is None else ordered, timestamp=stamps, rating=ratings,
        fields=coded, field_values=values, items=items, item_ids=item_ids, user_ids=user_ids,
        name=name,
    )  # fmt: skip


def _check_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that count, of those that there are: each once, user and item among them."""
    for column in _COLUMNS:
        times = (frame.columns == column).sum()
        if times > 1:
            raise DataError(f"column {column!r} occurs {times} times")
        if not times and column in ("user", "item"):
            raise DataError(
                f"no column {column!r}; the table has {list(map(str, frame.columns))}. Rename "
                "the one that holds it (frame.rename(columns={...}))."
            )
    return [column for column in _COLUMNS if column in frame]


def _ids(column: pd.Series, what: str) -> np.ndarray:
    """Ids as int64 where they are whole numbers, else as objects; none may be missing."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{what} id missing in {missing.sum()} rows (first: row {missing.argmax()}): "
            "drop those rows, or check that the file is whole"
        )
    whole = pd.api.types.is_integer_dtype(column.dtype)
    if pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(np.float64)
        if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise DataError(f"{what} ids are fractional or infinite numbers: {values[:3]}")
        whole = np.abs(values).max(initial=0) < 2**53
    if not whole or column.max() > np.iinfo(np.int64).max:
        return column.to_numpy(object)
    return column.to_numpy().astype(np.int64)


def _encode(ids: np.ndarray, catalogue: np.ndarray | None, what: str):
    """`(index of each id, the ids by index)`; the ids are None where they are 0..n-1 already."""
    try:
        codes, present = pd.factorize(ids)
    except TypeError as error:
        raise DataError(f"{what} ids must be hashable values such as text: {error}") from error
    known = present if catalogue is None else catalogue
    if known.dtype == np.int64 == present.dtype and known.min() == 0:
        if known.max() == len(known) - 1 >= present.max() and present.min() >= 0:
            return ids, None
    if catalogue is None:
        try:
            known = np.sort(present)
        except TypeError:  # ids of several types: keep the order of first appearance
            pass
    index = pd.Index(known).get_indexer(present)
    if (index < 0).any():
        lost, first = present[index < 0].tolist(), known[:1].tolist()[0]
        raise DataError(
            f"{len(lost)} {what}s of the interactions are not in the items table, such as "
            f"{lost[0]!r}: it is cut short, or its ids are of another kind "
            f"({type(first).__name__} there, {type(lost[0]).__name__} here)"
        )
    return index[codes].astype(np.int64), known


def _catalogue(items: pd.DataFrame) -> np.ndarray:
    """The ids of the items table, checked to be unique."""
    if not isinstance(items, pd.DataFrame) or (items.columns == "item").sum() != 1:
        raise DataError("the items table needs exactly one column 'item'")
    if not items.columns.is_unique:
        twice = items.columns[items.columns.duplicated()][0]
        raise DataError(f"items column {twice!r} occurs twice")
    if not len(items):
        raise DataError("the items table is empty")
    ids = _ids(items["item"], "item")
    again = pd.Series(ids).duplicated().to_numpy()
    if again.any():
        twice = ids[again].tolist()[0]
        raise DataError(f"item {twice!r} has {(ids == twice).sum()} rows in the items table")
    return ids


def _numbers(column: pd.Series, what: str) -> np.ndarray:
    """Finite int64 or float64 numbers, dates as UNIX seconds; ratings as float32 or NaN."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype) and not column.isna().any():
        utc = column.dt.tz_convert(None) if column.dt.tz is not None else column
        return utc.to_numpy("datetime64[s]").astype(np.int64)
    try:
        numbers = pd.to_numeric(column)
        values = numbers.to_numpy(np.float64, na_value=np.nan)
        if numbers.dtype.kind in "iu" and values.max() < 2**53 and what != "rating":
            values = numbers.to_numpy(np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        hint = "" if what == "rating" else ". Convert dates with pandas.to_datetime first."
        raise DataError(f"{what} is not numeric ({error}){hint}") from error
    if what == "rating":
        if (np.abs(values) > np.finfo(np.float32).max).any():
            raise DataError("rating is infinite or beyond float32; an absent one is an empty cell")
        return values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{what} is missing or infinite in {(~np.isfinite(values)).sum()} rows")
    if what == "timestamp" and np.abs(values).max() > _LATEST:
        raise DataError(
            f"timestamp {values[np.abs(values).argmax()]} is beyond the year 5000 in UNIX seconds: "
            "milliseconds? Divide by 1000."
        )
    return values


def encode_fields(items: pd.DataFrame, names: Sequence[str]) -> tuple[dict, dict]:
    """Number the values of the columns `names` of an items table by first appearance.

    Returns:
        name -> `[N]` int64 codes, `MISSING` (-1) for empty text or NaN; name -> the V values
        as text.

    Raises:
        DataError: a column that the table lacks.
    """
    codes, values = {}, {}
    for name in names:
        if name not in items.columns:
            raise DataError(f"no field {name!r}; the items have {list(map(str, items.columns))}")
        found, distinct = pd.factorize(_texts(items[name]))
        codes[str(name)] = np.where(found < 0, MISSING, found).astype(np.int64)
        values[str(name)] = [str(value) for value in distinct]
    return codes, values


def _texts(column: pd.Series) -> pd.Series:
    """The column as text: whole floats lose their '.0', empty cells are missing."""
    if pd.api.types.is_float_dtype(column.dtype):
        filled = column.dropna()
        if (np.floor(filled) == filled).all() and (np.abs(filled) < 2**53).all():
            column = column.astype("Int64")
    texts = column.astype(object).map(str, na_action="ignore")
    return texts.mask(texts.isin([""]))


def _repeats(column: pd.Series) -> bool:
    """Whether values occur at least twice on average: a category rather than a text."""
    texts = _texts(column)
    distinct = texts.nunique()
    return distinct > 1 and 2 * distinct <= texts.notna().sum()
