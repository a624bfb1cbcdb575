"""Full-ranking Recall, NDCG and MRR, exact under ties, by both rules about seen items.

Protocol (SPEC 1, the three papers): one held-out item per user, ranked among all items. Rule
"all" ranks seen items like any other; rule "unseen" takes the items of the history out of the
ranking. A target that stands in its own history is then a miss, as in S3-Rec and ICLRec, which
zero the scores of all training items before ranking.

Equal scores have no order, so a tied target gets the expectation over all orders of the tied
items, never the order of item indices (SPEC 13: the same for items whose semantic IDs collide).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from semid_lib.data.preprocess import BUCKET_ENDS, BUCKETS
from semid_lib.distributed import gather, place
from semid_lib.errors import InputError

RULES = ("all", "unseen")
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
    return _ranks_by_rule(scores, targets, histories)[rule]


def _refuse_nan(scores, live=True) -> None:
    bad = (np.isnan(scores) & live).any(axis=1)
    if bad.any():
        raise InputError(
            f"the scores of {int(bad.sum())} users (first: row {int(np.argmax(bad))}) hold NaN, so "
            "nothing can be ranked: did training diverge?"
        )


def _ranks_by_rule(scores, targets, histories) -> dict[str, Ranks]:
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=np.int64)
    if scores.ndim != 2 or len(scores) != len(targets):
        raise InputError(f"scores of shape {scores.shape} for {len(targets)} users; need [B, N]")
    _refuse_nan(scores)
    own = scores[np.arange(len(targets)), targets][:, None]
    above = (scores > own).sum(axis=1)
    ties = (scores == own).sum(axis=1) - 1
    lost = np.isneginf(own[:, 0])
    result = {"all": Ranks(np.where(lost, UNRANKED, above), np.where(lost, 0, ties))}
    if histories is not None:
        row, item = _seen_pairs(histories, scores.shape[1])
        seen, reference, count = scores[row, item], own[row, 0], len(targets)
        lost[row[item == targets[row]]] = True
        above = above - np.bincount(row[seen > reference], minlength=count)
        ties = ties - np.bincount(row[seen == reference], minlength=count)
        result["unseen"] = Ranks(np.where(lost, UNRANKED, above), np.where(lost, 0, ties))
    return result


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
    _refuse_nan(scores, live)
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The ranks of every evaluated user's target, and the numbers made of them.

    Metrics are named "recall@K", "ndcg@K" (any K >= 1, and at most `cut` if there is one) and
    "mrr" (over the whole ranking, or the first `cut` ranks).

    Attributes:
        part: "validation" or "test".
        users, targets: `[E]` user and item indices.
        target_counts: `[E]` how often the target occurs in the train part.
        ranks: rule -> `Ranks`.
        ks: cut-offs that `metrics` lists.
        cut: length of the lists of a generating recommender; None if every item was ranked.
    """

    part: str
    users: np.ndarray
    targets: np.ndarray
    target_counts: np.ndarray
    ranks: dict[str, Ranks]
    ks: tuple[int, ...]
    cut: int | None = None

    def __len__(self) -> int:
        return len(self.users)

    def values(self, metric: str, rule: str = "all") -> np.ndarray:
        """`[E]` expected value of one metric for each user."""
        if rule not in RULES:
            raise InputError(f"unknown rule {rule!r}: choose one of {RULES}")
        ranks = self.ranks[rule]
        if metric == "mrr":
            return ranks.reciprocal()
        name, _, k = metric.partition("@")
        if name not in ("recall", "ndcg") or not k.isdecimal() or int(k) < 1:
            raise InputError(f"unknown metric {metric!r}: 'recall@K', 'ndcg@K' or 'mrr'")
        if self.cut is not None and int(k) > self.cut:
            raise InputError(f"{metric} from lists of {self.cut} items: generate longer lists")
        return getattr(ranks, name)(int(k))

    def metrics(self, rule: str = "all") -> dict[str, float]:
        """Mean of recall@K and ndcg@K for every K of `ks`, and of mrr."""
        if len(self) == 0:
            raise InputError("no users are left to average over")
        names = [f"{name}@{k}" for k in self.ks for name in ("recall", "ndcg")]
        return {name: self.values(name, rule).mean().item() for name in (*names, "mrr")}

    def interval(self, metric: str, rule: str = "all", **how) -> tuple[float, float]:
        """Percentile bootstrap interval `(low, high)` of the mean, users resampled.

        `how`: `level` (0.95), `resamples` (1000), `seed` (0).
        """
        return bootstrap_interval(self.values(metric, rule), **how)

    def where(self, mask) -> Evaluation:
        """The same evaluation on a subset of its users: `mask` `[E]` bool."""
        mask = np.asarray(mask)
        if mask.shape != self.users.shape or mask.dtype != bool:
            raise InputError(f"the mask must be bool [{len(self)}], not {mask.dtype} {mask.shape}")
        names = ("users", "targets", "target_counts")
        ranks = {rule: ranks[mask] for rule, ranks in self.ranks.items()}
        return replace(self, ranks=ranks, **{name: getattr(self, name)[mask] for name in names})

    def by_bucket(self, rule: str = "all") -> dict[str, dict]:
        """Metrics by how often the target occurs in the train part (ACERec Table 6).

        Returns "0-5", ..., ">20" -> `{"n": users, "recall@5": ..., ...}`; only n = 0 if empty.
        """
        bucket, result = np.searchsorted(BUCKET_ENDS, self.target_counts), {}
        for index, label in enumerate([*BUCKETS[:-1], f">{BUCKET_ENDS[-1]}"]):
            part = self.where(bucket == index)
            result[label] = {"n": len(part), **(part.metrics(rule) if len(part) else {})}
        return result


