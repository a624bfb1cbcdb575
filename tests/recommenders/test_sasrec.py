"""SASRec against plain cross-entropy, prefix rows, the evaluator and planted structure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import InputError
from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import SASRec

TINY = dict(dim=8, num_heads=2, ffn_dim=12, batch_size=16, epochs=2, learning_rate=0.01)


@pytest.fixture
def shaken(shake):
    return lambda split, **settings: shake(SASRec(**{**TINY, **settings}), split)


def training_loss(model, split):
    """The loss of all samples in one batch, times how many targets they hold."""
    start, end = model._sequences(split)
    per_row = (end - start).mean() if model.targets == "all" else 1.0
    rows = torch.as_tensor(np.stack([start, end]))
    value = model._loss(torch.as_tensor(split.items), *rows, per_row=per_row)
    return float(value.detach()) * len(start) * per_row


# --- the model


def test_causality_by_gradient(shaken, split):
    model = shaken(split)
    x = torch.randn(1, 6, 8, dtype=torch.float64, requires_grad=True)
    for t in range(6):
        gradient = torch.autograd.grad(model.network_.encoder(x)[0, t].sum(), x, retain_graph=True)
        size = gradient[0][0].abs().sum(1)
        assert (size[: t + 1] > 0).all() and (size[t + 1 :] == 0).all()


@pytest.mark.parametrize("fields", [(), None])
@pytest.mark.parametrize("score_with", ["fused", "id"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_loss_equals_cross_entropy_of_scores(shaken, split, fields, score_with, similarity):
    """Every prefix of every train sequence, scored through the public method."""
    model = shaken(split, field_names=fields, score_with=score_with, similarity=similarity)
    total = 0.0
    for sequence in split.train_sequences():
        for n in range(1, len(sequence)):
            scores = torch.tensor(model.score_items([sequence[:n]]))
            total += float(F.cross_entropy(scores, torch.tensor(sequence[n : n + 1])))
    np.testing.assert_allclose(training_loss(model, split), total)


def test_scores_are_products_with_the_item_vectors(shaken, split):
    codes = np.stack([np.arange(20), split.data.fields["group"], split.data.fields["kind"]], axis=1)
    model = shaken(split, field_names=("group", "kind"))
    weight = model.network_.table.weight.detach().numpy()
    items, groups, kinds = weight[:20], weight[22:26], weight[28:31]
    missing = weight[31]
    fused = [items[i] + groups[g] + (kinds[k] if k >= 0 else missing) for i, g, k in codes]
    np.testing.assert_allclose(model.embed(), fused, rtol=1e-6)
    np.testing.assert_allclose(model.embed("id"), items, rtol=1e-6)
    assert model.embed().dtype == np.float32 and model.embed().shape == (20, 8)
    history = [3, 1, 4]
    with torch.no_grad():
        x = torch.tensor(np.array(fused)[history]) + model.network_.position[:3]
        h = model.network_.encoder(x[None])[0, -1].numpy()
    np.testing.assert_allclose(model.score_items([history])[0], np.array(fused) @ h, rtol=1e-6)
    unit = shaken(split, similarity="cosine")
    assert np.abs(unit.score_items([history])).max() <= 8**0.5


def test_one_pass_equals_one_row_a_prefix(shaken, split):
    """targets="all" and "last" see the same (history, target) pairs if no window is cut."""
    whole, rows = shaken(split), shaken(split, targets="last")
    np.testing.assert_allclose(training_loss(whole, split), training_loss(rows, split))


# --- training samples


@pytest.mark.parametrize("max_history", [1, 3, 100])
def test_windows_hold_every_target_once(make_split, max_history):
    split = make_split(shortest=1, longest=14)
    model = SASRec(max_history=max_history, long_histories="windows")
    start, end = model._sequences(split)
    assert (end - start <= max_history).all() and (end > start).all()
    targets = np.concatenate([np.arange(a + 1, b + 1) for a, b in zip(start, end)])
    wanted = [np.arange(a + 1, b) for a, b in zip(split.indptr[:-1], split.indptr[1:])]
    assert sorted(targets) == sorted(np.concatenate(wanted))


@pytest.mark.parametrize("max_history", [1, 3, 100])
def test_last_windows_are_the_newest(make_split, max_history):
    split = make_split(shortest=1, longest=14)
    start, end = SASRec(max_history=max_history)._sequences(split)
    expected = []
    for first, stop in zip(split.indptr[:-1], split.indptr[1:]):
        if stop - first >= 2:
            expected.append((max(first, stop - 1 - max_history), stop - 1))
    assert list(zip(start, end)) == expected


def test_the_mean_loss_of_an_epoch_is_a_mean_over_targets(split):
    """Batches of short sequences must not weigh more than their targets do."""
    model = SASRec(**{**TINY, "epochs": 1, "learning_rate": 0.0, "dropout": 0.0, "weight_decay": 0})
    model.fit(split)
    start, end = model._sequences(split)
    mean = training_loss(model, split) / (end - start).sum()
    np.testing.assert_allclose(model.history_.epochs[0]["loss"], mean, rtol=1e-5)


# --- what it learns


@pytest.mark.trained
@pytest.mark.parametrize(
    "change",
    [
        dict(), dict(loss="sampled", num_negatives=20), dict(similarity="cosine"),
        dict(targets="last", batch_size=64), dict(field_names=None),
        dict(loss="sampled", num_negatives=20, similarity="cosine", field_names=None),
        dict(precision="bfloat16"),
    ],
)  # fmt: skip
def test_it_finds_successors(make_split, change):
    fields = {"group": np.arange(40) // 5}
    split = make_split(num_items=40, num_users=300, shortest=1, fields=fields)
    model = SASRec(
        **{
            **TINY,
            "dim": 32,
            "ffn_dim": 64,
            "epochs": 15,
            "patience": 15,
            "batch_size": 32,
            **change,
        }
    ).fit(split)
    hits = ranks_from_scores(model.score_items(split.histories("test")), split.targets["test"])
    assert hits.recall(1).mean() > 0.7  # 0.9 + 0.1 / 40 at best
    assert model.history_.epochs[model.history_.best_epoch - 1]["ndcg@10"] > 0.7


@pytest.mark.trained
def test_side_information_helps_items_seen_rarely():
    """The next group is certain, the item within it is random: fields generalise, ids do not."""
    rng = np.random.default_rng(0)
    walks = [[(s + t) % 20 * 10 + rng.integers(10) for t in range(6)] for s in range(20)] * 8
    walks = [[(g // 10) * 10 + rng.integers(10) for g in walk] for walk in walks]
    items = np.concatenate(walks).astype(np.int64)
    user = np.repeat(np.arange(len(walks)), 6)
    data = Interactions(user, items, len(walks), 200, fields={"group": np.arange(200) // 10})
    split = leave_one_out(data)
    found = {}
    for fields in ((), None):
        model = SASRec(
            **{**TINY, "dim": 32, "epochs": 12, "patience": 12, "batch_size": 32},
            field_names=fields,
        ).fit(split)
        scores = model.score_items(split.histories("test"))
        found[fields] = ranks_from_scores(scores, split.targets["test"]).recall(10).mean()
    assert found[None] > 0.8 and found[None] > found[()] + 0.1


def test_targets_are_checked(split):
    with pytest.raises(InputError, match="targets is 'some'"):
        SASRec(**TINY, targets="some").fit(split)
