"""BERT4Rec: a bidirectional transformer that fills in masked items of a history."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.compute.device import send
from semid_lib.networks import INITIAL_STD, SequenceNetwork, left_padded
from semid_lib.recommenders._sequence import SequenceRecommender
from semid_lib.settings import choice, keep_settings


class BERT4Rec(SequenceRecommender):
    """Sequential recommendation as a cloze test (Sun et al. 2019).

    x_t = p_t + sum_j E_j[f_t^j], with mask tokens m_j for all fields of a masked position;
    h = LN(GELU(W bidirectional transformer(x))); item i scores h_t . v_i + b_i at a masked t. The
    loss is the mean cross-entropy over the masked positions; a history is answered at a mask put
    behind its newest item. With side fields this is BERT4Rec* (ReSID table 4).

    Args:
        field_names: side fields summed into an item's token; () for the id alone, None for all.
        score_with: v_i is the sum over the fields ("fused") or the id's row ("id").
        loss: "full" softmax over all items; "sampled": `num_negatives` uniform ones, shared;
            "bce" or "bpr": one negative a target.
        similarity: "dot", or "cosine": sqrt(dim) cos(h, v_i) + b_i.
        mask_ratio: chance of each position to be masked, 0..1.
        ft_ratio: share of the samples with only the newest item masked, as in a question
            (RecBole); so are samples in which chance masks none.
        samples: "sliding", one for each item of the train part with an item before it, which
            stands last; or "sequences", each user's once.
        max_history: how many of the newest items are read; the mask comes on top.
        long_histories: of "sequences", keep the newest `max_history` + 1 items of a longer one
            ("last"), or cut it into windows that share their end items ("windows").
        batch_size: samples a step.
        patience: epochs without gain in validation NDCG@10, at least `patience_steps` steps. The
            others: see `training.train`.

    Attributes:
        history_: `training.History`.

    Deviates: a masked item is always replaced by the mask, never kept or swapped (as in RecBole);
    ReLU inside the blocks (ReSID appendix E) and post-layer-norm with one on the input; positions
    count back from the newest item, so that a question stands where the training put it.

    Cost: O(T D (T + D + ffn_dim)) per layer and sample plus O(D N) a masked item ("full"); the
    last layer is finished for masked items only. With these defaults an epoch on one CPU thread
    takes 130 s on MovieLens-100K and 95 s on Beauty; of "sequences" in windows, 4 s and 10 s, and
    half of that in bfloat16. Chance masks teach the answer slowly: after the same 700 steps on a
    planted catalogue, Recall@10 was 0.30, 0.55 and 0.61 for `ft_ratio` 0, 0.5 and 1 (SASRec 0.61).
    """

    limits = {"samples": choice("sliding", "sequences")}

    def __init__(
        self, dim=128, num_layers=2, num_heads=4, ffn_dim=512, dropout=0.1, max_history=32,
        field_names=(), score_with="fused", loss="full", similarity="dot", num_negatives=128,
        mask_ratio=0.2, ft_ratio=0.5, samples="sliding", long_histories="last",
        learning_rate=1e-3, weight_decay=1e-5, batch_size=2048, epochs=500, patience=3,
        patience_steps=0,
        samples_per_epoch=None, device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _network(self, sizes, codes):
        return _Cloze(self, sizes, codes)

    def _sequences(self, split):
        if self.samples == "sliding":
            return split.windows(self.max_history)
        return super()._sequences(split)

    def _per_row(self, lengths):
        """Mean number of masked items: 1 if the newest is, else binomial, with 1 for none."""
        items = lengths + 1
        drawn = self.mask_ratio * items + (1 - self.mask_ratio) ** items
        return float((self.ft_ratio + (1 - self.ft_ratio) * drawn).mean())

    def _choose(self, valid: Tensor) -> Tensor:
        """Draw the positions to mask, bool like `valid` `[B, T]`."""
        chosen = valid & (torch.rand(valid.shape, device=valid.device) < self.mask_ratio)
        chosen &= torch.rand(len(valid), 1, device=valid.device) >= self.ft_ratio
        chosen[:, -1] |= ~chosen.any(1)
        return chosen

    def _outputs(self, items, start, end, lengths):
        items, valid = left_padded(items, start, end, lengths.max().item())
        back = torch.arange(items.shape[1] - 1, -1, -1)  # drawn on the CPU: a GPU is not waited for
        chosen = self._choose(back <= torch.from_numpy(lengths)[:, None])
        at = send(chosen.nonzero(), items.device).unbind(1)
        tokens = self._tokens(items, send(chosen, items.device))
        return self.network_.head(self.network_(tokens, valid, at)), items[at]

    def _read(self, items, start, end):
        items, valid = left_padded(items, start, end)
        last = torch.full_like(end, items.shape[1] - 1)
        newest = torch.arange(items.shape[1], device=end.device) == last[:, None]
        return self.network_.head(self.network_(self._tokens(items, newest), valid, last))

    def _tokens(self, items, chosen) -> Tensor:
        """Rows of the table `[B, T, J]` for `items` `[B, T]`, masks where `chosen` `[B, T]`."""
        table = self.network_.table
        return torch.where(chosen[:, :, None], table.masked, table.tokens[items])

    def _queries(self, hidden):
        return F.pad(super()._queries(hidden), (0, 1), value=1.0)  # times the bias

    def _rows(self):
        return torch.cat([super()._rows(), self.network_.item_bias[:, None]], dim=1)


class _Cloze(SequenceNetwork):
    """A bidirectional network with BERT's output layer and a bias for each item."""

    def __init__(self, settings, sizes, codes):
        super().__init__(settings, sizes, codes, settings.max_history + 1, causal=False)
        dense = nn.Linear(settings.dim, settings.dim)
        nn.init.normal_(dense.weight, std=INITIAL_STD)
        nn.init.zeros_(dense.bias)
        self.head = nn.Sequential(dense, nn.GELU(), nn.LayerNorm(settings.dim))
        self.item_bias = nn.Parameter(torch.zeros(sizes[0]))
