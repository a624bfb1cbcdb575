"""What users' behaviour says about codes and vectors: overlap, communities, purity, information."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from semid_lib.diagnostics._inputs import as_ids, as_labels, as_matrix
from semid_lib.errors import DataError, InputError

_BLOCK = 2**22  # products held at once


def code_overlap(split, codes, part: str = "validation", max_history: int = 32) -> np.ndarray:
    """Compute the share of a history that has the target's code, level by level (ReSID Table 9).

    For each evaluated user: the share of the newest `max_history` items whose code c_l equals the
    target's, whatever the codes before it; then the mean over users. At level 0 it does not depend
    on how children are numbered.

    Args:
        split: a `Split`. codes: `[N, L]` of its catalogue, or a `SemanticIds`.
        part: "validation" or "test", which the targets are of.
        max_history: most items of a history, at least 1.

    Returns:
        `[L]` float64 in 0..1.

    Raises:
        CodesError: codes of another number of items. DataError: an unknown part, or no user with
            a target. InputError: max_history below 1.

    Cost: O(E T L).
    """
    sids = as_ids(codes, split.num_items)
    histories = split.histories(part, max_history)
    if not histories:
        raise DataError(f"{split.data.name!r} has no user with a target (3 interactions or more)")
    lengths = np.array([len(history) for history in histories])
    user = np.repeat(np.arange(len(histories)), lengths)
    target = split.targets[part][user]
    same = sids.codes[np.concatenate(histories)] == sids.codes[target]
    weight = 1.0 / (lengths[user] * len(histories))
    return weight @ same


def co_occurrence(split, window: int | None = None) -> sparse.csr_array:
    """Count for each pair of items the users that have both in the train part.

    Args:
        split: a `Split`.
        window: count only pairs at most so many positions apart in the user's sequence, >= 1;
            None: anywhere in it.

    Returns:
        `[N, N]` int64, symmetric, zero diagonal. A user counts once for a pair, however often it
        comes.

    Raises:
        InputError: a window below 1.

    Cost: O(sum of squared sequence lengths), or O(M window).
    """
    n, user = split.num_items, np.repeat(np.arange(len(split.indptr) - 1), np.diff(split.indptr))
    if window is None:
        takes = sparse.csr_array((np.ones(len(user), np.int64), (user, split.items)))
        takes.resize(len(split.indptr) - 1, n)
        takes.data[:] = 1
        both = (takes.T @ takes).tocoo()
        off = both.row != both.col
        return sparse.csr_array((both.data[off], (both.row[off], both.col[off])), shape=(n, n))
    if window < 1:
        raise InputError(f"window is {window}, but must be at least 1, or None for no limit")
    seen = []
    for step in range(1, min(window, len(user) - 1) + 1):
        near = np.flatnonzero(user[step:] == user[:-step])
        if not len(near):
            break
        a, b = split.items[near], split.items[near + step]
        seen.append(np.stack([user[near], np.minimum(a, b), np.maximum(a, b)])[:, a != b])
    who, a, b = np.concatenate(seen, axis=1) if seen else np.empty((3, 0), np.int64)
    pairs, pair = np.unique(a * n + b, return_inverse=True)
    once = np.unique(pair * len(split.indptr) + who) // len(split.indptr)
    count = np.bincount(once, minlength=len(pairs))
    half = sparse.csr_array((count, (pairs // n, pairs % n)), shape=(n, n))
    return (half + half.T).tocsr()


def louvain(graph, min_weight=2, resolution: float = 1.0, random_state: int = 0) -> np.ndarray:
    """Find communities of items by modularity (Blondel et al. 2008; ReSID Fig. 5, App. I.1).

    Args:
        graph: `[N, N]` sparse, symmetric, weights >= 0, such as `co_occurrence(split)`.
        min_weight: edges of less are dropped: 2 leaves out pairs that only one user has.
        resolution: above 1 for smaller communities.
        random_state: integer seed (>= 0) of the order in which items are visited.

    Returns:
        `[N]` int64: 0 for the largest community, 1 for the next, ...; -1 for an item without an
        edge left. Communities of equal size are numbered by their first item.

    Raises:
        InputError: a graph that is not square, symmetric, finite and >= 0; a resolution or
            min_weight that is not above 0.

    Deviates: the paper does not say which edges it keeps, nor resolution and seed (SPEC 23).

    Cost: O(edges) a pass, by networkx. Beauty's 109,880 edges take 1.4 s of one core. Long
        histories make dense graphs of little structure (MovieLens-100K: 684,038 edges, 5.6 s);
        `co_occurrence(split, window=5)` leaves 78,656 there, 0.6 s.
    """
    import networkx as nx

    from semid_lib.settings import check_seed

    graph = sparse.csr_array(graph)
    bad = graph.shape[0] != graph.shape[1] or not np.isfinite(graph.data).all()
    if bad or (graph.data < 0).any() or abs(graph - graph.T).max() > 0:
        raise InputError(
            f"graph is {graph.shape} with {graph.nnz} weights, but must be square, symmetric, "
            "finite and not negative, such as co_occurrence(split)"
        )
    if not (0 < resolution < np.inf and 0 < min_weight < np.inf):
        raise InputError(f"resolution {resolution} and min_weight {min_weight} must be above 0")
    edges = sparse.triu(graph, k=1).tocoo()
    kept = edges.data >= min_weight
    rows = (x[kept].tolist() for x in (edges.row, edges.col, edges.data))
    network = nx.Graph()
    network.add_weighted_edges_from(zip(*rows))
    found = nx.community.louvain_communities(
        network, resolution=resolution, seed=check_seed(random_state)
    )
    labels = np.full(graph.shape[0], -1, dtype=np.int64)
    for number, items in enumerate(sorted(found, key=lambda items: (-len(items), min(items)))):
        labels[list(items)] = number
    return labels


def neighbour_purity(vectors, labels, k: int = 20, metric: str = "cosine") -> float:
    """Compute the mean share of the k nearest other items that have an item's own label.

    Items of equal distance at the border (up to a rounding: 1e-9, in float32 4e-6) count with
    their expected share, as if the rest were drawn among them. Compare with
    `chance_purity(labels)`.

    Args:
        vectors: `[N, D]`.
        labels: `[N]` integers; items labelled -1 are left out, as centres and as neighbours.
        k: neighbours, below the number of labelled items.
        metric: "cosine" or "euclidean". A zero vector has cosine 0 with everything.

    Returns:
        0..1.

    Raises:
        InputError: labels of another length, not finite vectors, k out of range, other metrics.

    Cost: O(N^2 D), in blocks of 4 million products, in the vectors' dtype. 12,101 x 640: 2 s of
        one core in float32, 4 s in float64; most of it is the product.
    """
    X = as_matrix(vectors)
    labels = as_labels(labels, len(X))
    X, labels = X[labels >= 0], labels[labels >= 0]
    if not 1 <= k < len(X):
        raise InputError(
            f"k is {k}, but must be between 1 and {len(X) - 1}: {len(X)} items have a label, and "
            "none is its own neighbour"
        )
    if metric not in ("cosine", "euclidean"):
        raise InputError(f"metric is {metric!r}, but must be 'cosine' or 'euclidean'")
    X = X - X.mean(axis=0) if metric == "euclidean" else _unit(X)
    half = (X * X).sum(axis=1) / 2 if metric == "euclidean" else np.zeros(len(X), X.dtype)
    border = max(32 * np.finfo(X.dtype).eps, 1e-9) * max(2 * half.max(), metric == "cosine")
    pure = 0.0
    for rows in np.array_split(np.arange(len(X)), -(-len(X) * len(X) // _BLOCK)):
        near = X[rows] @ X.T - half  # ||x - y||^2 = ||x||^2 - 2 (x . y - ||y||^2 / 2)
        near[np.arange(len(rows)), rows] = -np.inf
        last = np.partition(near, -k, axis=1)[:, -k]
        row, other = np.nonzero(near >= (last - border)[:, None])
        surely = near[row, other] > last[row] + border
        same = labels[rows[row]] == labels[other]
        count = partial(np.bincount, minlength=len(rows))
        places = k - count(row[surely])
        pure += count(row[surely & same]).sum()
        pure += (places * count(row[~surely & same]) / count(row[~surely])).sum()
    return float(pure / (k * len(X)))


def chance_purity(labels) -> float:
    """Compute `neighbour_purity` of vectors that know nothing: P(two labelled items agree).

    sum_c n_c (n_c - 1) / (n (n - 1)). Raises InputError with fewer than two labelled items.
    """
    labels = as_labels(labels)
    sizes = np.bincount(labels[labels >= 0])
    n = int(sizes.sum())
    if n < 2:
        raise InputError(f"{n} labelled items: at least 2 are needed")
    return float((sizes * (sizes - 1)).sum() / (n * (n - 1)))


def cluster_nmi(vectors, labels, random_state: int = 0) -> float:
    """Compute the normalised mutual information of labels and k-means clusters of the vectors.

    As many clusters as labels; NMI = I / mean of the two entropies (scikit-learn's), 1 if they
    are the same partition. Chance is not subtracted: 12,101 vectors that know nothing of 30 or
    160 labels reach 0.01 or 0.20, so shuffle the labels for the floor.

    Args:
        vectors: `[N, D]`. labels: `[N]` integers, -1 left out. random_state: of k-means.

    Raises:
        InputError: as `neighbour_purity`; fewer than two labelled items.

    Cost: O(N D K) a step of k-means, one start, in one thread. 12,101 x 640 into 160: 3 s.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score

    X = as_matrix(vectors)
    labels = as_labels(labels, len(X))
    X, labels = X[labels >= 0], labels[labels >= 0]
    if len(X) < 2:
        raise InputError(f"{len(X)} labelled items: at least 2 are needed")
    flat = KMeans(len(np.unique(labels)), max_iter=100, n_init=1, random_state=random_state)
    with threadpool_limits(1, "openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        clusters = flat.fit_predict(X)
    return float(normalized_mutual_info_score(labels, clusters))


def information_bound(per_field: dict) -> dict:
    """Compute the right side of ReSID's Prop. 3.1: sum_k w_k (H(f_k) - L_k), in nats.

    For any predictor q, H(f) - E[-log q(f | h)] = I(h; f) - E[KL(p(.|h), q(.|h))] <= I(h; f), with
    equality where q is the true conditional. So each field's H_k - L_k bounds what the hidden
    state knows of the field, and the weighted sum is the proposition's bound.

    Args:
        per_field: field -> `entropy` H_k, `loss` L_k (nats), `weight` w_k >= 0, what
            `FAMAE.loss_per_field` returns.

    Returns:
        "bound": the sum; "per_field": field -> H_k - L_k. Negative where the model predicts worse
        than the field's own frequencies.

    Raises:
        InputError: no field, a missing key, a value that is not finite, a negative weight.
    """
    if not per_field:
        raise InputError("per_field is empty: give what FAMAE.loss_per_field returns")
    known, bound = {}, 0.0
    for name, field in per_field.items():
        values = [field.get(key, np.nan) for key in ("entropy", "loss", "weight")]
        if not np.isfinite(values).all() or values[2] < 0:
            raise InputError(
                f"field {name!r} is {field}, but needs a finite entropy, loss and weight >= 0"
            )
        entropy, loss, weight = values
        known[name] = float(entropy - loss)
        bound += weight * known[name]
    return {"bound": float(bound), "per_field": known}


def _unit(X) -> np.ndarray:
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(length > 0, length, 1)
