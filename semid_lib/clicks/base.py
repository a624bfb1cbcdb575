"""What every click model shares: rows of impressions in, probabilities out."""

from __future__ import annotations

import numpy as np

from semid_lib.clicks.data import Clicks
from semid_lib.errors import UnknownItemError
from semid_lib.recommenders.item_model import ItemModel


class ClickModel(ItemModel):
    """Says of each shown item how likely its user is to click on it.

    A subclass writes `fit(clicks, sids=None)`, which calls `self.remember(clicks)` and returns
    `self`; `rate(clicks, rows)`; and `state()` and `restore(tensors)` for saving.
    """

    def remember(self, clicks: Clicks) -> None:
        """Remember the catalogue and the number of users."""
        super().remember(clicks)
        self.num_users_ = clicks.data.num_users

    def predict(self, clicks: Clicks, rows="test") -> np.ndarray:
        """Rate rows of `clicks`: Pr(click) `[M]` float64, in 0..1.

        Args:
            rows: "train", "validation", "test", or `[M]` row numbers.

        Raises:
            NotFittedError; UnknownItemError: another catalogue or other users than at fit time.
        """
        known = self.num_items_fitted, self.num_users_
        if known != (clicks.num_items, clicks.data.num_users):
            raise UnknownItemError(
                f"{clicks.num_items} items and {clicks.data.num_users} users, but the model was "
                f"fitted on {known[0]} and {known[1]}: is this another dataset?"
            )
        return self.rate(clicks, clicks.rows(rows) if isinstance(rows, str) else np.asarray(rows))

    def rate(self, clicks: Clicks, rows: np.ndarray) -> np.ndarray:
        """Pr(click) `[M]` float64 of the rows `[M]` of `clicks`, in 0..1."""
        raise NotImplementedError(f"{type(self).__name__} has no rate()")
