"""Amazon review data as its authors publish it: JSON lines of 2014 and of 2023."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from semid_lib.data.interactions import Interactions
from semid_lib.data.preprocess import held_out_rows, k_core
from semid_lib.data.tables import find_file, open_file
from semid_lib.errors import DataError

_BAD_RECORD = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SyntaxError,
    MemoryError,
)  # fmt: skip


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
    """
    reviews = Path(reviews)
    with open_file(reviews) as lines:
        frame = k_core(parse_reviews(lines, reviews.name), k)
    frame, table = _sequences(frame)
    fields = []
    if metadata is not None:
        metadata = Path(metadata)
        with open_file(metadata) as lines:
            known = parse_metadata(lines, metadata.name, set(table["asin"]))
        fields = list(known.columns[1:5])
        table = table.merge(known, on="asin", how="left")
    frame["item"] = table["asin"].to_numpy(object)[frame["item"]]
    table = table.rename(columns={"item": "number", "asin": "item"})
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
    item, asins = pd.factorize(frame["item"])
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


def parse_reviews(lines: Iterable[bytes], what: str) -> pd.DataFrame:
    """Parse reviews of 2014 or 2023, each on its line.

    Returns:
        A table user, item, rating, timestamp (seconds), position (the time as finely as the
        source has it), summary, in the file's order.
    """

    def parse(line):
        record = json.loads(line)
        if "reviewerID" in record:
            keys, per_second = ("reviewerID", "asin", "overall", "unixReviewTime", "summary"), 1
        else:
            keys, per_second = ("user_id", "parent_asin", "rating", "timestamp", "title"), 1000
        user, item, stars, time = (record[key] for key in keys[:4])
        headline = str(record.get(keys[4]) or "")
        return str(user), str(item), float(stars), int(time) // per_second, int(time), headline

    rows = list(_records(lines, what, "review", parse))
    if not rows:
        raise DataError(f"{what} holds no reviews")
    columns = ["user", "item", "rating", "timestamp", "position", "summary"]
    return pd.DataFrame(rows, columns=columns)


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
    """What `parse` makes of every line that is not blank."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse(line)
            except _BAD_RECORD as error:
                raise DataError(
                    f"{what}, line {number}: not an Amazon {kind} record ({type(error).__name__}: "
                    f"{error}); is the file cut short?"
                ) from error


def _literal(line: bytes) -> dict:
    """JSON, or the Python literal that the metadata of 2014 is written in."""
    try:
        return json.loads(line)
    except ValueError:
        return ast.literal_eval(line.decode().strip())
