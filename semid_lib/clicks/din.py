"""DIN: a click model that attends from the shown item to what the user clicked before."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.clicks.auc import uauc, user_auc
from semid_lib.clicks.base import ClickModel
from semid_lib.compute.device import resolve_device
from semid_lib.errors import CodesError, InputError
from semid_lib.settings import FLAG, SIZE, check_settings, choice, keep_settings, several
from semid_lib.training import TrainSettings, train

_CHUNK = 4096  # rows rated at once


def _digest(*arrays) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class DIN(ClickModel):
    """Probability that a user clicks a shown item; the item's ID may be replaced by its codes.

    With q the vector of the shown item, k_t those of the history and p_u that of the user,

        a_t = w . sigmoid(W [q, k_t, q - k_t, q * k_t] + b) + b',   u = sum_t a_t k_t,
        Pr(click) = sigmoid(MLP([u, q, u * q, p_u])),

    without a softmax over t, so that u keeps the strength of an interest; the loss is the binary
    cross-entropy. An item's vector is a row of a table (no codes), or of its codes c
    E_1[c_1] + ... + E_L[c_L] ("sum"), or E_1[(c_1)] + E_2[(c_1, c_2)] + ... + E_L[(c_1, ..., c_L)]
    ("prefix": a row for each prefix that occurs). Sources: Zhou et al. 2018 (DIN); R3-VAE 4.4.

    Args:
        dim: D of every vector. attention: inner width of the attention. hidden: of the MLP
            (200-80-1, PReLU).
        code_form: "sum" or "prefix"; read only if `fit` gets codes.
        user_ids: whether p_u is learnt; it can say how easily a user is pleased, not what by.
        patience: epochs without gain in validation UAUC. The others: see `training.TrainSettings`.

    Attributes:
        history_: `training.History`; its epochs hold the validation's "uauc".

    Deviates: AdamW instead of RMSProp; 36 sigmoid units in the attention (DIN's number; R3-VAE
        names none), PReLU instead of Dice; SIM's retrieval and RankMixer's blocks are left out.

    Cost: O(T D H) a row, as W of all four parts is one matrix [D, H] for each shown item, and
        O(N L D) a step for the vectors of all items.
    """

    limits = {
        "attention": SIZE, "hidden": several(SIZE), "code_form": choice("sum", "prefix"),
        "user_ids": FLAG,
    }  # fmt: skip

    def __init__(
        self, dim=16, attention=36, hidden=(200, 80), code_form="sum", user_ids=True,
        learning_rate=1e-3, weight_decay=1e-5, batch_size=2048, epochs=10, patience=1,
        schedule="constant", device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def fit(self, clicks, sids=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the train part of `data.Clicks`; validation UAUC, if any, chooses the epoch.

        Args:
            sids: `SemanticIds` of all N items, or None for item IDs. Other keywords: see
                `training.train`.

        Raises:
            CodesError: codes of another number of items.
            InputError: a bad setting, rows of the train part that are all clicked or none, a loss
                that is not finite.
        """
        check_settings(self)
        rows, label = clicks.rows("train"), clicks.label
        if len(np.unique(label[rows])) < 2:
            raise InputError(
                f"the {len(rows)} rows to train on all have one label: is the threshold that makes "
                "a rating a click outside the ratings?"
            )
        tokens = self._tokens(clicks.num_items, sids)
        self._build(tokens, clicks.data.num_users)
        device = self.network_.table.device
        columns, rows = self._columns(clicks), torch.as_tensor(rows, device=device)
        wanted = torch.as_tensor(label, dtype=torch.float32, device=device)

        def loss(batch, known):
            batch = rows[batch]
            logits = self._logits(columns, batch)
            return F.binary_cross_entropy_with_logits(logits, wanted[batch].to(logits.dtype))

        asked = clicks.rows("validation")
        answers = label[asked], clicks.data.user[asked]

        def validate():
            return {"uauc": uauc(self._rate(columns, asked), *answers)}

        try:
            user_auc(np.zeros(len(asked)), *answers)
        except InputError:  # no user can be asked
            validate = None
        settings = TrainSettings.of(
            self, monitor="uauc", patience=self.patience if validate else None
        )
        self.history_ = train(
            self.network_, loss, len(rows), settings, validate=validate,
            lengths=(clicks.end - clicks.start)[clicks.rows("train")], label=type(self).__name__,
            checkpoint=checkpoint, deadline=deadline, progress=progress,
            identity={**self.get_params(), "device": 0, "data": clicks.data.sha256,
                      "rows": _digest(tokens, label, clicks.part, clicks.start)},
        )  # fmt: skip
        self.remember(clicks)
        return self

    def rate(self, clicks, rows) -> np.ndarray:
        """Pr(click) `[M]` float64 of the rows `[M]` of `clicks`, in 0..1."""
        return self._rate(self._columns(clicks), rows)

    def _tokens(self, num_items, sids) -> np.ndarray:
        """Rows of the table whose sum is an item's vector, `[N, L]`."""
        if sids is None:
            return np.arange(num_items)[:, None]
        if sids.num_items != num_items:
            raise CodesError(f"codes of {sids.num_items} items for a catalogue of {num_items}")
        if self.code_form == "sum":
            return sids.codes + sids.offsets
        nodes = [
            np.unique(sids.codes[:, : level + 1], axis=0, return_inverse=True)[1].ravel()
            for level in range(sids.num_levels)
        ]
        sizes = [node.max() + 1 for node in nodes]
        return np.stack(nodes, axis=1) + np.cumsum([0, *sizes[:-1]])

    def _build(self, tokens, num_users) -> None:
        torch.manual_seed(self.random_state)
        self.network_ = _Network(self, tokens, num_users).to(resolve_device(self.device))

    def _columns(self, clicks) -> list[Tensor]:
        device = self.network_.table.device
        arrays = clicks.data.user, clicks.data.item, clicks.start, clicks.end, clicks.clicked
        return [torch.as_tensor(array, device=device) for array in arrays]

    def _logits(self, columns, rows: Tensor) -> Tensor:
        *columns, clicked = columns
        user, item, start, end = (column[rows] for column in columns)
        place = start[:, None] + torch.arange(max(int((end - start).max()), 1), device=rows.device)
        history = clicked[place.clamp(max=len(clicked) - 1)]  # padding reads any item
        return self.network_(user, item, history, place < end[:, None])

    @torch.no_grad()
    def _rate(self, columns, rows) -> np.ndarray:
        self.network_.eval()
        parts = torch.as_tensor(rows, device=self.network_.table.device).split(_CHUNK)
        rated = [self._logits(columns, part).double().sigmoid() for part in parts if len(part)]
        return torch.cat(rated).cpu().numpy() if rated else np.empty(0)

    def state(self):
        return self.network_.state_dict()

    def restore(self, tensors):
        self.num_users_ = len(tensors["user"])
        self._build(tensors["tokens"].numpy(), self.num_users_)
        self.network_.to(tensors["table"].dtype).load_state_dict(tensors)
        self.network_.eval()


