"""SASRec against plain cross-entropy, prefix rows, the evaluator and planted structure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import CheckpointError, EmptyHistoryError, InputError, NotFittedError
from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import SASRec

TINY = dict(dim=8, num_heads=2, ffn_dim=12, batch_size=16, epochs=2, learning_rate=0.01)


def make_split(num_items=30, num_users=40, seed=0, longest=9, **more):
    """Users who nearly always step to a fixed successor; items in groups of five."""
    rng = np.random.default_rng(seed)
    successor = rng.permutation(num_items)
    walks = []
    for _ in range(num_users):
        walk = [rng.integers(num_items)]
        for _ in range(rng.integers(0, longest)):
            walk.append(successor[walk[-1]] if rng.random() < 0.9 else rng.integers(num_items))
        walks.append(walk)
    kind = rng.integers(-1, 4, size=num_items)
    data = Interactions(
        user=np.repeat(np.arange(num_users), [len(w) for w in walks]),
        item=np.concatenate(walks).astype(np.int64),
        num_users=num_users, num_items=num_items,
        fields={"group": np.arange(num_items) // 5, "kind": kind}, **more,
    )  # fmt: skip
    return leave_one_out(data)


@pytest.fixture(scope="module")
def split():
    return make_split()


def shaken(split, **settings):
    """A float64 model with large random weights, in eval mode."""
    model = SASRec(**{**TINY, "epochs": 1, "precision": "float64", **settings}).fit(split)
    torch.manual_seed(1)
    for parameter in model.network_.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.network_.eval()
    return model


def training_loss(model, split):
    """The loss of all samples in one batch, times how many targets they hold."""
    start, end = model._sequences(split)
    per_row = (end - start).mean() if model.targets == "all" else 1.0
    rows = torch.as_tensor(np.stack([start, end]))
    value = model._loss(torch.as_tensor(split.items), *rows, per_row)
    return float(value.detach()) * len(start) * per_row


# --- the model


def test_causality_by_gradient(split):
    model = shaken(split)
    x = torch.randn(1, 6, 8, dtype=torch.float64, requires_grad=True)
    for t in range(6):
        gradient = torch.autograd.grad(model.network_.encoder(x)[0, t].sum(), x, retain_graph=True)
        size = gradient[0][0].abs().sum(1)
        assert (size[: t + 1] > 0).all() and (size[t + 1 :] == 0).all()


@pytest.mark.parametrize("fields", [(), None])
@pytest.mark.parametrize("score_with", ["fused", "id"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_loss_equals_cross_entropy_of_scores(split, fields, score_with, similarity):
    """Every prefix of every train sequence, scored through the public method."""
    model = shaken(split, field_names=fields, score_with=score_with, similarity=similarity)
    total = 0.0
    for sequence in split.train_sequences():
        for n in range(1, len(sequence)):
            scores = torch.tensor(model.score_items([sequence[:n]]))
            total += float(F.cross_entropy(scores, torch.tensor(sequence[n : n + 1])))
    np.testing.assert_allclose(training_loss(model, split), total)


def test_scores_are_products_with_the_item_vectors(split):
    codes = np.stack([np.arange(30), split.data.fields["group"], split.data.fields["kind"]], axis=1)
    model = shaken(split, field_names=("group", "kind"))
    weight = model.network_.table.weight.detach().numpy()
    items, groups, kinds = weight[:30], weight[32:38], weight[40:44]
    missing = weight[44]
    fused = [items[i] + groups[g] + (kinds[k] if k >= 0 else missing) for i, g, k in codes]
    np.testing.assert_allclose(model.embed(), fused, rtol=1e-6)
    np.testing.assert_allclose(model.embed("id"), items, rtol=1e-6)
    assert model.embed().dtype == np.float32 and model.embed().shape == (30, 8)
    history = [3, 1, 4]
    with torch.no_grad():
        x = torch.tensor(np.array(fused)[history]) + model.network_.position[:3]
        h = model.network_.encoder(x[None])[0, -1].numpy()
    np.testing.assert_allclose(model.score_items([history])[0], np.array(fused) @ h, rtol=1e-6)
    unit = shaken(split, similarity="cosine")
    assert np.abs(unit.score_items([history])).max() <= 8**0.5


def test_one_pass_equals_one_row_a_prefix(split):
    """targets="all" and "last" see the same (history, target) pairs if no window is cut."""
    whole, rows = shaken(split), shaken(split, targets="last")
    np.testing.assert_allclose(training_loss(whole, split), training_loss(rows, split))


def test_batch_mates_do_not_matter(split):
    model = shaken(split)
    histories = split.histories("test")
    together = model.score_items(histories)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(model.score_items([history])[0], together[row])


def test_only_the_newest_items_are_read(split):
    model = shaken(split, max_history=4)
    long = [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(model.score_items([long]), model.score_items([long[-4:]]))
    other = model.score_items([[9, *long[-3:]]])
    assert not np.allclose(other, model.score_items([long]))


# --- training samples


@pytest.mark.parametrize("max_history", [1, 3, 100])
def test_windows_hold_every_target_once(max_history):
    split = make_split(longest=14)
    model = SASRec(max_history=max_history, long_histories="windows")
    start, end = model._sequences(split)
    assert (end - start <= max_history).all() and (end > start).all()
    targets = np.concatenate([np.arange(a + 1, b + 1) for a, b in zip(start, end)])
    wanted = [np.arange(a + 1, b) for a, b in zip(split.indptr[:-1], split.indptr[1:])]
    assert sorted(targets) == sorted(np.concatenate(wanted))


@pytest.mark.parametrize("max_history", [1, 3, 100])
def test_last_windows_are_the_newest(max_history):
    split = make_split(longest=14)
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


@pytest.mark.parametrize(
    "change",
    [
        dict(), dict(loss="sampled", num_negatives=20), dict(similarity="cosine"),
        dict(targets="last", batch_size=64), dict(field_names=None),
        dict(loss="sampled", num_negatives=20, similarity="cosine", field_names=None),
        dict(precision="bfloat16"),
    ],
)  # fmt: skip
def test_it_finds_successors(change):
    split = make_split(num_items=40, num_users=300)
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


def test_validation_metrics_are_the_evaluators(split):
    model = SASRec(**{**TINY, "epochs": 4}).fit(split)
    best = model.history_.epochs[model.history_.best_epoch - 1]
    scores = model.score_items(split.histories("validation"))
    ranks = ranks_from_scores(scores, split.targets["validation"])
    np.testing.assert_allclose(best["recall@10"], ranks.recall(10).mean())
    np.testing.assert_allclose(best["ndcg@10"], ranks.ndcg(10).mean())
    assert best["ndcg@10"] == max(e["ndcg@10"] for e in model.history_.epochs)


# --- as a recommender


def test_recommend_save_and_load_with_original_ids(tmp_path):
    names = np.array([f"B{i:03d}" for i in range(30)])
    split = make_split(item_ids=names)
    model = SASRec(**TINY, field_names=("kind",)).fit(split)
    histories = [["B003", "B007"], ["B001"]]
    items, scores = model.recommend(histories, 5, return_scores=True)
    full = model.score_items(histories)
    best = np.argsort(-full, axis=1)[:, :5]
    assert items.tolist() == names[best].tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(full, best, 1))
    loaded = SASRec.load(model.save(tmp_path / "m"))
    assert loaded.recommend(histories, 5).tolist() == items.tolist()
    np.testing.assert_array_equal(loaded.embed(), model.embed())


def test_float64_survives_saving(split, tmp_path):
    model = shaken(split)
    loaded = SASRec.load(model.save(tmp_path / "m"))
    histories = split.histories("test")
    np.testing.assert_array_equal(loaded.score_items(histories), model.score_items(histories))
    assert loaded.score_items(histories).dtype == np.float64


def test_the_same_seed_gives_the_same_scores(split):
    histories = split.histories("test")
    first = SASRec(**TINY).fit(split).score_items(histories)
    torch.manual_seed(77)
    np.testing.assert_array_equal(SASRec(**TINY).fit(split).score_items(histories), first)
    other = SASRec(**TINY, random_state=1).fit(split).score_items(histories)
    assert not np.array_equal(other, first)


def test_checkpoints(split, tmp_path):
    first = SASRec(**TINY).fit(split, checkpoint=tmp_path / "c")
    again = SASRec(**TINY).fit(split, checkpoint=tmp_path / "c")
    np.testing.assert_array_equal(again.embed(), first.embed())
    assert again.history_ == first.history_
    for change in (dict(similarity="cosine"), dict(loss="sampled"), dict(targets="last")):
        with pytest.raises(CheckpointError, match="another model, dataset or setting"):
            SASRec(**TINY, **change).fit(split, checkpoint=tmp_path / "c")
    path = first.save(tmp_path / "m")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="not a readable semid_lib file"):
        SASRec.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(loss="bce"), "loss is 'bce', but must be one of"),
        (dict(similarity="l2"), "similarity is 'l2'"),
        (dict(score_with="both"), "score_with is 'both'"),
        (dict(targets="some"), "targets is 'some'"),
        (dict(long_histories="cut"), "long_histories is 'cut'"),
        (dict(loss="sampled", num_negatives=0), "num_negatives is 0, but must be at least 1"),
        (dict(max_history=0), "max_history is 0, but must be at least 1"),
        (dict(field_names=("colour",)), "no item field 'colour'"),
        (dict(dim=9), "dim 9 is not a multiple of num_heads 2"),
    ],
)
def test_bad_settings(change, message, split):
    with pytest.raises(InputError, match=message):
        SASRec(**{**TINY, **change}).fit(split)


def test_misuse(split):
    for call in (
        lambda m: m.recommend([[1]]), lambda m: m.embed(), lambda m: m.score_items([[1]]),
        lambda m: m.save("nowhere"),
    ):  # fmt: skip
        with pytest.raises(NotFittedError, match="SASRec is not fitted"):
            call(SASRec())
    model = SASRec(**{**TINY, "epochs": 1}).fit(split)
    with pytest.raises(EmptyHistoryError, match="history 1 is empty"):
        model.recommend([[1], []])
    with pytest.raises(InputError, match="which is 'sum', but must be 'fused' or 'id'"):
        model.embed("sum")
    single = Interactions(np.arange(3), np.arange(3), 3, 3)
    with pytest.raises(InputError, match="no training samples"):
        SASRec(**TINY).fit(leave_one_out(single))
