"""GAOQ's numbering of the children of one parent, by trying every way to number them."""

from __future__ import annotations

import itertools

import numpy as np

from semid_lib.plain.metrics import cosine


def best_matching(W) -> tuple[int, ...]:
    """Find the injection pi of rows into columns with the largest sum_j W_j,pi(j).

    ReSID, Algorithm 1, line 11, by trying all of them.

    Args: W `[m, g]`, m <= g, both small. Returns: (pi(0), ..., pi(m-1)), the first of the best.
    """
    injections = itertools.permutations(range(W.shape[1]), W.shape[0])
    return max(injections, key=lambda pi: sum(W[j, k] for j, k in enumerate(pi)))


def aligned_numbers(children, parent, anchors) -> tuple[int, ...]:
    """Number the children of a parent by the anchors that all parents share.

    ReSID, Algorithm 1, lines 5, 10 and 11: residuals mu_j - mu, their cosines to the anchors, and
    the matching of the largest sum.

    Args: children `[m, d]`, the centres mu_j (items at the last level); parent `[d]`, mu; anchors
    `[g, d]`, m <= g. Returns: the m numbers.
    """
    residuals = [child - parent for child in children]
    W = np.array([[cosine(residual, anchor) for anchor in anchors] for residual in residuals])
    return best_matching(W)
