"""Rank the held-out item of every user among all items, by both rules about seen items.

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

from semid_lib.compute.distributed import all_gather, rank, world_size
from semid_lib.data.preprocess import BUCKET_ENDS, BUCKETS
from semid_lib.errors import InputError
from semid_lib.evaluation.ranks import Ranks, ranks_by_rule, ranks_from_lists
from semid_lib.evaluation.uncertainty import bootstrap_interval

RULES = ("all", "unseen")


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


def evaluate(
    recommender, split, part: str, *, ks: Sequence[int] = (5, 10, 20), batch_size: int = 512,
    users=None, progress: bool | None = None,
) -> Evaluation:  # fmt: skip
    """Rank the held-out item of each user, by both rules in one pass.

    A recommender that scores every item is ranked over the whole catalogue. One that generates is
    asked once for its `num_beams` (else 50) best items; rule "unseen" filters that list, and a
    target outside it is not ranked. Processes that work together (`compute.distributed`) rank a
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
    ours, theirs = recommender.item_ids_, split.data.item_ids
    if ours is not None and theirs is not None and (ours != theirs).any():
        at = np.argmax(ours != theirs)
        raise InputError(
            f"item {at} is {str(ours[at])!r} to the recommender and {str(theirs[at])!r} in the "
            "split: was it fitted on another dataset?"
        )
    ks = tuple(ks)
    cut = None
    if not recommender.scores_all_items:
        cut = min(recommender.num_beams or 50, num_items)
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
    mine = np.array_split(positions, world_size())[rank()]
    steps = range(0, len(mine), batch_size)
    for start in tqdm(steps, desc=f"evaluating on {part}", disable=not show):
        rows = mine[start : start + batch_size]
        batch = [histories[row] for row in rows]
        for rule, ranks in _rank_batch(recommender, batch, split.targets[part][rows], cut).items():
            found[rule].append(ranks)
    everyone = all_gather(found)
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
        scores = np.asarray(recommender.scores(histories))
        if scores.shape[-1] != recommender.num_items_fitted:
            raise InputError(
                f"{type(recommender).__name__} gave {scores.shape[-1]} scores a user for "
                f"{recommender.num_items_fitted} items: is padding among them?"
            )
        return ranks_by_rule(scores, targets, histories)
    items, scores = recommender.generate(histories, cut, False)
    return {
        "all": ranks_from_lists(items, targets, scores),
        "unseen": ranks_from_lists(items, targets, scores, histories),
    }
