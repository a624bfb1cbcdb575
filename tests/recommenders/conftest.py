"""Planted users and models whose weights matter, for what reads item after item."""

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semid_lib.data import Interactions, leave_one_out
from semid_lib.training import loop

FIELDS = {"group": np.arange(20) // 5, "kind": np.tile([0, 2, -1, 1], 5)}


@pytest.fixture(scope="session")
def make_split():
    """Make users who nearly always step to a fixed successor; items in groups of five."""

    def make(num_items=20, num_users=30, shortest=3, longest=9, surprise=0.1, **more):
        rng = np.random.default_rng(0)
        successor = rng.permutation(num_items)
        walks = []
        for _ in range(num_users):
            walk = [rng.integers(num_items)]
            for _ in range(rng.integers(shortest - 1, longest)):
                lost = rng.random() < surprise
                walk.append(rng.integers(num_items) if lost else successor[walk[-1]])
            walks.append(walk)
        data = Interactions(
            user=np.repeat(np.arange(num_users), [len(w) for w in walks]),
            item=np.concatenate(walks).astype(np.int64),
            num_users=num_users, num_items=num_items, **{"fields": FIELDS, **more},
        )  # fmt: skip
        return leave_one_out(data)

    return make


@pytest.fixture(scope="session")
def split(make_split):
    """30 users of 20 items."""
    return make_split()


@pytest.fixture(scope="session")
def shake():
    """Give a model large random weights, in float64 and eval mode."""

    def shaken(model, split):
        model = model.set_params(epochs=1, precision="float64").fit(split)
        torch.manual_seed(1)
        for parameter in model.network_.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        model.network_.eval()
        return model

    return shaken


@pytest.fixture
def ticks(monkeypatch):
    """Training's clock, which moves by one second each time it is read: pauses come by count."""
    clock = SimpleNamespace(monotonic=count().__next__)
    monkeypatch.setattr(loop, "time", clock)
    return clock.monotonic
