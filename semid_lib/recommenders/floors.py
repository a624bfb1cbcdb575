"""Floors: what counting alone achieves. Equal scores stay equal, for evaluation to average over."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from semid_lib.errors import CheckpointError
from semid_lib.recommenders.base import Recommender
from semid_lib.settings import NONE, check_settings, real, whole

_DENSE = 0.1  # share of pairs from which a matrix of all similarities is faster
_SMALL = 5000  # items whose matrix takes 200 MB


class Popularity(Recommender):
    """Rank items by how often they occur in the train part, the same for everyone."""

    needs_history = False

    def fit(self, split, sids=None) -> Popularity:
        """Count the items of the train part. `sids` is not used. Cost: O(M)."""
        self.remember(split)
        self.counts_ = split.train_counts().astype(np.float64)
        return self

    def scores(self, histories):
        return np.broadcast_to(self.counts_, (len(histories), self.num_items_))

    def state(self):
        return {"counts": torch.tensor(self.counts_)}

    def restore(self, tensors):
        self.counts_ = _array(tensors, "counts")


class MarkovChain(Recommender):
    """Rank items by how often they directly followed the last item in the train part.

    First-order Markov chain over adjacent pairs: score(j | last i) = count(i, j) +
    popularity(j) / (M + 1), M the number of train interactions. The second part is below 1, so
    popularity orders items of equal count, and items that never followed stand below all that
    did (the chain backs off to popularity).

    Deviates: counts, not probabilities; the order of the items is the same.
    """

    def fit(self, split, sids=None) -> MarkovChain:
        """Count adjacent pairs within each user's train part. `sids` is not used. Cost: O(M)."""
        self.remember(split)
        begins = np.zeros(len(split.items) + 1, dtype=bool)
        begins[split.indptr] = True
        second = np.flatnonzero(~begins[1:-1]) + 1
        pairs = split.items[second - 1], split.items[second]
        self.counts_ = _counts(*pairs, (self.num_items_,) * 2)
        self.backoff_ = split.train_counts() / (len(split.items) + 1)
        return self

    def scores(self, histories):
        last = np.array([history[-1] for history in histories])
        followed = self.counts_[last].tocoo()
        scores = np.tile(self.backoff_, (len(histories), 1))
        scores[followed.row, followed.col] += followed.data
        return scores

    def state(self):
        return {"backoff": torch.tensor(self.backoff_), **_sparse_state(self.counts_)}

    def restore(self, tensors):
        self.backoff_ = _array(tensors, "backoff")
        self.counts_ = _sparse_restore(tensors, self.num_items_)


class ItemKNN(Recommender):
    """Rank items by the sum of their similarities to the items of the history (repeats count).

    sim(i, j) = n_ij / (sqrt(n_i n_j) + shrinkage), where n_i counts the users with i in the train
    part and n_ij those with both; sim(i, i) = 0. Unshrunk: the cosine (Deshpande, Karypis 2004).

    Args:
        neighbours: keep only the most similar items of each item (more where the last ones tie).
        shrinkage: pulls similarities of rare pairs towards 0, >= 0.
    """

    limits = {"neighbours": whole() | NONE, "shrinkage": real(0)}

    def __init__(self, neighbours: int | None = None, shrinkage: float = 0.0):
        self.neighbours = neighbours
        self.shrinkage = shrinkage

    def fit(self, split, sids=None) -> ItemKNN:
        """Count users by pair of items. `sids` is not used. Cost: O(sum of squared lengths)."""
        check_settings(self)
        self.remember(split)
        takes = _occurrences(split.train_sequences(), self.num_items_)
        takes.data[:] = 1.0
        both = (takes.T @ takes).tocoo()
        number, off = both.diagonal(), both.row != both.col
        row, col = both.row[off], both.col[off]
        value = both.data[off] / (np.sqrt(number[row] * number[col]) + self.shrinkage)
        self.similarity_ = sparse.csr_array((value, (row, col)), shape=both.shape)
        if self.neighbours is not None:
            _keep_largest(self.similarity_, self.neighbours)
        return self

    def scores(self, histories):
        takes = _occurrences(histories, self.num_items_)
        decimals = 12  # sums that differ only by the order of adding tie
        if self.num_items_ <= _SMALL and self.similarity_.nnz > _DENSE * self.num_items_**2:
            return (takes @ self.similarity_.toarray()).round(decimals)
        scores = takes @ self.similarity_
        scores.data = scores.data.round(decimals)
        return scores.toarray()

    def state(self):
        return _sparse_state(self.similarity_)

    def restore(self, tensors):
        self.similarity_ = _sparse_restore(tensors, self.num_items_)


def _counts(row, col, shape) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(row)), (row, col)), shape=shape)  # sums duplicates


def _occurrences(sequences, num_items) -> sparse.csr_array:
    """`[B, N]`: how often each sequence holds each item."""
    row = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return _counts(row, np.concatenate(sequences), (len(sequences), num_items))


def _keep_largest(matrix, count) -> None:
    """Keep the `count` largest values of each row and all that equal the last of them."""
    matrix.sort_indices()
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:]):
        if end - start > count:
            values = matrix.data[start:end]
            values[values < np.partition(values, -count)[-count]] = 0
    matrix.eliminate_zeros()


def _array(tensors, name) -> np.ndarray:
    if name not in tensors:
        raise CheckpointError(f"the file lacks {name!r}: it was written by another version")
    return tensors[name].numpy()


def _sparse_state(matrix) -> dict:
    return {name: torch.tensor(getattr(matrix, name)) for name in ("data", "indices", "indptr")}


def _sparse_restore(tensors, size) -> sparse.csr_array:
    parts = tuple(_array(tensors, name) for name in ("data", "indices", "indptr"))
    try:
        matrix = sparse.csr_array(parts, shape=(size, size))
        matrix.check_format(full_check=True)  # a wrong index would read foreign memory
    except ValueError as error:
        raise CheckpointError(f"the file's sparse matrix is not one: {error}") from error
    return matrix
