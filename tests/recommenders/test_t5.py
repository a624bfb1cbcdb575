"""T5Recommender: planted structure, analytic counts, ties, saving, resumption, refusals."""

import copy

import numpy as np
import pytest
import torch

from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import (
    CheckpointError,
    CodesError,
    EmptyHistoryError,
    InputError,
    NotFittedError,
    UnknownItemError,
)
from semid_lib.evaluation import evaluate
from semid_lib.networks import T5, distance_buckets
from semid_lib.recommenders import T5Recommender
from semid_lib.training import TrainingPaused

SMALL = dict(
    dim=32, num_layers=1, num_heads=2, head_dim=16, ffn_dim=64, dropout=0.0, batch_size=64,
    num_beams=10, max_history=3, patience=None,
)  # fmt: skip
ITEMS = 24


def planted(users=300, seed=0, ids=None):
    """Every item has one successor; users walk along. `(split, sids, successor)`"""
    rng = np.random.default_rng(seed)
    circle = rng.permutation(ITEMS)
    successor = np.empty(ITEMS, dtype=np.int64)
    successor[circle] = np.roll(circle, -1)
    user, item = [], []
    for u in range(users):
        at = rng.integers(ITEMS)
        for _ in range(rng.integers(4, 9)):
            user.append(u)
            item.append(at)
            at = successor[at]
    data = Interactions(
        user=np.array(user), item=np.array(item), num_users=users, num_items=ITEMS, item_ids=ids
    )
    codes = np.stack(np.unravel_index(rng.permutation(ITEMS), (4, 3, 2)), axis=1)
    return leave_one_out(data), SemanticIds(codes), successor


@pytest.fixture(scope="module")
def fitted():
    split, sids, successor = planted(users=400)
    model = T5Recommender(epochs=20, precision="float64", **SMALL)
    return model.fit(split, sids), split, successor


def quick(epochs=1, **settings):
    split, sids, _ = planted(users=40)
    return T5Recommender(epochs=epochs, **(SMALL | settings)).fit(split, sids), split


@pytest.mark.trained
def test_learns_the_planted_successor(fitted):
    model, split, successor = fitted
    assert evaluate(model, split, "test", ks=(1,)).metrics()["recall@1"] > 0.85  # chance: 0.04
    items, scores = model.recommend([[i] for i in range(ITEMS)], k=3, return_scores=True)
    assert (items[:, 0] == successor).mean() > 0.75
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.trained
def test_learns_in_float32_too():
    split, sids, _ = planted()
    model = T5Recommender(epochs=15, **SMALL).fit(split, sids)
    assert model.network_.embedding.weight.dtype == torch.float32
    assert evaluate(model, split, "test", ks=(1,)).metrics()["recall@1"] > 0.75


def test_probabilities_of_all_items_sum_to_one():
    """With a full trie and enough beams, the scores are the logs of a distribution."""
    model, _ = quick(num_beams=ITEMS)
    _, scores = model.recommend([[1, 2], [5]], k=ITEMS, return_scores=True)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, rtol=1e-5)


def test_only_the_newest_items_count(fitted):
    model, _, _ = fitted
    long = model.recommend([[7, 8, 9, 1, 2, 3]], k=5, return_scores=True)
    short = model.recommend([[1, 2, 3]], k=5, return_scores=True)
    np.testing.assert_array_equal(long[0], short[0])
    np.testing.assert_array_equal(long[1], short[1])


def test_a_user_is_independent_of_the_batch(fitted):
    model, _, _ = fitted
    rng = np.random.default_rng(1)
    histories = [rng.integers(ITEMS, size=n) for n in rng.integers(1, 9, 70)]
    items, scores = model.recommend(histories, k=10, return_scores=True)
    for row in (0, 13, 69):
        alone, value = model.recommend([histories[row]], k=10, return_scores=True)
        np.testing.assert_array_equal(alone[0], items[row])
        np.testing.assert_allclose(value[0], scores[row], atol=1e-5)


