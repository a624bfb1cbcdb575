"""What the recommenders share that read item after item and score the whole catalogue."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.errors import InputError
from semid_lib.layers import (
    chunked_cross_entropy,
    item_fields,
    sampled_cross_entropy,
    target_ranks,
)
from semid_lib.recommenders.base import Recommender
from semid_lib.runtime import resolve_device, resolve_precision
from semid_lib.settings import check_settings
from semid_lib.training import train


class SequenceRecommender(Recommender):
    """Item i scores h . v_i: h from a network over the history, v_i from the items' fields.

    A subclass stores the settings (those of `SASRec` without `targets`) and implements

    * `_network(sizes, codes)`: a `SequenceNetwork`;
    * `_outputs(items, start, end) -> (h [M, D], items wanted [M])` of training samples, where
      sample s is `items[start[s] : end[s] + 1]`, and `_per_row(lengths)`, the mean number of
      targets that samples of `lengths` = `end - start` have;
    * `_read(items, start, end) -> h [B, D]` after the histories `items[start[b] : end[b]]`.
    """

    def fit(self, split, sids=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the train part; validation NDCG@10 (all items ranked) chooses the epoch.

        Raises:
            InputError: an unknown setting or field, no sample, a loss that is not finite.
            Others: see `training.train`.
        """
        self.fields_, sizes, codes = item_fields(split.data, self.field_names)
        self._build(sizes, codes)
        device = self.network_.position.device
        items = torch.as_tensor(split.items, device=device)
        start, end = self._sequences(split)
        rows = torch.as_tensor(np.stack([start, end]), device=device)
        per_row = self._per_row(end - start) if len(start) else 1.0
        self.history_ = train(
            self.network_, lambda batch: self._loss(items, *rows[:, batch], per_row), len(start),
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, samples_per_epoch=self.samples_per_epoch,
            lengths=end - start, patience=self.patience, monitor="ndcg@10",
            validate=(lambda: self._validate(split)) if len(split.users) else None,
            precision=resolve_precision(self.precision, device), device=device,
            seed=self.random_state, checkpoint=checkpoint, deadline=deadline, progress=progress,
            label=type(self).__name__,
            identity={**self.get_params(), "device": 0, "data": split.data.sha256},
        )  # fmt: skip
        self._see(split)
        return self

    def _check(self) -> None:
        check_settings(
            self, score_with=("fused", "id"), similarity=("dot", "cosine"), max_history=1,
            loss=("full", "sampled"), long_histories=("last", "windows"), num_negatives=1,
        )  # fmt: skip

    def _build(self, sizes, codes) -> None:
        self._check()
        torch.manual_seed(self.random_state)
        self.network_ = self._network(sizes, codes).to(resolve_device(self.device))

    def _sequences(self, split) -> tuple[np.ndarray, np.ndarray]:
        """`(start, end)`: each user's train part, or windows of it that share their end items."""
        first, last = split.indptr[:-1], split.indptr[1:] - 1
        count = np.maximum(-(-(last - first) // self.max_history), 0)
        if self.long_histories == "last":
            count = np.minimum(count, 1)
        user = np.repeat(np.arange(len(first)), count)
        behind = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        end = last[user] - behind * self.max_history
        return np.maximum(first[user], end - self.max_history), end

    def _loss(self, items, start, end, per_row) -> Tensor:
        """Summed cross-entropy of the targets over what an average batch of this size holds."""
        hidden, wanted = self._outputs(items, start, end)
        hidden, rows = self._queries(hidden), self._rows()
        if self.loss == "full":
            total = chunked_cross_entropy(hidden, rows, wanted)
        else:
            total = sampled_cross_entropy(hidden, rows, wanted, self.num_negatives, cosine=False)
        return total / (len(start) * per_row)

    def _queries(self, hidden: Tensor) -> Tensor:
        """What is multiplied with `_rows` for the scores; of h `[B, D]`."""
        return self.dim**0.5 * F.normalize(hidden, dim=-1) if self._cosine else hidden

    def _rows(self) -> Tensor:
        """One row an item, differentiable; the scores are their products with `_queries`."""
        return F.normalize(self._vectors(), dim=-1) if self._cosine else self._vectors()

    @property
    def _cosine(self) -> bool:
        return self.similarity == "cosine"

    def _vectors(self, which: str | None = None) -> Tensor:
        """v_i of all items, `[N, D]`, differentiable."""
        table = self.network_.table
        return table(table.tokens) if (which or self.score_with) == "fused" else table.values()[0]

    @torch.no_grad()
    def _encode(self, histories: list[np.ndarray]) -> Tensor:
        """`_queries` of each history, those of like length read together."""
        self.network_.eval()
        device = self.network_.position.device
        kept = [h[-self.max_history :] for h in histories]
        lengths = torch.tensor([len(h) for h in kept])
        items = torch.as_tensor(np.concatenate(kept), device=device)
        order, end = lengths.argsort(stable=True), lengths.cumsum(0)
        rows = torch.stack([end - lengths, end])[:, order].to(device)
        parts = [self._queries(self._read(items, *part)) for part in rows.split(1024, dim=1)]
        return torch.cat(parts)[order.argsort().to(device)]

    def _validate(self, split) -> dict[str, float]:
        hidden = self._encode(split.histories("validation"))
        targets = torch.as_tensor(split.targets["validation"], device=hidden.device)
        ranks = target_ranks(hidden, self._rows(), targets)
        return {f"{m}@10": float(getattr(ranks, m)(10).mean()) for m in ("recall", "ndcg")}

    @torch.no_grad()
    def _scores(self, histories):
        return (self._encode(histories) @ self._rows().T).cpu().numpy()

    @torch.no_grad()
    def embed(self, which: str | None = None) -> np.ndarray:
        """Return the items' vectors v_i, so that the model can stand in an encoder's place.

        Args:
            which: "fused" (sum over the fields), "id" (the id's row), None as scored with.

        Returns:
            `[N, dim]` float32.

        Raises:
            NotFittedError, or InputError for another `which`.
        """
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        if which not in (None, "fused", "id"):
            raise InputError(f"which is {which!r}, but must be 'fused' or 'id'")
        return self._vectors(which).float().cpu().numpy()

    def field_embedding(self, name: str) -> np.ndarray:
        """Return E_k of one field ("item" for the item id), float32 `[|V_k|, dim]`.

        Raises:
            NotFittedError, or InputError for a field that the model does not read.
        """
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        if name not in self.fields_:
            raise InputError(f"no field {name!r}; the fields are {self.fields_}")
        values = self.network_.table.values()[self.fields_.index(name)]
        return values.detach().float().cpu().numpy()

    def _state(self):
        table, sizes = self.network_.table, torch.tensor(self.network_.table.sizes)
        return {**self.network_.state_dict(), "codes": table.codes, "sizes": sizes}

    def _restore(self, tensors):
        codes, sizes = tensors.pop("codes").numpy(), tensors.pop("sizes").tolist()
        self._build(sizes, codes)
        self.network_.to(tensors["position"].dtype).load_state_dict(tensors)
        self.network_.eval()
