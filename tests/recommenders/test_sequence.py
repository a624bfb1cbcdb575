"""What models of item sequences share: histories in, scores out, training, files, messages."""

import numpy as np
import pytest
import torch

from semid_lib.data import Interactions, leave_one_out
from semid_lib.errors import (
    CheckpointError,
    EmptyHistoryError,
    InputError,
    NotFittedError,
    UnknownItemError,
)
from semid_lib.evaluation import ranks_from_scores
from semid_lib.recommenders import HGN, BERT4Rec, GRU4Rec, S3Rec, SASRec
from semid_lib.training import TrainingPaused, batches

SMALL = dict(
    dim=8, num_heads=2, ffn_dim=12, hidden_dim=12, batch_size=16, epochs=2, learning_rate=0.01,
    pretrain_epochs=1, pretrain_batch_size=64,
)  # fmt: skip
KINDS = [SASRec, BERT4Rec, HGN, GRU4Rec, S3Rec]
#: A setting of its own, and another value of it.
OWN = dict(
    pretrain_epochs=dict(pretrain_epochs=2), mask_ratio=dict(mask_ratio=0.3),
    targets=dict(targets="last"), max_history=dict(max_history=5),
)  # fmt: skip


#: Each model, and its other losses and sequences where it has any.
WAYS = [(kind, dict(loss=loss)) for kind in KINDS for loss in ("full", "sampled", "bpr")]
WAYS += [(kind, dict(targets="last")) for kind in (SASRec, GRU4Rec, S3Rec)]
WAYS += [(kind, dict(long_histories="windows")) for kind in (SASRec, GRU4Rec, S3Rec)]
WAYS += [(BERT4Rec, dict(samples="sequences", long_histories="windows"))]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tiny(kind):
    """Those of the small settings that the model has."""
    return {name: value for name, value in SMALL.items() if name in kind().get_params()}


def test_batch_mates_do_not_matter(kind, tiny, shake, split):
    model = shake(kind(**tiny), split)
    histories = split.histories("test")
    together = model.score_items(histories)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(model.score_items([history])[0], together[row])


@pytest.mark.parametrize("kind, way", WAYS)
def test_the_loss_of_groups_is_that_of_the_padded_batch_and_of_rows_alone(
    kind, tiny, way, shake, split, monkeypatch
):
    """A random batch in groups of like length, in one padded block, and each sample by itself."""
    model = shake(kind(**tiny, max_history=5, **way), split)
    if kind is BERT4Rec:  # the newest, and every third before it, whatever else is in the batch
        model._choose = lambda valid: valid & (torch.arange(valid.shape[1], 0, -1) % 3 == 1)
    monkeypatch.setattr(  # its negatives: those of each target, not of its place in the batch
        "semid_lib.networks.losses.torch.randint",
        lambda high, size, device: torch.full(size, 7 % high),
    )
    rows, items = torch.as_tensor(np.stack(model._sequences(split))), torch.as_tensor(split.items)
    rows = rows[:, np.random.default_rng(3).permutation(rows.shape[1])[:23]]
    lengths = (rows[1] - rows[0]).numpy()
    assert len(np.unique(lengths)) > 3

    def found(size, batch=rows):
        monkeypatch.setattr("semid_lib.recommenders._sequence._GROUP", {"cpu": size})
        model.network_.zero_grad()
        value = model._loss(items, *batch, per_row=1.0)
        value.backward()
        slopes = [p.grad for p in model.network_.parameters() if p.grad is not None]
        return float(value.detach()), torch.cat([g.flatten() for g in slopes])

    padded, slope = found(1000)
    for size in (2, 5):
        value, other = found(size)
        assert abs(value - padded) < 1e-10 * abs(padded)
        torch.testing.assert_close(other, slope, rtol=1e-9, atol=1e-10)
    alone = np.mean([found(1, rows[:, [n]])[0] for n in range(23)])
    assert abs(alone - padded) < 1e-10 * abs(padded)


