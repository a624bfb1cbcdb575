"""Where targets stand in scores and lists, with the expectation over ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semid_lib.errors import InputError

_WIDE = 2**13  # from so many items on it is faster to count row by row: a row stays in the cache
UNRANKED = np.iinfo(np.int64).max // 4


def recall_at_k(recommended, targets, k: int) -> float:
    """Compute Recall@k: the share of rows whose target is among the first k items.

    With one target per user this is the hit rate (SPEC 1).

    Args:
        recommended: `[B, k']` item ids, best first, k' >= k; `PADDING` where a list is shorter.
        targets: `[B]` item ids.
        k: cut-off, 1..k'.

    Raises:
        InputError: other shapes, or a k that the lists cannot answer.

    Example:
        >>> recall_at_k([[3, 1, 2], [0, 1, 2]], [1, 2], k=2)
        0.5
    """
    return _ranks_in_lists(recommended, targets, k).recall(k).mean().item()


def ndcg_at_k(recommended, targets, k: int) -> float:
    """Compute NDCG@k for one target per row: mean of 1/log2(rank + 1), 0 beyond rank k.

    Arguments and errors as `recall_at_k`.

    Example:
        >>> ndcg_at_k([[3, 1, 2], [0, 1, 2]], [3, 2], k=3)
        0.75
    """
    return _ranks_in_lists(recommended, targets, k).ndcg(k).mean().item()


def mrr(recommended, targets) -> float:
    """Compute the mean reciprocal rank, 0 for a target outside the lists (the cut is k').

    Arguments and errors as `recall_at_k`.

    Example:
        >>> mrr([[3, 1, 2], [0, 1, 2]], [1, 9])
        0.25
    """
    return _ranks_in_lists(recommended, targets, 1).reciprocal().mean().item()


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the targets stand: each rank is uniform over above+1 .. above+ties+1.

    Attributes:
        above: `[E]` int64, items with a higher score than the target; `UNRANKED` if the target
            is not in the ranking at all.
        ties: `[E]` int64, other items with the target's score.
    """

    above: np.ndarray
    ties: np.ndarray

    def __len__(self) -> int:
        return len(self.above)

    def __getitem__(self, rows) -> Ranks:
        return Ranks(self.above[rows], self.ties[rows])

    def recall(self, k: int) -> np.ndarray:
        """`[E]` expected hit in the first k: the share of the tied ranks that are <= k."""
        return np.clip((k - self.above) / (self.ties + 1), 0.0, 1.0)

    def ndcg(self, k: int) -> np.ndarray:
        """`[E]` expected 1/log2(rank + 1), ranks beyond k counting 0."""
        return self._expect(1 / np.log2(np.arange(2, k + 2)))

    def reciprocal(self, k: int | None = None) -> np.ndarray:
        """`[E]` expected 1/rank; with k, ranks beyond k count 0."""
        if k is None:
            ranked = self.above < UNRANKED
            k = int((self.above + self.ties + 1)[ranked].max(initial=1))
        return self._expect(1 / np.arange(1, k + 1))

    def _expect(self, gain: np.ndarray) -> np.ndarray:
        """Mean gain over the tied ranks, `gain[r - 1]` for rank r and 0 beyond. O(E + k)."""
        total = np.append(0.0, np.cumsum(gain))
        first = np.minimum(self.above, len(gain))
        last = np.minimum(self.above + self.ties + 1, len(gain))
        mean = (total[last] - total[first]) / (self.ties + 1)
        alone = (self.ties == 0) & (self.above < len(gain))
        return np.where(alone, gain[np.minimum(first, len(gain) - 1)], mean)  # no rounding untied


def ranks_from_scores(scores, targets, histories=None) -> Ranks:
    """Rank each target `[B]` in full scores `[B, N]`, higher is better, -inf out of the ranking.

    `histories`: B int arrays of items to take out of the ranking (rule "unseen"), or None. Raises
    InputError for another shape or NaN. Cost: O(B N) comparisons.
    """
    rule = "all" if histories is None else "unseen"
    return ranks_by_rule(scores, targets, histories)[rule]


def refuse_nan(scores, live=True) -> None:
    bad = (np.isnan(scores) & live).any(axis=1)
    if bad.any():
        raise InputError(
            f"the scores of {int(bad.sum())} users (first: row {int(np.argmax(bad))}) hold NaN, so "
            "nothing can be ranked: did training diverge?"
        )


def ranks_by_rule(scores, targets, histories) -> dict[str, Ranks]:
    """Rank targets in full scores by both rules; arguments as `ranks_from_scores`."""
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=np.int64)
    if scores.ndim != 2 or len(scores) != len(targets):
        raise InputError(f"scores of shape {scores.shape} for {len(targets)} users; need [B, N]")
    own = scores[np.arange(len(targets)), targets]
    above, ties = _count(scores, own)
    lost = np.isneginf(own)
    result = {"all": Ranks(np.where(lost, UNRANKED, above), np.where(lost, 0, ties))}
    if histories is not None:
        row, item = _seen_pairs(histories, scores.shape[1])
        seen, reference, count = scores[row, item], own[row], len(targets)
        lost[row[item == targets[row]]] = True
        above = above - np.bincount(row[seen > reference], minlength=count)
        ties = ties - np.bincount(row[seen == reference], minlength=count)
        result["unseen"] = Ranks(np.where(lost, UNRANKED, above), np.where(lost, 0, ties))
    return result


