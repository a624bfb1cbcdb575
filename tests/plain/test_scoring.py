"""Holistic scores, by hand."""

import numpy as np

from semid_lib.plain import best_items, holistic_scores


def test_a_score_is_the_sum_of_its_digits():
    log_probs = np.array([[[-1.0, -2.0], [-4.0, -8.0]]])
    scores = holistic_scores(log_probs, [[0, 0], [0, 1], [1, 0]])
    assert scores.tolist() == [[-5.0, -9.0, -6.0]]


def test_of_equal_scores_the_first_item_stands_first():
    assert best_items(np.array([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]
