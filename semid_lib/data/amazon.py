"""Amazon review data as its authors publish it: JSON lines of 2014 and of 2023."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import compress
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd

from semid_lib.data.folders import find_file, open_file
from semid_lib.data.interactions import Interactions
from semid_lib.data.preprocess import core_rows, held_out_rows, k_core
from semid_lib.errors import DataError

_BAD_RECORD = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SyntaxError,
    MemoryError,
)  # fmt: skip
_KEYS_2014 = itemgetter("reviewerID", "asin", "overall", "unixReviewTime")
_KEYS_2023 = itemgetter("user_id", "parent_asin", "rating", "timestamp")


def read_amazon(
    reviews: str | Path, metadata: str | Path | None = None, *, k: int = 5, name: str | None = None
) -> Interactions:
    """Read an Amazon subset from the files of jmcauley.ucsd.edu (2014) or Amazon-Reviews-2023.

    Every review is an interaction, also a second one of the same item. Users and items with fewer
    than k are dropped (k-core); a user's reviews are sorted by time, ties in file order; items are
    numbered by first appearance in those sequences. `item_ids` holds the ASINs (2023: the parent
    ASINs), `user_ids` the reviewers.

    Args:
        reviews: JSON lines, plain, `.gz` or the one file in a `.zip`. 2014: reviewerID, asin,
            overall, unixReviewTime, summary. 2023: user_id, parent_asin, rating, timestamp
            (milliseconds), title.
        metadata: JSON lines (2014: Python literals, as published). Gives the fields `brand`
            (2014) or `store` (2023) and `category_1`, `category_2`, `category_3`, and the columns
            title, categories, description.
        k: of the k-core; 1 keeps all.

    Raises:
        DataError: a file that is missing, cut short, or has a line of another kind; nothing left.

    Deviates: ReSID (section 4.1) does not say whether the root of a category path, which nearly all
        items of a subset share, counts as level 1. Here it does not. ReSID then drops items that
        lack a field: `drop_incomplete_items`.

    Cost: the files may be larger than memory. Two readings of the reviews: the first keeps 16 bytes
        a review, the second only parses those of the k-core, and keeps no text but headlines; one
        of the metadata, for the items that are left. Measured on 5.8 GB (7.8 million reviews, 1.6
        million left) on one core: 69 CPU seconds, 80 bytes a review at the peak, 0.7 GB with the
        libraries. pandas' reader in chunks takes 2.6 times as long. DuckDB takes 0.3 times as long
        for plain files; it is no dependency because archives, the Python literals of 2014 and the
        line of an error would still need what is here.
    """
    reviews = Path(reviews)
    keep = _survivors(reviews, k) if k != 1 else None
    with open_file(reviews) as lines:
        frame = parse_reviews(lines, reviews.name, keep)
    frame, table = _sequences(k_core(frame, k))
    fields = []
    if metadata is not None:
        metadata = Path(metadata)
        with open_file(metadata) as lines:
            known = parse_metadata(lines, metadata.name, set(table["asin"]))
        fields = list(known.columns[1:5])
        table = table.merge(known, on="asin", how="left")
    frame["item"] = table["asin"].to_numpy(object)[frame["item"]]
    table = table.drop(columns="item").rename(columns={"asin": "item"})
    return Interactions.from_frame(frame, table, fields, name=name or reviews.name.split(".")[0])


def read_reviews(folder: Path, files: Sequence[str], name: str) -> Interactions:
    """Read the first of `files` in `folder`, an Amazon-2014 5-core review file, as published.

    Users are numbered by first appearance, a user's reviews sorted by time (stable), items
    numbered by first appearance in those sequences. `items["train_review_summaries"]` joins the
    headlines of an item's reviews, oldest first, up to 400 characters, without each user's last
    two reviews, so that no validation or test review enters the text.

    Raises:
        DataError: the file is missing, cut short, or has a line that is not such a record.
    """
    path = next(filter(None, (find_file(folder, file) for file in files)), folder / files[0])
    with open_file(path) as lines:
        frame, table = _sequences(parse_reviews(lines, path.name))
    frame["user"] = pd.factorize(frame["user"])[0]
    return Interactions.from_frame(frame, table, [], name=name)


def _sequences(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sort reviews into sequences and number the items; the items with their train headlines."""
    rank = pd.factorize(frame["user"])[0]
    frame = frame.assign(rank=rank).sort_values(["rank", "position"], kind="stable")
    item, asins = pd.factorize(frame["item"].astype(object))
    frame = frame.assign(item=item).reset_index(drop=True)
    kept = frame[~held_out_rows(frame["rank"].to_numpy())].sort_values("position", kind="stable")
    table = pd.DataFrame({"item": np.arange(len(asins)), "asin": asins})
    table["n_train_reviews"] = np.bincount(kept["item"], minlength=len(asins))
    joined = kept[kept["summary"] != ""].groupby("item")["summary"].agg(join_headlines)
    table["train_review_summaries"] = [joined.get(i, "") for i in range(len(asins))]
    return frame, table


