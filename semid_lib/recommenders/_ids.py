"""What the recommenders share that read and write semantic IDs."""

from __future__ import annotations

import hashlib

import numpy as np

from semid_lib.errors import CodesError, InputError
from semid_lib.recommenders.base import PADDING, Recommender
from semid_lib.settings import check_settings
from semid_lib.training import History, TrainSettings, train


class IdsRecommender(Recommender):
    """Has a `network_`, and settings with the names that `TrainSettings` gives them."""

    def _check_ids(self, split, sids) -> None:
        """Raise InputError without `sids`, CodesError for those of another catalogue."""
        check_settings(self)
        if sids is None:
            raise InputError(
                f"{type(self).__name__}.fit needs semantic IDs: fit(split, sids), where sids = "
                "SemanticIds(codes) and codes [N, L] come from a quantizer such as GAOQ or OPQ"
            )
        if sids.num_items != split.num_items:
            raise CodesError(
                f"codes of {sids.num_items} items for a catalogue of {split.num_items}: every item "
                "needs codes, and they must be this dataset's"
            )

    def _train(self, split, sids, loss, num_samples, settings: TrainSettings, **more) -> History:
        """Train the network; `more` are keywords of `training.train`."""
        identity = {k: v for k, v in self.get_params().items() if k != "device"}
        identity["data"] = split.data.sha256
        identity["codes"] = hashlib.sha256(sids.tokens.tobytes()).hexdigest()
        return train(
            self.network_, loss, num_samples, settings, label=type(self).__name__,
            identity=identity, **more,
        )  # fmt: skip


def first_unseen(items, scores, histories, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k items of lists `[B, K]` that are not in B histories, and their scores."""
    seen = np.stack([np.isin(line, history) for line, history in zip(items, histories)])
    items, scores = np.where(seen, PADDING, items), np.where(seen, -np.inf, scores)
    first = np.argsort(items == PADDING, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(items, first, 1), np.take_along_axis(scores, first, 1)
