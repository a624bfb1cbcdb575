"""Residual k-means against faiss, semantic-id and rectokens: 3 levels of 256 codes."""

from __future__ import annotations

from functools import cache

import faiss
import numpy as np
import pytest
import torch
from rectokens.quantizers.kmeans import KMeansQuantizer
from rectokens.quantizers.residual import ResidualQuantizer
from semantic_id import RQKMeans

from harness import Job, measure, num_threads, require
from inputs import clustered_embeddings
from semid_lib.quantizers import ResidualKMeans

N, LEVELS, CODES, STEPS = 12_101, 3, 256, 25
X = cache(clustered_embeddings)


def setup(width):
    return lambda round: (X(N, width), round)


def ours(vectors, seed):
    """What the codes decode to, as all of these return: `[N, D]`."""
    model = ResidualKMeans(LEVELS, CODES, STEPS, random_state=seed).fit(vectors)
    return model.inverse_transform(model.codes_)


def by_faiss(vectors, seed):
    """A faiss.Kmeans a level, on all rows."""
    faiss.omp_set_num_threads(num_threads())
    rest = vectors
    for level in range(LEVELS):
        flat = faiss.Kmeans(
            vectors.shape[1], CODES, niter=STEPS, seed=1 + LEVELS * seed + level,
            max_points_per_centroid=len(vectors),
        )  # fmt: skip
        flat.train(rest)
        rest = rest - flat.centroids[flat.index.search(rest, 1)[1][:, 0]]
    return vectors - rest


def by_semantic_id(vectors, seed):
    """Its k-means on the CPU with one start, as ours has (its default are 10)."""
    model = RQKMeans(
        n_levels=LEVELS, n_clusters=CODES, max_iter=STEPS, n_init=1, random_state=seed,
        verbose=False,
    ).fit(vectors)  # fmt: skip
    return model.decode(model.encode(vectors))


def by_rectokens(vectors, seed):
    """Its quantizers without the torch.compile around them; k-means++ on 10 rows a code."""
    torch.set_num_threads(num_threads())
    rows = torch.as_tensor(vectors)
    levels = [KMeansQuantizer(CODES, rows.shape[1], seed=LEVELS * seed + i) for i in range(LEVELS)]
    model = ResidualQuantizer(levels)
    few = np.random.default_rng(seed).choice(len(rows), 10 * CODES, replace=False)
    model.fit_step(rows[few])
    for _ in range(STEPS):
        model.fit_step(rows)
    return model.quantize(rows).quantized.numpy()


@cache
def faiss_error(width, seed):
    return error(X(N, width), by_faiss(X(N, width), seed))


def error(vectors, near) -> float:
    return float(np.square(vectors - near, dtype=np.float64).sum(axis=1).mean())


def gate(rounds) -> str:
    """Our mean squared error over the seeds must not be above faiss's, whoever the peer is."""
    mine = np.mean([error(vectors, near) for (vectors, _), near, _ in rounds])
    peer = np.mean([error(vectors, near) for (vectors, _), _, near in rounds])
    least = np.mean([faiss_error(vectors.shape[1], seed) for (vectors, seed), _, _ in rounds])
    require(mine <= least, f"squared error {mine:.3f}, faiss's {least:.3f}")
    return f"squared error {mine:.2f} (peer {peer:.2f}, faiss {least:.2f}) over {len(rounds)} seeds"


PEERS = {
    "faiss-cpu": (by_faiss, 0.8),
    "semantic-id": (by_semantic_id, 4),
    "rectokens": (by_rectokens, 4),
}


@pytest.mark.parametrize("width", [384, 768])
@pytest.mark.parametrize("peer", PEERS)
def test_rqkmeans(benchmark, peer, width):
    theirs, target = PEERS[peer]
    job = Job(
        f"rqkmeans_{width}_{peer.partition('-')[0]}",
        f"R1 {N:,} x {width} into {LEVELS} x {CODES}, at most {STEPS} steps, own starts", peer,
        target, setup(width), ours, theirs, gate,
    )  # fmt: skip
    measure(job, benchmark)
