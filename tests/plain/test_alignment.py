"""GAOQ's numbering of one parent's children, by hand."""

import numpy as np

from semid_lib.plain import aligned_numbers, best_matching


def test_the_best_sum_is_not_the_greedy_one():
    W = np.array([[0.9, 0.8, 0.0], [0.9, 0.1, 0.0]])
    assert best_matching(W) == (1, 0)  # 0.8 + 0.9; each row's own best would collide


def test_children_are_numbered_by_the_direction_they_lie_in():
    anchors = np.eye(3)
    parent = np.array([5.0, 5.0, 5.0])
    children = parent + np.array([[0.0, 0.1, 2.0], [4.0, 0.0, 1.0]])
    assert aligned_numbers(children, parent, anchors) == (2, 0)
