"""Clicks: what users were shown, whether they liked it, and what they had liked before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semid_lib.data.interactions import Interactions
from semid_lib.data.splits import Split
from semid_lib.errors import DataError, InputError, UnorderedError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Clicks:
    """Rows of `data` as impressions: user `data.user[m]` was shown item `data.item[m]`.

    Attributes:
        data: M rows, user by user, oldest first.
        label: `[M]` bool, whether the user clicked.
        part: `[M]` int8, index into `PARTS`.
        clicked: `[P]` int64, the items of all rows with a true label, in the order of the rows.
        start, end: `[M]` int64; the history of row m is `clicked[start[m]:end[m]]`, oldest first.
    """

    data: Interactions
    label: np.ndarray
    part: np.ndarray
    clicked: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.rows(p)):,} {p}" for p in PARTS)
        return f"Clicks({self.data.name}: {counts} rows, {self.label.mean():.1%} clicked)"

    @property
    def num_items(self) -> int:
        """Size N of the catalogue."""
        return self.data.num_items

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of "train", "validation" or "test"."""
        if part not in PARTS:
            raise DataError(f"unknown part {part!r}: choose one of {PARTS}")
        return np.flatnonzero(self.part == PARTS.index(part))

    def train_counts(self, of: str = "item") -> np.ndarray:
        """How often each item, `[N]`, or each "user", `[U]`, occurs in the rows of the train part.

        An int64 count of impressions, clicked or not.
        """
        limit = getattr(self.data, f"num_{of}s")
        return np.bincount(getattr(self.data, of)[self.rows("train")], minlength=limit)

    def train_split(self) -> Split:
        """The clicked rows of the train part, for an encoder to learn from; nothing is held out."""
        rows = np.flatnonzero(self.label & (self.part == 0))
        sizes = np.bincount(self.data.user[rows], minlength=self.data.num_users)
        nobody = np.empty(0, dtype=np.int64)
        targets = {"validation": nobody, "test": nobody}
        return Split(
            self.data, self.data.item[rows], np.append(0, np.cumsum(sizes)), nobody, targets
        )


def clicks(
    data: Interactions,
    *,
    threshold: float = 4.0,
    shares: tuple[int, int, int] = (8, 1, 1),
    max_history: int = 60,
) -> Clicks:
    """Read ratings as clicks, and split each user's rows by time (R3-VAE 4.4, SPEC 22).

    A rating of at least `threshold` is a click, one below it an impression without one. Of a
    user's n rows the first ceil(8n/10) are for training, those up to ceil(9n/10) for validation,
    the rest for the test. The history of a row is the user's last `max_history` *clicks* that are
    strictly earlier in time and, for validation and test, belong to an earlier part: no label of
    a part is ever an input of a prediction in it.

    Args:
        data: with ratings and a time order. threshold: least rating of a click.
        shares: sizes of the parts, in proportion. max_history: longest history T.

    Raises:
        UnorderedError: the data carries no order. DataError: no ratings, or a row without one.
        InputError: shares that are not three integers >= 0, the first > 0, or `max_history` < 1.

    Cost: O(M).
    """
    if not data.ordered:
        raise UnorderedError(f"{data.name!r} has no time order, so no row is earlier than another")
    if data.rating is None:
        raise DataError(f"{data.name!r} has no ratings, so nobody knows what was liked")
    if np.isnan(data.rating).any():
        row = int(np.isnan(data.rating).argmax())
        raise DataError(f"row {row} of {data.name!r} has no rating; drop such rows first")
    good = len(shares) == 3 and all(isinstance(s, int) and s >= 0 for s in shares) and shares[0]
    if not good or max_history < 1:
        raise InputError(
            f"shares {shares} must be three integers >= 0, the first above 0, and max_history "
            f"({max_history}) at least 1"
        )
    row, first = np.arange(len(data.user)), data.indptr[data.user]
    size = np.diff(data.indptr)[data.user]
    cuts = [first - (-size * c // sum(shares)) for c in np.cumsum(shares)[:2]]
    part = sum((row >= cut).astype(np.int8) for cut in cuts)
    opens = np.ones(len(row), dtype=bool)  # the row is later than the one before
    if data.timestamp is not None:
        opens[1:] = (np.diff(data.timestamp) != 0) | (np.diff(data.user) != 0)
    earlier = np.maximum.accumulate(np.where(opens, row, 0))
    known = np.minimum(earlier, np.choose(part, [row, *cuts]))  # rows before this one count
    label = data.rating >= threshold
    before = np.append(0, np.cumsum(label))
    end = before[known]
    start = np.maximum(before[first], end - max_history)
    return Clicks(data, label, part, data.item[label], start, end)


def coldest(counts, share: float = 0.1, by: str = "members") -> np.ndarray:
    """Mark the items (or users) with the fewest training impressions.

    Args:
        counts: `[N]`, `Clicks.train_counts()`.
        share: the coldest tenth by default: the largest set that holds at most this share,
            equal counts staying together; at least the members of the lowest count.
        by: what is shared out, "members" (a tenth of the items) or "impressions" (the items that
            together have a tenth of all impressions: many more items).

    Returns:
        `[N]` bool.
    """
    if by not in ("members", "impressions") or not 0 < share < 1:
        raise InputError(f"by={by!r} must be 'members' or 'impressions', share={share} in 0..1")
    values, group = np.unique(counts, return_inverse=True)
    weight = np.bincount(group) * (1 if by == "members" else values)
    reached = np.cumsum(weight) <= share * weight.sum()
    return group < max(int(reached.sum()), 1)
