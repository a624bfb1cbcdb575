"""OPQ against faiss's: the time to the error that faiss reaches in its 50 iterations."""

from __future__ import annotations

from functools import cache

import faiss
import numpy as np

from harness import Job, measure, num_threads, require
from inputs import clustered_embeddings
from semid_lib.quantizers import OPQ

N, WIDTH, BLOCKS, ROUNDS = 12_101, 384, 32, 1
X = cache(clustered_embeddings)


def ours(vectors, seed):
    model = OPQ(BLOCKS, 256, num_rounds=ROUNDS, random_state=seed).fit(vectors)
    return model.inverse_transform(model.codes_)


def theirs(vectors, seed):
    """faiss's defaults: a random rotation, 50 turns of 4 Lloyd steps, then codebooks of 25."""
    faiss.omp_set_num_threads(num_threads())
    width = vectors.shape[1]
    turn, learnt, last = (
        faiss.OPQMatrix(width, BLOCKS),
        faiss.ProductQuantizer(width, BLOCKS, 8),
        faiss.ProductQuantizer(width, BLOCKS, 8),
    )
    for pq in (learnt, last):
        pq.cp.seed = 1 + seed
    turn.pq = learnt
    turn.train(vectors)
    rotated = turn.apply_py(vectors)
    last.train(rotated)
    return turn.reverse_transform(last.decode(last.compute_codes(rotated)))


def error(vectors, near) -> float:
    return float(np.square(vectors - near, dtype=np.float64).sum(axis=1).mean())


def gate(rounds) -> str:
    mine, other = (np.mean([error(r[0][0], r[side]) for r in rounds]) for side in (1, 2))
    require(mine <= other, f"squared error {mine:.3f}, the peer's {other:.3f}")
    return f"squared error {mine:.3f} (peer {other:.3f})"


def test_opq(benchmark):
    job = Job(
        "opq_to_error",
        f"R1 {N:,} x {WIDTH}, {BLOCKS} blocks of 256; ours {ROUNDS} turn from principal axes, "
        "the peer its 50", "faiss-cpu", 1, lambda round: (X(N, WIDTH), round), ours, theirs, gate,
        rounds=3,
    )  # fmt: skip
    measure(job, benchmark)
