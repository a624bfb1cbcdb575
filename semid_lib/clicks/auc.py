"""AUC over all impressions and by user."""

from __future__ import annotations

import numpy as np

from semid_lib.errors import InputError
from semid_lib.evaluation.ranks import refuse_nan


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
    refuse_nan(scores[:, None])
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
