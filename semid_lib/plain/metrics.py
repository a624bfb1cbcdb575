"""SC, PD and the expected ranks of ties, over pairs and over orders."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np


def cosine(a, b) -> float:
    """cos(a, b) = a . b / (||a|| ||b||) of two vectors `[d]`."""
    return sum(a * b) / (np.sqrt(sum(a * a)) * np.sqrt(sum(b * b)))


def semantic_cohesion(vectors, codes) -> float:
    """SC: the mean cosine over the pairs of items that share all codes, mean over such IDs.

    R3-VAE, Eq. 8 (one ID) and 9 (the mean over IDs). IDs of one item do not count.

    Args: vectors `[N, d]`, none 0; codes `[N, L]`, or `[N]`. Returns: NaN if no two items share.
    """
    members = {}
    for vector, row in zip(vectors, codes):
        members.setdefault(tuple(np.atleast_1d(row)), []).append(vector)
    values = []
    for group in members.values():
        cosines = [cosine(a, b) for a, b in combinations(group, 2)]
        if cosines:
            values.append(2 / (len(group) ** 2 - len(group)) * sum(cosines))
    return float(np.mean(values)) if values else float("nan")


def preference_discrimination(codewords, t: float = 2.0) -> float:
    """PD: log of the mean over pairs of codewords of exp(-t (1 - cos)); low if they are far apart.

    R3-VAE, Eq. 10, for the codewords `[M, d]` of one level; several levels are averaged.
    """
    pairs = combinations(codewords, 2)
    return float(np.log(np.mean([np.exp(-t * (1 - cosine(a, b))) for a, b in pairs])))


def expected_metrics(scores, target: int, history, k: int) -> np.ndarray:
    """Recall, NDCG and reciprocal rank at k, averaged over every order of the items.

    Each order settles the ties in another way, so the mean is the expectation over ties broken at
    random. Items of the history and those scored -inf are not ranked.

    Args: scores `[N]`, N <= 6 or so; history: item indices. Returns: `[3]` float64.
    """
    total, orders = np.zeros(3), 0
    for order in permutations(range(len(scores))):
        ranking = sorted(order, key=lambda item: -scores[item])  # stable: `order` settles the ties
        ranking = [i for i in ranking if i not in history and scores[i] != -np.inf]
        orders += 1
        if target in ranking and ranking.index(target) < k:
            rank = ranking.index(target) + 1
            total += 1, 1 / np.log2(rank + 1), 1 / rank
    return total / orders
