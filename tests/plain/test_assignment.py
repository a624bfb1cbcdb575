"""The balanced assignment and k-means against hand-worked cases and all labellings."""

from itertools import product

import numpy as np
import pytest

from semid_lib.plain import balanced_assignment, balanced_kmeans


def least_cost(cost):
    """The least cost of all labellings with balanced sizes."""
    n, k = cost.shape
    allowed = {n // k, -(-n // k)}
    costs = []
    for labels in product(range(k), repeat=n):
        sizes = np.bincount(labels, minlength=k)
        if set(sizes) <= allowed:
            costs.append(cost[np.arange(n), labels].sum())
    return min(costs)


def test_the_larger_cluster_is_the_one_with_more_near_points():
    points, centres = np.array([0.0, 0.1, 0.2, 5.0, 5.1]), np.array([5.05, 0.1])
    cost = (points[:, None] - centres) ** 2
    assert balanced_assignment(cost).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("n, k", [(1, 1), (4, 2), (5, 3), (6, 4), (7, 3)])
def test_no_balanced_labelling_costs_less(n, k):
    cost = np.random.default_rng(n).normal(size=(n, k))
    labels = balanced_assignment(cost)
    sizes = np.bincount(labels, minlength=k)
    assert sizes.max() - sizes.min() <= 1
    assert cost[np.arange(n), labels].sum() == pytest.approx(least_cost(cost))


def test_two_lloyd_steps_by_hand():
    X = np.array([[0.0], [1.0], [2.0], [10.0]])
    labels, means = balanced_kmeans(X, np.array([[0.0], [0.5]]), steps=2)
    assert labels.tolist() == [0, 0, 1, 1] and means.tolist() == [[0.5], [6.0]]
