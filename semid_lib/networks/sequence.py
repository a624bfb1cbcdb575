"""The network over a history of items that several models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semid_lib.networks.fields import FieldTable
from semid_lib.networks.transformer import INITIAL_STD, Transformer


class SequenceNetwork(nn.Module):
    """Tokens x_t = p_t + sum_j E_j[f_t^j] of a sequence of items, and a transformer over them.

    Args:
        settings: has `dim, num_layers, num_heads, ffn_dim, dropout`.
        sizes, codes: the item fields, see `FieldTable`.
        length: the longest sequence.
        causal: then sequences are right-padded and positions count from the oldest item;
            otherwise they are left-padded and positions count back from the newest.
    """

    def __init__(self, settings, sizes, codes, length: int, causal: bool):
        super().__init__()
        s = settings
        self.table = FieldTable(sizes, codes, s.dim)
        self.position = nn.Parameter(torch.empty(length, s.dim).normal_(std=INITIAL_STD))
        self.encoder = Transformer(s.dim, s.num_layers, s.num_heads, s.ffn_dim, s.dropout, causal)

    def place(self, tokens: Tensor) -> Tensor:
        """The tokens' vectors `[B, T, D]`; `tokens` `[B, T, J]` int64, rows of the table."""
        rows = tokens.shape[1]
        position = self.position[:rows] if self.encoder.causal else self.position[-rows:]
        return self.table(tokens) + position

    def forward(self, tokens: Tensor, valid: Tensor | None = None, at: Tensor | None = None):
        """Outputs `[B, T, D]`, or only those `at` some positions; see `Transformer`."""
        return self.encoder(self.place(tokens), valid, at)

    def num_parameters(self, embeddings: bool = True) -> int:
        """Count the learnt numbers, with or without the fields' tables."""
        total = sum(p.numel() for p in self.parameters())
        return total if embeddings else total - self.table.weight.numel()


def left_padded(items: Tensor, start: Tensor, last: Tensor, longest=None) -> tuple[Tensor, Tensor]:
    """Lay the sequences `items[start : last + 1]` side by side, their newest items aligned.

    Args:
        items: `[M]` int64. start, last: `[B]` int64; `last` may be M, for a place that is masked.
        longest: the largest `last - start`, where it is known: so a GPU need not be waited for.

    Returns:
        `(items [B, T], valid [B, T])`, T the longest; padding (not valid) holds any item.
    """
    longest = int((last - start).max()) if longest is None else longest
    back = torch.arange(longest, -1, -1, device=items.device)
    place = last[:, None] - back
    return items[place.clamp(min=0, max=len(items) - 1)], place >= start[:, None]
