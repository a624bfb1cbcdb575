"""SC and PD over a million items: how time and memory grow, and the definition over all pairs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from harness import num_threads, require, store, timed
from inputs import clustered_embeddings
from semid_lib.diagnostics import preference_discrimination, semantic_cohesion

SIZES, WIDTH, LEVELS, CODES, IDS = (10_000, 100_000, 1_000_000), 128, 3, 256, 4_096

# Peak of the resident memory of a process that does nothing else, the vectors and all libraries in.
PEAK = """
import sys, numpy as np
from semid_lib.diagnostics import preference_discrimination, semantic_cohesion
X, codes, books = (np.load(f"{sys.argv[1]}/{name}.npy") for name in ("X", "codes", "books"))
semantic_cohesion(X, codes), preference_discrimination(list(books), codes)
lines = open("/proc/self/status").read().split("\\n")
print(next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def drawn(n):
    """Vectors, codes of 4,096 IDs (so pairs of an ID grow as n^2), codebooks."""
    rng = np.random.default_rng(0)
    ids = rng.integers(CODES, size=(IDS, LEVELS))
    codes = ids[rng.integers(IDS, size=n)]
    return clustered_embeddings(n, WIDTH), codes, rng.normal(size=(LEVELS, CODES, WIDTH))


def ours(X, codes, books):
    return semantic_cohesion(X, codes), preference_discrimination(list(books), codes)


def by_pairs(X, codes, books):
    """Both by their definitions: the cosines of all pairs, a block of rows at a time."""
    U = X / np.linalg.norm(X, axis=1, keepdims=True)
    leaf = np.unique(codes, axis=0, return_inverse=True)[1].ravel()
    sums, pairs = np.zeros(leaf.max() + 1), np.zeros(leaf.max() + 1)
    for first in range(0, len(U), 1000):
        rows = slice(first, first + 1000)
        i, j = np.nonzero(leaf[rows, None] == leaf)
        i, j = i[i + first < j], j[i + first < j]
        cosines = (U[rows] @ U.T)[i, j]
        np.add.at(sums, leaf[j], cosines)
        np.add.at(pairs, leaf[j], 1)
    levels = []
    for book, used in zip(books, codes.T):
        book = book[np.unique(used)]
        book = book / np.linalg.norm(book, axis=1, keepdims=True)
        kernel = np.exp(-2 * (1 - book @ book.T))
        levels.append(np.log(kernel[np.triu_indices(len(book), 1)].mean()))
    return (sums[pairs > 0] / pairs[pairs > 0]).mean(), np.mean(levels)


def test_sc_pd(tmp_path):
    """Growth from 10,000 items on; the memory of a process of its own at a million."""
    small = drawn(SIZES[0])
    (sc, pd), wall, cpu = timed(by_pairs, small)
    found = ours(*small)
    require(np.allclose(found, (sc, pd), rtol=1e-6), f"{found}, by all pairs {sc, pd}")
    seconds = []
    for n in SIZES:
        data = drawn(n)
        seconds.append(np.median([timed(ours, data)[1:] for _ in range(5)], axis=0))
    for name, array in zip(("X", "codes", "books"), data):
        np.save(tmp_path / f"{name}.npy", array)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, check=True,
        env={**os.environ},
    )  # fmt: skip
    gigabytes = float(run.stdout) / 1e9
    slopes = [np.polyfit(np.log(SIZES), np.log(column), 1)[0] for column in zip(*seconds)]
    times = (SIZES[-1] / SIZES[0]) ** 2
    last = seconds[-1]
    store({
        "job": "sc_pd",
        "input": f"R1 {', '.join(f'{n:,}' for n in SIZES)} x {WIDTH}, {LEVELS} x {CODES}",
        "peer": "all pairs, x 10,000",
        "quality": f"as by all pairs of 10,000 (SC {sc:.4f}, PD {pd:.4f}); {gigabytes:.2f} GB",
        "peer s": f"{times * wall:.3g} (CPU {times * cpu:.3g})",
        "our s": ", ".join(f"{wall:.3g} (CPU {cpu:.3g})" for wall, cpu in seconds),
        "ratio": f"{times * wall / last[0]:.0f}x; time ~ n^{slopes[0]:.2f} (CPU n^{slopes[1]:.2f})",
        "target": "CPU n^1.1, < 3 GB",
        "met": bool(slopes[1 if num_threads() == 1 else 0] <= 1.1 and gigabytes < 3),
        "raw": {"seconds": np.array(seconds).tolist(), "gigabytes": gigabytes},
    })  # fmt: skip
