"""S3-Rec: SASRec after self-supervised pre-training on masked items, attributes and segments."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.errors import InputError
from semid_lib.networks import INITIAL_STD, SequenceNetwork, item_fields
from semid_lib.recommenders._sequence import CausalRecommender, SequenceRecommender
from semid_lib.settings import NAMES, Limit, choice, keep_settings, real, several, whole
from semid_lib.training import TrainSettings

TASKS = ("aap", "mip", "map", "sp")
_WEIGHTS = Limit(
    lambda v: several(real(0)).holds(v) and len(v) == len(TASKS),
    f"must be one for {TASKS}, each a number >= 0",
)


class S3Rec(CausalRecommender):
    """Self-supervised pre-training (Zhou et al. 2020, section 4.2), then `SASRec`.

    Pre-training reads sequences in both directions; h_t are its outputs, some items masked:

    * AAP, MAP: the attributes of item t, from h_t where it stands or is masked: the binary
      cross-entropies of (W h_t) . e_a, summed over all attributes a;
    * MIP: masked item i against another n: -log sigmoid(f(h_t, v_i) - f(h_t, v_n)), where
      f(h, v) = sigmoid((W h) . v);
    * SP: the same loss for the newest output where a run of items is masked, against those of
      the run alone and of as many items from elsewhere in its place.

    Each has its W; the weighted losses are averaged over the sequences. Then SASRec's loss trains
    all of it. Without attributes MIP and SP are left (ReSID's S3-Rec); with side fields summed
    into the tokens this is S3-Rec* (ReSID table 4).

    Args:
        attributes: side fields whose values are predicted; () for none, None for all.
        task_weights: of AAP, MIP, MAP and SP.
        mask_ratio: chance of each position to be masked, 0..1.
        pretrain_epochs: 0 for SASRec itself. pretrain_batch_size: sequences a step.
        pretrain_samples: "sliding", every beginning of two or more items of each train part (as
            published), or "sequences", each user's once.
        The others: see `SASRec`.

    Attributes:
        pretraining_, history_: `training.History` of both stages.

    Deviates: AAP predicts from h_t, as in the authors' program (the paper: from the item's own
    vector). Positions count from the oldest item in both stages; negatives may stand in the
    history; softmax by default; ReLU inside the blocks (ReSID appendix E).

    Cost: pre-training reads each sequence four times, O(T D (T + D + ffn_dim)) a layer, and
    scores A attributes, O(T D A). With these defaults and 602 attributes an epoch of it on Beauty
    takes about 180 s of one CPU thread.
    """

    limits = {
        "attributes": NAMES, "pretrain_samples": choice("sliding", "sequences"),
        "pretrain_epochs": whole(0), "pretrain_batch_size": whole(), "task_weights": _WEIGHTS,
    }  # fmt: skip

    def __init__(
        self, dim=128, num_layers=2, num_heads=4, ffn_dim=512, dropout=0.1, max_history=32,
        field_names=(), attributes=None, score_with="fused", loss="full", similarity="dot",
        num_negatives=128, targets="all", long_histories="last", mask_ratio=0.2,
        task_weights=(0.2, 1.0, 1.0, 0.5), pretrain_epochs=100, pretrain_batch_size=256,
        pretrain_samples="sliding", learning_rate=1e-3, weight_decay=1e-5, batch_size=256,
        epochs=500, patience=3,
        patience_steps=0, samples_per_epoch=None, device="auto", precision="float32",
        random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _prepare(self, split):
        if split.num_items < 2:
            raise InputError("S3Rec needs 2 items at least: it replaces some by others (MIP)")
        _, sizes, codes = item_fields(split.data, self.attributes)
        first = np.cumsum((0, *sizes[1:]))
        owned = np.where(codes[:, 1:] < 0, -1, codes[:, 1:] + first[:-1])
        self._attributes = owned, int(first[-1])

    def _network(self, sizes, codes):
        return _BothWays(self, sizes, codes, *self._attributes)

    def _pretrain(self, split, checkpoint=None, **running):
        if self.pretrain_samples == "sliding":
            start, end = split.windows(self.max_history)
        else:
            start, end = SequenceRecommender._sequences(self, split)
        start = np.maximum(start, end + 1 - self.max_history)  # the newest is read too
        if checkpoint is not None:
            checkpoint = Path(checkpoint).with_suffix(".pretraining.safetensors")
        settings = TrainSettings.of(
            self, epochs=self.pretrain_epochs, batch_size=self.pretrain_batch_size, patience=None
        )
        self.pretraining_ = self._train(
            split, self._pretraining_loss, np.stack([start, end]), end - start, settings,
            checkpoint=checkpoint, label="S3Rec pre-training", **running,
        )  # fmt: skip

    def _draw(self, valid: Tensor, length: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """What is masked; what is a run; the rows of `items` that stand in for the run; what to
        add, modulo N, to a masked item for another. All `[B, T]`; the sequences are right-padded.
        """
        share = torch.rand(3, len(valid), device=valid.device)
        size = 1 + (share[0] * (length // 2)).long()
        begin = (share[1] * (length - size + 1)).long()
        elsewhere = (share[2] * (len(items) - size + 1)).long()
        place = torch.arange(valid.shape[1], device=valid.device) - begin[:, None]
        run = (place >= 0) & (place < size[:, None])
        other = (elsewhere[:, None] + place).clamp(0, len(items) - 1)
        masked = valid & (torch.rand(valid.shape, device=valid.device) < self.mask_ratio)
        step = torch.randint(1, self.network_.table.sizes[0], valid.shape, device=valid.device)
        return masked, run, other, step

    def _pretraining_loss(self, items: Tensor, start: Tensor, end: Tensor, lengths=None) -> Tensor:
        lengths = (end - start).cpu().numpy() if lengths is None else lengths
        groups = self._grouped(lengths, start, end)
        return sum(self._task_losses(items, *rows) for *rows, _ in groups) / len(start)

    def _task_losses(self, items: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The weighted losses of the four tasks, summed over the sequences."""
        place, valid, tokens = self._gather(items, start, end + 1)
        masked, run, other, step = self._draw(valid, end + 1 - start, items)
        network, table, rows = self.network_, self.network_.table, self._vectors()
        instead, gone, chosen = table.tokens[items[other]], table.masked, run[:, :, None]
        hidden = network.both_ways(torch.where(masked[:, :, None], gone, tokens), valid)
        pairs = (gone, tokens), (tokens, gone), (instead, gone)
        views = torch.cat([torch.where(chosen, *pair) for pair in pairs])
        newest = (end - start).repeat(3)
        context, right, wrong = network.both_ways(views, valid.repeat(3, 1), newest).chunk(3)
        item, seen = items[place[masked]], valid & ~masked
        another = (item + step[masked]) % len(rows)
        losses = [
            network.attributes("aap", hidden[seen], items[place[seen]]),
            network.contrast("mip", hidden[masked], rows[item], rows[another]),
            network.attributes("map", hidden[masked], item),
            network.contrast("sp", context, right, wrong),
        ]
        return sum(w * loss for w, loss in zip(self.task_weights, losses))

    def restore(self, tensors):
        self._attributes = tensors["owned"].numpy(), len(tensors["attribute"])
        super().restore(tensors)


