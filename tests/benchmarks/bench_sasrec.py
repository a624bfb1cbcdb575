"""SASRec with the full softmax: one causal pass a user against RecBole's row for each prefix.

RecBole wants an older numpy and much that a training step does not use, so it is in no list of
requirements: `pip install --no-deps recbole==1.2.1` beside the bench extra, or this is skipped.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from importlib.util import find_spec
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from harness import Job, measure, require
from semid_lib.data import Interactions, leave_one_out, load_dataset
from semid_lib.recommenders import SASRec
from semid_lib.training import loop

pytest.importorskip("recbole", reason="pip install --no-deps recbole==1.2.1")

USERS, ROWS, BATCHES, ITEMS, STEPS = 256, 2048, 6, 50, 20
RATE = 1e-3
loop._COUNTED = 0  # the loop counts FLOPs in a run's first steps, not in those of any epoch


@cache
def split():
    """Beauty with one item more, which nobody has: RecBole ranks its padding too."""
    data = load_dataset("beauty")
    more = data.num_items + 1
    return leave_one_out(Interactions(data.user, data.item, data.num_users, more))


@cache
def recbole():
    """Its SASRec; what its package imports and a step does not use is stood in for.

    One of its modules switches autograd's search for anomalies on when imported, which slows every
    step: off again, but for `own_loop`.
    """
    for name in ("colorlog", "colorama", "texttable", "torch.utils.tensorboard", "thop", "ray"):
        if "." in name or find_spec(name) is None:
            sys.modules.setdefault(name, MagicMock())
    from recbole.model.sequential_recommender.sasrec import SASRec as Theirs

    torch.autograd.set_detect_anomaly(False)
    return Theirs


def pair(dropout):
    """Both models, of RecBole's default size, with the weights of ours."""
    torch.manual_seed(0)
    ours = SASRec(
        dim=64, num_layers=2, num_heads=2, ffn_dim=256, dropout=dropout, max_history=ITEMS,
        learning_rate=RATE, weight_decay=0.0, device="cpu",
    )  # fmt: skip
    ours._build((split().num_items,), np.arange(split().num_items)[:, None])
    config = {
        "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "NEG_PREFIX": "n",
        "ITEM_LIST_LENGTH_FIELD": "length", "MAX_ITEM_LIST_LENGTH": ITEMS, "device": "cpu",
        "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "loss_type": "CE",
        "hidden_dropout_prob": dropout, "attn_dropout_prob": dropout, "hidden_act": "relu",
        "layer_norm_eps": 1e-5, "initializer_range": 0.02,
    }  # fmt: skip
    theirs = recbole()(config, MagicMock(num=lambda field: split().num_items))
    copy(ours.network_, theirs)
    return ours, theirs


@torch.no_grad()
def copy(network, theirs):
    rows = network.table.weight[: split().num_items]
    theirs.item_embedding.weight.copy_(rows.roll(1, 0))  # our last item is their padding
    theirs.position_embedding.weight.copy_(network.position)
    theirs.LayerNorm.load_state_dict(network.encoder.norm.state_dict())
    for block, layer in zip(network.encoder.blocks, theirs.trm_encoder.layer):
        attention, inside = layer.multi_head_attention, layer.feed_forward
        for part in ("weight", "bias"):
            key, value = getattr(block.key_value, part).chunk(2)
            for target, source in (
                (attention.query, getattr(block.query, part)), (attention.key, key),
                (attention.value, value), (attention.dense, getattr(block.out, part)),
                (attention.LayerNorm, getattr(block.norm1, part)),
                (inside.dense_1, getattr(block.inner, part)),
                (inside.dense_2, getattr(block.outer, part)),
                (inside.LayerNorm, getattr(block.norm2, part)),
            ):  # fmt: skip
                getattr(target, part).copy_(source)


def batches(seed):
    """Users `[BATCHES, 2, USERS]` from short to long, as an epoch in length buckets has them."""
    rows = np.stack(SASRec(max_history=ITEMS)._sequences(split()))
    rows = rows[:, np.random.default_rng(seed).permutation(rows.shape[1])]
    order = np.argsort(rows[1] - rows[0], kind="stable")
    middles = ((np.arange(BATCHES) + 0.5) / BATCHES * len(order)).astype(int)
    return np.stack([rows[:, order[m : m + USERS]] for m in middles])


