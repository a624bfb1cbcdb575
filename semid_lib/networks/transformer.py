"""Transformer blocks: attention over a history and over other places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.errors import InputError

INITIAL_STD = 0.02


class TransformerBlock(nn.Module):
    """Self-attention and a ReLU feed-forward net, each added and then normalised (post-LN).

    x <- LN(x + dropout(attention(x))); x <- LN(x + dropout(W2 relu(W1 x))). Source: Vaswani et
    al. 2017, in the form of RecBole's sequential recommenders (no dropout inside the net).

    Args:
        dim: width D, a multiple of `num_heads`. ffn_dim: inner width of the feed-forward net.
        dropout: rate for the attention weights and for what both branches add.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inner, self.outer = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask: Tensor | None, causal: bool, read=None, keep=None):
        """Transform `x` `[B, T, D]`; with `read` `[B, 1, D]` only those rows of it as queries.

        `mask`: bool, broadcastable to `[B, 1, Q, T]`, True where a query may look; or None.
        `keep`: bool `[B, T]`, or rows and columns `[M]`; if given, only these are finished.
        """
        queries = x if read is None else read
        rate = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            *self._heads(queries, x), mask, rate, is_causal=causal
        )
        return self._after(queries, mixed, keep)

    def with_weights(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """`(output [B, T, D], attention weights [B, heads, T, T])`, without dropout."""
        q, k, v = self._heads(x, x)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        return self._after(x, weights @ v), weights

    def _heads(self, queries, x):
        """Queries, keys and values, each `[B, heads, T, D / heads]`."""
        both = self.key_value(x)  # before the query: this order sets that of the gradients' sum
        parts = self.query(queries), *both.chunk(2, dim=-1)
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]

    def _after(self, x, mixed, keep=None):
        mixed = mixed.transpose(1, 2).flatten(2)
        if keep is not None:
            x, mixed = x[keep], mixed[keep]
        x = self.norm1(x + self.dropout(self.out(mixed)))
        return self.norm2(x + self.dropout(self.outer(self.inner(x).relu_())))


class Transformer(nn.Module):
    """Layer norm and dropout on the input, then a stack of `TransformerBlock`.

    Args:
        causal: position t sees positions 0..t only (SASRec); otherwise all valid ones (FAMAE).
    """

    def __init__(self, dim, num_layers, num_heads, ffn_dim, dropout, causal: bool = False):
        super().__init__()
        if dim % num_heads:
            raise InputError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.causal = causal
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers)
        )
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=INITIAL_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, valid: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Contextualise a batch of sequences.

        Args:
            x: `[B, T, D]` float. valid: `[B, T]` bool, False on padding; None if nothing is
            padded, or if all padding stands right of what a causal model reads.
            at: `[B]` int64 positions, or `[B, T]` bool with M true, or the M rows and columns of
            these. If given, only these outputs are computed: most of the last block is saved.

        Returns:
            `[B, T, D]`; with `at` `[B, D]` or `[M, D]`. Outputs on padding are meaningless.

        Cost: O(B T D (T + D + ffn_dim)) per block.
        """
        x = self.dropout(self.norm(x))
        mask = self._mask(x, valid) if valid is not None else None
        for block in self.blocks if at is None else self.blocks[:-1]:
            x = block(x, mask, self.causal and mask is None)
        if at is None:
            return x
        if isinstance(at, tuple) or at.dtype == torch.bool:
            return self.blocks[-1](x, mask, self.causal and mask is None, keep=at)
        if self.causal:
            seen = torch.arange(x.shape[1], device=x.device) <= at[:, None]
            mask = (seen if valid is None else seen & valid)[:, None, None, :]
        read = x[torch.arange(len(x), device=x.device), at][:, None]
        return self.blocks[-1](x, mask, False, read)[:, 0]

    def attention(self, x: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """Attention weights of every block, `[B, heads, T, T]` each (rows sum to 1)."""
        x, mask, weights = self.norm(x), self._mask(x, valid), []
        for block in self.blocks:
            x, seen = block.with_weights(x, mask)
            weights.append(seen)
        return weights

    def _mask(self, x, valid):
        mask = None if valid is None else valid[:, None, None, :]
        if self.causal:
            past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            mask = past if mask is None else mask & past
        return mask
