"""Tables as files: a reader's own folder, read and written."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from semid_lib.data.columns import interactions_from_frame
from semid_lib.data.interactions import Interactions
from semid_lib.errors import DataError
from semid_lib.storage import write_atomic

_BAD_FILE = (zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError)


@contextmanager
def open_file(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file to be read as it streams: plain, `.gz`, or `member` of a `.zip`.

    By default the archive must hold one file, which is taken.

    Raises:
        DataError: the file is missing, cut short or corrupt, also while it is being read.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if not n.endswith("/") and "__MAC" not in n]
                names = names if member is None else [n for n in names if n == member]
                if len(names) != 1:
                    raise DataError(f"{path} should hold {member or 'one file'}, not {len(names)}")
                with archive.open(names[0]) as file:
                    yield file
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                yield file
    except _BAD_FILE as error:
        raise DataError(f"{path} cannot be read ({error}): missing, or cut short?") from error


def read_bytes(path: str | Path, member: str | None = None) -> bytes:
    """Read a file whole; see `open_file`."""
    with open_file(Path(path), member) as file:
        return file.read()


def find_file(folder: str | Path, name: str) -> Path | None:
    """`folder/name` or `folder/name.gz`, whichever exists."""
    paths = (Path(folder) / f"{name}.gz", Path(folder) / name)
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path, separator: str = ",", **options) -> pd.DataFrame:
    """Read a delimited UTF-8 file, every cell as text and empty cells as missing.

    Raises:
        DataError: not text, no header, a column twice, or a row longer than the header.
    """
    payload = io.BytesIO(read_bytes(path))
    try:
        table = pd.read_csv(
            payload, sep=separator, header=None, dtype=str, na_values=[""], keep_default_na=False,
            **options,
        )  # fmt: skip
    except (ValueError, OverflowError) as error:  # ParserError, UnicodeDecodeError are ValueErrors
        raise DataError(
            f"{path} is not a readable table ({error}): cut short, or not text?"
        ) from error
    header = table.iloc[0].fillna("")
    if header.duplicated().any():
        raise DataError(f"{path}: column {header[header.duplicated()].iloc[0]!r} occurs twice")
    return table[1:].set_axis(header.to_list(), axis=1).reset_index(drop=True)


def read_folder(
    folder: str | Path, fields: Sequence[str] | None = None, name: str | None = None
) -> Interactions:
    """Read a folder in the bring-your-own form.

    `interactions.csv` (or `.csv.gz`) holds `user,item` and, if known, `position`, `timestamp`
    (UNIX seconds) and `rating`; `items.csv[.gz]` (optional) holds `item` and any columns. An empty
    cell means no value. Ids may be numbers or text; whole numbers 0..N-1 are kept as they are.
    Without `position` and `timestamp` the data counts as unordered.

    Args:
        fields: as in `Interactions.from_frame`; by default the lines of `fields.txt`, if it exists.
        name: what to call the dataset; the folder's name by default.

    Raises:
        DataError: a file is missing, cut short or malformed, or names items that `items` lacks.
    """
    folder = Path(folder)
    path, items_path = find_file(folder, "interactions.csv"), find_file(folder, "items.csv")
    if path is None:
        raise DataError(
            f"{folder} holds no interactions.csv or interactions.csv.gz with the columns user,item"
            "[,position][,timestamp][,rating]"
        )
    frame = read_table(path)
    items = None if items_path is None else read_table(items_path)
    for column, tables in (("user", [frame]), ("item", [frame, items])):
        tables = [table for table in tables if table is not None and column in table]
        written = [pd.Series(table[column].unique()).dropna().astype(str) for table in tables]
        if all(ids.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all() for ids in written):
            for table in tables:  # whole numbers throughout; "007" stays text
                if not table[column].isna().any():
                    table[column] = table[column].astype(np.int64)
    if fields is None and (folder / "fields.txt").is_file():
        fields = (folder / "fields.txt").read_text(encoding="utf-8").splitlines()
    return interactions_from_frame(frame, items, fields, None, name or folder.name)


def vacant(folder: str | Path) -> Path:
    """Return the folder if it holds no interactions yet, else raise DataError."""
    if find_file(folder, "interactions.csv"):
        raise DataError(f"{folder} holds interactions already: move them, or write elsewhere")
    return Path(folder)


def write_folder(data: Interactions, folder: str | Path) -> Path:
    """Write `data` in the bring-your-own form, gzipped; `read_folder` gives them back.

    What may differ then: the numbers of a field's values, and the type of ids that are all whole
    numbers written as text. `fields.txt` names the columns of the items that are fields.

    Raises:
        DataError: the folder holds interactions already.
    """
    folder = vacant(folder)
    users = np.arange(data.num_users) if data.user_ids is None else data.user_ids
    ids = np.arange(data.num_items) if data.item_ids is None else data.item_ids
    frame = pd.DataFrame({"user": users[data.user], "item": ids[data.item]})
    frame = frame.assign(timestamp=data.timestamp, rating=data.rating)
    if data.ordered:
        frame["position"] = frame.groupby("user").cumcount()
    items = pd.DataFrame() if data.items is None else data.items
    items = items.assign(item=ids)
    for name, codes in data.fields.items():
        values = data.field_values.get(name, range(codes.max() + 1))
        items[name] = np.array([*values, ""], dtype=object)[codes]
    write_atomic(folder / "fields.txt", "\n".join(data.fields).encode())
    for name, table in (("items", items), ("interactions", frame.dropna(axis=1, how="all"))):
        payload = table.to_csv(index=False).encode(errors="replace")
        write_atomic(folder / f"{name}.csv.gz", gzip.compress(payload, mtime=0))
    return folder
