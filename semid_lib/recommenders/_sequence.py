"""What the recommenders share that read item after item and score the whole catalogue."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.compute.device import resolve_device, send
from semid_lib.errors import InputError
from semid_lib.networks import (
    chunked_cross_entropy,
    item_fields,
    pairwise_loss,
    sampled_cross_entropy,
    target_ranks,
)
from semid_lib.recommenders.base import Recommender
from semid_lib.settings import check_settings, choice
from semid_lib.training import TrainSettings, like_lengths, train

LOSSES = ("full", "sampled", "bce", "bpr")
_GROUP = {"cpu": 8, "cuda": 256}  # samples of like length that are encoded together, at least


def read_histories(read, histories, longest: int, device, about=()) -> Tensor:
    """Read the newest `longest` items of each history, those of like length together.

    Args:
        read: `(items, start, end, ...) -> [b, ...]`, for up to 1,024 histories `items[start:end]`.
        about: arrays `[B]` of what else it is told of each history.
    """
    kept = [np.asarray(history)[-longest:] for history in histories]
    lengths = torch.tensor([len(history) for history in kept])
    items = torch.as_tensor(np.concatenate(kept), device=device)
    order, end = lengths.argsort(stable=True), lengths.cumsum(0)
    rows = torch.stack([end - lengths, end, *map(torch.as_tensor, about)])[:, order].to(device)
    found = torch.cat([read(items, *part) for part in rows.split(1024, dim=1)])
    return found[order.argsort().to(device)]


class SequenceRecommender(Recommender):
    """Item i scores h . v_i: h from a network over the history, v_i from the items' fields.

    A subclass stores the settings (those of `SASRec` without `targets`) and implements

    * `_network(sizes, codes)`: a module whose `table` is a `FieldTable`, the one that scores;
    * `_outputs(items, start, end, lengths) -> (h [M, D], items wanted [M])` of training samples,
      where sample s is `items[start[s] : end[s] + 1]`, and `_per_row(lengths)`, the mean number of
      targets that samples of `lengths` = `end - start`, a NumPy array, have;
    * `_read(items, start, end) -> h [B, D]` after the histories `items[start[b] : end[b]]`.

    It may know more of a sample than `start` and `end`: then `_sequences` has more rows, `_about`
    gives them for histories, and `_outputs` and `_read` take them too. `_prepare` looks at the
    split before the network is made, `_pretrain` trains it before the loss does.
    """

    reads_fields = True
    limits = {
        "score_with": choice("fused", "id"), "similarity": choice("dot", "cosine"),
        "loss": choice(*LOSSES), "targets": choice("all", "last"),
        "long_histories": choice("last", "windows"),
    }  # fmt: skip

    def fit(self, split, sids=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the train part; validation NDCG@10 (all items ranked) chooses the epoch.

        Raises:
            InputError: an unknown setting or field, no sample, a loss that is not finite.
            Others: see `training.train`.
        """
        check_settings(self)
        self.fields_, sizes, codes = item_fields(split.data, self.field_names)
        self._prepare(split)
        self._build(sizes, codes)
        running = dict(checkpoint=checkpoint, deadline=deadline, progress=progress)
        self._pretrain(split, **running)
        rows = np.stack(self._sequences(split))
        lengths = rows[1] - rows[0]
        per_row = self._per_row(lengths) if len(lengths) else 1.0
        self.history_ = self._train(
            split, partial(self._loss, per_row=per_row), rows, lengths,
            TrainSettings.of(self, monitor="ndcg@10"), label=type(self).__name__,
            validate=(lambda: self.metrics(split)) if len(split.users) else None, **running,
        )  # fmt: skip
        self.remember(split)
        return self

    def _train(self, split, loss, rows, lengths, settings: TrainSettings, **more):
        """Train on the samples `rows`: those of a batch go to `loss(items, *rows, lengths)`."""
        device = self.network_.table.weight.device
        items, rows = (torch.as_tensor(array, device=device) for array in (split.items, rows))
        return train(
            self.network_,
            lambda batch, known: loss(items, *rows[:, batch], lengths=lengths[known]),
            len(lengths), settings, lengths=lengths, alike=False,
            identity={**self.get_params(), "device": 0, "data": split.data.sha256}, **more,
        )  # fmt: skip

    def _prepare(self, split) -> None: ...

    def _pretrain(self, split, **running) -> None: ...

    def _about(self, histories: list[np.ndarray]) -> list[np.ndarray]:
        return []

    def _build(self, sizes, codes) -> None:
        check_settings(self)
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

    def _grouped(self, lengths, *rows):
        """Yield the samples `rows` (tensors `[b]`) in groups of like length, and these lengths."""
        device = rows[0].device
        for group in like_lengths(lengths, _GROUP.get(device.type, 8)):
            places = send(torch.from_numpy(group), device)
            yield *(row[places] for row in rows), lengths[group]

    def _loss(self, items, *rows, per_row, lengths=None) -> Tensor:
        """Summed loss of the targets over what an average batch of this size holds.

        The samples are encoded in groups, each cut to its longest; the loss is that of the batch.
        """
        start, end = rows[:2]
        lengths = (end - start).cpu().numpy() if lengths is None else lengths
        found = [self._outputs(items, *group) for group in self._grouped(lengths, *rows)]
        hidden, wanted = (torch.cat(parts) for parts in zip(*found))
        hidden, rows = self._queries(hidden), self._rows()
        if self.loss == "full":
            total = chunked_cross_entropy(hidden, rows, wanted)
        elif self.loss == "sampled":
            total = sampled_cross_entropy(hidden, rows, wanted, self.num_negatives, cosine=False)
        else:
            total = pairwise_loss(hidden, rows, wanted, self.loss)
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
        """`_queries` of each history."""
        self.network_.eval()

        def read(items, *rows):
            return self._queries(self._read(items, *rows))

        device, about = self.network_.table.weight.device, self._about(histories)
        return read_histories(read, histories, self.max_history, device, about)

    def metrics(self, split) -> dict[str, float]:
        """Recall@10 and NDCG@10 on the validation part, all items ranked."""
        hidden = self._encode(split.histories("validation"))
        targets = torch.as_tensor(split.targets["validation"], device=hidden.device)
        ranks = target_ranks(hidden, self._rows(), targets)
        return {f"{m}@10": float(getattr(ranks, m)(10).mean()) for m in ("recall", "ndcg")}

    @torch.no_grad()
    def scores(self, histories):
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

    def state(self):
        table, sizes = self.network_.table, torch.tensor(self.network_.table.sizes)
        return {**self.network_.state_dict(), "codes": table.codes, "sizes": sizes}

    def restore(self, tensors):
        codes, sizes = tensors.pop("codes").numpy(), tensors.pop("sizes").tolist()
        self._build(sizes, codes)
        self.network_.to(tensors["table.weight"].dtype).load_state_dict(tensors)
        self.network_.eval()


