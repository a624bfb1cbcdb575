"""A small training problem, and clocks by which its training is paused."""

from dataclasses import fields

import torch
from torch import nn

from semid_lib.training import TrainSettings, train

NAMES = {field.name for field in fields(TrainSettings)}


class Problem:
    """A small regression with dropout, so that every step draws random numbers."""

    def __init__(self, num=40, hidden=6, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num, 3, generator=generator, dtype=torch.float64)
        self.y = self.x.sum(1, keepdim=True).sin()
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(3, hidden), nn.Tanh(), nn.Dropout(0.3), nn.Linear(hidden, 1)
        )
        self.seen = []

    def loss(self, rows, known=None):
        self.seen.append(rows.tolist())
        dtype = next(self.model.parameters()).dtype
        x, y = self.x[rows].to(dtype), self.y[rows].to(dtype)
        return (self.model(x) - y).square().mean()

    def validate(self):
        dtype = next(self.model.parameters()).dtype
        return {"gain": -float((self.model(self.x.to(dtype)) - self.y.to(dtype)).square().mean())}

    def train(self, loss=None, **keywords):
        """Train for 3 epochs of 6 steps; keywords are settings, or go to `train`."""
        settings = {"epochs": 3, "batch_size": 7, "learning_rate": 0.01}
        settings |= {name: keywords.pop(name) for name in NAMES & keywords.keys()}
        settings = TrainSettings(**settings)
        return train(self.model, loss or self.loss, len(self.x), settings, **keywords)

    @property
    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


class StopsAt:
    """A loss that, before a given call, makes the deadline pass."""

    def __init__(self, problem, clock, call):
        self.problem, self.clock, self.call, self.count = problem, clock, call, 0

    def __call__(self, rows, known=None):
        self.count += 1
        if self.count == self.call:
            self.clock.now = 100.0
        return self.problem.loss(rows)


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now
