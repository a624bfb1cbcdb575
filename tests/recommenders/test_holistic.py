"""Holistic scoring against sums made item by item, full sorts, and the memory it may take."""

import numpy as np
import pytest
import torch

from semid_lib import plain
from semid_lib.compute import scoring
from semid_lib.compute.scoring import holistic_scores, table_rows, top_items
from semid_lib.errors import CodesError, InputError


def problem(users=7, items=50, digits=4, codes=5, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, codes, (items, digits))
    log_probs = torch.tensor(rng.normal(size=(users, digits, codes)), dtype=dtype).log_softmax(-1)
    return log_probs, table


@pytest.mark.parametrize("users, items", [(1, 1), (7, 50), (70, 4100)])
def test_scores_are_the_sums(users, items):
    log_probs, codes = problem(users, items, digits=3)
    scores = holistic_scores(log_probs, table_rows(codes, 5))
    assert scores.shape == (users, items) and scores.dtype == torch.float64
    np.testing.assert_allclose(
        scores.numpy()[:5], plain.holistic_scores(log_probs[:5], codes), atol=1e-12
    )


@pytest.mark.parametrize("k", [1, 2, 10, 49, 50])
def test_top_items_equal_a_full_sort(k):
    """Few codes, so that many items are equal and the order among them is tested too."""
    log_probs, codes = problem(users=66, digits=2, codes=3)
    rows = table_rows(codes, 3)
    items, values = top_items(log_probs, rows, k)
    scores = holistic_scores(log_probs, rows).numpy()
    np.testing.assert_array_equal(items, plain.best_items(scores, k))
    np.testing.assert_array_equal(values, np.take_along_axis(scores, items.numpy(), 1))


@pytest.fixture(params=["torch", "numba"])
def engine(request, monkeypatch):
    monkeypatch.setattr(scoring, "_COMPILED", {"torch": 2**62, "numba": 0}[request.param])


def test_top_items_of_many_chunks(engine):
    log_probs, codes = problem(users=3, items=9001, digits=8, codes=16, dtype=torch.float32)
    rows = table_rows(codes, 16)
    items, _ = top_items(log_probs, rows, 25)
    np.testing.assert_array_equal(
        items, plain.best_items(holistic_scores(log_probs, rows).numpy(), 25)
    )


def test_equal_codes_have_equal_scores_to_the_bit(engine):
    log_probs, codes = problem(users=5, items=5000, digits=32, codes=64, dtype=torch.float32)
    codes[4990] = codes[3]
    scores = holistic_scores(log_probs, table_rows(codes, 64))
    assert torch.equal(scores[:, 3], scores[:, 4990])


@pytest.mark.parametrize("users", [1, 16, 33])
@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("kind", [torch.int16, torch.int32])
def test_ties_over_many_groups(engine, users, k, kind):
    """A third of 1,501 items have the codes of others, and every user likes one of these best."""
    log_probs, codes = problem(users, 1501, digits=3, codes=16, dtype=torch.float32)
    codes[1000:] = codes[np.random.default_rng(1).integers(0, 1000, 501)]
    log_probs[:, torch.arange(3), torch.as_tensor(codes[1500])] += 10
    rows = table_rows(codes, 16).to(kind)
    items, values = top_items(log_probs, rows, k)
    scores = holistic_scores(log_probs, rows).numpy()
    np.testing.assert_array_equal(items, plain.best_items(scores, k))
    np.testing.assert_array_equal(values, np.take_along_axis(scores, items.numpy(), 1))
    assert (codes[items[:, 0]] == codes[1500]).all() and (items[:, 0] < 1000).all()


@pytest.mark.parametrize("users", [1, 40])
def test_both_engines_and_any_threads_give_the_same(users, monkeypatch):
    log_probs, codes = problem(users, 3001, digits=8, codes=32, dtype=torch.float32)
    rows, found, before = table_rows(codes, 32), [], torch.get_num_threads()
    monkeypatch.setattr(scoring, "_PIECE", 1000)
    for least, threads in ((2**62, 1), (0, 1), (0, 2)):
        monkeypatch.setattr(scoring, "_COMPILED", least)
        torch.set_num_threads(threads)
        found.append((holistic_scores(log_probs, rows), *top_items(log_probs, rows, 5)))
    torch.set_num_threads(before)
    for scores, items, values in found[1:]:
        torch.testing.assert_close(scores, found[0][0], rtol=0, atol=0)
        assert torch.equal(items, found[0][1]) and torch.equal(values, found[0][2])


def test_gradients_pass():
    log_probs, codes = problem(users=2, items=2**19, digits=1, dtype=torch.float32)
    scores = holistic_scores(log_probs.requires_grad_(), table_rows(codes, 5))
    scores.sum().backward()
    counts = torch.as_tensor(np.bincount(codes[:, 0]), dtype=torch.float32)
    torch.testing.assert_close(log_probs.grad, counts.expand(2, 1, -1))


def test_impossible_codes_stand_last(engine):
    log_probs, codes = problem(items=10, dtype=torch.float32)
    log_probs[:, 0, codes[4, 0]] = -torch.inf
    items, values = top_items(log_probs, table_rows(codes, 5), 10)
    assert values[:, -1].isneginf().all() and (items[:, -1] < 10).all()
    assert items.sort(1).values.equal(torch.arange(10).expand(7, 10))


def test_rows_are_small_integers():
    assert table_rows([[0, 255]] * 3, 256).dtype == torch.int16
    assert table_rows(np.zeros((2, 128), int), 256).dtype == torch.int16
    assert table_rows(np.zeros((2, 129), int), 256).dtype == torch.int32
    assert table_rows([[1, 0], [2, 3]], 4).tolist() == [[1, 4], [2, 7]]


@pytest.mark.parametrize(
    "codes, what",
    [([[0, 4]], "0..3"), ([[-1, 0]], "0..3"), ([[0.5, 1.0]], "integers"), ([0, 1], "integers")],
)
def test_codes_outside_their_codebook(codes, what):
    with pytest.raises(CodesError, match=what):
        table_rows(codes, 4)


@pytest.mark.parametrize("k", [0, 51])
def test_a_list_longer_than_the_catalogue(k):
    log_probs, codes = problem()
    with pytest.raises(InputError, match="1..50"):
        top_items(log_probs, table_rows(codes, 5), k)