def test_excluding_the_history(fitted):
    model, _, _ = fitted
    rng = np.random.default_rng(2)
    histories = [rng.integers(ITEMS, size=n).tolist() for n in rng.integers(1, 60, 40)]
    items, scores = model.recommend(histories, k=10, exclude_history=True, return_scores=True)
    for history, after, score in zip(histories, items.tolist(), scores):
        wide = copy.copy(model).set_params(num_beams=10 + len(set(history)))
        longest = wide.recommend([history], k=min(wide.num_beams, ITEMS))[0].tolist()
        kept = [i for i in longest if i not in history][:10]
        assert len(kept) == min(10, ITEMS - len(set(history)))  # the list is full if it can be
        assert after == kept + [-1] * (10 - len(kept))
        np.testing.assert_array_equal(np.isneginf(score), np.arange(10) >= len(kept))
    assert (items == -1).any()


def test_colliding_items_tie_and_none_is_lost():
    split, _, _ = planted(users=40)
    codes = np.random.default_rng(0).integers(0, 3, (ITEMS, 2))
    sids = SemanticIds(codes, (3, 3))
    assert not sids.is_unique
    model = T5Recommender(epochs=1, **(SMALL | {"num_beams": ITEMS})).fit(split, sids)
    items, scores = model.recommend([[1, 2], [3]], k=ITEMS, return_scores=True)
    for row, values in zip(items, scores):
        assert sorted(row) == list(range(ITEMS))
        score = dict(zip(row.tolist(), values.tolist()))
        for leaf in range(sids.num_ids):
            assert len({score[i] for i in np.flatnonzero(sids.leaf_of == leaf).tolist()}) == 1
        assert len(set(values.tolist())) == sids.num_ids
    group = np.flatnonzero(sids.leaf_of == np.bincount(sids.leaf_of).argmax())
    placed = [i for i in items[0] if i in group]
    assert placed != sorted(placed), "tied items must not stand in index order"


def test_original_ids():
    plain, _ = quick()
    split, sids, _ = planted(users=40, ids=np.array([f"item {i}" for i in range(ITEMS)]))
    named = T5Recommender(epochs=1, **SMALL).fit(split, sids)
    wanted = [[f"item {i}" for i in row] for row in plain.recommend([[3, 5]], k=4)]
    assert named.recommend([["item 3", "item 5"]], k=4).tolist() == wanted
    with pytest.raises(UnknownItemError, match="item 99"):
        named.recommend([["item 99"]])


def test_renewed_codes_are_those_that_are_read_and_written(fitted):
    """A model whose items change names and codes together recommends what it did, renamed."""
    model, split, _ = fitted
    new = np.random.default_rng(5).permutation(ITEMS)  # item i is now called new[i]
    codes = np.empty_like(model.sids_.codes)
    codes[new] = model.sids_.codes
    renamed = copy.copy(model)
    assert renamed.renew(SemanticIds(codes, model.sids_.level_sizes)) is renamed
    histories = [[1, 2, 3], [4], [9, 20]]
    before = model.recommend(histories, k=10, return_scores=True)
    after = renamed.recommend([new[h] for h in histories], k=10, return_scores=True)
    np.testing.assert_array_equal(after[0], new[before[0]])
    np.testing.assert_array_equal(after[1], before[1])


def test_codes_may_be_renewed_while_it_trains(monkeypatch):
    """Renewed before the first step, it learns what it would have learnt from the new codes."""
    split, sids, _ = planted(users=40)
    later = SemanticIds(sids.codes[::-1], sids.level_sizes)
    settings = SMALL | dict(epochs=2, precision="float64")
    wanted = T5Recommender(**settings).fit(split, later)
    model = T5Recommender(**settings)
    train = model._train
    monkeypatch.setattr(model, "_train", lambda *a, **k: train(*[model.renew(later), *a][1:], **k))
    model.fit(split, sids)
    assert model.sids_ == later != sids
    for name, tensor in wanted.network_.state_dict().items():
        assert torch.equal(tensor, model.network_.state_dict()[name]), name


