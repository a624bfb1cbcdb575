"""The forms in which the named sources publish their data, each parsed into `Interactions`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from semid_lib.data.columns import encode_fields
from semid_lib.data.folders import find_file, read_bytes, read_table
from semid_lib.data.interactions import Interactions
from semid_lib.errors import DataError

CATEGORY_FIELDS = ("brand", "category_1", "category_2", "category_3")
MOVIE_FIELDS = ("genre", "genre_2", "genres", "year")


def parse_lines(payload: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Parse "user item item ..." lines, oldest item first; ids count from 1.

    Returns:
        `(user, item)`, int64, counted from 0: the user is the line number.

    Raises:
        DataError: a token that is not a number, a line without items, a user twice, or item ids
            that skip a number (the file is cut short).
    """
    rows = []
    for number, line in enumerate(payload.removesuffix(b"\n").split(b"\n"), 1):
        tokens = line.split()
        if len(tokens) < 2 or not all(t.isdigit() and len(t) < 10 for t in tokens):
            raise DataError(
                f"{what}, line {number}: expected 'user item item ...' in whole numbers, not "
                f"{line[:60]!r}; is the file empty, cut short or of another kind?"
            )
        rows.append(np.array(tokens, dtype=np.int64))
    if len({int(row[0]) for row in rows}) < len(rows):
        raise DataError(f"{what}: a user has two lines")
    item = np.concatenate([row[1:] for row in rows])
    distinct = np.unique(item)
    if distinct[0] != 1 or distinct[-1] != len(distinct):
        raise DataError(
            f"{what}: {len(distinct)} different items with ids {distinct[0]}..{distinct[-1]}; they "
            "must be 1..N without a gap. Is the file cut short?"
        )
    return np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows]), item - 1


def read_lines(folder: Path, file: str, *, ordered: bool = True, name: str = "") -> Interactions:
    """Read a folder that holds one file of "user item item ..." lines."""
    user, item = parse_lines(_read(folder, file), file)
    return Interactions(user, item, int(user[-1]) + 1, int(item.max()) + 1, ordered, name=name)


def read_s3rec(folder: Path, stem: str, name: str, **layout) -> Interactions:
    """Read S3-Rec's two files, `STEM.txt` and `STEM_item2attributes.json`.

    `layout`: what the numbers in the second file are, see `attributes_to_fields`; none: no fields.

    Against the uniform form, which was made from them: the sequences and, for Beauty, Sports and
    Toys, the codes of brand and category_1..3 are the same. Lost are the names (a value reads
    "attr_17"), deeper categories, ASINs and words. LastFM gets no fields: its attributes are the
    tags of all users, held-out interactions included, so they would leak the targets.
    """
    data = read_lines(folder, f"{stem}.txt", name=name)
    if not layout:
        return data
    what = f"{stem}_item2attributes.json"
    payload = _read(folder, what)
    table = attributes_to_fields(payload, data.num_items, what, **layout)
    coded, values = encode_fields(table, CATEGORY_FIELDS)
    return replace(data, fields=coded, field_values=values, items=table)


