"""Random codes: all different, evenly drawn, blind to the vectors."""

import numpy as np
import pytest

from semid_lib.errors import CapacityError, InputError, NotFittedError
from semid_lib.quantizers import RandomCodes


def rows(n=2000, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_digits_are_even_and_independent_and_no_two_rows_are_alike():
    model = RandomCodes(num_levels=4, num_codes=8).fit(rows())
    codes = model.codes_
    assert codes.shape == (2000, 4) and model.level_sizes_ == (8,) * 4
    assert len(np.unique(codes, axis=0)) == 2000
    for level in range(4):
        assert abs(np.bincount(codes[:, level], minlength=8) - 250).max() < 5 * 250**0.5
    pairs = np.bincount(codes[:, 0] * 8 + codes[:, 3], minlength=64)
    assert abs(pairs - 2000 / 64).max() < 5 * (2000 / 64) ** 0.5


def test_every_tuple_is_given_out_where_there_are_as_many_rows():
    codes = RandomCodes(num_levels=3, num_codes=5).fit_transform(rows(125))
    assert sorted(map(tuple, codes.tolist())) == sorted(np.ndindex(5, 5, 5))


def test_a_tree_is_as_balanced_as_gaoqs():
    model = RandomCodes(branching=(4, 5, "auto")).fit(rows(1003))
    assert model.level_sizes_ == (4, 5, 51)
    first = np.bincount(model.codes_[:, 0])
    second = np.bincount(model.codes_[:, 0] * 5 + model.codes_[:, 1])
    assert first.max() - first.min() <= 1 and set(second) == {50, 51}
    assert len(np.unique(model.codes_, axis=0)) == 1003
    neighbours = model.codes_[1:, 0] == model.codes_[:-1, 0]  # as often as chance has it
    assert abs(neighbours.mean() - 0.25) < 0.06


@pytest.mark.parametrize("settings", [dict(), dict(branching=(4, 5, "auto"))])
def test_the_seed_decides_and_the_vectors_do_not(settings):
    one, same = (RandomCodes(**settings, random_state=3).fit(rows(seed=s)) for s in (0, 1))
    assert (one.codes_ == same.codes_).all()
    other = RandomCodes(**settings, random_state=4).fit(rows())
    assert (one.codes_ != other.codes_).mean() > 0.5


def test_fitted_rows_are_known_and_new_ones_refused(tmp_path):
    X = rows(50)
    model = RandomCodes().fit(X)
    with pytest.raises(NotFittedError):
        RandomCodes().transform(X)
    again = RandomCodes.load(model.save(tmp_path / "codes.safetensors"))
    for known in (model, again):
        assert (known.transform(X[::-1]) == model.codes_[::-1]).all()
        with pytest.raises(InputError, match="row 0 of X was not fitted"):
            known.transform(X[:1] + 1)
        np.testing.assert_allclose(known.inverse_transform(model.codes_[:3, :1]), [X.mean(0)] * 3)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        (dict(num_levels=2, num_codes=7), InputError, "n_samples = 50 is more than the 7.2 = 49"),
        (dict(num_codes=0), InputError, "num_codes is 0"),
        (dict(branching=(2, 3, 8)), CapacityError, "cannot hold 50 items"),
        (dict(random_state=-1), InputError, "random_state is -1"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        RandomCodes(**settings).fit(rows(50))
