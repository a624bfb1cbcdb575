"""Searches over a tree of three IDs whose probabilities are written down."""

import numpy as np
import pytest

from semid_lib.plain import beam_search, exhaustive_search, free_beam_search

CODES = np.array([[0, 0], [0, 1], [1, 0]])
CHANCE = {(0,): 0.6, (1,): 0.4, (0, 0): 0.3, (0, 1): 0.27, (0, 2): 0.03, (1, 0): 0.36, (1, 1): 0.03,
          (1, 2): 0.01}  # fmt: skip


def score(prefixes):
    return np.log([CHANCE[tuple(prefix)] for prefix in prefixes.tolist()])


def test_exhaustive_search_finds_the_best():
    ids, values = exhaustive_search(score, np.vstack([CODES, CODES[:1]]))  # one ID twice
    assert ids.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert np.exp(values) == pytest.approx([0.36, 0.3, 0.27])


def test_a_beam_of_one_takes_the_likelier_first_code_and_misses_the_best():
    ids, values = beam_search(score, CODES, beams=1)
    assert ids.tolist() == [[0, 0]] and np.exp(values) == pytest.approx([0.3])


def test_a_beam_as_wide_as_the_tree_is_exhaustive():
    ids, values = beam_search(score, CODES, beams=3)
    assert ids.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert np.exp(values) == pytest.approx([0.36, 0.3, 0.27])


def test_a_free_search_keeps_tuples_without_an_item():
    ids, values = free_beam_search(score, (2, 3), beams=4)
    assert ids.tolist() == [[1, 0], [0, 0], [0, 1], [0, 2]]  # (0, 2) ties with (1, 1): the first
    assert np.exp(values) == pytest.approx([0.36, 0.3, 0.27, 0.03])