def test_codes_that_cannot_be_renewed(fitted):
    model, split, _ = fitted
    codes, sizes = model.sids_.codes, model.sids_.level_sizes
    with pytest.raises(NotFittedError):
        T5Recommender().renew(model.sids_)
    with pytest.raises(CodesError, match="23 items for a catalogue of 24"):
        model.renew(SemanticIds(codes[1:], sizes))
    with pytest.raises(CodesError, match=r"4 x 3 x 5.*made for a Vocabulary\(4 x 3 x 2"):
        model.renew(SemanticIds(codes, (4, 3, 5)))
    known = copy.copy(model).renew(SemanticIds(codes, sizes, catalogue="one"))
    with pytest.raises(CodesError, match="catalogue other, but those so far are of catalogue one"):
        known.renew(SemanticIds(codes, sizes, catalogue="other"))


def test_save_and_load(fitted, tmp_path):
    model, _, _ = fitted
    path = model.save(tmp_path / "t5.safetensors")
    again = T5Recommender.load(path)
    assert again.sids_ == model.sids_ and again.get_params() == model.get_params()
    assert again.history_ == model.history_ and len(again.history_.epochs) == 20
    histories = [[1, 2, 3], [4]]
    for a, b in zip(
        again.recommend(histories, k=10, return_scores=True),
        model.recommend(histories, k=10, return_scores=True),
    ):
        np.testing.assert_array_equal(a, b)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        T5Recommender.load(path)


def test_paused_and_resumed_training_is_the_same(tmp_path, ticks):
    """Stopped after every few steps; dropout and validation included."""
    split, sids, _ = planted(users=60)
    settings = SMALL | dict(dropout=0.1, batch_size=16, patience=2, validate_users=20)
    straight = T5Recommender(epochs=4, **settings).fit(split, sids)
    checkpoint, pauses = tmp_path / "run.safetensors", 0
    while True:
        model = T5Recommender(epochs=4, **settings)
        try:
            model.fit(split, sids, checkpoint=checkpoint, deadline=ticks() + 12)
            break
        except TrainingPaused:
            pauses += 1
    assert pauses > 0
    for name, tensor in straight.network_.state_dict().items():
        assert torch.equal(tensor, model.network_.state_dict()[name]), name
    curve = [e["ndcg@10"] for e in straight.history_.epochs]
    assert curve == [e["ndcg@10"] for e in model.history_.epochs]
    assert straight.history_.best_epoch == model.history_.best_epoch
    other = SemanticIds(sids.codes[::-1], sids.level_sizes)
    with pytest.raises(CheckpointError, match="another model"):
        T5Recommender(epochs=4, **settings).fit(split, other, checkpoint=checkpoint)


def test_validation_chooses_the_epoch():
    model, split = quick(epochs=30, patience=2, learning_rate=0.05)
    curve = [e["ndcg@10"] for e in model.history_.epochs]
    assert model.history_.best_epoch == 1 + int(np.argmax(curve))
    found = evaluate(model, split, "validation", ks=(10,)).metrics()["ndcg@10"]
    assert found == pytest.approx(max(curve))
    model, _ = quick(epochs=3, validate_users=0)
    assert model.history_.best_epoch == 3 and "ndcg@10" not in model.history_.epochs[0]


def test_fewer_samples_per_epoch():
    model, split = quick(epochs=2, samples_per_epoch=30, batch_size=10, validate_users=5)
    assert model.history_.steps == 6
    assert len(split.windows(3)[0]) > 30


def test_parameters_by_hand():
    """ReSID's base setting: encoder 4 x 196.6 k, decoder 4 x 262.1 k (SPEC 14, Fig. 4)."""
    network = T5((256,) * 4)
    attention, ffn = 4 * 128 * 128, 2 * 128 * 512
    encoder = 4 * (attention + ffn + 2 * 128) + 128 + 32 * 4
    decoder = 4 * (2 * attention + ffn + 3 * 128) + 128 + 32 * 4
    assert network.num_parameters() == encoder + decoder == 1_838_080
    assert network.num_parameters(embedding=True) == encoder + decoder + (1 + 4 * 256 + 1) * 128


