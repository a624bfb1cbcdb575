"""What the recommenders share that read and write semantic IDs."""

from __future__ import annotations

import numpy as np

from semid_lib.codes import ItemTokenizer, check_catalogue
from semid_lib.errors import CodesError, InputError
from semid_lib.recommenders.base import PADDING, Recommender
from semid_lib.settings import check_settings
from semid_lib.training import History, TrainSettings, train


class IdsRecommender(Recommender):
    """Has a `network_`, and settings with the names that `TrainSettings` gives them.

    A subclass implements `_use(tokenizer)`, which sets `sids_` and what is looked up in it.

    Attributes:
        sids_: the `ItemTokenizer` given to `fit` or `renew`.
    """

    def _check_ids(self, split, sids) -> None:
        """Raise InputError without `sids`, CodesError for those of another catalogue."""
        check_settings(self)
        if sids is None or not hasattr(sids, "vocabulary"):
            raise InputError(
                f"{type(self).__name__}.fit needs semantic IDs: fit(split, sids), where sids = "
                "SemanticIds(codes) and codes [N, L] come from a quantizer such as GAOQ or OPQ"
            )
        check_catalogue(sids, split.data)

    def renew(self, tokenizer: ItemTokenizer):
        """Go on with newer codes of the same items; fitted, or between two epochs of `fit`.

        Weights stay as they are: they are of the vocabulary, which must be the same. A checkpoint
        of the training does not hold the codes: who renews them renews them again after a pause.

        Raises:
            NotFittedError: neither fitted nor in training.
            CodesError: another number of items, another catalogue, or another vocabulary.
        """
        size = self.num_items_fitted
        if tokenizer.num_items != size:
            raise CodesError(f"codes of {tokenizer.num_items} items for a catalogue of {size}")
        known = self.sids_.catalogue
        if None not in (known, tokenizer.catalogue) and tokenizer.catalogue != known:
            raise CodesError(
                f"codes of catalogue {tokenizer.catalogue[:12]}, but those so far are of catalogue "
                f"{known[:12]}"
            )
        if tokenizer.vocabulary != self.sids_.vocabulary:
            raise CodesError(
                f"renewed codes have a {tokenizer.vocabulary}, but the network was made for a "
                f"{self.sids_.vocabulary}"
            )
        self._use(tokenizer)
        return self

    def _train(self, split, sids, loss, num_samples, settings: TrainSettings, **more) -> History:
        """Train the network; `more` are keywords of `training.train`."""
        identity = {k: v for k, v in self.get_params().items() if k != "device"}
        identity["data"] = split.data.sha256
        identity["codes"] = sids.version
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
