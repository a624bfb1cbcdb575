"""The synthetic catalogue holds what it says it holds."""

import numpy as np
import pytest

from semid_lib.data import describe, leave_one_out, synthetic_catalogue
from semid_lib.errors import InputError


@pytest.fixture(scope="module")
def made():
    return synthetic_catalogue(random_state=3)


def test_same_seed_same_data():
    one, _ = synthetic_catalogue(200, 100, random_state=1)
    two, _ = synthetic_catalogue(200, 100, random_state=1)
    other, _ = synthetic_catalogue(200, 100, random_state=2)
    assert one.sha256 == two.sha256 != other.sha256


def test_shape_and_fields(made):
    data, truth = made
    about = describe(data)
    assert (data.num_users, data.num_items) == (1000, 600) and data.ordered
    assert list(data.fields) == ["store", "category_1", "category_2", "category_3"]
    assert about["min_length"] >= 4 and 10 < about["mean_length"] < 13
    assert truth.category.shape == (600, 3) and truth.user_communities.shape == (1000, 6)
    for part in (truth.community, truth.store, truth.category):
        assert part.dtype == np.int64
    pairs = data.user * data.num_items + data.item
    assert len(np.unique(pairs)) == len(pairs), "no item twice"
    np.testing.assert_allclose(truth.user_communities.sum(axis=1), 1)
    np.testing.assert_allclose(np.bincount(truth.community, truth.popularity), 1)


def test_fields_are_the_planted_ones(made):
    data, truth = made
    planted = [truth.store, *truth.category.T]
    for column, codes in zip(planted, data.fields.values()):
        pairs = set(zip(column.tolist(), codes.tolist()))
        assert len(pairs) == len(set(column.tolist())) == len(set(codes.tolist()))


def test_category_tree_nests(made):
    category = made[1].category
    for level in (1, 2):
        parents = {}
        for above, below in category[:, level - 1 : level + 1].tolist():
            assert parents.setdefault(below, above) == above


def test_communities_cross_categories(made):
    _, truth = made
    for c in range(6):
        roots = np.unique(truth.category[truth.community == c, 0])
        assert len(roots) == 6, "six leaves of six different branches"
    shared = [len(np.unique(truth.community[truth.category[:, 0] == r])) for r in range(6)]
    assert min(shared) > 1, "and a branch serves several communities"


def test_users_stay_in_their_communities(made):
    data, truth = made
    assert (truth.user_communities[data.user, truth.community[data.item]] > 0).all()
    together = truth.community[data.item[1:]] == truth.community[data.item[:-1]]
    within = np.diff(data.user) == 0
    chance = (np.bincount(truth.community[data.item]) / len(data.item)) ** 2
    assert together[within].mean() > 2 * chance.sum()


def test_categories_follow_the_planted_cycle(made):
    """Inside a community the planted next leaf comes with probability 0.7 + 0.3 / 6."""
    data, truth = made
    before, after = data.item[:-1], data.item[1:]
    step = (np.diff(data.user) == 0) & (truth.community[before] == truth.community[after])
    before, after = before[step], after[step]
    follows = truth.next_category[truth.community[before], truth.category[before, 2]]
    assert (follows >= 0).all()
    assert (follows == truth.category[after, 2]).mean() == pytest.approx(0.75, abs=0.04)


def test_popularity_is_skewed_as_planted(made):
    data, truth = made
    counts = np.bincount(data.item, minlength=600)
    assert np.sort(counts)[-60:].sum() > 3 * counts.sum() / 10, "the top tenth takes over 30%"
    flat, _ = synthetic_catalogue(popularity_skew=0.0, random_state=3)
    even = np.bincount(flat.item, minlength=600)
    assert np.sort(even)[-60:].sum() < 0.65 * np.sort(counts)[-60:].sum()
    assert np.corrcoef(truth.popularity, counts)[0, 1] > 0.7


def test_stores_prefer_their_community(made):
    _, truth = made
    home = np.arange(24) % 6
    assert (home[truth.store] == truth.community).mean() == pytest.approx(0.7 + 0.3 / 6, abs=0.06)


def test_sequence_signal_can_be_turned_off():
    """Knowing the last item helps a count of adjacent pairs only where order was planted."""

    def hits(sequential):
        data, _ = synthetic_catalogue(120, 4000, sequential=sequential, random_state=0)
        split = leave_one_out(data)
        start, target = split.windows(1)
        counts = np.zeros((120, 120))
        np.add.at(counts, (split.items[start], split.items[target]), 1)
        last = np.array([h[-1] for h in split.histories("validation")])
        top = np.argsort(-counts[last], axis=1)[:, :10]
        return (top == split.targets["validation"][:, None]).any(axis=1).mean()

    assert hits(0.95) > 1.3 * hits(0.0)


def test_other_sizes():
    data, truth = synthetic_catalogue(
        30, 7, branching=(2, 1, 1), num_communities=2, categories_per_community=9, num_stores=1
    )
    assert data.num_users == 7 and len(truth.store) == 30
    assert np.unique(truth.category[:, 2]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_items": 5}, "5 items cannot fill 6 communities of 6"),
        ({"num_users": 0}, "at least 1"),
        ({"mean_length": 2}, "mean_length is 2"),
        ({"sequential": 1.5}, "must lie in 0..1"),
        ({"store_loyalty": -0.1}, "must lie in 0..1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        synthetic_catalogue(**options)
