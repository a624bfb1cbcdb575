"""The one in-memory form of a dataset: who took which item, in which order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from semid_lib.errors import DataError

MISSING = -1


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions sorted by user, then time, with the items' fields beside them.

    Attributes:
        user: `[M]` int64, user index 0..U-1, never decreasing.
        item: `[M]` int64, item index 0..N-1.
        num_users, num_items: U and N; every user and item occurs or is named in `items`.
        ordered: whether the rows of a user stand in time order. Sequential use needs it.
        timestamp: `[M]` int64 UNIX seconds, or None.
        rating: `[M]` float32, or None.
        fields: name -> `[N]` int64 value code 0..V-1, `MISSING` (-1) where the item has none.
            The item id itself is not among them: encoders add it as field 0.
        field_values: name -> the V printed values, so `field_values[f][fields[f][i]]` is text.
        items: one row per item with every raw column, index 0..N-1 (titles and the like).
        item_ids, user_ids: original ids, or None where they already are 0..N-1 / 0..U-1.
    """

    user: np.ndarray
    item: np.ndarray
    num_users: int
    num_items: int
    ordered: bool = True
    timestamp: np.ndarray | None = None
    rating: np.ndarray | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    field_values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    items: pd.DataFrame | None = None
    item_ids: np.ndarray | None = None
    user_ids: np.ndarray | None = None
    name: str = "unnamed"

    def __post_init__(self):
        for name in ("user", "item"):
            column, limit = getattr(self, name), getattr(self, f"num_{name}s")
            if column.ndim != 1 or column.dtype != np.int64:
                kind = f"{column.dtype} {column.shape}"
                raise DataError(f"{name} must be a 1-d int64 array, not {kind}")
            bad = column[(column < 0) | (column >= limit)]
            if len(bad):
                raise DataError(f"{name} {bad[0]} is outside 0..{limit - 1}; is num_{name}s right?")
        if len(self.user) != len(self.item):
            raise DataError(f"{len(self.user)} users beside {len(self.item)} items in the rows")
        step = np.diff(self.user)
        if (step < 0).any():
            row = int(np.argmax(step < 0)) + 1
            raise DataError(
                f"row {row} goes back to user {self.user[row]}: sort rows by user, then time"
            )
        if self.ordered and self.timestamp is not None:
            backwards = (np.diff(self.timestamp) < 0) & (step == 0)
            if backwards.any():
                row = int(np.argmax(backwards)) + 1
                who = self.user[row]
                raise DataError(f"row {row}: time of user {who} goes back; sort rows by time")
        ids = () if self.item_ids is None else np.asarray(self.item_ids).tolist()
        for item in ids:
            if not isinstance(item, int | str | np.integer) or isinstance(item, bool):
                raise DataError(
                    f"item id {item!r} is a {type(item).__name__}, but ids must be whole numbers "
                    "or text: a saved model could not give others back. Convert them, such as by "
                    "frame['item'].astype(str)"
                )
        for name, column in self.fields.items():
            if column.shape != (self.num_items,):
                raise DataError(f"field {name!r} has shape {column.shape}, not ({self.num_items},)")

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, items: pd.DataFrame | None = None,
        fields: Sequence[str] | None = None, *, ordered: bool | None = None, name: str = "table",
    ) -> Interactions:  # fmt: skip
        """Take a table in memory, one row per interaction, in any order.

        Rows are sorted by user, then `timestamp`, then `position` (those that there are), the rest
        in the table's order. Whole-number ids 0..N-1 are kept as they are. Other ids (numbers with
        gaps, text, ...) are mapped once, sorted, or in the order of `items` if it is given, and
        kept in `item_ids` and `user_ids`.

        Args:
            frame: columns `user` and `item`, and optionally `timestamp` (UNIX seconds or dates),
                `position` (any increasing number) and `rating`; others are ignored.
            items: one row per item with a column `item`, and any others (title, brand, ...). It
                may name items without interactions; it must name all others.
            fields: columns of `items` to code for the encoders. None takes those whose values
                repeat at least twice on average; `[]` takes none.
            ordered: whether the rows of a user stand in time order; None means exactly if there is
                a timestamp or position. Pass True if the table itself is sorted by time.
            name: what to call it in messages and records.

        Raises:
            DataError: not a DataFrame, empty, a column missing or twice, an id missing, a time or
                rating that is not numeric, times in milliseconds, an item twice or not in `items`.

        Cost: O(M log M) for M rows.
        """
        from semid_lib.data.columns import interactions_from_frame

        return interactions_from_frame(frame, items, fields, ordered, name)

    def __repr__(self) -> str:
        counts = f"{self.num_users:,} users, {self.num_items:,} items, {len(self.user):,} rows"
        order = "ordered" if self.ordered else "without order"
        fields = ", ".join(self.fields) or "none"
        return f"Interactions({self.name}: {counts}, {order}, fields {fields})"

    @property
    def num_interactions(self) -> int:
        """Number of rows M."""
        return len(self.user)

    @property
    def density(self) -> float:
        """Share of the U x N pairs that occur: M / (U N)."""
        return self.num_interactions / (self.num_users * self.num_items)

    @property
    def indptr(self) -> np.ndarray:
        """`[U+1]` int64: the rows of user u are `indptr[u]:indptr[u+1]`."""
        return np.searchsorted(self.user, np.arange(self.num_users + 1))

    def sequences(self) -> list[np.ndarray]:
        """The items of each user, oldest first: U arrays of int64."""
        return np.split(self.item, self.indptr[1:-1])

    @property
    def sequences_sha256(self) -> str:
        """Hash of who took what in which order, without the fields."""
        return self._digest({})

    @property
    def sha256(self) -> str:
        """Hash of the sequences and fields, the same wherever the data came from."""
        return self._digest(self.fields)

    @property
    def catalogue_sha256(self) -> str:
        """Hash of which item has which index: the number of items, their ids and their fields.

        Codes belong to a catalogue: they stay right when the interactions change, and are wrong as
        soon as an index means another item. Where items have neither ids nor fields, nothing but
        their number is known of them.
        """
        ids = None if self.item_ids is None else np.asarray(self.item_ids).tolist()
        digest = hashlib.sha256(json.dumps([self.num_items, ids], ensure_ascii=False).encode())
        for name, column in sorted(self.fields.items()):
            digest.update(f"\n{name}\n".encode())
            digest.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return digest.hexdigest()

    @property
    def contents_sha256(self) -> str:
        """Hash of all that is known: sequences, times, ratings, and the items' table as text."""
        digest = hashlib.sha256(f"{self.sequences_sha256} {self.ordered}".encode())
        for column, kind in ((self.timestamp, "<i8"), (self.rating, "<f4")):
            known = () if column is None else np.where(np.isnan(column), -1, column)
            digest.update(np.asarray(known, dtype=kind).tobytes() + b"\n")
        table = pd.DataFrame() if self.items is None else self.items
        for name in table.columns:
            column = table[name].astype(object)
            cells = [str(name), *column.where(column.notna(), "").map(str)]
            digest.update(json.dumps(cells).encode())
        return digest.hexdigest()

    def _digest(self, fields) -> str:
        digest = hashlib.sha256()
        for name, column in (("", self.user), ("", self.item), *sorted(fields.items())):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return digest.hexdigest()
