"""The click model against the paper's formulas in NumPy, and cold items that only codes reach."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid_lib.clicks import DIN, clicks, uauc
from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions
from semid_lib.errors import (
    CheckpointError,
    CodesError,
    InputError,
    NotFittedError,
    UnknownItemError,
)
from semid_lib.recommenders import SASRec
from semid_lib.recommenders.base import Recommender

TINY = dict(dim=4, attention=3, hidden=(5, 3), batch_size=64, epochs=2, precision="float64")


def make_data(num_users=12, num_items=9, rows=10, seed=0):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), rows)
    item = rng.integers(num_items, size=len(user))
    time = np.cumsum(rng.integers(0, 2, size=len(user)))  # half of the rows tie
    rating = rng.integers(1, 6, size=len(user)).astype(np.float32)
    return Interactions(user, item, num_users, num_items, timestamp=time, rating=rating)


@pytest.fixture(scope="module")
def shown():
    return clicks(make_data(), max_history=4)


@pytest.fixture(scope="module")
def sids():
    return SemanticIds(np.random.default_rng(1).integers(3, size=(9, 3)), (3, 3, 3))


def shaken(shown, sids=None, **settings):
    """A fitted model with large random weights."""
    model = DIN(**{**TINY, **settings}).fit(shown, sids)
    torch.manual_seed(1)
    for parameter in model.network_.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


# --- the model


def by_hand(model, vectors, shown, row):
    """The docstring's formulas, one history item at a time; `vectors` [N, D]."""
    w = {name: t.numpy() for name, t in model.network_.state_dict().items()}
    q, interest = vectors[shown.data.item[row]], 0.0
    for item in shown.clicked[shown.start[row] : shown.end[row]]:
        k = vectors[item]
        inner = w["inner.weight"] @ np.concatenate([q, k, q - k, q * k]) + w["inner.bias"]
        a = w["outer.weight"][0] @ (1 / (1 + np.exp(-inner))) + w["outer.bias"][0]
        interest = interest + a * k
    interest = interest * np.ones(len(q))
    x = np.concatenate([interest, q, interest * q, w["user"][shown.data.user[row]]])
    for layer in (0, 2):
        x = w[f"head.{layer}.weight"] @ x + w[f"head.{layer}.bias"]
        x = np.where(x > 0, x, w[f"head.{layer + 1}.weight"] * x)
    return 1 / (1 + np.exp(-(w["head.4.weight"] @ x + w["head.4.bias"])[0]))


def vectors_by_hand(model, sids, form):
    """Look every code, or prefix, up in the table; prefixes are numbered in sorted order."""
    table, rows = model.network_.table.detach().numpy(), []
    codes = [tuple(c) for c in sids.codes.tolist()]
    if form == "sum":
        return np.array([sum(table[3 * level + c] for level, c in enumerate(row)) for row in codes])
    prefixes = [sorted({c[: n + 1] for c in codes}) for n in range(3)]
    first = np.cumsum([0, *map(len, prefixes)])
    assert len(table) == first[-1]
    for c in codes:
        rows.append(sum(table[first[n] + prefixes[n].index(c[: n + 1])] for n in range(3)))
    return np.array(rows)


@pytest.mark.parametrize("form", ["item", "sum", "prefix"])
def test_probabilities_are_those_of_the_formulas(shown, sids, form):
    if form == "item":
        model = shaken(shown)
        vectors = model.network_.table.detach().numpy()
    else:
        model = shaken(shown, sids, code_form=form)
        vectors = vectors_by_hand(model, sids, form)
    for part in ("train", "test"):
        wanted = [by_hand(model, vectors, shown, row) for row in shown.rows(part)]
        np.testing.assert_allclose(model.predict(shown, part), wanted, rtol=1e-9)
    assert np.ptp(model.predict(shown)) > 0.1


def test_loss_is_binary_cross_entropy(shown):
    """One epoch without learning: the history's mean loss is that of the probabilities."""
    model = DIN(**{**TINY, "epochs": 1, "learning_rate": 0.0}).fit(shown)
    p, y = model.predict(shown, "train"), shown.label[shown.rows("train")]
    wanted = -np.log(np.where(y, p, 1 - p)).mean()
    np.testing.assert_allclose(model.history_.epochs[0]["loss"], wanted, rtol=1e-6)


def test_batch_mates_do_not_matter(shown):
    model, rows = shaken(shown), shown.rows("test")
    alone = [model.predict(shown, rows[[n]])[0] for n in range(len(rows))]
    np.testing.assert_allclose(model.predict(shown, rows), alone)


def test_no_label_after_training_enters_but_in_the_choice_of_the_epoch(shown):
    rating = shown.data.rating.copy()
    rating[shown.rows("test")] = 6 - rating[shown.rows("test")]
    other = clicks(replace(shown.data, rating=rating), max_history=4)
    assert (other.label != shown.label).any()
    a, b = (DIN(**TINY).fit(data) for data in (shown, other))
    np.testing.assert_array_equal(a.predict(shown), b.predict(other))


