"""A training step never asks the device for a value, which would make the program wait for a GPU.

PyTorch's "meta" device stands for the GPU: its tensors have a shape and no values, so whatever
needs a value of one (`item()`, `bool()`, `nonzero()`, a mask as an index, `unique()`, a copy to
the CPU), or mixes it with a tensor of the CPU, fails. Whole steps run on it, gradients, clipping
and optimiser included.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from semid_lib import training
from semid_lib.codes import SemanticIds
from semid_lib.compute import device
from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.encoders import FAMAE
from semid_lib.recommenders import (
    HGN,
    RPG,
    ACERec,
    BERT4Rec,
    GRU4Rec,
    S3Rec,
    SASRec,
    T5Recommender,
)
from semid_lib.training import loop

SMALL = dict(dim=16, batch_size=16, epochs=2, samples_per_epoch=55)
BLOCKS = dict(num_heads=2, ffn_dim=16, num_layers=2)
CASES = {
    "SASRec": (SASRec, {**BLOCKS, "field_names": None}),
    "SASRec, windows": (SASRec, {**BLOCKS, "long_histories": "windows", "loss": "sampled"}),
    "SASRec, last": (SASRec, {**BLOCKS, "targets": "last", "loss": "bce"}),
    "GRU4Rec": (GRU4Rec, dict(hidden_dim=8)),
    "HGN": (HGN, dict(loss="bpr")),
    "BERT4Rec": (BERT4Rec, BLOCKS),
    "BERT4Rec, sequences": (BERT4Rec, {**BLOCKS, "samples": "sequences", "ft_ratio": 0.1}),
    "S3Rec": (S3Rec, {**BLOCKS, "pretrain_epochs": 0}),
    "FAMAE": (FAMAE, BLOCKS),
    "FAMAE, random": (FAMAE, {**BLOCKS, "masking": "random", "item_loss": "sampled"}),
    "T5": (T5Recommender, {**BLOCKS, "head_dim": 4, "num_beams": 9}),
    "RPG": (RPG, BLOCKS),
    "ACERec": (ACERec, {**BLOCKS, "ratio": 4}),
    "ACERec, windows": (
        ACERec,
        {**BLOCKS, "ratio": 2, "anchor": "mlp", "long_histories": "windows"},
    ),
}


class EpochOver(Exception):
    """Raised where the loop asks for values: after all steps of an epoch."""


@pytest.fixture
def gpu(monkeypatch):
    """The meta device in a GPU's place; it has no autocast and no fused AdamW of its own."""
    steps, take = [], loop.Loop.take_step

    class AdamW(torch.optim.AdamW):
        _step_supports_amp_scaling = True  # as the fused one: it reads the scale on the device

        def __init__(self, *arguments, fused, **settings):
            assert fused
            super().__init__(*arguments, **settings)

        def step(self):
            self.grad_scale = self.found_inf = None
            super().step()

    def counted(loop):
        take(loop)
        steps.append(loop.state.step)

    def over(loop):
        raise EpochOver

    monkeypatch.setattr(device, "DEVICES", ("cpu", "meta"))
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())
    monkeypatch.setattr(torch.optim, "AdamW", AdamW)
    monkeypatch.setattr(loop.Loop, "take_step", counted)
    monkeypatch.setattr(loop.Loop, "mean_loss", lambda loop: 0.0)  # for the clock, twice
    monkeypatch.setattr(loop.Loop, "end_epoch", over)
    return steps


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic_catalogue(80, 60, branching=(3, 2, 1), random_state=1)[0])


def ids(kind):
    if kind is T5Recommender:
        item = np.arange(80)
        return [SemanticIds(np.stack([item // 20, item // 5 % 4, item % 5], 1), [4, 4, 5])]
    codes = np.random.default_rng(0).integers(0, 4, (80, 8))
    return [SemanticIds(codes, [4] * 8)] if kind in (RPG, ACERec) else []


@pytest.mark.parametrize("name", CASES)
def test_a_step_does_not_wait_for_the_device(name, gpu, split):
    kind, settings = CASES[name]
    longest = {"max_length" if kind is FAMAE else "max_history": 6}
    half = "float16" if name == "T5" else "float32"  # with it, the loop scales the loss
    model = kind(**{**SMALL, **settings, **longest}, device="meta", precision=half)
    with pytest.raises(EpochOver):
        model.fit(split, *ids(kind))
    assert gpu == [1, 2, 3, 4]  # a whole epoch


@pytest.mark.parametrize(
    "waiting",
    [
        lambda rows: rows.max().item(),
        lambda rows: bool((rows > 3).all()),
        lambda rows: (rows > 3).nonzero(),
        lambda rows: rows[rows > 3],
        lambda rows: torch.unique(rows),
        lambda rows: rows.cpu(),
        lambda rows: rows.tolist(),
        lambda rows: rows + torch.ones(len(rows)),
    ],
)
def test_a_step_that_waits_is_found(waiting, gpu):
    model = torch.nn.Linear(2, 1)
    settings = training.TrainSettings(epochs=1, batch_size=8, learning_rate=1.0)

    def loss(rows, known):
        waiting(rows)
        return model.weight.sum()

    with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
        training.train(model, loss, 40, settings, device="meta")
    assert not gpu
