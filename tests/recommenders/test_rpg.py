"""RPG against its plain twin in NumPy, exact decoding and the evaluator."""

import numpy as np
import pytest

from semid_lib import plain
from semid_lib.codes import SemanticIds
from semid_lib.errors import (
    CheckpointError,
    InputError,
    NotFittedError,
)
from semid_lib.evaluation import evaluate
from semid_lib.recommenders import RPG, Recommender, T5Recommender
from semid_lib.runs import count_parameters
from tests.recommenders.parallel import (
    CODES,
    DIGITS,
    ITEMS,
    TINY,
    make_sids,
    make_split,
    shaken,
    training_loss,
    weights,
)


@pytest.fixture(scope="module")
def split():
    return make_split()


# --- the forward pass


@pytest.mark.parametrize("head_norm", ["rpg", "paper", "both"])
def test_forward_pass_by_hand(split, head_norm):
    model, codes = shaken(RPG, split, head_norm=head_norm), make_sids().codes
    histories = [[3], [7, 1, 4], [5, 5, 9, 2, 20, 11]]
    found = model.log_probs(histories).numpy()
    for history, log_probs in zip(histories, found):
        expected = plain.rpg_log_probs(weights(model), model, history, codes)
        np.testing.assert_allclose(log_probs, expected, atol=1e-9)
    scores = model.score_items(histories)
    item = codes[13]
    np.testing.assert_allclose(scores[1, 13], found[1][np.arange(DIGITS), item].sum())


def test_parameters_of_the_public_configuration():
    """Beauty: 32 x 256 codes, GPT-2 of 2 layers, width 448, 1,024 inside, 50 positions.

    Counted from the shapes of GPT-2 (Hugging Face's `GPT2Model` and 32 residual heads), whose
    8,194 token rows are our 8,192 and two for padding and end.
    """
    codes = np.random.default_rng(0).integers(0, 256, (50, 32))
    model = RPG()
    model._build(SemanticIds(codes, [256] * 32))
    d, inner = 448, 1024
    layer = 2 * 2 * d + (d * 3 * d + 3 * d) + (d * d + d) + (d * inner + inner) + (inner * d + d)
    rest = 50 * d + 2 * layer + 2 * d + 32 * (d * d + d)
    assert rest == 9_910_912
    assert count_parameters(model) == rest + 8194 * d - 2 * d


# --- training


def test_loss_equals_cross_entropy_of_every_prefix(split):
    model, codes = shaken(RPG, split, max_history=4), make_sids().codes
    expected = plain.rpg_loss(weights(model), model, split.train_sequences(), codes)
    np.testing.assert_allclose(float(training_loss(model, split).detach()), expected)


def test_long_users_have_a_sample_for_each_later_target():
    split = make_split(3, longest=20, seed=3)
    start, end, first = RPG(max_history=4)._sequences(split)
    expected = []
    for low, high in zip(split.indptr[:-1], split.indptr[1:]):
        if high - low < 2:
            continue
        expected.append((low, min(low + 4, high - 1), low))
        expected += [(target - 4, target, target - 1) for target in range(low + 5, high)]
    assert list(zip(start, end, first)) == expected


def test_many_targets_have_the_same_gradients(split, monkeypatch):
    """With many targets the heads' values are made again; rows go through in groups."""
    model = shaken(RPG, split)
    model.network_.zero_grad()
    training_loss(model, split).backward()
    before = [p.grad.clone() for p in model.network_.parameters()]
    model.network_.zero_grad()
    monkeypatch.setattr("semid_lib.recommenders._parallel._TARGETS", 3)
    monkeypatch.setattr("semid_lib.recommenders._parallel._ROWS", {"cpu": (7, 7)})
    training_loss(model, split).backward()
    for one, other in zip(before, model.network_.parameters()):
        np.testing.assert_allclose(one, other.grad, atol=1e-12)


@pytest.mark.trained
def test_learns_the_successor():
    split, settings = make_split(120), dict(TINY, dim=16, temperature=0.1, precision="float32")
    model = RPG(**{**settings, "epochs": 25, "learning_rate": 0.01}).fit(split, make_sids())
    assert len(model.history_.epochs) <= 25
    assert evaluate(model, split, "test").metrics()["recall@5"] > 0.4  # chance: 0.17


def test_batch_mates_and_order_do_not_matter(split):
    model, histories = shaken(RPG, split), split.histories("test")
    together = model.score_items(histories)
    for history, scores in zip(histories, together):
        np.testing.assert_allclose(model.score_items([history])[0], scores)


# --- ranking


