"""Floors: what counting alone achieves. They stand in every result table.

None breaks ties by item index: equal scores stay equal, and evaluation takes the expected rank.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from semid_lib.errors import CheckpointError, InputError
from semid_lib.recommenders.base import Recommender


class Popularity(Recommender):
    """Rank items by how often they occur in the train part, the same for everyone.

    Example:
        >>> Popularity().fit(split).recommend([[]], k=10)
    """

    needs_history = False

    def fit(self, split, sids=None) -> Popularity:
        """Count the items of the train part. `sids` is not used. Cost: O(M)."""
        self._see(split)
        self.counts_ = split.train_counts().astype(np.float64)
        return self

    def _scores(self, histories):
        return np.broadcast_to(self.counts_, (len(histories), self.num_items_))

    def _state(self):
        return {"counts": _tensor(self.counts_)}

    def _restore(self, tensors):
        self.counts_ = _array(tensors, "counts")


class MarkovChain(Recommender):
    """Rank items by how often they directly followed the last item in the train part.

    First-order Markov chain over adjacent pairs: score(j | last i) = count(i, j) +
    popularity(j) / (M + 1), M the number of train interactions. The second part is below 1, so
    popularity orders items of equal count, and items that never followed stand below all that
    did (the chain backs off to popularity).

    Deviates: no normalisation to probabilities; the order of the items is the same.
    """

    def fit(self, split, sids=None) -> MarkovChain:
        """Count adjacent pairs within each user's train part. `sids` is not used. Cost: O(M)."""
        self._see(split)
        begins = np.zeros(len(split.items) + 1, dtype=bool)
        begins[split.indptr] = True
        second = np.flatnonzero(~begins[1:-1]) + 1
        pairs = split.items[second - 1], split.items[second]
        self.counts_ = _counts(*pairs, (self.num_items_,) * 2)
        self.backoff_ = split.train_counts() / (len(split.items) + 1)
        return self

    def _scores(self, histories):
        last = np.array([history[-1] for history in histories])
        return self.counts_[last].toarray() + self.backoff_

    def _state(self):
        return {"backoff": _tensor(self.backoff_), **_sparse_state(self.counts_)}

    def _restore(self, tensors):
        self.backoff_ = _array(tensors, "backoff")
        self.counts_ = _sparse_restore(tensors, self.num_items_)


class ItemKNN(Recommender):
    """Rank items by the sum of their similarities to the items of the history (repeats count).

    sim(i, j) = n_ij / (sqrt(n_i n_j) + shrinkage), where n_i counts the users with i in the train
    part and n_ij those with both; sim(i, i) = 0. Without shrinkage it is the cosine of the items'
    user vectors (Sarwar et al. 2001; Deshpande and Karypis 2004).

    Args:
        neighbours: keep only the most similar items of each item (more where the last ones tie).
        shrinkage: pulls similarities of rare pairs towards 0, >= 0.
    """

    def __init__(self, neighbours: int | None = None, shrinkage: float = 0.0):
        self.neighbours = neighbours
        self.shrinkage = shrinkage

    def fit(self, split, sids=None) -> ItemKNN:
        """Count users by pair of items. `sids` is not used. Cost: O(sum of squared lengths)."""
        if self.neighbours is not None and self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}, but must be >= 1, or None for all")
        if not 0 <= self.shrinkage < np.inf:
            raise InputError(f"shrinkage is {self.shrinkage}, but must be finite and not negative")
        self._see(split)
        user = np.repeat(np.arange(len(split.indptr) - 1), np.diff(split.indptr))
        takes = _counts(user, split.items, (len(split.indptr) - 1, self.num_items_))
        takes.data[:] = 1.0
        both = (takes.T @ takes).tocoo()
        number = both.diagonal()
        off = both.row != both.col
        row, col, value = both.row[off], both.col[off], both.data[off]
        value = value / (np.sqrt(number[row] * number[col]) + self.shrinkage)
        similar = sparse.csr_array((value, (row, col)), shape=both.shape)
        if self.neighbours is not None:
            similar = _keep_largest(similar, self.neighbours)
        self.similarity_ = similar
        return self

    def _scores(self, histories):
        row = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
        seen = _counts(row, np.concatenate(histories), (len(histories), self.num_items_))
        return (seen @ self.similarity_).toarray()

    def _state(self):
        return _sparse_state(self.similarity_)

    def _restore(self, tensors):
        self.similarity_ = _sparse_restore(tensors, self.num_items_)


def _counts(row, col, shape) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(row)), (row, col)), shape=shape)  # sums duplicates


def _keep_largest(matrix, count) -> sparse.csr_array:
    """Keep the `count` largest values of each row and all that equal the last of them."""
    matrix.sort_indices()
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:]):
        if end - start > count:
            values = matrix.data[start:end]
            values[values < np.partition(values, -count)[-count]] = 0
    matrix.eliminate_zeros()
    return matrix


def _tensor(array):
    import torch

    return torch.as_tensor(np.array(array))


def _array(tensors, name) -> np.ndarray:
    if name not in tensors:
        raise CheckpointError(f"the file lacks {name!r}: it was written by another version")
    return tensors[name].numpy()


def _sparse_state(matrix) -> dict:
    return {name: _tensor(getattr(matrix, name)) for name in ("data", "indices", "indptr")}


def _sparse_restore(tensors, size) -> sparse.csr_array:
    parts = tuple(_array(tensors, name) for name in ("data", "indices", "indptr"))
    return sparse.csr_array(parts, shape=(size, size))
