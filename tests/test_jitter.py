"""The rounding jitter shakes what it says, no more than it says, and only if switched on."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import numpy as np
import torch
from semid_lib.encoders.text import TextEncoder
from semid_lib.diagnostics import semantic_cohesion

a = torch.linspace(-1, 1, 3000, requires_grad=True).view(50, 60).detach().requires_grad_()
b = torch.linspace(0.3, 2, 4200).view(60, 70)


def spread(make):
    first, second = make(), make()
    gap = abs(first - second) / abs(first).max()
    return float(gap.max())


def gradient():
    a.grad = None
    (a @ b).square().sum().backward()
    return a.grad.clone()


x = np.random.default_rng(0).normal(size=(60, 6))
codes = np.random.default_rng(1).integers(0, 4, (60, 2))
print(spread(lambda: (a @ b).detach()))
print(spread(gradient))
print(spread(lambda: (a.double() @ b.double()).detach()))
print(spread(lambda: np.linalg.svd(x)[1]))
print(spread(lambda: np.float64(semantic_cohesion(x, codes))))
print(spread(lambda: torch.arange(12).view(3, 4) @ torch.arange(12).view(4, 3)))
"""


def spreads(**environment):
    paths = [str(ROOT / "tests" / "portable"), str(ROOT)]
    off = {"SEMID_JITTER": "", "PYTHONPATH": os.pathsep.join(paths)}
    env = {**os.environ, **off, **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return [float(line) for line in done.stdout.split()]


def test_jitter_moves_the_last_digits_and_no_others():
    *moved, whole = spreads(SEMID_JITTER="4")
    # twice 4 ulps of one product; the gradient and the cohesion are made of several
    limits = [2e-6, 2e-5, 4e-15, 4e-15, 4e-14]
    for value, limit in zip(moved, limits):
        assert 0 < value < limit
    assert whole == 0  # integers stay


def test_a_seed_repeats_a_draw_and_no_jitter_changes_nothing():
    assert spreads(SEMID_JITTER="4", SEMID_JITTER_SEED="7") == spreads(
        SEMID_JITTER="4", SEMID_JITTER_SEED="7"
    )
    assert spreads() == [0] * 6
