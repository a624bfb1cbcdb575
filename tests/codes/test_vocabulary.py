"""The token rule, against tokens counted out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib.codes import Vocabulary
from semid_lib.errors import CapacityError, CodesError

level_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def test_a_worked_example():
    words = Vocabulary((3, 5, 2))
    assert words.first_token == (1, 4, 9) and words.offsets.tolist() == [0, 3, 8]
    assert (words.num_tokens, words.num_levels) == (11, 3)
    assert words.tokens([[2, 0, 1], [0, 4, 0]]).tolist() == [[3, 4, 10], [1, 8, 9]]
    assert words.tokens([2, 0]).tolist() == [3, 4]  # a prefix
    assert words.level_of([0, 1, 3, 4, 8, 9, 10, 11, -2]).tolist() == [-1, 0, 0, 1, 1, 2, 2, -1, -1]
    assert repr(words) == "Vocabulary(3 x 5 x 2: 11 tokens)"


@given(level_sizes)
@settings(max_examples=60, deadline=None)
def test_every_token_is_one_code_of_one_level(sizes):
    words = Vocabulary(sizes)
    counted = ["padding"]  # all tokens in order, counted out
    for level, size in enumerate(sizes):
        counted += [(level, code) for code in range(size)]
    assert words.num_tokens == len(counted)
    for token, meaning in enumerate(counted[1:], start=1):
        level, code = meaning
        assert words.level_of(token) == level
        prefix = [0] * level + [code]
        assert words.tokens(prefix)[-1] == token
        assert words.codes(words.tokens(prefix)).tolist() == prefix


def test_tokens_that_are_not_those_of_their_level():
    words = Vocabulary((3, 5))
    for tokens in ([1, 1], [4, 4], [0, 4], [1, 9], [[1, 4], [3, 3]], [1, 4, 5]):
        with pytest.raises(CodesError, match="is none of level"):
            words.codes(tokens)


def test_vocabularies_are_compared_by_their_levels():
    assert Vocabulary((3, 5)) == Vocabulary(np.array([3, 5])) != Vocabulary((5, 3))
    assert len({Vocabulary((3, 5)), Vocabulary([3, 5])}) == 1
    assert Vocabulary((3,)) != "3"


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((3, 0), CodesError, "not 2 numbers above 0"),
        ((2.0,), CodesError, "level_sizes must be integers"),
        ((), CodesError, "level_sizes must be"),
        ((2**31 - 2, 1), CapacityError, "largest vocabulary"),
    ],
)
def test_malformed_sizes(sizes, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(sizes)
