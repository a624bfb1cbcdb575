"""Losses over a catalogue, in chunks where the catalogue is large."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.compute.products import linear
from semid_lib.evaluation import Ranks

_CHUNK = 2**22  # logits held at once by the chunked loss and by the ranks (16 MB in float32)


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