def test_batches_are_random(kind, tiny, split, monkeypatch):
    """Never of like length: longer samples have more targets, and a step is as large."""
    told, drawn = [], batches.batches_of_epoch
    monkeypatch.setattr(
        batches, "batches_of_epoch", lambda n, e, b, lengths, *a: told.append(lengths) or
        drawn(n, e, b, lengths, *a),
    )  # fmt: skip
    kind(**tiny).fit(split)
    assert len(told) >= 2 and all(lengths is None for lengths in told)


def test_pretraining_in_groups_is_that_of_the_padded_batch(shake, split, monkeypatch):
    model = shake(S3Rec(**{k: v for k, v in SMALL.items() if k != "hidden_dim"}), split)
    items, (start, end) = torch.as_tensor(split.items), map(torch.as_tensor, split.windows(5))
    start = torch.maximum(start, end - 4)

    def drawn(valid, length, items):  # by the place in the sequence alone
        place = torch.arange(valid.shape[1]).expand(valid.shape)
        run = (place < length[:, None] // 2) & (place >= length[:, None] // 4)
        return valid & (place % 2 == 0), run, place + 1, 1 + place % 3

    model._draw, found = drawn, []
    for size in (1000, 20, 5):
        monkeypatch.setattr("semid_lib.recommenders._sequence._GROUP", {"cpu": size})
        found.append(float(model._pretraining_loss(items, start, end).detach()))
    np.testing.assert_allclose(found[1:], found[0], rtol=1e-10)


def test_only_the_newest_items_are_read(kind, tiny, shake, split):
    model = shake(kind(**tiny, max_history=4), split)
    long = [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(model.score_items([long]), model.score_items([long[-4:]]))
    assert not np.allclose(model.score_items([[9, *long[-3:]]]), model.score_items([long]))


def test_item_vectors_are_sums_of_field_rows(kind, tiny, split, tmp_path):
    model = kind(**tiny, field_names=("kind",)).fit(split)
    weight = model.network_.table.weight.detach().numpy()
    items, kinds = weight[:20], weight[22:26]  # after two rows for missing and masked: 3 values,
    fused = (
        items + kinds[split.data.fields["kind"]]
    )  # and "missing" as the fourth, which -1 reaches
    np.testing.assert_allclose(model.embed(), fused, rtol=1e-6)
    np.testing.assert_array_equal(model.embed("fused"), model.embed())
    np.testing.assert_array_equal(model.embed("id"), items)
    assert model.embed().dtype == np.float32 and model.embed().shape == (20, 8)
    by_id = kind(**tiny, field_names=("kind",), score_with="id").fit(split)
    np.testing.assert_array_equal(by_id.embed(), by_id.embed("id"))
    for again in (model, kind.load(model.save(tmp_path / "m"))):
        np.testing.assert_array_equal(again.field_embedding("kind"), kinds[:3])
        np.testing.assert_array_equal(again.field_embedding("item"), items)
        with pytest.raises(InputError, match="no field 'group'; the fields are .'item', 'kind'."):
            again.field_embedding("group")


def test_validation_metrics_are_the_evaluators(kind, tiny, split):
    model = kind(**{**tiny, "epochs": 4}).fit(split)
    best = model.history_.epochs[model.history_.best_epoch - 1]
    scores = model.score_items(split.histories("validation"))
    ranks = ranks_from_scores(scores, split.targets["validation"])
    np.testing.assert_allclose(best["recall@10"], ranks.recall(10).mean())
    np.testing.assert_allclose(best["ndcg@10"], ranks.ndcg(10).mean())
    assert best["ndcg@10"] == max(e["ndcg@10"] for e in model.history_.epochs)


def test_recommend_save_and_load_with_original_ids(kind, tiny, make_split, tmp_path):
    names = np.array([f"B{i:03d}" for i in range(20)])
    split = make_split(item_ids=names)
    model = kind(**tiny, field_names=None, precision="float64").fit(split)
    histories = [["B003", "B007"], ["B001"]]
    items, scores = model.recommend(histories, 5, return_scores=True)
    full = model.score_items(histories)
    best = np.argsort(-full, axis=1)[:, :5]
    assert items.tolist() == names[best].tolist() and full.dtype == np.float64
    np.testing.assert_allclose(scores, np.take_along_axis(full, best, 1))
    loaded = kind.load(model.save(tmp_path / "m"))
    assert loaded.recommend(histories, 5).tolist() == items.tolist()
    np.testing.assert_array_equal(loaded.score_items(histories), full)
    np.testing.assert_array_equal(loaded.embed(), model.embed())


def test_the_same_seed_gives_the_same_scores(kind, tiny, split):
    histories = split.histories("test")
    first = kind(**tiny).fit(split).score_items(histories)
    torch.manual_seed(77)
    np.testing.assert_array_equal(kind(**tiny).fit(split).score_items(histories), first)
    other = kind(**tiny, random_state=1).fit(split).score_items(histories)
    assert not np.array_equal(other, first)


def test_paused_and_resumed_equals_uninterrupted(kind, tiny, split, tmp_path, ticks):
    settings = {**tiny, "batch_size": 2, "epochs": 3}
    straight, pauses = kind(**settings).fit(split), 0
    while True:
        model = kind(**settings)
        try:
            model.fit(split, checkpoint=tmp_path / "c", deadline=ticks() + 12)
            break
        except TrainingPaused:
            pauses += 1
    assert pauses > 0
    for name, tensor in straight.network_.state_dict().items():
        assert torch.equal(tensor, model.network_.state_dict()[name]), name
    own = next(change for name, change in OWN.items() if name in model.get_params())
    for change in (dict(similarity="cosine"), dict(loss="sampled"), own):
        with pytest.raises(CheckpointError, match="another model, dataset or setting"):
            kind(**{**settings, **change}).fit(split, checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(loss="hinge"), "loss is 'hinge', but must be one of"),
        (dict(similarity="l2"), "similarity is 'l2'"),
        (dict(score_with="both"), "score_with is 'both'"),
        (dict(loss="sampled", num_negatives=0), "num_negatives is 0, but must be an integer >= 1"),
        (dict(max_history=0), "max_history is 0, but must be an integer >= 1"),
        (dict(field_names=("colour",)), "no item field 'colour'"),
    ],
)
def test_bad_settings(kind, tiny, change, message, split):
    with pytest.raises(InputError, match=message):
        kind(**{**tiny, **change}).fit(split)


