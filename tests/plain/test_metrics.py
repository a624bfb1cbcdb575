"""SC, PD and expected ranks, by hand."""

import numpy as np
import pytest

from semid_lib.plain import cosine, expected_metrics, preference_discrimination, semantic_cohesion


def test_cosine():
    assert cosine(np.array([3.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.5**0.5)


def test_cohesion_of_three_ids():
    # ID (0,): cosines 1, 0, 0, mean 1/3. ID (1,): -1. ID (2,) has one item and does not count.
    Z = np.array([[1, 0], [2, 0], [0, 3], [1, 1], [-1, -1], [5, 5]])
    assert semantic_cohesion(Z, [[0], [0], [0], [1], [1], [2]]) == pytest.approx(-1 / 3)
    assert semantic_cohesion(Z, [0, 0, 0, 1, 1, 2]) == pytest.approx(-1 / 3)
    assert np.isnan(semantic_cohesion(Z, np.arange(6)))


def test_discrimination_of_known_angles():
    assert preference_discrimination(np.eye(4)) == pytest.approx(-2)
    assert preference_discrimination(np.array([[1.0, 2.0], [2.0, 4.0]])) == pytest.approx(0)
    three = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])  # cosines -1, 0, 0
    value = np.log((np.exp(-4) + 2 * np.exp(-2)) / 3)
    assert preference_discrimination(three) == pytest.approx(value)
    assert preference_discrimination(np.eye(2), t=0.5) == pytest.approx(-0.5)


def test_two_tied_items_share_the_first_two_places():
    found = expected_metrics([1.0, 1.0, 0.0], 0, [], k=1)
    assert found.tolist() == [0.5, 0.5, 0.5]
    found = expected_metrics([1.0, 1.0, 0.0], 0, [], k=2)
    assert found == pytest.approx([1, (1 + 1 / np.log2(3)) / 2, 0.75])
    assert expected_metrics([1.0, 1.0, 0.0], 0, [1], k=1).tolist() == [1, 1, 1]
    assert expected_metrics([-np.inf, 1.0, 0.0], 0, [], k=3).tolist() == [0, 0, 0]