def attributes_to_fields(
    payload: bytes, num_items: int, what: str, *, starts: Collection[int],
    no_brand: Collection[int], root: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Separate brand and category levels in one list of numbers per item.

    A list holds the brand, then every category path from the root to the leaf. What stands before
    the first path is the brand. The levels are those of the first main path: of the path that
    begins at `root`, without it, or of the first path at all if `root` is None. Paths begin at one
    of `starts`; `no_brand` are no brands.

    Returns:
        One row per item: item, brand, category_1..3; empty text where an item has none.

    Raises:
        DataError: not JSON of that form, or an item that the sequences do not have.
    """
    try:
        lists = json.loads(payload)
        lists = {int(key): [int(v) for v in values] for key, values in lists.items()}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"{what} is not a JSON object of lists of numbers ({error})") from error
    foreign = [key for key in lists if not 1 <= key <= num_items]
    if foreign:
        raise DataError(f"{what} has item {foreign[0]}, but the sequences have 1..{num_items}")
    rows = [[""] * 4 for _ in range(num_items)]
    for key, values in lists.items():
        places = [p for p, v in enumerate(values) if v in starts]
        brand = values[: places[0]] if places else values
        if brand and brand[0] not in no_brand:
            rows[key - 1][0] = f"attr_{brand[0]}"
        main = [p for p in places if root is None or values[p] == root][:1]
        if main:
            end = next((p for p in places if p > main[0]), len(values))
            path = values[main[0] + (root is not None) : end][:3]
            rows[key - 1][1 : 1 + len(path)] = [f"attr_{v}" for v in path]
    table = pd.DataFrame(rows, columns=list(CATEGORY_FIELDS))
    table.insert(0, "item", np.arange(num_items))
    return table


def read_movielens(folder: Path, name: str) -> Interactions:
    """Read MovieLens 100K or 1M in RecBole's form or GroupLens's own (unpacked or as its zip).

    Every rating counts as an interaction, whatever its value; nothing is filtered. A user's order
    is by the second, ties in file order. Items are the rated movies in the order of the movie
    file; users by number. Fields: `genre` and `genre_2` (the first two, which the source lists
    alphabetically), `genres` (the whole set as one value), `year` of release. The titles read
    "The Usual Suspects (1995)".

    Raises:
        DataError: a file is missing, cut short, or rates movies that are not listed.
    """
    reader = _read_recbole if find_file(folder, f"{name}.inter") else _read_grouplens
    ratings, movies = reader(folder, name)
    movies["title"] = [_readable_title(t, y) for t, y in zip(movies["title"], movies["year"])]
    movies = movies[movies["movie_id"].isin(ratings["item"])].reset_index(drop=True)
    place = pd.Series(np.arange(len(movies)), index=movies["movie_id"])
    if not place.index.is_unique:
        raise DataError(f"{name}: a movie is listed twice")
    item = ratings["item"].map(place)
    if item.isna().any():
        raise DataError(
            f"{name}: rated movie {ratings['item'][item.isna()].iloc[0]!r} is not listed"
        )
    sets = movies["genres"].map(lambda text: [g for g in text.split("|") if g and g != "unknown"])
    movies["genre"] = [genres[0] if genres else "" for genres in sets]
    movies["genre_2"] = [genres[1] if len(genres) > 1 else "" for genres in sets]
    movies["genres"] = sets.map("|".join)
    movies.insert(0, "item", np.arange(len(movies)))
    frame = ratings.assign(user=_dense(ratings["user"]), item=item.astype(np.int64))
    return Interactions.from_frame(frame, movies, MOVIE_FIELDS, name=name)


def _dense(users: pd.Series) -> np.ndarray:
    """Users "1m_1", "1m_2", ... or "1", "2", ... numbered from 0 by their number."""
    codes, names = pd.factorize(users)
    numbers = pd.to_numeric(pd.Series(names).str.extract(r"(\d{1,9})$")[0], errors="coerce")
    if (codes < 0).any() or numbers.isna().any() or numbers.duplicated().any():
        raise DataError("the ratings have a user without a number of its own")
    return np.argsort(np.argsort(numbers.to_numpy()))[codes].astype(np.int64)


def _read_recbole(folder, name) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = []
    for suffix in ("inter", "item"):
        path = find_file(folder, f"{name}.{suffix}") or folder / f"{name}.{suffix}"
        tables.append(read_table(path, "\t", quoting=3))
        if tables[-1].shape[1] != 4:
            raise DataError(f"{path} has {tables[-1].shape[1]} columns, not 4: another file?")
    ratings, movies = tables
    ratings.columns = ["user", "item", "rating", "timestamp"]
    movies.columns = ["movie_id", "title", "year", "genres"]
    movies = movies.fillna("")
    movies["genres"] = movies["genres"].str.replace(" ", "|")
    movies["year"] = movies["year"].where(movies["year"].str.fullmatch(r"\d{4}"), "")
    movies["title"] = movies["title"].replace("unkonwn", "unknown")  # the package's spelling
    return ratings, _year_from_title(movies)


def _read_grouplens(folder, name) -> tuple[pd.DataFrame, pd.DataFrame]:
    if name == "ml-100k":
        ratings = _grouplens_table(folder, name, "u.data", r"\t", 4)
        movies = _grouplens_table(folder, name, "u.item", r"\|", 24)
        flags = movies.iloc[:, 5:24] == "1"
        movies["genres"] = ["|".join(np.array(ML100K_GENRES)[row]) for row in flags.to_numpy()]
        movies = movies[[0, 1, "genres"]]
    else:
        ratings = _grouplens_table(folder, name, "ratings.dat", "::", 4)
        movies = _grouplens_table(folder, name, "movies.dat", "::", 3)
    ratings.columns = ["user", "item", "rating", "timestamp"]
    movies.columns = ["movie_id", "title", "genres"]
    return ratings, _year_from_title(movies.assign(year=""))


ML100K_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()


def _grouplens_table(folder, name, file, separator, width) -> pd.DataFrame:
    path = find_file(folder, file) or find_file(Path(folder) / name, file)
    archive = Path(folder) / f"{name}.zip"
    payload = read_bytes(path) if path else read_bytes(archive, f"{name}/{file}")
    rows = [re.split(separator, line) for line in payload.decode("latin-1").splitlines() if line]
    wrong = next((number for number, row in enumerate(rows) if len(row) != width), None)
    if not rows or wrong is not None:
        where = "it is empty" if not rows else f"line {wrong + 1} has {len(rows[wrong])}"
        raise DataError(f"{name}: {file} should have {width} columns, but {where}: cut short?")
    return pd.DataFrame(rows, dtype=object)


def _year_from_title(movies: pd.DataFrame) -> pd.DataFrame:
    """Move a year in brackets at the title's end ("(1995)", "(1995) (V)") to the column `year`."""
    found = movies["title"].str.extract(r"\((\d{4})\)(?: \(V\))?\s*$")[0].fillna("")
    year = movies["year"].where(movies["year"] != "", found)
    title = movies["title"].str.replace(r"\s*\(\d{4}\)(?: \(V\))?\s*$", "", regex=True)
    return movies.assign(year=year, title=title.str.strip())


_ARTICLE = re.compile(
    r"([^()]+), (The|A|An|La|Le|Les|L'|Il|El|Los|Las|Det|Der|Das|Die|Un|Une)(?= \(|\)|$)"
)


def _readable_title(title: str, year: str) -> str:
    """`"Usual Suspects, The"` and `"1995"` become `"The Usual Suspects (1995)"`."""
    front = _ARTICLE.sub(lambda m: m[2] + ("" if m[2] == "L'" else " ") + m[1], title)
    return f"{front} ({year})" if year else front


def _read(folder: Path, file: str) -> bytes:
    return read_bytes(find_file(folder, file) or Path(folder) / file)