class _Network(nn.Module):
    """The equations of `DIN`, on batches."""

    def __init__(self, settings: DIN, tokens: np.ndarray, num_users: int):
        super().__init__()
        dim, inner = settings.dim, settings.attention
        self.register_buffer("tokens", torch.as_tensor(tokens))
        self.table = nn.Parameter(torch.randn(int(tokens.max()) + 1, dim) * 0.05)
        start = torch.randn(num_users, dim) * 0.05
        self.user = nn.Parameter(start * settings.user_ids, requires_grad=settings.user_ids)
        self.inner, self.outer = nn.Linear(4 * dim, inner), nn.Linear(inner, 1)
        widths, layers = (4 * dim, *settings.hidden), []
        for narrow, wide in zip(widths, widths[1:]):
            layers += [nn.Linear(narrow, wide), nn.PReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, user, item, history, valid) -> Tensor:
        """Logits `[B]` of items `[B]` after histories `[B, T]`, of which `valid` are real."""
        items = self.table[self.tokens].sum(dim=1)  # [N, D]
        q, k = items[item], F.embedding(history, items)
        weight = self.attend(q, k) * valid
        interest = (weight[:, None] @ k)[:, 0]
        return self.head(torch.cat([interest, q, interest * q, self.user[user]], dim=1))[:, 0]

    def attend(self, q: Tensor, k: Tensor) -> Tensor:
        """a `[B, T]`. As a function of k the inner layer is linear, with a matrix that q sets."""
        of_q, of_k, of_difference, of_product = self.inner.weight.T.chunk(4)
        matrix = of_k - of_difference + q[:, :, None] * of_product  # [B, D, H]
        offset = q @ (of_q + of_difference) + self.inner.bias
        return self.outer(torch.baddbmm(offset[:, None], k, matrix).sigmoid())[:, :, 0]
