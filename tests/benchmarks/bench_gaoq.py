"""GAOQ and its balanced k-means against k-means-constrained."""

from __future__ import annotations

from functools import cache

import numpy as np
from k_means_constrained import KMeansConstrained

from harness import Job, measure, require
from inputs import clustered_embeddings
from semid_lib.quantizers import BalancedKMeans

R1 = cache(clustered_embeddings)


def peer_labels(X, k, init, max_iter=20, seed=None):
    """Labels by k-means-constrained: sizes floor and ceil, one start, as many steps as ours."""
    floor, ceil = len(X) // k, -(-len(X) // k)
    model = KMeansConstrained(
        k, size_min=floor, size_max=ceil, init=init, n_init=1, max_iter=max_iter, tol=0,
        random_state=seed,
    )  # fmt: skip
    return model.fit(X).labels_


def start(X, k, seed):
    """Rows of a k-means++ start by the textbook's loop (D^2 sampling): `[k]`."""
    rng = np.random.default_rng(seed)
    rows = [int(rng.integers(len(X)))]
    near = np.full(len(X), np.inf)
    while len(rows) < k:
        near = np.minimum(near, ((X - X[rows[-1]]) ** 2).sum(1, dtype=np.float64))
        rows.append(int(rng.choice(len(X), p=near / near.sum())))
    return np.array(rows)


def inertia(X, labels) -> float:
    """Sum of squared distances to the means of the clusters, in float64."""
    member = np.eye(labels.max() + 1)[labels]
    means = member.T @ X.astype(np.float64) / member.sum(0)[:, None]
    return float(((X - means[labels]) ** 2).sum())


def require_balance(labels, k):
    n = len(labels)
    sizes = set(np.bincount(labels, minlength=k).tolist())
    require(sizes <= {n // k, -(-n // k)}, f"sizes are {sorted(sizes)} for {n} rows in {k}")


def compared(ours, theirs) -> str:
    """Our mean inertia relative to the peer's, which may be 0.5 % more."""
    excess = 100 * (np.mean(ours) / np.mean(theirs) - 1)
    require(excess <= 0.5, f"mean inertia is {excess:+.2f} % of the peer's, more than +0.5 %")
    return f"sizes floor/ceil; mean inertia {excess:+.2f} % over {len(ours)} seeds"


def root_setup(seed):
    X = R1(12_101, 640)
    return X, X[start(X, 32, seed)]


def root_gate(rounds):
    for _, labels, _ in rounds:
        require_balance(labels, 32)
    return compared(*([inertia(r[0][0], r[side]) for r in rounds] for side in (1, 2)))


def test_gaoq_root(benchmark):
    measure(
        Job(
            name="gaoq_root",
            input="R1 12,101 x 640 into 32, 20 iterations, same start",
            peer="k-means-constrained",
            target=15,
            stretch=30,
            setup=root_setup,
            ours=lambda X, init: BalancedKMeans(32, max_iter=20, init=init).fit(X).labels_,
            theirs=lambda X, init: peer_labels(X, 32, init),
            gate=root_gate,
        ),
        benchmark,
    )
