"""Beam search against exhaustive search: every ID scored by teacher forcing."""

import numpy as np
import pytest
import torch

from semid_lib import plain
from semid_lib.codes import SemanticIds
from semid_lib.errors import InputError
from semid_lib.networks import T5, Decoding
from semid_lib.recommenders.decoding import beam_search

SIZES = (5, 4, 6)


def make(sizes=SIZES, items=50, seed=0, dtype=torch.float64, collide=False):
    """A random network, a random catalogue, and four histories of unlike length."""
    rng = np.random.default_rng(seed)
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    codes = every[rng.choice(len(every), items, replace=collide)]
    sids = SemanticIds(codes, sizes)
    torch.manual_seed(seed)
    network = T5(sizes, dim=16, num_layers=2, num_heads=2, head_dim=8, ffn_dim=32)
    network = network.to(dtype).eval()
    with torch.no_grad():  # sharper than at the start, so that beams differ
        network.embedding.weight.mul_(3)
    tokens = torch.zeros(4, 5 * len(sizes), dtype=torch.int64)
    for row, length in enumerate((5, 1, 3, 2)):
        history = sids.tokens[rng.integers(items, size=length)].ravel()
        tokens[row, : len(history)] = torch.from_numpy(history)
    return network, sids, tokens


@torch.no_grad()
def prefix_scores(network, tokens, prefixes, normalize="level"):
    """log p of code prefixes `[M, l]` for one history, by teacher forcing. `[M]`"""
    prefixes = torch.as_tensor(np.asarray(prefixes))
    starts = 1 + np.cumsum((0, *network.level_sizes))
    targets = prefixes + torch.as_tensor(starts[: prefixes.shape[1]])
    memory, padding = network.encode(tokens[tokens != 0][None])
    states = network.decode(memory.expand(len(targets), -1, -1), padding, targets)
    logits = network.logits(states)
    total = torch.zeros(len(targets), dtype=logits.dtype)
    for level in range(targets.shape[1]):
        own = logits[:, level]
        if normalize == "level":
            own = torch.full_like(own, -torch.inf)
            span = slice(starts[level], starts[level + 1])
            own[:, span] = logits[:, level, span]
        total += own.log_softmax(-1).gather(1, targets[:, level, None])[:, 0]
    return total.numpy()


@torch.no_grad()
def reading(network, tokens, normalize="level"):
    """T5's decoder after it has read the histories."""
    return Decoding(network, *network.encode(tokens), normalize)


def search(network, sids, tokens, beams, normalize="level", **options):
    """Beams as code tuples `[B, W, L]` and scores."""
    decoder = reading(network, tokens, normalize)
    leaves, scores = beam_search(decoder, sids.trie, beams, **options)
    first = sids.trie.leaf_items[sids.trie.leaf_ptr[leaves.numpy()]]
    return sids.codes[first], scores.numpy()


def scorer(network, tokens, normalize="level"):
    """What a plain search asks for one history's prefixes."""
    return lambda prefixes: prefix_scores(network, tokens, prefixes, normalize)


@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
def test_wide_beams_equal_exhaustive_search(normalize):
    network, sids, tokens = make()
    codes, scores = search(network, sids, tokens, 50, normalize=normalize)
    for row in range(len(tokens)):
        score = scorer(network, tokens[row], normalize)
        ids, truth = plain.exhaustive_search(score, sids.codes)
        np.testing.assert_allclose(scores[row], truth, atol=1e-12)
        np.testing.assert_array_equal(codes[row], ids)


@pytest.mark.parametrize("beams", [1, 3, 7])
def test_narrow_beams_equal_a_search_by_hand(beams):
    network, sids, tokens = make(seed=1)
    codes, scores = search(network, sids, tokens, beams)
    for row in range(len(tokens)):
        kept, values = plain.beam_search(scorer(network, tokens[row]), sids.codes, beams)
        np.testing.assert_array_equal(codes[row], kept)
        np.testing.assert_allclose(scores[row], values, atol=1e-12)


