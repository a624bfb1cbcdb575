"""GRU4Rec: a gated recurrent network over the history."""

import torch
from torch import Tensor, nn

from semid_lib.networks import FieldTable
from semid_lib.recommenders._sequence import CausalRecommender
from semid_lib.settings import keep_settings


class GRU4Rec(CausalRecommender):
    """Recurrent next-item prediction (Hidasi et al. 2016), in the form of Tan et al. 2016.

    x_t = dropout(sum_j E_j[f_t^j]), s_t = GRU(s_{t-1}, x_t) without biases, h_t = W s_t + b; item
    i scores h_t . v_i as the next one. One pass predicts every next item of a user.

    Args:
        hidden_dim: width of the state s_t. num_layers: GRUs one upon the other.
        dropout: rate for the items' vectors.
        loss: "full" softmax over all items; "sampled": `num_negatives` uniform ones, shared; or
            with one negative a target: "bpr" (the original's ranking loss) or "bce".
        The others: see `SASRec`.

    Attributes:
        history_: `training.History`.

    Deviates: whole users for sessions side by side, as RecBole; softmax by default; BPR's negative
    is drawn at random, the original's are the other targets of the batch; items go in and out by
    one table, the original's by two.

    Cost: O(D (D + hidden_dim)) an item, one after the other, plus O(D N) a target ("full").
    With these defaults an epoch on Beauty takes about 13 s of one CPU thread.
    """

    def __init__(
        self, dim=128, hidden_dim=128, num_layers=1, dropout=0.3, max_history=32, field_names=(),
        score_with="fused", loss="full", similarity="dot", num_negatives=128, targets="all",
        long_histories="last", learning_rate=1e-3, weight_decay=1e-5, batch_size=256, epochs=500,
        patience=3, patience_steps=0, samples_per_epoch=None,
        device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _network(self, sizes, codes):
        return _Recurrent(self, sizes, codes)


class _Recurrent(nn.Module):
    def __init__(self, settings, sizes, codes):
        super().__init__()
        dim, hidden = settings.dim, settings.hidden_dim
        self.table = FieldTable(sizes, codes, dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = nn.GRU(dim, hidden, settings.num_layers, bias=False, batch_first=True)
        self.dense = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        states, _ = self.gru(self.dropout(self.table(tokens)))
        if at is not None:
            states = states[torch.arange(len(at), device=at.device), at]
        return self.dense(states)