@pytest.mark.parametrize("kind", [SASRec, BERT4Rec, S3Rec])
def test_bad_settings_of_transformers(kind, tiny, split):
    with pytest.raises(InputError, match="dim 9 is not a multiple of num_heads 2"):
        kind(**{**tiny, "dim": 9}).fit(split)
    with pytest.raises(InputError, match="long_histories is 'cut'"):
        kind(**{**tiny, "long_histories": "cut"}).fit(split)


def test_misuse(kind, tiny, split, tmp_path):
    for call in (
        lambda m: m.recommend([[1]]), lambda m: m.embed(), lambda m: m.score_items([[1]]),
        lambda m: m.save("nowhere"), lambda m: m.field_embedding("item"),
    ):  # fmt: skip
        with pytest.raises(NotFittedError, match=f"{kind.__name__} is not fitted"):
            call(kind())
    model = kind(**{**tiny, "epochs": 1}).fit(split)
    with pytest.raises(EmptyHistoryError, match="history 1 is empty"):
        model.recommend([[1], []])
    with pytest.raises(UnknownItemError, match="item 20 of history 0 is outside the catalogue"):
        model.recommend([[20]])
    with pytest.raises(InputError, match="which is 'sum', but must be 'fused' or 'id'"):
        model.embed("sum")
    single = Interactions(np.arange(3), np.arange(3), 3, 3)
    with pytest.raises(InputError, match="no training samples"):
        kind(**tiny).fit(leave_one_out(single))
    path = model.save(tmp_path / "m")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="not a readable semid_lib file"):
        kind.load(path)
