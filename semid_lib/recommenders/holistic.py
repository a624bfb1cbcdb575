"""Holistic scoring: the sum of its digits' log-probabilities for every item, and the best items."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.errors import CodesError, InputError

_USERS = {"cpu": 64, "cuda": 1024}  # columns of a table that stay in a core's second cache
_PART = {"cpu": 2**18, "cuda": 2**24}  # scores that do
_SCORES = 2**26  # held at once by `top_items`, 256 MB


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


def holistic_scores(log_probs: Tensor, rows: Tensor, half: bool = False) -> Tensor:
    """Score every item: Score(j) = sum_k P[k, c_jk] (ACERec, Eq. 9).

    A table with one row a code and one column a user turns the sum into that of m table rows,
    which are read whole: nothing of size B x N x m is made. Items of equal codes have equal scores,
    to the bit.

    Args:
        log_probs: `[B, m, M]` float. rows: `[N, m]`, from `table_rows`.
        half: read a table in half precision. Each digit is shifted to the largest entry 0 first,
            so the best items, whose sums are small then, are the most exact.

    Returns:
        `[B, N]` of the type of `log_probs`, a transposed view.

    Cost: O(B N m). One busy core did 450 million item-scores of 32 digits a second for 256 users
    and 12,101 items, 16 times a gather in chunks.
    """
    scores = log_probs.new_empty(len(rows), len(log_probs))
    for users in _user_blocks(log_probs, len(rows)):
        table, base = _table(log_probs[users], half)
        step = _items_at_once(table)
        for at in range(0, len(rows), step):
            part = _sums(table, rows[at : at + step])
            scores[at : at + step, users] = part.to(scores.dtype) + base if half else part
    return scores.T


def top_items(log_probs: Tensor, rows: Tensor, k: int, half: bool = False) -> tuple[Tensor, Tensor]:
    """Find the k items of highest score; among equal scores the first ones.

    Items are taken in groups of about (N/k)^(1/2). The k best items stand in the k groups with
    the highest maxima, so only these groups are sorted.

    Args:
        log_probs, rows, half: as `holistic_scores`. k: 1..N.

    Returns:
        `(items [B, k] int64, scores [B, k])`, best first.

    Raises:
        InputError: k outside 1..N.

    Cost: as the scores, and O(B (N + (k N)^(1/2) log N)); 256 MB for the scores of a block of
    users (fewer users a block from a million items on).
    """
    size = len(rows)
    if not 1 <= k <= size:
        raise InputError(f"k is {k}, but must lie in 1..{size} (the items)")
    group = 2 ** int(np.log2(max(1, min(size / k, 4096))) / 2)
    whole = torch.arange(group, device=rows.device)
    found, scores = [], None
    for users in _user_blocks(log_probs, size):
        table, base = _table(log_probs[users], half)
        if scores is None or scores.shape[1] != table.shape[1]:
            scores = table.new_empty(-(-size // group) * group, table.shape[1])
            scores[size:] = -torch.inf
        best, step = [], _items_at_once(table)
        for at in range(0, size, step):
            scores[at : min(at + step, size)] = _sums(table, rows[at : at + step])
            most = scores[at : at + step].unflatten(0, (-1, group))
            while most.shape[1] > 1:  # much faster than amax where there are few users
                most = torch.maximum(*most.chunk(2, dim=1))
            best.append(most[:, 0])
        groups = _largest(torch.cat(best).T, min(k, len(scores) // group)).sort(1).values
        items = (groups[:, :, None] * group + whole).flatten(1)
        values = scores.T.gather(1, items)
        order = _largest(values, k)
        values = values.gather(1, order).to(log_probs.dtype)
        found.append((items.gather(1, order), values if base is None else values + base[:, None]))
    items, values = zip(*found)
    return torch.cat(items), torch.cat(values)


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


def _user_blocks(log_probs, num_items):
    """Slices of users whose table and scores are of bearable size."""
    most = _USERS.get(log_probs.device.type, 64)
    step = max(1, min(most, _SCORES // num_items))
    return [slice(at, at + step) for at in range(0, len(log_probs), step)]


def _items_at_once(table):
    """How many items to score before the scores are looked at: a power of two."""
    return max(4096, 2 ** int(np.log2(_PART.get(table.device.type, 2**18) / table.shape[1])))


def _table(log_probs, half):
    """`[m M, U]`: a row for each code; and what to add to each user's sums, if in half."""
    if not half:
        return log_probs.flatten(1).T.contiguous(), None
    top = log_probs.amax(2, keepdim=True)
    return (log_probs - top).flatten(1).T.half().contiguous(), top.sum((1, 2))


def _sums(table, rows):
    return F.embedding_bag(rows.int(), table, mode="sum")
