"""Bad input of RPG and ACERec: a typed error in words, or the expected rank, for both alike."""

import numpy as np
import pytest
import torch

from semid_lib.codes import SemanticIds
from semid_lib.errors import CheckpointError, CodesError, InputError, UnknownItemError
from semid_lib.evaluation import evaluate
from semid_lib.recommenders import RPG, ACERec
from tests.recommenders.parallel import (
    CODES,
    DIGITS,
    ITEMS,
    TINY,
    make_sids,
    make_split,
    shaken,
)

BOTH = pytest.mark.parametrize("kind", [RPG, ACERec])
TWINS = (4, 20)  # items of the same codes, see `make_sids`


@pytest.fixture(scope="module")
def split():
    return make_split()


def outside(codes):
    codes[3, 2] = CODES
    return codes


def without_codes(codes):
    codes[7] = -1
    return codes


def unknown_codes(codes):
    return np.where(np.arange(ITEMS)[:, None] == 7, np.nan, codes)


@BOTH
@pytest.mark.parametrize(
    "change, message",
    [
        (outside, "item 3 has code 4 at level 2, outside 0..3"),
        (without_codes, "item 7 has code -1"),
        (unknown_codes, "must be integers, not float64"),
        (lambda codes: codes[:-1], "29 items for a catalogue of 30: every item needs codes"),
        (lambda codes: np.concatenate([codes, codes[:2]]), "32 items for a catalogue of 30"),
    ],
)
def test_codes_outside_their_codebook_and_items_without_codes(kind, split, change, message):
    with pytest.raises(CodesError, match=message):
        codes = change(make_sids().codes.copy())
        kind(**TINY).fit(split, SemanticIds(codes, [CODES] * DIGITS))


@BOTH
def test_digits_of_different_sizes_and_no_codes(kind, split):
    sizes = [CODES] * (DIGITS - 1) + [CODES + 1]
    with pytest.raises(CodesError, match=r"\[4, 5\] codes, but must have as many"):
        kind(**TINY).fit(split, SemanticIds(make_sids().codes, sizes))
    with pytest.raises(InputError, match=f"{kind.__name__}.fit needs semantic IDs"):
        kind(**TINY).fit(split)


@pytest.mark.parametrize("merger", ["atm", "mlp", "mean", "conv"])
@pytest.mark.parametrize("ratio", [3, 5, DIGITS + 1])
def test_digits_that_are_no_multiple_of_the_ratio(split, merger, ratio):
    message = f"8 digits cannot be merged {ratio} by {ratio}: ratio must divide"
    with pytest.raises(InputError, match=message):
        ACERec(**TINY, merger=merger, ratio=ratio).fit(split, make_sids())


@BOTH
def test_a_history_longer_than_the_limit_is_cut_to_its_newest_items(kind, split):
    model = shaken(kind, split)
    newest = [1, 2, 3, 4, 5, 6]
    longer = [9, 9, 9, *newest]
    np.testing.assert_array_equal(model.score_items([longer]), model.score_items([newest]))
    assert (model.score_items([newest]) != model.score_items([newest[1:]])).any()
    vectors = model.network_.vectors(torch.arange(7))[0][None]
    with pytest.raises(InputError, match="7 items, but the network was made for 6"):
        model.network_(vectors, torch.ones(1, 7, dtype=bool))


@BOTH
def test_twins_have_the_expected_rank_and_are_listed_once_each(kind, split):
    """The target's twin stands above it in half of all orders, so between two ranks it is both."""
    model = shaken(kind, split)
    scores = model.score_items([[3, 8]])[0]
    assert scores[TWINS[0]] == scores[TWINS[1]]
    listed = model.recommend([[3, 8]], ITEMS)[0]
    assert sorted(listed) == list(range(ITEMS))
    found = evaluate(model, split, "test")
    rows = np.flatnonzero(np.isin(found.targets, TWINS))
    assert len(rows)
    for row in rows:
        scores = model.score_items([split.histories("test")[row]])[0]
        rank = 1 + int((scores > scores[TWINS[0]]).sum())  # the better of the two that are possible
        for k in (5, 10, 20):
            expected = ((rank <= k) + (rank + 1 <= k)) / 2
            assert found.values(f"recall@{k}")[row] == expected
        assert found.values("mrr")[row] == pytest.approx((1 / rank + 1 / (rank + 1)) / 2)


