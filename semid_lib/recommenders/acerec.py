"""ACERec: long semantic IDs merged into a few latents, an intent token, all digits at once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.compute.device import send
from semid_lib.errors import InputError
from semid_lib.recommenders._parallel import Affine, ParallelNetwork, ParallelRecommender
from semid_lib.settings import NONE, POSITIVE, SIZE, choice, keep_settings, real

_ALIGNED = 4096  # states of a batch that the alignment loss looks at, drawn anew each step


class TokenMerger(nn.Module):
    """Cross-attention from k queries made of the item to its m digits (ACERec, Eqs. 1 and 2).

    Q = f_q(s) + offsets; Z = f_out(Q + attention(Q, E~, E~)), E~ = E + P; f_out normalises, then
    adds a feed-forward net and normalises again.

    Keys and values are never made. A query q meets key W_K e as (W_K^T q) . e, and a head's weights
    sum to 1, so its value is W_V applied to the weighted sum of the digits themselves: with 64
    digits and 8 queries a fifth of the products. A bias of the keys would cancel in the softmax.

    Args:
        dim, num_heads, ffn_dim: widths. digits, latents: m and k.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, digits: int, latents: int):
        super().__init__()
        self.num_heads = num_heads
        self.offset = nn.Parameter(torch.empty(latents, dim))
        self.position = nn.Parameter(torch.empty(digits, dim))
        self.ask = Affine(dim, latents * dim)
        self.query, self.out = Affine(dim, dim), Affine(dim, dim)
        self.key = nn.Parameter(torch.empty(dim, dim))
        self.value = Affine(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inner, self.outer = Affine(dim, ffn_dim), Affine(ffn_dim, dim)

    def forward(self, digits: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Merge `digits` `[U, m, D]` by `summary` `[U, D]`.

        Returns:
            Latents `[U, k, D]` and the attention weights `[U, k, heads, m]`.
        """
        digits = digits + self.position
        queries = self.ask(summary).unflatten(1, self.offset.shape) + self.offset
        heads = self.num_heads, -1
        asked = self.query(queries).unflatten(2, heads)
        asked = torch.einsum("ukhe,hed->ukhd", asked, self.key.unflatten(0, heads))
        scores = asked.flatten(1, 2) @ digits.transpose(1, 2)
        size = digits.shape[2] // self.num_heads
        weights = (scores * size**-0.5).softmax(-1)
        mixed = (weights @ digits).unflatten(1, (-1, self.num_heads))
        value = self.value.weight.unflatten(0, heads)
        mixed = torch.einsum("ukhd,hed->ukhe", mixed, value).flatten(2) + self.value.bias
        z = self.norm1(queries + self.out(mixed))
        z = self.norm2(z + self.outer(F.gelu(self.inner(z))))
        return z, weights.unflatten(1, (-1, self.num_heads))


class ACERecNetwork(ParallelNetwork):
    """Items as k latents and an intent token. Arguments as `ParallelNetwork`."""

    def _add_parts(self, s, digits):
        self.merger_kind, self.anchor, dim = s.merger, s.anchor, s.dim
        ratio, self.intent = s.ratio or digits, s.anchor == "intent"
        self.latents = digits // ratio
        self.width = self.latents + self.intent
        self._read = slice(0 if s.anchor in ("mean", "mlp") else -1, None)
        if s.merger == "atm":
            self.merger = TokenMerger(dim, s.num_heads, s.ffn_dim, digits, self.latents)
        elif s.merger == "mlp":
            self.merger = _mlp(digits * dim, dim, self.latents * dim)
        elif s.merger == "conv":
            self.merger = Affine(ratio * dim, dim)
        self.summarise = None
        if s.merger == "atm" or self.intent or s.alignment > 0:
            self.summarise, self.summary_norm = _mlp(dim, dim, dim), nn.LayerNorm(dim)
        self.kind = nn.Parameter(torch.empty(self.width, dim)) if self.width > 1 else None
        self.choose = _mlp(self.latents * dim, dim, dim) if s.anchor == "mlp" else None

    def vectors(self, items):
        vectors, summary, _ = self.merged(items)
        return vectors, summary

    def merged(self, items: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens `[U, S, D]` of items `[U]`, summaries `[U, D]`, weights `[U, k, heads, m]`."""
        digits, summary, weights = F.embedding(self.rows[items], self.table), None, None
        if self.summarise is not None:
            mean = digits.mean(1)
            summary = self.summary_norm(mean + self.summarise(mean))
        if self.merger_kind == "atm":
            vectors, weights = self.merger(digits, summary)
        elif self.merger_kind == "mlp":
            vectors = self.merger(digits.flatten(1)).unflatten(1, (self.latents, -1))
        else:
            groups = digits.unflatten(1, (self.latents, -1))
            vectors = (
                groups.mean(2) if self.merger_kind == "mean" else self.merger(groups.flatten(2))
            )
        if self.intent:
            vectors = torch.cat([vectors, summary[:, None]], dim=1)
        return vectors if self.kind is None else vectors + self.kind, summary, weights

    def _anchor(self, x):
        if self.anchor == "mlp":
            return self.choose(x.flatten(1))
        return x.mean(1)


def _mlp(inputs, inner, outputs):
    return nn.Sequential(Affine(inputs, inner), nn.GELU(), Affine(inner, outputs))


def alignment_loss(
    hidden: Tensor, keys: Tensor, wanted: Tensor, share: Tensor, temperature: float, debias: float
) -> Tensor:
    """Intent-semantic alignment: softmax of debiased cosines over a batch's items (Eqs. 5, 6).

    phi(h, s_j) = cos(h, s_j) / temperature - debias log P(j).

    Args:
        hidden: `[P, D]` states. keys: `[C, D]` summaries of the distinct target items.
        wanted: `[P]` int64, which key is the state's target.
        share: `[C]`, P(j) of each.

    Returns:
        The sum over the states, in nats.
    """
    cosine = F.normalize(hidden, dim=-1) @ F.normalize(keys, dim=-1).T
    return F.cross_entropy(cosine / temperature - debias * share.log(), wanted, reduction="sum")


class ACERec(ParallelRecommender):
    """Adaptive compression for efficient recommendation (Xia et al. 2026).

    The m digits of an item are merged into k = m / ratio latents; s, its summary, starts the intent
    token that follows them. A transformer with a step-wise causal mask (`step_mask`) reads the
    blocks, and the intent token's state h gives all digits of the next item (`ParallelNetwork`).
    Loss: L_MTP + alignment L_ISA at every step (Eqs. 4, 6, 7). s = LN(e + W2 gelu(W1 e)), where e
    is the mean of the digits' embeddings.

    Args:
        merger: "atm" (`TokenMerger`); "mlp": all digits through one hidden layer; "mean" of
            `ratio` digits each; "conv": a convolution of kernel and stride `ratio`.
        ratio: r, digits a latent, a divisor of m; None: all m, one latent. With "mean", None gives
            RPG's vector, and 1 the digits themselves (Fig. 4's direct baseline).
        anchor: what gives h: "intent"; or, with no intent token, the step's latents: the "last"
            one, their "mean", or an "mlp" of them all.
        alignment: lambda; 0: no alignment.
        alignment_temperature, debias: tau and beta.
        Others as `RPG`.

    Attributes:
        sids_: the `ItemTokenizer`. network_: `ACERecNetwork`. history_: `training.History`.

    Deviates, where the paper is silent: P(j) is the item's share of the training targets, and a
    batch's candidates are its distinct targets; one learnt position a step, shared by its tokens,
    and a learnt vector for each place in a block; pre-norm blocks as RPG's; L_ISA from at most
    4,096 states a batch.

    Cost: O(m D k) for each distinct item of a batch and O(k D ffn_dim) for the latents, then
    O(T (k+1) D (T (k+1) + D + ffn_dim)) a layer and sequence and O(m D (D + M)) a target. A row is
    as long as its own history; nothing is padded to `max_history`. At the paper's size, an epoch of
    Instruments (5,974 targets, 64 digits) is 16 CPU seconds of one core, 11 in bfloat16, and its
    validation 5.
    """

    limits = {
        "merger": choice("atm", "mlp", "mean", "conv"), "ratio": SIZE | NONE, "alignment": real(0),
        "alignment_temperature": POSITIVE, "debias": real(0),
        "anchor": choice("intent", "last", "mean", "mlp"),
    }  # fmt: skip

    def __init__(
        self, dim=448, num_layers=2, num_heads=4, ffn_dim=1024, dropout=0.35, temperature=0.03,
        head_norm="rpg", merger="atm", ratio=8, anchor="intent", alignment=0.03,
        alignment_temperature=0.07, debias=0.02, max_history=50, long_histories="rows",
        learning_rate=3e-3, weight_decay=0.0, warmup=0.05, clip=1.0,
        batch_size=64, epochs=150, patience=20, samples_per_epoch=None, device="auto",
        precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _network(self, codes, num_codes):
        if codes.shape[1] % (self.ratio or 1):
            raise InputError(
                f"{codes.shape[1]} digits cannot be merged {self.ratio} by {self.ratio}: ratio "
                "must divide their number"
            )
        return ACERecNetwork(self, codes, num_codes)

    def _objective(self, hidden, known, wanted, summaries, counts):
        total = super()._objective(hidden, known, wanted, summaries, counts)
        if self.alignment == 0:
            return total
        places, label = torch.unique(wanted, return_inverse=True)
        rows = send(known[places], hidden.device)
        places, label = (send(tensor, hidden.device) for tensor in (places, label))
        share = (counts[rows] / counts.sum()).to(hidden.dtype)
        some = torch.arange(len(hidden), device=hidden.device)
        if len(hidden) > _ALIGNED:
            some = torch.randperm(len(hidden), device=hidden.device)[:_ALIGNED]
        aligned = alignment_loss(
            hidden[some], summaries[places], label[some], share, self.alignment_temperature,
            self.debias,
        )  # fmt: skip
        return total + self.alignment * aligned * (len(hidden) / len(some))

    @torch.no_grad()
    def attention_maps(self, items=None) -> np.ndarray:
        """Where the merger looks: weights over the digits, averaged over the heads (Fig. 11).

        Args:
            items: `[n]` item indices; None for all.

        Returns:
            `[n, k, m]` float32, each row of sum 1. Their mean over the items is the global map.

        Raises:
            NotFittedError, or InputError: another merger than "atm", or items that are not there.
        """
        size, device = self.num_items_fitted, self.network_.position.device
        if self.merger != "atm":
            raise InputError(f"merger is {self.merger!r}: only 'atm' attends")
        items = torch.arange(size) if items is None else torch.as_tensor(np.asarray(items))
        if items.dim() != 1 or len(items) == 0 or items.min() < 0 or items.max() >= size:
            raise InputError(f"items must be some of 0..{size - 1}")
        parts = items.to(device).split(1024)
        return np.concatenate([
            self.network_.merged(part)[2].mean(2).float().cpu().numpy() for part in parts
        ])  # fmt: skip