def join_headlines(headlines: Iterable[str], limit: int = 400) -> str:
    """Join headlines with " | " as long as the text has at most `limit` characters."""
    text = ""
    for headline in headlines:
        longer = f"{text} | {headline}" if text else headline
        if len(longer) > limit:
            break
        text = longer
    return text


def _survivors(path: Path, k: int) -> np.ndarray:
    """`[M]` bool: the reviews of the k-core, and perhaps a few more.

    Ids are told apart by 64-bit hashes. Two ids of one hash count as one, which can only keep rows
    too many; the k-core of what is kept, by the ids themselves, is that of the whole file.
    """
    with open_file(path) as lines:
        reviews = _records(lines, path.name, "review", _review)
        pairs = ((hash(user), hash(item)) for user, item, *_ in reviews)
        hashes = np.fromiter(pairs, np.dtype((np.int64, 2)))
    user, item = (pd.factorize(column)[0].astype(np.int32) for column in hashes.T)
    return core_rows(user, item, k)


def parse_reviews(
    lines: Iterable[bytes], what: str, keep: np.ndarray | None = None
) -> pd.DataFrame:
    """Parse reviews of 2014 or 2023, each on its line; of M only those where `keep` `[M]` is True.

    Returns:
        A table user, item (categorical), rating, timestamp (seconds), position (the time as finely
        as the source has it), summary, in the file's order.
    """
    if keep is not None:
        lines = compress(filter(bytes.strip, lines), keep.tobytes())
    users, items = {}, {}
    rows = np.fromiter(
        (
            (users.setdefault(user, len(users)), items.setdefault(item, len(items)), *rest)
            for user, item, *rest in _records(lines, what, "review", _review)
        ),
        np.dtype("i4, i4, f8, i8, i8, O"),
    )
    rows.dtype.names = ("user", "item", "rating", "timestamp", "position", "summary")
    frame = pd.DataFrame(rows)
    for column, ids in (("user", users), ("item", items)):
        ids = pd.Index(ids, dtype=object)
        frame[column] = pd.Categorical.from_codes(frame[column], ids)
    return frame


def _review(line: bytes) -> tuple[str, str, float, int, int, str]:
    """User, item, rating, time in seconds, time as given, headline."""
    record = json.loads(line.decode())
    if "reviewerID" in record:
        user, item, stars, time = _KEYS_2014(record)
        headline, per_second = record.get("summary"), 1
    else:
        user, item, stars, time = _KEYS_2023(record)
        headline, per_second = record.get("title"), 1000
    time = int(time)
    if abs(time) >= 2**63:
        raise OverflowError(f"time {time}")
    return str(user), str(item), float(stars), time // per_second, time, str(headline or "")


def parse_metadata(lines: Iterable[bytes], what: str, wanted: Collection[str]) -> pd.DataFrame:
    """Parse item records of 2014 or 2023, keeping the first of each of the `wanted` ASINs.

    Returns:
        A table asin, brand or store, category_1..3 (below the root of the first path), categories
        (the whole path), title, description.
    """

    def parse(line):
        record = _literal(line)
        new = "parent_asin" in record
        maker, asin = "store" if new else "brand", str(record["parent_asin" if new else "asin"])
        if asin not in wanted:
            return maker, None
        path = record.get("categories") or []
        path = [str(level) for level in (path if new or not path else path[0])]
        text = record.get("description") or ""
        return maker, (
            asin, str(record.get(maker) or ""), *(path[1:4] + [""] * 3)[:3], " > ".join(path),
            str(record.get("title") or ""),
            text if isinstance(text, str) else " ".join(map(str, text)),
        )  # fmt: skip

    rows, maker = {}, "brand"
    for maker, row in _records(lines, what, "item", parse):  # noqa: B007 - the last one's
        if row is not None:
            rows.setdefault(row[0], row)
    levels = [f"category_{level}" for level in (1, 2, 3)]
    columns = ["asin", maker, *levels, "categories", "title", "description"]
    return pd.DataFrame(list(rows.values()), columns=columns, dtype=object)


def _records(lines: Iterable[bytes], what: str, kind: str, parse: Callable) -> Iterator:
    """What `parse` makes of every line that is not blank, of which there must be one."""
    record = None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = parse(line)
            except _BAD_RECORD as error:
                raise DataError(
                    f"{what}, line {number}: not an Amazon {kind} record ({type(error).__name__}: "
                    f"{error}); is the file cut short?"
                ) from error
            yield record
    if record is None:
        raise DataError(f"{what} holds no {kind}s")


def _literal(line: bytes) -> dict:
    """JSON, or the Python literal that the metadata of 2014 is written in."""
    try:
        return json.loads(line)
    except ValueError:
        return ast.literal_eval(line.decode().strip())
