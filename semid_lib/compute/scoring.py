"""Holistic scoring: the sum of its digits' log-probabilities for every item, and the best items."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.errors import CodesError, InputError

_USERS = {"cpu": 64, "cuda": 1024}  # columns of a table that stay in a core's second cache
_PART = {"cpu": 2**18, "cuda": 2**24}  # scores that do
_COMPILED = 2**20  # with as many scores on a CPU, the Numba kernel is worth its import
_PIECE = 2**16  # items that a thread scores in one call
_MOST = 2**26  # group maxima held at once by `top_items`, 256 MB


def table_rows(codes, num_codes: int) -> Tensor:
    """Say where each code stands in a table of all digits: row M d + c_d, for `[N, m]` codes.

    Args:
        codes: `[N, m]` integers, 0..M-1. num_codes: M, of every digit.

    Returns:
        `[N, m]` int16 if m M <= 32,768, else int32: what the scoring functions take.

    Raises:
        CodesError: a code outside 0..M-1, or codes that are not an integer matrix.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.size == 0 or not np.issubdtype(codes.dtype, np.integer):
        raise CodesError(f"codes must be integers [N, m], not {codes.dtype} {codes.shape}")
    if codes.min() < 0 or codes.max() >= num_codes:
        raise CodesError(
            f"codes {codes.min()}..{codes.max()} are outside the codebooks 0..{num_codes - 1}: "
            "are they another tokenizer's, or offset already?"
        )
    kind = np.int16 if codes.shape[1] * num_codes <= 2**15 else np.int32
    return torch.from_numpy(codes.astype(kind) + num_codes * np.arange(codes.shape[1], dtype=kind))


def holistic_scores(log_probs: Tensor, rows: Tensor) -> Tensor:
    """Score every item: Score(j) = sum_k P[k, c_jk] (ACERec, Eq. 9).

    A table with one row a code and one column a user turns the sum into that of m table rows,
    which are read whole: nothing of size B x N x m is made. Items of equal codes have equal scores,
    to the bit. On a CPU the rows of 16 users are one cache line each and their sum stays in
    registers; on a GPU, and for few scores, it is torch's `embedding_bag`. Both add digit after
    digit.

    Args:
        log_probs: `[B, m, M]` float. rows: `[N, m]`, from `table_rows`.

    Returns:
        `[B, N]` of the type of `log_probs`, a transposed view.

    Cost: O(B N m). One busy core did 460 million item-scores of 32 digits a second for 256 users
    and 12,101 items, 16 times a gather in chunks, and 880 million for 16 users and a million.
    """
    return _maxima(log_probs, rows, 1).T


def top_items(log_probs: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k items of highest score; among equal scores the first ones.

    The k best items stand in the k groups of items with the highest maxima. So only the maxima are
    kept, and the items of these groups are scored again, from `log_probs` itself. A group has
    about (N / (k m))^(1/2) items.

    Args:
        log_probs, rows: as `holistic_scores`. k: 1..N.

    Returns:
        `(items [B, k] int64, scores [B, k])`, best first.

    Raises:
        InputError: k outside 1..N.

    Cost: as the scores, and O(B (N k m)^(1/2)) time and memory.
    """
    size, digits = rows.shape
    if not 1 <= k <= size:
        raise InputError(f"k is {k}, but must lie in 1..{size} (the items)")
    group = 2 ** int(np.log2(np.clip(size / (k * digits), 1, 2**24)) / 2)
    parts = log_probs.split(max(1, _MOST // -(-size // group)))
    found = [_top(part, rows, k, group) for part in parts]
    items, values = zip(*found)
    return torch.cat(items), torch.cat(values)


def _top(log_probs, rows, k, group):
    values = _maxima(log_probs, rows, group).T.contiguous()
    if group == 1:
        items = _largest(values, k)
        return items, values.gather(1, items)
    groups = _largest(values, min(k, values.shape[1])).sort(1).values
    items = (groups[:, :, None] * group + torch.arange(group, device=rows.device)).flatten(1)
    codes, flat = rows[items.clamp(max=len(rows) - 1)], log_probs.flatten(1)
    values = sum(flat.gather(1, row.long()) for row in codes.unbind(2))
    order = _largest(values.masked_fill_(items >= len(rows), -torch.inf), k)
    return items.gather(1, order), values.gather(1, order)


def _largest(values, k):
    """Positions `[U, k]` of each row's k largest values, in order, the first of equals first."""
    found = values.topk(k, sorted=False)
    order = found.indices.sort(1).values
    within = values.gather(1, order).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, within)
    tied = (values >= found.values.amin(1, keepdim=True)).sum(1) > k
    if tied.any():  # then `topk` may have taken any of them
        order[tied] = values[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return order


def _maxima(log_probs, rows, group):
    """The highest score in each group of neighbouring items, `[G, B]`; `group` is a power of 2."""
    plain = log_probs.device.type == "cpu" and log_probs.dtype == torch.float32
    plain = plain and not log_probs.requires_grad
    compiled = plain and len(rows) * len(log_probs) >= _COMPILED
    return (_maxima_compiled if compiled else _maxima_torch)(log_probs.flatten(1), rows, group)


def _maxima_compiled(flat, rows, group):
    from semid_lib.compute.scoring_kernel import LINE, group_maxima
    from semid_lib.compute.threads import in_threads

    users, groups, width = len(flat), -(-len(rows) // group), LINE // flat.element_size()
    flat = F.pad(flat, (0, 0, 0, -users % width)) if users % width else flat
    rows, step = rows.contiguous().numpy(), max(1, _PIECE // group)
    out = np.empty((groups, len(flat)), np.float32)

    lines = flat.unflatten(0, (-1, width)).transpose(1, 2)
    tables = torch.empty(lines.shape, dtype=flat.dtype)  # filled by threads: 2-D copies are fast
    seen = tables.numpy()

    def score(piece):
        block, first = piece
        last = min(groups, first + step)
        group_maxima(seen[block], rows, group, out, block * width, first, last)

    blocks, threads = range(len(tables)), torch.get_num_threads()
    in_threads(lambda block: tables[block].copy_(lines[block]), blocks, threads)
    in_threads(score, product(blocks, range(0, groups, step)), threads)
    return torch.from_numpy(out)[:, :users]


def _maxima_torch(flat, rows, group):
    kind = flat.device.type
    out = flat.new_empty(-(-len(rows) // group), len(flat))
    for at in range(0, len(flat), _USERS.get(kind, 64)):
        table = flat[at : at + _USERS.get(kind, 64)].T.contiguous()
        step = max(4096, 2 ** int(np.log2(_PART.get(kind, 2**18) / table.shape[1])))
        for first in range(0, len(rows), step):
            part = F.embedding_bag(rows[first : first + step].int(), table, mode="sum")
            if len(part) % group:
                part = F.pad(part, (0, 0, 0, -len(part) % group), value=-torch.inf)
            part = part.unflatten(0, (-1, group))
            while part.shape[1] > 1:  # much faster than amax where there are few users
                part = torch.maximum(*part.chunk(2, dim=1))
            out[first // group :][: len(part), at : at + table.shape[1]] = part[:, 0]
    return out
