"""Leave-one-out by time, and the samples that models train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semid_lib.data.interactions import Interactions
from semid_lib.errors import DataError, InputError, UnorderedError

PARTS = ("validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """What a model may see (the train part) and what it is asked (the targets).

    Attributes:
        data: the catalogue and its fields. Methods must not read `data.user`/`data.item`:
            those rows contain the held-out targets.
        items: `[M']` int64, the train interactions, user by user, oldest first.
        indptr: `[U+1]` int64, the train rows of user u are `indptr[u]:indptr[u+1]`.
        users: `[E]` int64, the users that are evaluated (those with at least 3 interactions).
        targets: part name -> `[E]` int64, the held-out item of each evaluated user.
    """

    data: Interactions
    items: np.ndarray
    indptr: np.ndarray
    users: np.ndarray
    targets: dict[str, np.ndarray]

    def __repr__(self) -> str:
        rows, users = f"{len(self.items):,}", f"{len(self.users):,}"
        return f"Split({self.data.name}: {rows} rows to learn from, {users} users to ask)"

    @property
    def num_items(self) -> int:
        """Size N of the catalogue."""
        return self.data.num_items

    def train_sequences(self) -> list[np.ndarray]:
        """The train part of every user, oldest first: U int64 arrays."""
        return np.split(self.items, self.indptr[1:-1])

    def train_counts(self) -> np.ndarray:
        """`[N]` int64: how often each item occurs in the train part."""
        return np.bincount(self.items, minlength=self.num_items)

    def histories(self, part: str, max_history: int | None = None) -> list[np.ndarray]:
        """What is known of each evaluated user before the target of `part`, newest last.

        For "validation" that is the train part; for "test" the validation item follows it.
        `max_history` keeps only that many of the newest.
        """
        check_part(part)
        if max_history is not None and max_history < 1:
            raise InputError(f"max_history is {max_history}, but a history needs at least 1 item")
        train = [self.items[self.indptr[u] : self.indptr[u + 1]] for u in self.users]
        if part == "test":
            train = [np.append(h, v) for h, v in zip(train, self.targets["validation"])]
        return train if max_history is None else [h[-max_history:] for h in train]

    def cold_targets(self, part: str) -> np.ndarray:
        """`[E]` bool: targets of `part` that never occur in the train part.

        Such an item keeps its id in the vocabulary and its row in the tokenizer's input, and is
        ranked like any other (our reading of ReSID 4.1, "added to the training set"). The user's
        held-out interaction itself is never a training sample: that would leak the answer.
        """
        check_part(part)
        return self.train_counts()[self.targets[part]] == 0

    def windows(self, max_history: int, min_history: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Sliding-window samples of the train part, one for each (user, target) pair.

        Args:
            max_history: longest history kept, at least 1; the newest items stay.
            min_history: how many items must stand before a target (0: history-free samples too).

        Returns:
            `(start, target)`, int64 row numbers into `items`: the history of sample s is
            `items[start[s]:target[s]]`, its target `items[target[s]]`.
        """
        if max_history < 1 or min_history < 0:
            raise InputError(
                f"max_history is {max_history} (at least 1), min_history {min_history} (at least 0)"
            )
        row = np.arange(len(self.items))
        first = np.repeat(self.indptr[:-1], np.diff(self.indptr))
        keep = row - first >= min_history
        return np.maximum(first, row - max_history)[keep], row[keep]


def check_part(part: str) -> None:
    """Raise DataError unless `part` is "validation" or "test"."""
    if part not in PARTS:
        raise DataError(f"unknown part {part!r}: choose one of {PARTS}")


def leave_one_out(data: Interactions) -> Split:
    """Hold out each user's last item for the test and the one before for validation.

    Source: ReSID 4.1, ACERec 3.1 (R3-VAE does not describe its split). Users with
    fewer than 3 interactions stay in the train part whole and are not evaluated.

    Raises:
        UnorderedError: the data carries no order, so "last" has no meaning.
    """
    if not data.ordered:
        raise UnorderedError(
            f"{data.name!r} has no time order (its source sorts items by id), so its last "
            "item is not the latest. Use it for counts and co-occurrence, or fetch an ordered copy."
        )
    begin, end = data.indptr[:-1], data.indptr[1:]
    users = np.flatnonzero(end - begin >= 3)
    keep = np.ones(data.num_interactions, dtype=bool)
    keep[end[users] - 1] = keep[end[users] - 2] = False
    return Split(
        data=data, items=data.item[keep], users=users,
        indptr=np.append(0, np.cumsum(np.bincount(data.user[keep], minlength=data.num_users))),
        targets={"validation": data.item[end[users] - 2], "test": data.item[end[users] - 1]},
    )  # fmt: skip