@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
def test_a_free_search_ranks_all_tuples_and_marks_those_without_an_item(normalize):
    network, sids, tokens = make()
    every = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
    exists = {tuple(code) for code in sids.codes.tolist()}
    codes, scores = search(network, sids, tokens, len(every), normalize=normalize, free=True)
    for row in range(len(tokens)):
        truth = prefix_scores(network, tokens[row], every, normalize)
        for place, best in enumerate(np.argsort(-truth)):
            if tuple(every[best].tolist()) in exists:
                assert codes[row, place].tolist() == every[best].tolist()
                assert scores[row, place] == pytest.approx(truth[best], abs=1e-12)
            else:
                assert scores[row, place] == -np.inf


def test_a_narrow_free_search_loses_ids_to_tuples_that_do_not_exist():
    network, sids, tokens = make(items=20)  # of 120 tuples
    codes, scores = search(network, sids, tokens, 5, free=True)
    for row in range(len(tokens)):
        kept, _ = plain.free_beam_search(scorer(network, tokens[row]), SIZES, 5)
        exist = (kept[:, None] == sids.codes).all(-1).any(1)
        assert not exist.all()
        np.testing.assert_array_equal(np.isfinite(scores[row]), exist)
        np.testing.assert_array_equal(codes[row][exist], kept[exist])


def test_every_beam_is_in_the_catalogue_once():
    network, sids, tokens = make(items=30, seed=2)
    codes, _ = search(network, sids, tokens, 20)
    known = set(map(tuple, sids.codes.tolist()))
    for row in codes.tolist():
        assert len(set(map(tuple, row))) == 20
        assert set(map(tuple, row)) <= known


def test_fewer_ids_than_beams():
    network, sids, tokens = make(items=7)
    codes, scores = search(network, sids, tokens, 50)
    assert codes.shape == (4, 7, 3) and np.isfinite(scores).all()
    assert all(len(set(map(tuple, row))) == 7 for row in codes.tolist())


def test_colliding_items_make_one_leaf():
    network, sids, tokens = make(items=60, seed=3, collide=True)
    assert not sids.is_unique
    codes, scores = search(network, sids, tokens, 60)
    assert codes.shape[1] == sids.num_ids
    truth = prefix_scores(network, tokens[0], codes[0])
    np.testing.assert_allclose(scores[0], truth, atol=1e-12)


def test_one_level_and_one_item():
    network, sids, tokens = make(sizes=(9,), items=9)
    codes, scores = search(network, sids, tokens, 4)
    truth = prefix_scores(network, tokens[0], sids.codes)
    np.testing.assert_array_equal(codes[0, :, 0], sids.codes[np.argsort(-truth)[:4], 0])
    network, sids, tokens = make(items=1)
    codes, scores = search(network, sids, tokens, 4)
    np.testing.assert_allclose(
        scores[:, 0], [prefix_scores(network, t, sids.codes)[0] for t in tokens]
    )


def test_other_users_and_padding_change_nothing():
    network, sids, tokens = make(dtype=torch.float32, seed=4)
    codes, scores = search(network, sids, tokens, 10)
    for row in range(len(tokens)):
        alone, value = search(network, sids, tokens[row][tokens[row] != 0][None], 10)
        np.testing.assert_array_equal(alone[0], codes[row])
        np.testing.assert_allclose(value[0], scores[row], atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.15)])
def test_other_precisions(dtype, tolerance):
    network, sids, tokens = make(seed=5)
    truth = [prefix_scores(network, t, sids.codes) for t in tokens]
    codes, scores = search(network.to(dtype), sids, tokens, 10)
    assert scores.dtype == np.float32
    leaf = {tuple(code): i for i, code in enumerate(sids.codes.tolist())}
    for row in range(len(tokens)):
        exact = [truth[row][leaf[tuple(code)]] for code in codes[row].tolist()]
        np.testing.assert_allclose(scores[row], exact, atol=tolerance)


def test_bad_arguments():
    network, sids, tokens = make()
    decoder = reading(network, tokens)
    with pytest.raises(InputError, match="beams is 0"):
        beam_search(decoder, sids.trie, 0)
    with pytest.raises(InputError, match="normalize is 'trie'"):
        reading(network, tokens, "trie")
    short = SemanticIds([[0, 1], [1, 0]]).trie
    with pytest.raises(InputError, match="2 levels, but the model has 3"):
        beam_search(decoder, short, 5)