class _BothWays(SequenceNetwork):
    """SASRec's network with what pre-training needs; `owned` `[N, F]`: the items' attributes."""

    def __init__(self, settings, sizes, codes, owned: np.ndarray, num_attributes: int):
        super().__init__(settings, sizes, codes, settings.max_history, causal=True)
        self.tasks = nn.ModuleDict({name: nn.Linear(settings.dim, settings.dim) for name in TASKS})
        for task in self.tasks.values():
            nn.init.normal_(task.weight, std=INITIAL_STD)
        empty = torch.empty(num_attributes, settings.dim)
        self.attribute = nn.Parameter(empty.normal_(std=INITIAL_STD))
        self.register_buffer("owned", torch.as_tensor(owned))

    def both_ways(self, tokens: Tensor, valid: Tensor, at: Tensor | None = None) -> Tensor:
        """Outputs `[B, T, D]` that see all valid positions; `[B, D]` of those `at` `[B]`."""
        x, mask = self.encoder.norm(self.place(tokens)), valid[:, None, None, :]
        x, (*blocks, last) = self.encoder.dropout(x), self.encoder.blocks
        for block in blocks:
            x = block(x, mask, False)
        if at is None:
            return last(x, mask, False)
        read = x[torch.arange(len(x), device=x.device), at][:, None]
        return last(x, mask, False, read)[:, 0]

    def attributes(self, task: str, hidden: Tensor, items: Tensor) -> Tensor:
        """Summed binary cross-entropy of all attributes of `items` `[M]`."""
        scores, owned = self.tasks[task](hidden) @ self.attribute.T, self.owned[items]
        if not scores.shape[1]:
            return hidden.new_zeros(())
        right = scores.gather(1, owned.clamp(min=0)) * (owned >= 0)
        wide = self.attribute.dtype  # a sum over so many is no job for half precision
        return F.softplus(scores).sum(dtype=wide) - right.sum(dtype=wide)

    def contrast(self, task: str, hidden: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        """Summed -log sigmoid(f(h, right) - f(h, wrong)); all `[M, D]`."""
        hidden = self.tasks[task](hidden)
        right, wrong = ((hidden * vector).sum(-1).sigmoid() for vector in (right, wrong))
        return F.softplus(wrong - right).sum()
