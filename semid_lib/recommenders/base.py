"""What every recommender shares: histories in, ranking with ties, items out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semid_lib.compute.ties import tie_order
from semid_lib.errors import EmptyHistoryError, InputError, UnknownItemError
from semid_lib.recommenders.item_model import ItemModel
from semid_lib.settings import whole

PADDING = -1


class Recommender(ItemModel):
    """Histories in, ranked items out.

    A subclass writes `fit(split, sids=None)`, which calls `self.remember(split)` and returns
    `self`; `scores(histories)` if it scores every item, or `generate(histories, k,
    exclude_history)` if it writes items one by one; `state()` and `restore(tensors)` for saving.
    What it can do it declares as class attributes. Inside, items are always 0..N-1, and a history
    is an int64 array `[T]`, newest last.

    Attributes:
        scores_all_items: capability; whether it writes `scores`, so that every item is ranked.
        num_beams: the longest list of a model that only generates, None for any length.
        needs_history: whether an empty history is refused.
        unique_ids: whether semantic IDs that two items share are made longer before `fit`.
        reads_fields: see `ItemModel`.
    """

    scores_all_items = True
    num_beams: int | None = None
    needs_history = True
    unique_ids = True

    def recommend(
        self, histories: Sequence[Sequence], k: int = 10, *, exclude_history: bool = False,
        return_scores: bool = False,
    ):  # fmt: skip
        """Rank the catalogue for each history and return the best k items.

        Args:
            histories: B sequences of item ids of any length, newest last.
            k: how many items to return.
            exclude_history: never return an item of the history itself.
            return_scores: also return the scores, `[B, k]` float, higher is better.

        Returns:
            `[B, k]` items (int64, or the original ids), best first. Equal scores stand in a
            fixed pseudo-random order. `PADDING` (-1) with score -inf fills rows with fewer
            than k items.

        Raises:
            InputError: a k that is no integer in 1..N, or a history that is no sequence.
            UnknownItemError: an item that was not in the catalogue.
            EmptyHistoryError: an empty history, unless the method needs none.
        """
        limit = self.num_items_fitted
        if not whole(1, limit).holds(k):
            raise InputError(f"k is {k}, but must lie in 1..{limit} (the catalogue)")
        inside = self._to_indices(histories)
        items, scores = self.generate(inside, k, exclude_history)
        if self.item_ids_ is not None:
            fill = items == PADDING
            items = self.item_ids_[np.where(fill, 0, items)]
            if fill.any():
                items = np.where(fill, None, items)
        return (items, scores) if return_scores else items

    def score_items(self, histories: Sequence[Sequence]) -> np.ndarray:
        """Scores of every item for each history, `[B, N]` float, higher is better."""
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        return self.scores(self._to_indices(histories))

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """Scores of every item, `[B, N]` float, higher is better; -inf: never recommended."""
        raise TypeError(f"{type(self).__name__} generates items and does not score all of them")

    def generate(self, histories, k, exclude_history):
        """`(items [B, k] int64, scores [B, k])`, best first; `PADDING`, -inf where there are fewer.

        Here: the best k of full scores; ties fall in a fixed pseudo-random order.
        """
        scores = np.array(self.scores(histories), dtype=np.float64)
        if exclude_history:
            for row, history in enumerate(histories):
                scores[row, history] = -np.inf
        shuffled = tie_order(scores.shape[1])
        mixed = scores[:, shuffled]
        order = np.argsort(-mixed, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(mixed, order, axis=1)
        return np.where(np.isneginf(best), PADDING, shuffled[order]), best

    def _to_indices(self, histories) -> list[np.ndarray]:
        if self.item_ids_ is not None and self._index is None:
            self._index = {item: i for i, item in enumerate(self.item_ids_.tolist())}
        inside = []
        if isinstance(histories, str | bytes) or not np.iterable(histories):
            raise InputError(f"histories are {histories!r}, but must be a sequence of sequences")
        for row, history in enumerate(histories):
            if isinstance(history, str | bytes | dict) or not hasattr(history, "__len__"):
                raise InputError(f"history {row} is {history!r}, but must be a sequence of items")
            if len(history) == 0 and self.needs_history:
                raise EmptyHistoryError(
                    f"history {row} is empty; {type(self).__name__} needs at least one item. "
                    "Use Popularity for users without history."
                )
            inside.append(self._indices_of(history, row))
        return inside

    def _indices_of(self, history, row) -> np.ndarray:
        if self._index is not None:
            item = None
            try:
                indices = []
                for item in history.tolist() if hasattr(history, "tolist") else history:
                    indices.append(self._index[item])
                return np.array(indices, dtype=np.int64)
            except (KeyError, TypeError):  # a list, for one, is no key
                raise UnknownItemError(
                    f"item {item!r} of history {row} is not in the catalogue of "
                    f"{self.num_items_} items seen at fit time (ids such as "
                    f"{self.item_ids_[0]!r}; indices of a Split map to them by data.item_ids)"
                ) from None
        try:
            indices = np.asarray(history)
        except ValueError:
            indices = np.empty((0, 0))
        if indices.ndim != 1:
            raise UnknownItemError(f"history {row} holds more than items: it must be one sequence")
        if len(indices) and not np.issubdtype(indices.dtype, np.integer):
            raise UnknownItemError(
                f"history {row} holds {indices[0]!r}; items are integers 0..N-1 here"
            )
        indices = indices.astype(np.int64)
        outside = (indices < 0) | (indices >= self.num_items_)
        if outside.any():
            raise UnknownItemError(
                f"item {indices[outside][0]} of history {row} is outside the catalogue "
                f"0..{self.num_items_ - 1} seen at fit time"
            )
        return indices