def prefixes(rows):
    """RecBole's augmentation: a row of 50 items for each next item of the users `rows` `[2, B]`."""
    start = np.concatenate([np.full(b - a, a) for a, b in rows.T])
    end = np.concatenate([np.arange(a + 1, b + 1) for a, b in rows.T])
    place = start[:, None] + np.arange(ITEMS)
    items = np.where(place < end[:, None], split().items[np.minimum(place, end[:, None])] + 1, 0)
    fields = {"item_list": items, "length": end - start, "item": split().items[end] + 1}
    return {name: torch.as_tensor(array) for name, array in fields.items()}


def their_epoch(model, interactions):
    """The steps of RecBole's `Trainer._train_epoch`; returns the losses."""
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=RATE), []
    model.train()
    for interaction in interactions:
        optimizer.zero_grad()
        loss = model.calculate_loss(interaction)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return losses


def their_batches(blocks):
    """The rows of all users, shuffled, in batches of RecBole's default size."""
    rows = prefixes(np.concatenate(list(blocks), axis=1))
    order = torch.randperm(len(rows["item"]), generator=torch.Generator().manual_seed(0))
    return [{name: t[part] for name, t in rows.items()} for part in order.split(ROWS)]


def our_epoch(model, rows):
    """Our loop over the samples `rows` `[2, S]`; returns the mean loss of a target."""
    lengths = rows[1] - rows[0]
    per_row = lengths.mean()
    history = model._train(
        split(), partial(model._loss, per_row=per_row), rows, lengths,
        epochs=1, batch_size=USERS, progress=False,
    )  # fmt: skip
    return history.epochs[0]["loss"]


@cache
def largest_gap():
    """How far the losses are apart over 20 steps on the same batches, without dropout."""
    (ours, theirs), items = pair(0.0), torch.as_tensor(split().items)
    optimizer = torch.optim.AdamW(ours.network_.parameters(), lr=RATE, weight_decay=0.0)
    samples = np.stack(ours._sequences(split()))
    drawn = np.random.default_rng(1).permutation(samples.shape[1])[: 16 * STEPS]
    blocks, gaps, step = samples[:, drawn].reshape(2, STEPS, 16), [], []
    expected = their_epoch(theirs, [prefixes(blocks[:, i]) for i in range(STEPS)])
    ours.network_.train()
    for i in range(STEPS):
        rows = torch.as_tensor(blocks[:, i])
        optimizer.zero_grad()
        loss = ours._loss(items, *rows, per_row=float((rows[1] - rows[0]).double().mean()))
        loss.backward()
        optimizer.step()
        step.append(loss.item())
        gaps.append(abs(step[-1] - expected[i]))
    require(step[-1] < step[0], "nothing was learnt")
    return max(gaps)


def own_loop(model, blocks):
    """RecBole's epoch as its users have it, with the search for anomalies that it leaves on."""
    with torch.autograd.set_detect_anomaly(True):
        return their_epoch(model, their_batches(blocks))


@pytest.mark.parametrize("name", ["sasrec_epoch", "sasrec_own_loop"])
def test_sasrec(name, benchmark):
    ours, theirs = pair(0.5)
    alone = name == "sasrec_epoch"
    peer = (lambda m, blocks: their_epoch(m, their_batches(blocks))) if alone else own_loop
    loop = "autograd's checks off" if alone else "as it is imported: autograd's checks on"

    def setup(round):
        return (batches(round),)

    def gate(rounds):
        gap = largest_gap()
        require(gap < 1e-4, f"the losses differ by {gap:.1e}")
        targets = sum(int((b[:, 1] - b[:, 0]).sum()) for (b,), *_ in rounds) // len(rounds)
        return f"losses of {STEPS} steps from the same weights within {gap:.0e}; {targets} targets"

    measure(
        Job(
            name,
            "Beauty: 6 batches of an epoch, 256 users, d 64, full softmax "
            f"(RecBole: 2,048 rows, {loop})",
            "recbole", 15, setup,
            ours=lambda blocks: our_epoch(ours, np.concatenate(list(blocks), axis=1)),
            theirs=lambda blocks: peer(theirs, blocks),
            gate=gate, stretch=20,
        ),
        benchmark,
    )  # fmt: skip