def paired_difference(
    a: Evaluation, b: Evaluation, metric: str, rule: str = "all", **how
) -> tuple[float, float, float]:
    """Mean of a - b over the same users, with its bootstrap interval: `(mean, low, high)`.

    `how` as `Evaluation.interval`. Raises InputError if users or targets differ.
    """
    if not (np.array_equal(a.users, b.users) and np.array_equal(a.targets, b.targets)):
        raise InputError(
            f"the evaluations are not paired: {len(a)} users on {a.part}, {len(b)} on {b.part}; "
            "both must ask the same users for the same items"
        )
    difference = a.values(metric, rule) - b.values(metric, rule)
    return (difference.mean().item(), *bootstrap_interval(difference, **how))


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval `(low, high)` of the mean of `values` `[E]`, one a user.

    Drawing users with replacement is drawing the counts of the distinct values from a
    multinomial, which is exact and far cheaper.
    """
    if len(values) == 0 or not 0 < level < 1 or resamples < 1:
        raise InputError(
            f"{len(values)} users, level {level}, {resamples} resamples: need 1, within 0..1, 1"
        )
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(draws @ distinct / len(values), [tail, 1 - tail])
    return low.item(), high.item()


def user_auc(scores, labels, users) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the area under the ROC curve within each user who has rows of both labels.

    The share of a user's pairs (clicked, not clicked) in which the clicked item scores higher;
    equal scores count half.

    Args:
        scores: `[M]` float, higher is more likely. labels: `[M]` bool, or 0 and 1.
        users: `[M]` int64, whose row it is, in any order.

    Returns:
        `(users [V] int64 ascending, auc [V] float64, rows [V] int64)`.

    Raises:
        InputError: other shapes or labels, NaN scores, or no user with both labels.

    Cost: one sort, O(M log M).
    """
    scores, labels, users = np.asarray(scores), np.asarray(labels), np.asarray(users)
    if scores.ndim != 1 or not scores.shape == labels.shape == users.shape:
        shapes = scores.shape, labels.shape, users.shape
        raise InputError(f"scores, labels and users have shapes {shapes}; need the same [M]")
    if not np.isin(labels, (0, 1)).all():
        raise InputError("labels must be bool, or 0 and 1")
    _refuse_nan(scores[:, None])
    order = np.lexsort((scores, users))
    names, user = np.unique(users[order], return_inverse=True)
    scores, clicked = scores[order], labels[order] == 1
    tie = np.cumsum(np.append(0, (np.diff(scores) != 0) | (np.diff(user) != 0))[: len(user)])
    tied = np.bincount(tie, minlength=1)
    rank = (np.cumsum(tied) - (tied - 1) / 2)[tie]  # from 1, over all users; ties share the mean
    rows = np.bincount(user, minlength=len(names))
    rank -= (np.cumsum(rows) - rows)[user]
    good = np.bincount(user, clicked, minlength=len(names))
    both = (good > 0) & (good < rows)
    if not both.any():
        raise InputError(
            f"none of {len(names)} users has rows of both labels, so no pair can be compared"
        )
    good, bad = good[both], (rows - good)[both]
    won = np.bincount(user, rank * clicked)[both] - good * (good + 1) / 2
    return names[both], won / (good * bad), rows[both]


