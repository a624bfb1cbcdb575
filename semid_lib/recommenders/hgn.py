"""HGN: two gates over the newest items, a vector for each user, and no recurrence."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.networks import INITIAL_STD, FieldTable, left_padded
from semid_lib.recommenders._sequence import SequenceRecommender
from semid_lib.settings import keep_settings


class HGN(SequenceRecommender):
    """Hierarchical gating network (Ma, Kang & Liu 2019, sections 3.2 to 3.5).

    With x_t = sum_j E_j[f_t^j] for the newest items and the user's vector u: the feature gate
    makes g_t = x_t * sigmoid(W1 x_t + W2 u + b), the instance gate a_t = sigmoid(w3 . g_t +
    (W4 u)_t), and h = u + sum_t a_t g_t / sum_t a_t + sum_t x_t. Item i scores h . q_i, with q_i of
    tables of its own. With side fields, summed on both sides, this is HGN* (ReSID table 4).

    A history tells whose it is: a user is known by their train part, with which their history
    begins. Whoever is not known has the mean of all users' vectors.

    Args:
        field_names: side fields summed into x_i and q_i; () for the id alone, None for all.
        score_with: q_i is the sum over the fields ("fused") or the id's row ("id").
        loss: "full" softmax over all items; "sampled": `num_negatives` uniform ones, shared; or
            with one negative a target: "bpr" (the original's) or "bce".
        similarity: "dot", or "cosine": sqrt(dim) cos(h, q_i), the choice of ReSID appendix E.
        max_history: how many of the newest items are read (the original's L, 5 there).
        batch_size: windows a step, one for each item of the train part with an item before it.
        patience: epochs without gain in validation NDCG@10, at least `patience_steps` steps. The
            others: see `training.train`.

    Attributes:
        history_: `training.History`.

    Deviates: softmax by default, as RecBole's; a window has one target, the original's the next
    three; no bias of the items; places are counted from the newest item and padding has no share
    in the mean (in RecBole it has); users whose train parts are equal share a vector.

    Cost: O(T D^2) a window plus O(D N) a target ("full"). With these defaults an epoch on Beauty
    takes about 15 s of one CPU thread.
    """

    def __init__(
        self, dim=128, max_history=32, field_names=(), score_with="fused", loss="full",
        similarity="dot", num_negatives=128, learning_rate=1e-3, weight_decay=1e-5,
        batch_size=2048, epochs=500, patience=3,
        patience_steps=0, samples_per_epoch=None, device="auto",
        precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _prepare(self, split):
        self._whole = _prefixes(split.train_sequences())[split.indptr[1:] - 1]
        self._known = np.unique(self._whole[np.diff(split.indptr) > 1])  # who has samples

    def _network(self, sizes, codes):
        return _Gates(self, sizes, codes, self._known)

    def _sequences(self, split):
        start, end = split.windows(self.max_history)
        user = np.searchsorted(split.indptr, start, side="right") - 1
        return start, end, np.searchsorted(self._known, self._whole[user])

    def _per_row(self, lengths):
        return 1.0

    def _about(self, histories):
        """The user of each history, `[B]`: who owns its longest known beginning, or -1."""
        known, prefixes = self.network_.known.cpu().numpy(), _prefixes(histories)
        place = np.searchsorted(known, prefixes).clip(max=len(known) - 1)
        found = np.where(known[place] == prefixes, np.arange(len(prefixes)), -1)
        lengths = np.array([len(h) for h in histories])
        last = np.maximum.reduceat(found, np.cumsum(lengths) - lengths)
        return [np.where(last < 0, -1, place[last])]

    def _outputs(self, items, start, end, user, lengths):
        return self._read(items, start, end, user, lengths.max().item() - 1), items[end]

    def _read(self, items, start, end, user, longest=None):
        items, valid = left_padded(items, start, end - 1, longest)
        return self.network_(self.network_.table.tokens[items], valid, user)

    def restore(self, tensors):
        self._known = tensors["known"].numpy()
        super().restore(tensors)


def _prefixes(sequences: list[np.ndarray]) -> np.ndarray:
    """A number for each item of each sequence, int64: a hash of the sequence up to there."""
    lengths = np.array([len(s) for s in sequences])
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = np.arange(len(first)) - first
    powers = np.cumprod(np.full(lengths.max() + 1, 0x9E3779B97F4A7C15, dtype=np.uint64))
    terms = (np.concatenate(sequences).astype(np.uint64) + np.uint64(1)) * powers[place]
    total = np.cumsum(terms)  # all modulo 2^64
    return (total - (total - terms)[first]).view(np.int64)


class _Gates(nn.Module):
    """`table` scores the items, `read` is what a history's items look up."""

    def __init__(self, settings, sizes, codes, known: np.ndarray):
        super().__init__()
        dim = settings.dim
        self.table, self.read = FieldTable(sizes, codes, dim), FieldTable(sizes, codes, dim)
        self.user = nn.Parameter(torch.empty(len(known), dim).normal_(std=INITIAL_STD))
        self.register_buffer("known", torch.as_tensor(known))
        self.by_item, self.by_user = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.item_weight = nn.Linear(dim, 1, bias=False)
        self.user_weight = nn.Linear(dim, settings.max_history, bias=False)

    def forward(self, tokens: Tensor, valid: Tensor, user: Tensor) -> Tensor:
        """h `[B, D]` of tokens `[B, T, J]`, the newest last, for users `[B]` (-1: not known)."""
        u = F.embedding(user.clamp(min=0), self.user)
        if not self.training:
            u = torch.where((user < 0)[:, None], self.user.mean(0), u)
        x = self.read(tokens) * valid[:, :, None]
        gated = x * (self.by_item(x) + self.by_user(u)[:, None]).sigmoid()
        weight = self.item_weight(gated)[:, :, 0] + self.user_weight(u)[:, -tokens.shape[1] :]
        weight = (weight.sigmoid() * valid)[:, :, None]
        return u + (weight * gated).sum(1) / weight.sum(1) + x.sum(1)