def _count(scores, own) -> tuple[np.ndarray, np.ndarray]:
    """How many scores of each row `[B, N]` are above `own` `[B]`, and how many others equal it."""
    users, items = scores.shape
    if items < _WIDE:
        refuse_nan(scores)
        reference = own[:, None]
        return (scores > reference).sum(axis=1), (scores == reference).sum(axis=1) - 1
    above = np.empty(users, dtype=np.int64)
    ties = np.empty(users, dtype=np.int64)
    for user, (row, reference) in enumerate(zip(scores, own)):
        above[user] = np.count_nonzero(row > reference)
        ties[user] = np.count_nonzero(row == reference) - 1
        below = np.count_nonzero(row < reference)
        if above[user] + ties[user] + 1 + below != items:  # a NaN is none of the three
            refuse_nan(scores)
    return above, ties


def _seen_pairs(histories, num_items) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (row, item) pairs of B histories."""
    row = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    item = np.concatenate([np.asarray(h, dtype=np.int64) for h in histories])
    return np.divmod(np.unique(row * num_items + item), num_items)


def ranks_from_lists(items, targets, scores=None, histories=None) -> Ranks:
    """Rank each target in a ranked list; a target that is not in its list is `UNRANKED`.

    Args:
        items: `[B, k']` int64 item indices, best first, -1 where a list is shorter.
        targets: `[B]` item indices.
        scores: `[B, k']`; equal scores are ties (colliding semantic IDs). Without them the order
            of the list is the ranking.
        histories: as `ranks_from_scores`.

    Raises:
        InputError: shapes that do not fit, or NaN scores.
    """
    items, targets = np.asarray(items), np.asarray(targets, dtype=np.int64)
    if items.ndim != 2 or len(items) != len(targets):
        raise InputError(f"lists have shape {items.shape} for {len(targets)} targets")
    if scores is None:
        scores = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float64), items.shape)
    scores = np.asarray(scores)
    if scores.shape != items.shape:
        raise InputError(f"scores have shape {scores.shape} beside items of shape {items.shape}")
    live = items >= 0
    refuse_nan(scores, live)
    if histories is not None:
        size = 1 + int(max(items.max(), *(np.max(h, initial=0) for h in histories)))
        row, item = _seen_pairs(histories, size)
        keys = np.where(live, np.arange(len(items))[:, None] * size + items, -1)
        live = live & ~np.isin(keys, row * size + item)
    hit = live & (items == targets[:, None])
    found = hit.any(axis=1)
    own = scores[np.arange(len(items)), hit.argmax(axis=1)][:, None]
    above = (live & (scores > own)).sum(axis=1)
    ties = (live & (scores == own)).sum(axis=1) - 1
    return Ranks(np.where(found, above, UNRANKED), np.where(found, ties, 0))


def _ranks_in_lists(recommended, targets, k) -> Ranks:
    """Ranks in lists of ids of any type, by their order."""
    recommended, targets = np.asarray(recommended), np.asarray(targets)
    if recommended.ndim != 2 or targets.shape != recommended.shape[:1] or len(targets) == 0:
        raise InputError(
            f"recommended {recommended.shape} and targets {targets.shape} must be [B, k'] and [B]"
        )
    if not 1 <= k <= recommended.shape[1]:
        raise InputError(f"k is {k}, but the lists hold {recommended.shape[1]} items: 1 <= k <= k'")
    hit = recommended == targets[:, None]
    above = np.where(hit.any(axis=1), hit.argmax(axis=1), UNRANKED)
    return Ranks(above, np.zeros_like(above))