def test_buckets_by_hand():
    """T5's buckets: 16 exact ones of 32 if one-sided, 8 of 16 per side if two-sided."""
    one, two = distance_buckets(False), distance_buckets(True)
    at = {
        distance: (int(one[distance + 128]), int(two[distance + 128]))
        for distance in range(-128, 129)
    }
    assert [at[-d][0] for d in (0, 1, 15, 16, 64, 127, 128)] == [0, 1, 15, 16, 26, 31, 31]
    assert {at[d][0] for d in range(0, 129)} == {0}
    assert [at[-d][1] for d in (0, 1, 7, 8, 32, 127, 128)] == [0, 1, 7, 8, 12, 15, 15]
    assert [at[d][1] for d in (1, 7, 8, 32, 128)] == [17, 23, 24, 28, 31]


def test_the_decoder_does_not_see_the_future():
    torch.manual_seed(0)
    network = T5((5, 6, 7), dim=16, num_layers=2, num_heads=2, head_dim=8, ffn_dim=32).eval()
    memory = network.encode(torch.tensor([[1, 7, 13, 2, 8, 14]]))
    one = network.decode(*memory, torch.tensor([[1, 7, 13]]))
    other = network.decode(*memory, torch.tensor([[1, 9, 15]]))
    assert torch.equal(one[:, :2], other[:, :2]) and not torch.equal(one[:, 2], other[:, 2])


def test_loss_is_the_mean_over_levels():
    torch.manual_seed(0)
    network = T5((5, 6), dim=16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=32).eval()
    tokens, targets = torch.tensor([[1, 6, 3, 9], [2, 7, 0, 0]]), torch.tensor([[5, 6], [1, 11]])
    logits = network.logits(network.decode(*network.encode(tokens), targets)).detach().double()
    wanted = 0.0
    for row in range(2):
        for level, span in enumerate((range(1, 6), range(6, 12))):
            own = [float(logits[row, level, t]) for t in span]
            wanted += np.log(np.exp(own).sum()) - float(logits[row, level, targets[row, level]])
    assert network.loss(tokens, targets).item() == pytest.approx(wanted / 4, abs=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(num_beams=0), "num_beams is 0"),
        (dict(max_history=0), "max_history is 0"),
        (dict(validate_users=-1), "validate_users is -1"),
        (dict(dropout=1.0), r"dropout 1.0 in \[0, 1\)"),
        (dict(dim=0), "dim is 0"),
        (dict(precision="float8"), "float8"),
        (dict(device="abacus"), "abacus"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        quick(**settings)


def test_refusals(fitted):
    model, split, _ = fitted
    with pytest.raises(InputError, match="needs semantic IDs"):
        T5Recommender().fit(split)
    with pytest.raises(CodesError, match="23 items for a catalogue of 24"):
        T5Recommender().fit(split, SemanticIds(model.sids_.codes[1:]))
    with pytest.raises(InputError, match="needs semantic IDs"):
        T5Recommender().fit(split, model.sids_.codes)
    other = SemanticIds(model.sids_.codes, catalogue="elsewhere")
    with pytest.raises(CodesError, match="codes of catalogue elsewhere"):
        T5Recommender().fit(split, other)
    with pytest.raises(InputError, match="k is 11, but the search keeps 10 beams"):
        model.recommend([[1]], k=11)
    with pytest.raises(EmptyHistoryError):
        model.recommend([[1], []])
    with pytest.raises(UnknownItemError, match="item 24"):
        model.recommend([[24]])
    with pytest.raises(NotFittedError):
        T5Recommender().recommend([[1]])
    assert model.recommend([], k=3).shape == (0, 3)