class CausalRecommender(SequenceRecommender):
    """A network that reads left to right: one pass predicts the next item at each position.

    Settings: those of `SASRec`. The network is called with tokens `[B, T, J]`, padded on the
    right, and `at` `[B]`, the positions wanted (None for all): `[B, T, D]` or `[B, D]`.
    """

    def _sequences(self, split):
        if self.targets == "last":
            return split.windows(self.max_history)
        return super()._sequences(split)

    def _per_row(self, lengths):
        return lengths.mean() if self.targets == "all" else 1.0

    def _gather(self, items, start, end, longest=None) -> tuple[Tensor, Tensor, Tensor]:
        """Places `[B, T]` of `items[start:end]`, which are valid, and tokens `[B, T, J]`."""
        longest = int((end - start).max()) if longest is None else longest
        place = start[:, None] + torch.arange(longest, device=items.device)
        valid = place < end[:, None]
        place = place.clamp(max=len(items) - 1)  # padding reads any item
        return place, valid, self.network_.table.tokens[items[place]]

    def _outputs(self, items, start, end, lengths):
        if self.targets == "last":
            return self._read(items, start, end, lengths.max().item()), items[end]
        place, valid, tokens = self._gather(items, start, end, lengths.max().item())
        at = torch.nonzero_static(valid, size=lengths.sum().item()).unbind(1)
        return self.network_(tokens)[at], items[place[at] + 1]

    def _read(self, items, start, end, longest=None):
        _, _, tokens = self._gather(items, start, end, longest)
        return self.network_(tokens, at=end - start - 1)
