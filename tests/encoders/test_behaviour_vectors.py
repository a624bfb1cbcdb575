"""ALS against the normal equations, planted communities, and a changed test part."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from semid_lib.data import Interactions, leave_one_out
from semid_lib.data.synthetic import synthetic_catalogue
from semid_lib.encoders import ALS
from semid_lib.errors import InputError, MissingPackageError, NotFittedError


@pytest.fixture(scope="module")
def planted():
    data, truth = synthetic_catalogue(num_items=120, num_users=300, random_state=1)
    return leave_one_out(data), truth


def test_vectors_solve_their_normal_equations(planted):
    """At rest, each side is the weighted ridge regression on the other."""
    split, _ = planted
    pairs = np.zeros((split.data.num_users, split.num_items))
    for user, items in enumerate(split.train_sequences()):
        pairs[user, items] = 1
    V = ALS(dim=4, alpha=5.0, regularization=0.5, iterations=300).fit(split).embed()
    weight = 1 + 4.0 * pairs

    def solve(other, pairs, weight):
        ridge = 0.5 * np.eye(4)
        return np.array(
            [
                np.linalg.solve((other * w[:, None]).T @ other + ridge, other.T @ (w * p))
                for p, w in zip(pairs, weight)
            ]
        )

    users = solve(V.astype(float), pairs, weight)
    np.testing.assert_allclose(solve(users, pairs.T, weight.T), V, atol=5e-3)


@pytest.mark.trained
def test_items_of_a_planted_community_lie_together(planted):
    split, truth = planted
    vectors = ALS(dim=16).fit(split).embed()
    seen = np.flatnonzero(split.train_counts() >= 5)
    unit = vectors[seen] / np.linalg.norm(vectors[seen], axis=1, keepdims=True)
    same = truth.community[seen][:, None] == truth.community[seen]
    np.fill_diagonal(same, False)
    cosine = unit @ unit.T
    assert cosine[same].mean() > 0.3 + cosine[~same & ~np.eye(len(seen), dtype=bool)].mean()
    assert vectors.dtype == np.float32 and vectors.shape == (120, 16)


def test_normalised_vectors_have_length_one_and_the_same_directions(planted):
    split, _ = planted
    free, unit = (ALS(dim=4, normalize=n).fit(split).embed() for n in (False, True))
    length = np.linalg.norm(free, axis=1, keepdims=True)
    assert (split.train_counts() > 0).all() and length.max() < 0.9
    np.testing.assert_allclose(unit * length, free, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_held_out_items_change_nothing(planted):
    split, _ = planted
    data = split.data
    items = data.item.copy()
    last = data.indptr[1:] - 1
    items[last], items[last - 1] = 0, 1  # other validation and test items
    other = leave_one_out(
        Interactions(data.user, items, data.num_users, data.num_items, items=data.items)
    )
    assert (ALS(dim=4).fit(other).embed() == ALS(dim=4).fit(split).embed()).all()


def test_an_item_without_train_interactions_has_zeros(planted):
    split, _ = planted
    data = replace(split.data, num_items=split.num_items + 1, fields={}, items=None)
    vectors = ALS(dim=4).fit(leave_one_out(data)).embed()
    assert (vectors[-1] == 0).all()


@pytest.mark.parametrize(
    "setting", [{"dim": 0}, {"alpha": -1.0}, {"iterations": True}, {"regularization": np.nan}]
)
def test_bad_settings_are_named(planted, setting):
    with pytest.raises(InputError, match=f"{next(iter(setting))} is"):
        ALS(**setting).fit(planted[0])


def test_missing_package_and_missing_fit(planted, monkeypatch):
    with pytest.raises(NotFittedError):
        ALS().embed()
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(MissingPackageError, match="pip install implicit$"):
        ALS().fit(planted[0])


def test_vectors_are_the_same_with_one_thread_and_two(planted):
    """And hold no more digits than other processors would find, too."""
    split, _ = planted
    fitted = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            fitted.append(ALS(dim=8).fit(split).embed())
    assert (fitted[0] == fitted[1]).all()
    assert (fitted[0] == fitted[0].astype(float).round(6).astype(np.float32)).all()
