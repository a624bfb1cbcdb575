"""A chapter's first cell: make its numbers the same on every machine."""

from __future__ import annotations

import os
import random
import sys
import warnings
from dataclasses import dataclass

from semid_lib.compute.device import resolve_device
from semid_lib.environment import profile
from semid_lib.errors import InputError


@dataclass(frozen=True)
class Run:
    """What `setup` decided for a chapter.

    Attributes:
        chapter: its number, such as "01".
        profile: "quick" or "paper".
        device: "cpu", "cuda" or "cuda:N".
        seed: the seed that everything random was given.
    """

    chapter: str
    profile: str
    device: str
    seed: int


def setup(chapter: str, seed: int = 0) -> Run:
    """Make a chapter's numbers the same on every machine, and say in one line what was chosen.

    Seeds Python, NumPy and torch, asks torch for deterministic algorithms, sets the figure
    style, and in the quick profile computes in one thread.

    Args:
        chapter: its number, such as "01".
        seed: 0 or more, below 2**32.

    Raises:
        InputError: a seed out of range, or see `profile` and `resolve_device`.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}, but must lie in 0..{2**32 - 1}")
    run = Run(chapter=chapter, profile=profile(), device=resolve_device(), seed=seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=run.device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, changes no result
    if run.profile == "quick":  # two threads gain a quarter on idle cores, lose 4 x on busy ones
        import sklearn  # noqa: F401 - its OpenMP library must be loaded to be held
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(1)
        threadpool_limits(limits=1)
    if "matplotlib" in sys.modules or "IPython" in sys.modules:
        from semid_lib.reports import plotting

        plotting.use_style()
        with warnings.catch_warnings():  # in a notebook it asks for widgets, which books have not
            warnings.filterwarnings("ignore", "IProgress not found")
            import tqdm.auto  # noqa: F401 - imported by implicit, umap and sentence-transformers
    print(f"chapter {run.chapter} | profile {run.profile} | device {run.device} | seed {run.seed}")
    return run
