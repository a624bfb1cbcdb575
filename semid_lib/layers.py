"""Building blocks that several models share: transformer, field table, softmax losses, ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.data.interactions import Interactions
from semid_lib.errors import InputError
from semid_lib.evaluation import Ranks
from semid_lib.ops import linear

INITIAL_STD = 0.02
_CHUNK = 2**22  # logits held at once by the chunked loss and by the ranks (16 MB in float32)


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


def item_fields(
    data: Interactions, names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    """Collect the fields of the items, the item id first.

    Args:
        names: fields of `data` to use, in order; None for all of them, () for the id alone.

    Returns:
        `(names, sizes, codes)`: J names ("item" first), J vocabulary sizes |V_k|, and the codes
        `[N, J]` int64, 0..|V_k|-1 or -1 where the item lacks the field.

    Raises:
        InputError: a name that `data` lacks, or a field that no item has.
    """
    names = tuple(data.fields) if names is None else tuple(names)
    sizes, columns = [data.num_items], [np.arange(data.num_items)]
    for name in names:
        if name not in data.fields:
            raise InputError(f"no item field {name!r} in {data.name!r}; it has {list(data.fields)}")
        column = np.asarray(data.fields[name], dtype=np.int64)
        if column.max(initial=-1) < 0:
            raise InputError(
                f"field {name!r} is missing for every item: leave it out of the fields"
            )
        sizes.append(max(int(column.max()) + 1, len(data.field_values.get(name, ()))))
        columns.append(column)
    return ("item", *names), tuple(sizes), np.stack(columns, axis=1)


class FieldTable(nn.Module):
    """The embedding tables of all item fields as one matrix.

    The rows of field k are its |V_k| values, then one for "missing", then one for "masked",
    so a masked or missing field is only another row number, and a token (the sum over the
    fields) is one `embedding_bag`.

    Args:
        sizes: |V_k| of the J fields. codes: `[N, J]` int64, -1 where missing. dim: width D.

    Attributes:
        weight: `[sum(|V_k| + 2), D]`. tokens: `[N, J]` int64, the row of each item's fields.
        absent: `[N, J]` bool, where the field is missing.
    """

    def __init__(self, sizes: Sequence[int], codes: np.ndarray, dim: int):
        super().__init__()
        self.sizes = tuple(sizes)
        offsets = np.concatenate([[0], np.cumsum(np.asarray(sizes) + 2)])
        self.weight = nn.Parameter(torch.empty(int(offsets[-1]), dim).normal_(std=INITIAL_STD))
        arrays = {
            "tokens": np.where(codes < 0, np.asarray(sizes), codes) + offsets[:-1],
            "codes": codes,
            "absent": codes < 0,
            "masked": offsets[:-1] + sizes + 1,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.as_tensor(array), persistent=False)

    def values(self) -> list[Tensor]:
        """The value rows of each field, J tensors `[|V_k|, D]` (missing and masked left out)."""
        counts = [n for size in self.sizes for n in (size, 2)]
        return list(torch.split(self.weight, counts)[::2])

    def forward(self, tokens: Tensor) -> Tensor:
        """Sum the rows of `tokens` `[..., J]` over the fields: `[..., D]`."""
        if tokens.shape[-1] == 1:
            return F.embedding(tokens[..., 0], self.weight)
        summed = F.embedding_bag(tokens.reshape(-1, tokens.shape[-1]), self.weight, mode="sum")
        return summed.view(*tokens.shape[:-1], -1)


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


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `hidden @ table.T`; the gradients are made beside the loss."""

    @staticmethod
    def forward(ctx, hidden, table, targets):
        needs_hidden, needs_table, _ = ctx.needs_input_grad
        wide = torch.promote_types(hidden.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden, dtype=wide) if needs_hidden else None
        across = table.new_zeros(table.shape[::-1], dtype=wide) if needs_table else None
        narrow = (hidden[:1] @ table[:1].T).dtype  # what autocast multiplies in, if it is on
        rows, columns = hidden.to(narrow), table.to(narrow)
        step = max(1, _chunk(hidden) // len(table))
        for begin in range(0, len(hidden), step):
            h, wanted = rows[begin : begin + step], targets[begin : begin + step, None]
            logits = linear(h, columns).to(wide)
            share = logits.softmax(1)
            total = logits.amax(1) - share.amax(1).log()  # ln sum exp; no logarithm of nearly 0
            loss += (total - logits.gather(1, wanted)[:, 0]).sum()
            share = share.to(narrow)
            if needs_hidden:
                mean = linear(share, columns.T).to(wide)
                grad_hidden[begin : begin + step] = mean - table[wanted[:, 0]]
            if needs_table:
                across += linear(h.T, share.T)
        grad_table = across.T.contiguous() if needs_table else None
        if needs_table:
            grad_table.index_add_(0, targets, hidden.to(wide), alpha=-1)
        ctx.save_for_backward(grad_hidden, grad_table)
        ctx.dtypes = hidden.dtype, table.dtype
        return loss

    @staticmethod
    def backward(ctx, grad):
        grads = zip(ctx.saved_tensors, ctx.dtypes)
        hidden, table = [None if g is None else (g * grad).to(dtype) for g, dtype in grads]
        return hidden, table, None


def _chunk(tensor: Tensor) -> int:
    return _CHUNK if tensor.device.type == "cpu" else 32 * _CHUNK


def chunked_cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(hidden table^T)[target] over the rows, never holding all logits.

    Rows are taken in chunks, and each chunk's gradients are made while its logits are there, so
    memory is O(chunk V) instead of O(M V) twice, and the logits are written once.

    Args:
        hidden: `[M, D]` float. table: `[V, D]` float. targets: `[M]` int64 in 0..V-1.

    Returns:
        Scalar, the **sum** over rows in nats (float32 under autocast). Twice differentiable: no.

    Cost: O(M V D) time, forward and backward together.
    """
    return _ChunkedCrossEntropy.apply(hidden, table, targets)


def sampled_cross_entropy(
    hidden: Tensor, table: Tensor, targets: Tensor, num_negatives: int, cosine: bool
) -> Tensor:
    """Sum of the softmax loss of each target against uniform negatives shared by the batch.

    A negative that is a row's own target is left out of that row. No logQ correction: the
    negatives are uniform. `cosine` normalises the table's rows (`hidden` as it comes).

    Cost: O(M S D) for S negatives; only the rows used are read.
    """
    drawn = torch.randint(len(table), (num_negatives,), device=hidden.device)
    positives, negatives = F.embedding(targets, table), F.embedding(drawn, table)
    if cosine:
        positives, negatives = F.normalize(positives, dim=-1), F.normalize(negatives, dim=-1)
    right = (hidden * positives).sum(-1, keepdim=True)
    wrong = (hidden @ negatives.T).masked_fill(drawn == targets[:, None], -torch.inf)
    return (torch.cat([right, wrong.to(right.dtype)], dim=1).logsumexp(1) - right[:, 0]).sum()


def pairwise_loss(hidden: Tensor, table: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Sum of the losses of each target s against one uniform other item n.

    "bce": -log sigmoid(s) - log sigmoid(-n), Kang & McAuley 2018, Eq. 6, without their exclusion of
    the history's items. "bpr": -log sigmoid(s - n), Rendle et al. 2009. Arguments as above.
    """
    others = torch.randint(len(table) - 1, targets.shape, device=targets.device)
    others = others + (others >= targets)
    right, wrong = ((hidden * F.embedding(i, table)).sum(-1) for i in (targets, others))
    if kind == "bpr":
        return F.softplus(wrong - right).sum()
    return (F.softplus(-right) + F.softplus(wrong)).sum()


@torch.no_grad()
def target_ranks(hidden: Tensor, table: Tensor, targets: Tensor) -> Ranks:
    """Rank each row's target among all rows of `table` by the inner product with `hidden`.

    Args:
        hidden: `[M, D]` float. table: `[N, D]` float. targets: `[M]` int64.

    Returns:
        The counts of items above and level with each target; NaN scores stand below all.

    Cost: O(M N D) time, O(chunk N) memory.
    """
    above, ties = [], []
    step = max(1, _chunk(hidden) // len(table))
    for h, wanted in zip(hidden.split(step), targets.split(step)):
        scores = h @ table.T
        own = scores.gather(1, wanted[:, None])
        above.append(len(table) - (scores <= own).sum(1))
        ties.append(((scores == own).sum(1) - 1).clamp(min=0))
    return Ranks(torch.cat(above).cpu().numpy(), torch.cat(ties).cpu().numpy())
