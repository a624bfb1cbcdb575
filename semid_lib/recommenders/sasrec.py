"""SASRec: a causal transformer over the history, with item ids alone or with side fields."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.errors import InputError
from semid_lib.layers import (
    SequenceNetwork,
    check_choices,
    chunked_cross_entropy,
    item_fields,
    sampled_cross_entropy,
    target_ranks,
)
from semid_lib.recommenders.base import Recommender
from semid_lib.runtime import resolve_device, resolve_precision
from semid_lib.training import train


class SASRec(Recommender):
    """Self-attentive sequential recommendation (Kang & McAuley 2018) with a softmax loss.

    x_t = p_t + sum_j E_j[f_t^j], h = causal transformer(x); item i scores h_t . v_i as the next
    one; the loss is the mean cross-entropy over all targets of the train part. One causal pass
    predicts every next item of a user: the same numbers as one row a prefix (RecBole) for a
    fraction of the work. With side fields this is SASRec* (ReSID table 4).

    Args:
        field_names: side fields summed into an item's token; () for the id alone, None for all.
        score_with: v_i is the sum over the fields ("fused") or the id's row ("id").
        loss: "full" softmax over all items, or "sampled": `num_negatives` uniform ones, shared.
        similarity: "dot", or "cosine": sqrt(dim) cos(h, v_i), the choice of ReSID appendix E.
        targets: "all" positions of a sequence; or "last": one sliding window for each target.
        max_history: how many of the newest items are read.
        long_histories: with targets "all", train on the last `max_history` targets of a longer
            sequence ("last", the convention of SASRec), or cut it into windows ("windows").
        batch_size: sequences a step (256 of Beauty hold about 1,500 targets).
        patience: epochs without gain in validation NDCG@10. The others: see `training.train`.

    Attributes:
        history_: `training.History`.

    Deviates: softmax instead of the original's binary loss with one negative (`loss_name`, for
    the tables); post-layer-norm as in RecBole; positions count from the oldest item read.

    Cost: O(T D (T + D + ffn_dim)) per layer and sequence plus O(D N) a target ("full").
    """

    def __init__(
        self, dim=128, num_layers=2, num_heads=4, ffn_dim=512, dropout=0.1, max_history=32,
        field_names=(), score_with="fused", loss="full", similarity="dot", num_negatives=128,
        targets="all", long_histories="last", learning_rate=1e-3, weight_decay=1e-5,
        batch_size=256, epochs=500, patience=3, samples_per_epoch=None, device="auto",
        precision="float32", random_state=0,
    ):  # fmt: skip
        self.dim, self.num_layers, self.num_heads = dim, num_layers, num_heads
        self.ffn_dim, self.dropout, self.max_history = ffn_dim, dropout, max_history
        self.field_names, self.score_with = field_names, score_with
        self.loss, self.similarity, self.num_negatives = loss, similarity, num_negatives
        self.targets, self.long_histories = targets, long_histories
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.batch_size, self.epochs, self.patience = batch_size, epochs, patience
        self.samples_per_epoch, self.device = samples_per_epoch, device
        self.precision, self.random_state = precision, random_state

    @property
    def loss_name(self) -> str:
        """The training loss in words."""
        kind = "all items" if self.loss == "full" else f"{self.num_negatives} shared negatives"
        where = "every position" if self.targets == "all" else "the last position of each window"
        return f"cross-entropy over {kind} at {where}, {self.similarity}"

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
        per_row = (end - start).sum() / max(len(start), 1) if self.targets == "all" else 1.0
        self.history_ = train(
            self.network_, lambda batch: self._loss(items, *rows[:, batch], per_row), len(start),
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, samples_per_epoch=self.samples_per_epoch,
            lengths=end - start, patience=self.patience, monitor="ndcg@10",
            validate=(lambda: self._validate(split)) if len(split.users) else None,
            precision=resolve_precision(self.precision, device), device=device,
            seed=self.random_state, checkpoint=checkpoint, deadline=deadline, progress=progress,
            label="SASRec", identity={**self.get_params(), "device": 0, "data": split.data.sha256},
        )  # fmt: skip
        self._see(split)
        return self

    def _build(self, sizes, codes) -> None:
        check_choices(
            self, score_with=("fused", "id"), similarity=("dot", "cosine"), targets=("all", "last"),
            loss=("full", "sampled"), long_histories=("last", "windows"),
        )  # fmt: skip
        if self.max_history < 1:
            raise InputError(f"max_history is {self.max_history}, but must be at least 1")
        torch.manual_seed(self.random_state)
        network = SequenceNetwork(self, sizes, codes, self.max_history, causal=True)
        self.network_ = network.to(resolve_device(self.device))

    def _sequences(self, split) -> tuple[np.ndarray, np.ndarray]:
        """`(start, end)`: sample s reads `items[start:end]`; its newest target is `items[end]`."""
        if self.targets == "last":
            return split.windows(self.max_history)
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
        place = start[:, None] + torch.arange(int((end - start).max()), device=items.device)
        valid = place < end[:, None]
        place = place.clamp(max=len(items) - 2)  # padding reads any item
        tokens = self.network_.table.tokens[items[place]]
        if self.targets == "last":
            hidden, wanted = self.network_(tokens, at=end - start - 1), items[end]
        else:
            hidden, wanted = self.network_(tokens)[valid], items[place + 1][valid]
        hidden, vectors = self._unit(hidden, self.dim**0.5), self._vectors()
        if self.loss == "full":
            total = chunked_cross_entropy(hidden, self._unit(vectors), wanted)
        else:
            how = self.num_negatives, self.similarity == "cosine"
            total = sampled_cross_entropy(hidden, vectors, wanted, *how)
        return total / (len(start) * per_row)

    def _unit(self, x: Tensor, length: float = 1.0) -> Tensor:
        """Rows scaled to `length` if scores are cosines; else as they are."""
        return length * F.normalize(x, dim=-1) if self.similarity == "cosine" else x

    def _vectors(self, which: str | None = None) -> Tensor:
        """v_i of all items, `[N, D]`, differentiable."""
        table = self.network_.table
        return table(table.tokens) if (which or self.score_with) == "fused" else table.values()[0]

    @torch.no_grad()
    def _encode(self, histories: list[np.ndarray]) -> Tensor:
        """h at the newest item of each history, `[B, D]`, scaled as the scores need it."""
        self.network_.eval()
        device = self.network_.position.device
        kept = [h[-self.max_history :] for h in histories]
        lengths = torch.tensor([len(h) for h in kept])
        flat = torch.as_tensor(np.concatenate(kept))
        begin = lengths.cumsum(0) - lengths
        hidden = torch.empty(len(kept), self.dim, dtype=self.network_.position.dtype, device=device)
        for rows in lengths.argsort(stable=True).split(1024):
            place = begin[rows, None] + torch.arange(int(lengths[rows].max()))
            tokens = self.network_.table.tokens[flat[place.clamp(max=len(flat) - 1)].to(device)]
            hidden[rows.to(device)] = self.network_(tokens, at=(lengths[rows] - 1).to(device))
        return self._unit(hidden, self.dim**0.5)

    def _validate(self, split) -> dict[str, float]:
        hidden = self._encode(split.histories("validation"))
        targets = torch.as_tensor(split.targets["validation"], device=hidden.device)
        ranks = target_ranks(hidden, self._unit(self._vectors()), targets)
        return {f"{m}@10": float(getattr(ranks, m)(10).mean()) for m in ("recall", "ndcg")}

    @torch.no_grad()
    def _scores(self, histories):
        return (self._encode(histories) @ self._unit(self._vectors()).T).cpu().numpy()

    @torch.no_grad()
    def item_vectors(self, which: str | None = None) -> np.ndarray:
        """Return the items' vectors v_i, float32 `[N, dim]`: "fused", "id"; None as scored with."""
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        if which not in (None, "fused", "id"):
            raise InputError(f"which is {which!r}, but must be 'fused' or 'id'")
        return self._vectors(which).float().cpu().numpy()

    def num_parameters(self, embeddings: bool = True) -> int:
        """Count the learnt numbers, with or without the fields' tables."""
        self.num_items_fitted  # noqa: B018 - raises when not fitted
        return self.network_.num_parameters(embeddings)

    def _state(self):
        table, sizes = self.network_.table, torch.tensor(self.network_.table.sizes)
        return {**self.network_.state_dict(), "codes": table.codes, "sizes": sizes}

    def _restore(self, tensors):
        codes, sizes = tensors.pop("codes").numpy(), tensors.pop("sizes").tolist()
        self._build(sizes, codes)
        self.network_.to(tensors["position"].dtype).load_state_dict(tensors)
        self.network_.eval()