def uauc(scores, labels, users, weight: str = "users") -> float:
    """Compute UAUC, the mean of `user_auc` (R3-VAE Table 4): each of the "users" counts once.

    With `weight="impressions"` a user counts as often as it has rows. Arguments and errors as
    `user_auc`.

    Example:
        >>> uauc([0.9, 0.1, 0.5, 0.5], [1, 0, 1, 0], [7, 7, 8, 8])
        0.75
    """
    if weight not in ("users", "impressions"):
        raise InputError(f"weight is {weight!r}, but must be 'users' or 'impressions'")
    _, auc, rows = user_auc(scores, labels, users)
    return float(np.average(auc, weights=None if weight == "users" else rows))


def evaluate(
    recommender, split, part: str, *, ks: Sequence[int] = (5, 10, 20), batch_size: int = 512,
    users=None, progress: bool | None = None,
) -> Evaluation:  # fmt: skip
    """Rank the held-out item of each user, by both rules in one pass.

    A recommender that scores every item is ranked over the whole catalogue. One that generates is
    asked once for its `num_beams` (else 50) best items; rule "unseen" filters that list, and a
    target outside it is not ranked. Processes that work together (`semid_lib.distributed`) rank a
    share of the users each, and all return the whole.

    Args:
        recommender: a fitted `Recommender` of this split's catalogue.
        part: "validation" or "test". It has no default: whatever selects must say "validation".
        ks: the cut-offs that `metrics` will list.
        batch_size: histories per call of the recommender.
        users: user indices to evaluate, a subset of `split.users`; by default all of them.
        progress: show a bar; by default only in a terminal.

    Raises:
        NotFittedError: the recommender is not fitted.
        DataError: an unknown part.
        InputError: another catalogue, users that are not evaluated, cut-offs below 1 or beyond a
            generated list, NaN scores.

    Cost: the recommender's, plus O(E N) comparisons if it scores all items.
    """
    from tqdm import tqdm

    num_items = recommender.num_items_fitted
    if num_items != split.num_items:
        raise InputError(
            f"the recommender knows {num_items} items, the split has {split.num_items}: "
            "was it fitted on another dataset?"
        )
    ours, theirs = getattr(recommender, "item_ids_", None), split.data.item_ids
    if ours is not None and theirs is not None and (ours != theirs).any():
        at = np.argmax(ours != theirs)
        raise InputError(
            f"item {at} is {str(ours[at])!r} to the recommender and {str(theirs[at])!r} in the "
            "split: was it fitted on another dataset?"
        )
    ks = tuple(ks)
    cut = None
    if not recommender.scores_all_items:
        cut = min(getattr(recommender, "num_beams", None) or 50, num_items)
    if any(k < 1 or (cut is not None and k > cut) for k in ks):
        raise InputError(f"cut-offs {ks} must lie in 1..{cut or num_items} (the ranked items)")
    users = split.users if users is None else np.asarray(users, dtype=np.int64)
    unknown = np.setdiff1d(users, split.users)
    if len(unknown):
        raise InputError(f"user {unknown[0]} is not evaluated (under 3 interactions, or unknown)")
    histories, positions = split.histories(part), np.searchsorted(split.users, users)
    targets = split.targets[part][positions]
    found: dict[str, list[Ranks]] = {rule: [Ranks(*np.empty((2, 0), np.int64))] for rule in RULES}
    show = sys.stderr.isatty() if progress is None else progress
    rank, processes = place()
    mine = np.array_split(positions, processes)[rank]
    steps = range(0, len(mine), batch_size)
    for start in tqdm(steps, desc=f"evaluating on {part}", disable=not show):
        rows = mine[start : start + batch_size]
        batch = [histories[row] for row in rows]
        for rule, ranks in _rank_batch(recommender, batch, split.targets[part][rows], cut).items():
            found[rule].append(ranks)
    everyone = gather(found)
    ranks = {
        rule: Ranks(*(
            np.concatenate([getattr(r, a) for parts in everyone for r in parts[rule]])
            for a in ("above", "ties")
        ))
        for rule in RULES
    }  # fmt: skip
    return Evaluation(part, users, targets, split.train_counts()[targets], ranks, ks, cut)


def _rank_batch(recommender, histories, targets, cut) -> dict[str, Ranks]:
    """Ranks by both rules. Histories hold indices already, so no ids are mapped."""
    if cut is None:
        scores = np.asarray(recommender._scores(histories))
        if scores.shape[-1] != recommender.num_items_fitted:
            raise InputError(
                f"{type(recommender).__name__} gave {scores.shape[-1]} scores a user for "
                f"{recommender.num_items_fitted} items: is padding among them?"
            )
        return _ranks_by_rule(scores, targets, histories)
    items, scores = recommender._generate(histories, cut, False)
    return {
        "all": ranks_from_lists(items, targets, scores),
        "unseen": ranks_from_lists(items, targets, scores, histories),
    }