def test_graph_decoding_lists_twins_once_each(split):
    model = shaken(RPG, split, decoding="graph", edges=ITEMS, beams=10, steps=2)
    for row in model.recommend(split.histories("test"), 10):
        assert len(set(row)) == 10


@BOTH
def test_a_catalogue_changed_after_training(kind, split, tmp_path):
    """Items that came later, left, or stand elsewhere; a checkpoint of other data or codes."""
    model = kind.load(shaken(kind, split).save(tmp_path / "model.safetensors"))
    for call in (model.recommend, model.score_items):
        with pytest.raises(UnknownItemError, match=r"item 30 of history 1 is outside.*0..29"):
            call([[1, 2], [5, ITEMS]])
    for size in (ITEMS - 1, ITEMS + 1):
        other = make_split(5)
        other.data.__dict__["num_items"] = size
        with pytest.raises(InputError, match=f"knows 30 items, the split has {size}"):
            evaluate(model, other, "test")
    path = tmp_path / "checkpoint.safetensors"
    kind(**TINY).fit(split, make_sids(), checkpoint=path)
    for data, sids in ((make_split(seed=5), make_sids()), (split, make_sids(2))):
        with pytest.raises(CheckpointError, match="another model, dataset or setting"):
            kind(**TINY).fit(data, sids, checkpoint=path)


@BOTH
def test_the_same_items_in_another_order_are_another_catalogue(kind):
    ids = np.array([f"item {i}" for i in range(ITEMS)])
    split = make_split(item_ids=ids)
    model = shaken(kind, split)
    evaluate(model, split, "test")  # its own
    other = make_split(item_ids=ids[::-1])
    with pytest.raises(InputError, match="item 0 is 'item 0' to the recommender and 'item 29' in"):
        evaluate(model, other, "test")


@BOTH
def test_codes_of_another_catalogue_of_as_many_items_are_refused(kind):
    ids = np.array([f"item {i}" for i in range(ITEMS)])
    own, other = make_split(item_ids=ids), make_split(item_ids=ids[::-1])
    codes = SemanticIds(make_sids().codes, [CODES] * DIGITS, catalogue=own.data.catalogue_sha256)
    kind(**TINY).fit(own, codes)
    names = f"{own.data.catalogue_sha256[:12]} .*{other.data.catalogue_sha256[:12]}"
    with pytest.raises(CodesError, match=names):
        kind(**TINY).fit(other, codes)


@BOTH
def test_renewed_codes_are_those_that_are_read_and_scored(kind, split):
    """Items that change names and codes together have the scores that they had, renamed."""
    model = shaken(kind, split)
    new = np.random.default_rng(5).permutation(ITEMS)  # item i is now called new[i]
    codes = np.empty_like(make_sids().codes)
    codes[new] = make_sids().codes
    histories = [[1, 2, 3], [4], [9, 20]]
    before = model.score_items(histories)
    assert model.renew(SemanticIds(codes, [CODES] * DIGITS)) is model
    renamed = [new[history] for history in histories]
    np.testing.assert_allclose(model.score_items(renamed)[:, new], before, atol=1e-12)
    best = new[before.argmax(1)]
    np.testing.assert_array_equal(model.recommend(renamed, 1)[:, 0], best)
    with pytest.raises(CodesError, match="renewed codes have a Vocabulary"):
        model.renew(SemanticIds(codes, [CODES + 1] * DIGITS))


def test_a_graph_is_made_anew_for_renewed_codes(split):
    model = shaken(RPG, split, decoding="graph", edges=5)
    graph = model.neighbours().numpy()
    new = np.random.default_rng(5).permutation(ITEMS)
    codes = np.empty_like(make_sids().codes)
    codes[new] = make_sids().codes
    later = model.renew(SemanticIds(codes, [CODES] * DIGITS)).neighbours().numpy()
    alone = [item for item in range(ITEMS) if item not in TWINS]  # twins may change places
    for item in alone:
        if not set(TWINS) & set(graph[item]):
            assert later[new[item]].tolist() == new[graph[item]].tolist()
