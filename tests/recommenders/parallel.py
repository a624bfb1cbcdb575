"""A small dataset with long codes, and models with large random weights."""

import numpy as np
import torch

from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions, leave_one_out

TINY = dict(
    dim=8, num_heads=2, ffn_dim=12, num_layers=2, dropout=0.0, batch_size=16, epochs=1,
    max_history=6, precision="float64", temperature=0.5,
)  # fmt: skip
ITEMS, DIGITS, CODES = 30, 8, 4


def make_split(num_users=40, longest=9, seed=0, **more):
    """Users who nearly always step to a fixed successor."""
    rng = np.random.default_rng(seed)
    successor, walks = rng.permutation(ITEMS), []
    for _ in range(num_users):
        walk = [rng.integers(ITEMS)]
        for _ in range(rng.integers(0, longest)):
            walk.append(successor[walk[-1]] if rng.random() < 0.9 else rng.integers(ITEMS))
        walks.append(walk)
    data = Interactions(
        user=np.repeat(np.arange(num_users), [len(w) for w in walks]),
        item=np.concatenate(walks).astype(np.int64), num_users=num_users, num_items=ITEMS, **more,
    )  # fmt: skip
    return leave_one_out(data)


def make_sids(seed=1):
    codes = np.random.default_rng(seed).integers(0, CODES, (ITEMS, DIGITS))
    codes[20] = codes[4]  # two items with the same codes
    return SemanticIds(codes, [CODES] * DIGITS)


def shaken(kind, split, **settings):
    """A fitted model whose weights are then drawn anew, large, in eval mode."""
    model = kind(**{**TINY, **settings}).fit(split, make_sids())
    torch.manual_seed(1)
    for parameter in model.network_.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.network_.eval()
    return model


def training_loss(model, split):
    """The summed loss of all samples in one batch."""
    rows = torch.as_tensor(np.stack(model._sequences(split)))
    items = torch.as_tensor(split.items)
    targets = np.concatenate([s[1:] for s in split.train_sequences()])
    counts = torch.as_tensor(np.bincount(targets, minlength=ITEMS))
    return model._loss(items, rows, counts)


def weights(model):
    """The network's parameters as arrays, under their names."""
    return {name: p.detach().numpy() for name, p in model.network_.named_parameters()}
