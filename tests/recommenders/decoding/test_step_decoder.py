"""Searches with a decoder that is a table, against brute force over all IDs; and with T5."""

import numpy as np
import pytest
import torch

from semid_lib.codes import SemanticIds
from semid_lib.errors import InputError
from semid_lib.networks import T5, Decoding
from semid_lib.recommenders.decoding import beam_search, exact_scores


class TableDecoder:
    """A second decoder: tables of log p(next code | the codes before), for two users."""

    def __init__(self, sizes, seed=0):
        rng = np.random.default_rng(seed)
        self.level_sizes = sizes
        shapes = [(2, *sizes[: level + 1]) for level in range(len(sizes))]
        weights = [rng.gamma(0.5, size=shape) + 1e-6 for shape in shapes]
        self.tables = [np.log(w / w.sum(axis=-1, keepdims=True)) for w in weights]
        self.widest = 0

    def start(self):
        self.prefixes = np.zeros((2, 1, 0), dtype=np.int64)
        return torch.from_numpy(self.tables[0][:, None])

    def step(self, codes, parents):
        before = np.take_along_axis(self.prefixes, parents.numpy()[:, :, None], axis=1)
        self.prefixes = np.concatenate([before, codes.numpy()[:, :, None]], axis=2)
        self.widest = max(self.widest, codes.shape[1])
        table = self.tables[self.prefixes.shape[2]]
        rows = [table[user][tuple(self.prefixes[user].T)] for user in range(2)]
        return torch.from_numpy(np.stack(rows))

    def brute_force(self, codes):
        """log p of whole IDs `[N, L]` for both users, `[2, N]`."""
        lengths = range(1, 1 + codes.shape[1])
        parts = [self.tables[n - 1][(slice(None), *codes[:, :n].T)] for n in lengths]
        return np.sum(parts, axis=0)


def unlike_ids(sizes, items, seed=0):
    """`items` different IDs of the tuples of these sizes, in a random order."""
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    return SemanticIds(np.random.default_rng(seed).choice(every, items, replace=False), sizes)


@pytest.mark.parametrize("sizes, items", [((7,), 5), ((4, 3), 9), ((5, 4, 6), 50), ((2,) * 5, 20)])
def test_another_decoder_needs_no_other_search(sizes, items):
    decoder, sids = TableDecoder(sizes), unlike_ids(sizes, items)
    leaves, scores = beam_search(decoder, sids.trie, items)
    truth = decoder.brute_force(sids.codes)
    for user in range(2):
        order = np.argsort(-truth[user])
        np.testing.assert_allclose(scores[user], truth[user][order], atol=1e-12)
        np.testing.assert_array_equal(sids.trie.leaf_items[leaves[user].numpy()], order)


@pytest.mark.parametrize("beams", [1, 4])
def test_narrow_beams_of_another_decoder_equal_a_search_by_hand(beams):
    decoder, sids = TableDecoder((5, 4, 6), seed=1), unlike_ids((5, 4, 6), 40)
    leaves, scores = beam_search(decoder, sids.trie, beams)
    for user in range(2):
        kept = [()]
        for length in (1, 2, 3):
            exist = {tuple(row[:length]) for row in sids.codes.tolist()}
            prefixes = np.array(sorted(p for p in exist if p[:-1] in kept))
            truth = decoder.brute_force(prefixes)[user]
            best = np.argsort(-truth)[:beams]
            kept = [tuple(row) for row in prefixes[best].tolist()]
        found = sids.codes[sids.trie.leaf_items[leaves[user].numpy()]]
        assert [tuple(row) for row in found.tolist()] == kept
        np.testing.assert_allclose(scores[user], truth[best], atol=1e-12)


@pytest.mark.parametrize("sizes, items", [((7,), 5), ((4, 3), 9), ((5, 4, 6), 50), ((2,) * 5, 20)])
@pytest.mark.parametrize("prefixes", [1, 3, 4096])
def test_exact_scores_equal_brute_force(sizes, items, prefixes):
    decoder, sids = TableDecoder(sizes, seed=2), unlike_ids(sizes, items, seed=3)
    scores = exact_scores(decoder, sids.trie, prefixes=prefixes).numpy()
    first = sids.trie.leaf_items[sids.trie.leaf_ptr[:-1]]
    np.testing.assert_allclose(scores, decoder.brute_force(sids.codes[first]), atol=1e-12)
    assert decoder.widest <= prefixes


@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
@pytest.mark.parametrize("prefixes", [5, 4096])
def test_exact_scores_equal_a_beam_search_as_wide_as_the_catalogue(normalize, prefixes):
    """T5, with items that collide; both are searched by one decoder, which begins anew."""
    sizes, rng = (5, 4, 6), np.random.default_rng(6)
    sids = SemanticIds(rng.integers(0, 4, (60, 3)), sizes)
    torch.manual_seed(6)
    network = T5(sizes, dim=16, num_layers=2, num_heads=2, head_dim=8, ffn_dim=32).double().eval()
    histories = np.array([[3, 8, 1], [5, -1, -1]])
    tokens = torch.from_numpy(sids.encode(histories))
    with torch.no_grad():
        decoder = Decoding(network, *network.encode(tokens), normalize)
    exact = exact_scores(decoder, sids.trie, prefixes=prefixes)
    assert exact.shape == (2, sids.num_ids) and exact.dtype == torch.float64
    leaves, scores = beam_search(decoder, sids.trie, 60)
    assert (leaves.sort(1).values == torch.arange(sids.num_ids)).all()
    np.testing.assert_allclose(exact.gather(1, leaves), scores, atol=1e-12)


def test_a_trie_of_other_levels():
    with pytest.raises(InputError, match="2 levels, but the model has 3"):
        exact_scores(TableDecoder((5, 4, 6)), SemanticIds([[0, 1], [1, 0]]).trie)
