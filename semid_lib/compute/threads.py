"""How many threads compute, and work shared out between them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps

import numpy as np
from threadpoolctl import ThreadpoolController

from semid_lib.errors import InputError


@contextmanager
def one_thread(device: str = "cpu"):
    """Let torch compute in one thread on a CPU.

    Its sums over many rows (gradients of weights, batch normalisation) are split between the
    threads, so their last digit, and in the end a code, depends on how many there are.
    """
    import torch

    before = torch.get_num_threads()
    if str(device).startswith("cpu"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_blas_thread(method):
    """Decorate a method: while it runs, BLAS keeps to one thread and we share out larger pieces.

    A thread of BLAS waits for the other after each of thousands of small products: where another
    program held the second core, two were measured 5 times slower than one.
    """

    @wraps(method)
    def alone(*args, **keywords):
        with _blas().limit(limits=1):
            return method(*args, **keywords)

    return alone


@cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


def num_threads(n_jobs=None) -> int:
    """Threads to use: n_jobs, -1 for all cores of this process, None for OMP_NUM_THREADS or all."""
    if n_jobs is None:
        n_jobs = os.environ.get("OMP_NUM_THREADS", "")
        n_jobs = int(n_jobs) if n_jobs.isdigit() and int(n_jobs) else -1
    if not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise InputError(f"n_jobs is {n_jobs!r}, but must be None, -1 or an integer >= 1")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores if n_jobs < 0 else int(n_jobs)


def in_threads(function, items, threads) -> list:
    """Results of the function for all items, worked out in so many threads."""
    if threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