def planted(num_users=120, num_groups=6, seed=0):
    """Users like one group of items; a third of the items is first shown in the test part."""
    rng = np.random.default_rng(seed)
    group, cold = np.arange(60) % num_groups, np.arange(60) >= 40
    taste = rng.integers(num_groups, size=num_users)

    def draw(user, liked, new):
        right = (group == taste[user]) == liked
        return rng.choice(np.flatnonzero(right & (cold == new)))

    shape = [(n % 2 == 0, n >= 18) for n in range(20)]  # the last two rows are the test part
    item = np.array([draw(user, *what) for user in range(num_users) for what in shape])
    user = np.repeat(np.arange(num_users), 20)
    rating = np.where(group[item] == taste[user], 5, 2).astype(np.float32)
    data = Interactions(user, item, num_users, 60, rating=rating)
    codes = np.stack([group, rng.permutation(60) % 10], axis=1)
    return clicks(data, shares=(9, 0, 1)), SemanticIds(codes), np.flatnonzero(cold)


@pytest.mark.trained
def test_codes_reach_items_that_training_never_showed():
    shown, sids, cold = planted()
    rows = shown.rows("test")
    assert np.isin(shown.data.item[rows], cold).all() and not shown.train_counts()[cold].any()
    settings = dict(dim=8, batch_size=64, epochs=12, learning_rate=0.01)
    found = {}
    for name, codes, form in (
        ("item", None, "sum"),
        ("sum", sids, "sum"),
        ("prefix", sids, "prefix"),
    ):
        model = DIN(**settings, code_form=form).fit(shown, codes)
        assert "uauc" not in model.history_.epochs[0]  # there is nothing to validate on
        found[name] = uauc(model.predict(shown), shown.label[rows], shown.data.user[rows])
    assert found["sum"] > 0.95 and found["prefix"] > 0.95
    assert found["item"] < 0.7


def test_encoders_can_learn_from_the_training_clicks(shown):
    split = shown.train_split()
    train = shown.rows("train")
    assert split.items.tolist() == shown.data.item[train[shown.label[train]]].tolist()
    model = SASRec(dim=4, num_heads=2, ffn_dim=4, epochs=1).fit(split)
    assert model.embed().shape == (9, 4)


# --- files, limits, bad input


def test_saved_and_loaded(shown, sids, tmp_path):
    for codes in (None, sids):
        model = shaken(shown, codes, code_form="prefix")
        loaded = DIN.load(model.save(tmp_path / "din"))
        np.testing.assert_array_equal(model.predict(shown), loaded.predict(shown))
        assert (loaded.dim, loaded.code_form) == (4, "prefix")
    with pytest.raises(CheckpointError, match="holds a 'DIN'"):
        SASRec.load(tmp_path / "din")


def test_a_checkpoint_of_other_codes_is_refused(shown, sids, tmp_path):
    DIN(**TINY).fit(shown, sids, checkpoint=tmp_path / "c")
    other = SemanticIds(sids.codes[::-1], sids.level_sizes)
    with pytest.raises(CheckpointError, match="another model, dataset or setting"):
        DIN(**TINY).fit(shown, other, checkpoint=tmp_path / "c")


def test_without_user_ids_users_with_equal_histories_are_equal(shown):
    model = DIN(**TINY, user_ids=False).fit(shown)
    assert not model.network_.user.any()
    rows = np.flatnonzero(shown.end == shown.start)
    same = rows[shown.data.item[rows] == shown.data.item[rows[0]]]
    assert len(np.unique(shown.data.user[same])) > 1
    assert np.ptp(model.predict(shown, same)) == 0


def test_bad_input(shown, sids):
    with pytest.raises(CodesError, match="codes of 8 items for a catalogue of 9"):
        DIN(**TINY).fit(shown, SemanticIds(sids.codes[:8]))
    with pytest.raises(InputError, match="code_form is 'mean'"):
        DIN(**TINY, code_form="mean").fit(shown, sids)
    with pytest.raises(InputError, match="dim is 0"):
        DIN(**{**TINY, "dim": 0}).fit(shown)
    with pytest.raises(InputError, match="all have one label"):
        DIN(**TINY).fit(clicks(shown.data, threshold=6))
    with pytest.raises(NotFittedError):
        DIN(**TINY).predict(shown)
    with pytest.raises(InputError, match="in epoch 1"):
        DIN(**{**TINY, "learning_rate": 1e300}).fit(shown)
    model = shaken(shown)
    with pytest.raises(UnknownItemError, match="10 items and 12 users"):
        model.predict(clicks(make_data(num_items=10)))
    assert not isinstance(model, Recommender) and not hasattr(model, "recommend")