def test_recommend_equals_a_full_sort(split):
    model, histories = shaken(RPG, split), split.histories("test")
    for exclude in (False, True):
        items, scores = model.recommend(histories, 12, exclude_history=exclude, return_scores=True)
        full = Recommender.generate(model, histories, 12, exclude)
        np.testing.assert_array_equal(items, full[0])
        np.testing.assert_array_equal(scores, full[1])


def test_items_of_equal_codes_tie_and_are_counted_once(split):
    model = shaken(RPG, split)
    history = [3, 8]
    scores = model.score_items([history])[0]
    assert scores[4] == scores[20]
    items = model.recommend([history], ITEMS)[0]
    assert sorted(items) == list(range(ITEMS))
    above = int((scores > scores[4]).sum())
    found = evaluate(model, split, "test")
    tied = np.isin(found.targets, [4, 20])
    assert tied.any() and (found.ranks["all"].ties[tied] == 1).all()
    assert {*items[above : above + 2]} == {4, 20}


# --- graph decoding


def test_neighbours_by_hand(split):
    model, codes = shaken(RPG, split, edges=7), make_sids().codes
    table = model.network_.table.detach().numpy().reshape(DIGITS, CODES, -1)
    table /= np.linalg.norm(table, axis=2, keepdims=True)
    for i in (0, 4, 29):
        alike = [
            np.mean([table[k, codes[i, k]] @ table[k, codes[j, k]] for k in range(DIGITS)])
            for j in range(ITEMS)
        ]
        near = model.neighbours()[i].numpy()
        np.testing.assert_allclose(np.array(alike)[near], np.sort(alike)[::-1][:7])
        assert near[0] == i or (i, near[0]) == (20, 4)


def test_all_items_as_neighbours_equal_exact_decoding(split):
    histories = split.histories("test")
    exact = shaken(RPG, split)
    graph = shaken(RPG, split, decoding="graph", edges=ITEMS, beams=10, steps=1)
    items, scores = graph.recommend(histories, 10, return_scores=True)
    expected = exact.recommend(histories, 10, return_scores=True)[1]
    np.testing.assert_allclose(scores, expected)
    np.testing.assert_allclose(np.take_along_axis(exact.score_items(histories), items, 1), expected)
    a, b = (evaluate(m, split, "test", ks=(5,)).metrics() for m in (exact, graph))
    assert a["recall@5"] == pytest.approx(b["recall@5"])


def test_graph_decoding_finds_no_better_items_and_counts_its_work(split):
    model = shaken(RPG, split, decoding="graph", edges=4, beams=3, steps=2)
    log_probs = model.log_probs([[1, 2], [3]])
    items, scores, scored = model.walk(log_probs)
    assert items.shape == (2, 3) and (scored <= 2 * 3 * 4).all() and (scored >= 4).all()
    exact = RPG.scores(model.set_params(decoding="exact"), [[1, 2], [3]])
    best = np.sort(exact, axis=1)[:, ::-1][:, :3]
    np.testing.assert_allclose(np.take_along_axis(exact, items.numpy(), 1), scores)
    assert (scores.numpy() <= best + 1e-12).all()
    full = model.set_params(decoding="graph").score_items([[1, 2]])
    assert np.isfinite(full).sum() == 3
    short = model.recommend([[1, 2]], 5)[0]
    assert (short[:3] >= 0).all() and (short[3:] == -1).all()


# --- saving and bad settings; for bad codes and histories see test_long_codes_input.py


def test_saved_and_loaded(split, tmp_path):
    model = shaken(RPG, split)
    again = RPG.load(model.save(tmp_path / "rpg.safetensors"))
    np.testing.assert_array_equal(model.score_items([[1, 2]]), again.score_items([[1, 2]]))
    assert count_parameters(again) == count_parameters(model)
    with pytest.raises(CheckpointError):
        T5Recommender.load(tmp_path / "rpg.safetensors")


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(num_heads=3), "multiple of num_heads"), (dict(temperature=0.0), "temperature"),
        (dict(head_norm="x"), "head_norm"), (dict(decoding="beam"), "decoding"),
        (dict(beams=0), "beams"), (dict(edges=0), "edges"), (dict(steps=0), "steps"),
        (dict(max_history=0), "max_history"),
    ],
)  # fmt: skip
def test_bad_settings(split, settings, message):
    with pytest.raises(InputError, match=message):
        RPG(**{**TINY, **settings}).fit(split, make_sids())


def test_not_fitted():
    for call in (
        lambda m: m.log_probs([[1]]),
        lambda m: m.neighbours(),
        lambda m: m.score_items([]),
    ):
        with pytest.raises(NotFittedError):
            call(RPG())
