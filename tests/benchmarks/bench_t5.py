"""T5: constrained beam search and training against Hugging Face's, with the same weights.

Neither side calls `compute.memory.keep_memory`, which would work for both (T5Recommender calls it).
Where torch sees a GPU, both sides run on it, and training has the target of a GPU.
"""

from __future__ import annotations

import copy
import time
from functools import cache

import numpy as np
import torch

from harness import DEVICE, Job, machine, measure, require
from semid_lib.codes import SemanticIds
from semid_lib.data import leave_one_out, load_dataset
from semid_lib.networks import Decoding
from semid_lib.recommenders.decoding.beam import beam_search
from tests.parity.test_t5_hf import pair as pair_on_cpu
from tests.parity.test_t5_hf import translate

SIZES = (256, 256, 256, 256)
SHAPE = dict(dim=128, num_layers=4, num_heads=4, head_dim=32, ffn_dim=512)
BEAMS, USERS, ITEMS = 50, 64, 20
AMX = "amx_bf16" in machine()
TRAINING = 5 if DEVICE == "cuda" else 1.8


def pair(**changes):
    """Hugging Face's T5 and ours, the same weights, on the device."""
    return [model.to(DEVICE) for model in pair_on_cpu(SIZES, **SHAPE, **changes)]


# --- t5_beam50


@cache
def catalogue() -> SemanticIds:
    """12,101 distinct uniform tuples of 4 x 256 codes, sorted."""
    codes = np.unique(np.random.default_rng(0).integers(0, 256, (12_101, 4)), axis=0)
    assert len(codes) == 12_101
    return SemanticIds(codes, SIZES)


@cache
def following() -> dict:
    """The tokens that may follow each prefix: what the peer's prefix function looks up."""
    children = {}
    for tokens in catalogue().tokens.tolist():
        for level in range(4):
            children.setdefault(tuple(tokens[:level]), set()).add(tokens[level])
    return {prefix: sorted(tokens) for prefix, tokens in children.items()}


@cache
def decoders(trained: bool):
    """Hugging Face's model and ours: at its random start, where beams nearly tie, or trained.

    300 steps of the peer teach that item i follows item i - 1.
    """
    theirs, ours = pair()
    if trained:
        tokens, rng = torch.from_numpy(catalogue().tokens), np.random.default_rng(2)
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
        for _ in range(300):
            last = torch.from_numpy(rng.integers(4, len(tokens), (64, 1)))
            history = tokens[last - torch.arange(4, 0, -1)].flatten(1).to(DEVICE)
            loss = theirs(history, labels=tokens[last[:, 0]].to(DEVICE)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.load_state_dict(translate(theirs.state_dict(), SHAPE["num_layers"]))
    return theirs, ours


def beam_setup(round):
    """Models by turns, and the histories of 64 users: 20 uniform items, 80 tokens."""
    theirs, ours = decoders(trained=bool(round % 2))
    items = np.random.default_rng(10 + round).integers(0, len(catalogue()), (USERS, ITEMS))
    return theirs, ours, torch.from_numpy(catalogue().tokens[items]).flatten(1).to(DEVICE)


def generate(model, tokens, size):
    """Hugging Face's `generate`: items `[B, 50]` and scores."""
    found = [
        model.generate(
            block, attention_mask=torch.ones_like(block), num_beams=BEAMS,
            num_return_sequences=BEAMS, max_new_tokens=4, do_sample=False, length_penalty=0.0,
            output_scores=True, return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda _, prefix: following()[tuple(prefix.tolist()[1:])],
        )
        for block in tokens.split(size)
    ]  # fmt: skip
    scores = torch.cat([block.sequences_scores for block in found]).cpu()
    sequences = torch.cat([block.sequences[:, 1:] for block in found]).cpu().numpy()
    known = catalogue().tokens @ 1026 ** np.arange(4)
    order = np.argsort(known)
    items = order[np.searchsorted(known, sequences @ 1026 ** np.arange(4), sorter=order)]
    return items.reshape(USERS, BEAMS), scores.view(USERS, BEAMS).numpy()


@cache
def peer_batch() -> int:
    """Users the peer decodes at once: of 8, 16 and 32 the fastest here."""
    theirs, _, tokens = beam_setup(0)
    seconds = {}
    for size in (8, 16, 32):
        began = time.process_time()
        generate(theirs, tokens, size)
        seconds[size] = time.process_time() - began
    return min(seconds, key=seconds.get)


@torch.no_grad()
def search(model, tokens, size=64):
    """Our beam search, as `generate`; probabilities over the whole vocabulary, as there."""
    trie = catalogue().trie
    found = [
        beam_search(Decoding(model, *model.encode(block), "vocabulary"), trie, BEAMS)
        for block in tokens.split(size)
    ]
    leaves, scores = (torch.cat(parts).cpu().numpy() for parts in zip(*found))
    return trie.leaf_items[trie.leaf_ptr[leaves]], scores


def overlap(rounds, k) -> float:
    """Mean share of the peer's first k items that are among our first k."""
    pairs = [(a, b) for _, o, t in rounds for a, b in zip(o[0][:, :k], t[0][:, :k])]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in pairs]))


@torch.no_grad()
def exact_scores(model, tokens, items):
    """Log-probabilities `[B, 50]` of items `[B, 50]` after histories `[B, 80]`, in float64."""
    model = copy.deepcopy(model).double()
    memory, padding = model.encode(tokens)
    wanted = torch.from_numpy(catalogue().tokens[items]).to(DEVICE)
    scores = []
    for user, targets in enumerate(wanted):
        mask = None if padding is None else padding[user, None]
        states = model.decode(memory[user].expand(BEAMS, -1, -1), mask, targets)
        chosen = model.logits(states).log_softmax(-1).gather(-1, targets[..., None])
        scores.append(chosen.sum((1, 2)))
    return torch.stack(scores).cpu().numpy()


def same_items(rounds):
    """The same items for every user, with scores as near to those of float64 as the peer's.

    Both round in float32, the more the surer a model is (larger logits): the peer's own distance
    to float64 says how much that is, where a limit of ours would be a guess.
    """
    require(overlap(rounds, BEAMS) == 1, "not the same 50 items for every user")
    errors = [
        [scores - exact_scores(model, tokens, items) for items, scores in sides]
        for (_, model, tokens), *sides in rounds
    ]
    (mean, most), (peer_mean, peer_most) = (
        (np.square(side).mean() ** 0.5, np.abs(side).max()) for side in zip(*errors)
    )
    text = (
        f"scores {mean:.1e} from float64 in root mean square (peer {peer_mean:.1e}), "
        f"at most {most:.0e} (peer {peer_most:.0e})"
    )
    # The largest of thousands of errors varies more from run to run than their mean.
    require(mean <= 1.5 * peer_mean and most <= 3 * peer_most, text)
    same = np.mean([(o[0] == t[0]).mean() for _, o, t in rounds])
    users = len(rounds) * USERS
    return f"same {BEAMS} items for all {users} users, {100 * same:.2f} % in the same place, {text}"


def agreement(rounds):
    """How far bf16's lists agree with the float32 peer's; at least the lists must mostly agree."""
    parts = []
    for name, half in (("trained", rounds[1::2]), ("random start", rounds[::2])):
        top = np.mean([(o[0][:, 0] == t[0][:, 0]).mean() for _, o, t in half])
        parts.append(
            f"{name}: top 1 {100 * top:.0f} %, top 10 {100 * overlap(half, 10):.0f} %, "
            f"top 50 {100 * overlap(half, 50):.0f} %"
        )
    require(overlap(rounds, BEAMS) > 0.9, "; ".join(parts))
    return "shared with float32 (" + "; ".join(parts) + ")"


def beam_job(**changes):
    return Job(
        **dict(
            name="t5_beam50",
            input="trie of 12,101 IDs of 4 x 256 codes, 80 tokens in, 64 users, 50 beams",
            peer="transformers",
            target=10,
            setup=beam_setup,
            ours=lambda theirs, ours, tokens: search(ours, tokens),
            theirs=lambda theirs, ours, tokens: generate(theirs, tokens, peer_batch()),
            gate=same_items,
            rounds=6,
        )
        | changes
    )


def test_t5_beam50(benchmark):
    peer_batch()
    measure(beam_job(), benchmark)


def test_t5_beam50_bf16(benchmark):
    half = cache(lambda trained: pair()[1].bfloat16())

    def setup(round):
        theirs, ours, tokens = beam_setup(round)
        half(bool(round % 2)).load_state_dict(ours.state_dict())
        return theirs, half(bool(round % 2)), tokens

    changes = dict(name="t5_beam50_bf16", target=14 if AMX else None, gate=agreement, setup=setup)
    peer_batch()
    measure(beam_job(**changes), benchmark)


# --- t5_train


@cache
def samples():
    """Beauty's training samples: `(tokens [N + 1, 4], items, start, target)`; row N is padding.

    Codes are random tuples, each item's its own: they cost what learnt ones cost.
    """
    split = leave_one_out(load_dataset("beauty"))
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.unique(rng.integers(0, 256, (2 * split.num_items, 4)), axis=0))
    tokens = SemanticIds(codes[: split.num_items], SIZES).tokens
    return np.pad(tokens, ((0, 1), (0, 0))), split.items, *split.windows(ITEMS)


def batches(count, size, first):
    """`count` batches of `size` samples from short to long, as an epoch in length buckets has.

    Returns:
        A list of `(history [B, 80], tokens of the longest, target [B, 4])`.
    """
    tokens, items, start, target = samples()
    lengths = target - start
    shuffled = np.random.default_rng(first).permutation(len(target))
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    result = []
    for middle in (np.arange(count) + 0.5) / count * len(order):
        rows = order[int(middle) - size // 2 :][:size]
        place = start[rows, None] + np.arange(ITEMS)
        item = items[np.minimum(place, len(items) - 1)]
        item = np.where(place < target[rows, None], item, len(tokens) - 1)
        history, wanted = tokens[item].reshape(size, -1), tokens[items[target[rows]]]
        longest = int(lengths[rows].max()) * 4
        history, wanted = (torch.from_numpy(rows).to(DEVICE) for rows in (history, wanted))
        result.append((history, longest, wanted))
    return result


def run(model, loss, blocks, precision=None):
    """A step of AdamW on each batch; returns the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    losses = []
    for block in blocks:
        with torch.autocast(DEVICE, dtype=precision, enabled=precision is not None):
            value = loss(model, *block)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
    return losses


def our_loss(model, history, longest, wanted):
    return model.loss(history[:, :longest], wanted, normalize="vocabulary")


def their_loss(model, history, longest, wanted):
    return model(history, attention_mask=(history != 0).long(), labels=wanted).loss


@cache
def loss_curves() -> str:
    """The gate: 16 steps without dropout on the same batches must have the same losses.

    In float64 to 1e-5: the two do the same arithmetic. In float32 no such limit can be kept, for
    AdamW's first step moves each weight by the learning rate in its gradient's direction, however
    small the gradient; where rounding decides that direction, two float32 runs part by twice
    the rate, and later steps build on it. So there the measure is how far the peer's own float32
    curve strays from float64, and ours may stray as far again.
    """
    blocks, curves = batches(16, 64, first=99), {}
    for dtype in (torch.float64, torch.float32):
        theirs, ours = (model.to(dtype) for model in pair(dropout=0.0))
        curves[dtype] = np.array([run(ours, our_loss, blocks), run(theirs, their_loss, blocks)])
    exact = curves[torch.float64]
    away = float(np.abs(exact[0] - exact[1]).max())
    ours, theirs = np.abs(curves[torch.float32] - exact[1]).max(axis=1)
    text = (
        f"losses of 16 steps without dropout, {exact[1][0]:.2f} to {exact[1][-1]:.2f}, within "
        f"{away:.0e} in float64; float32 strays {ours:.0e} from that (peer {theirs:.0e})"
    )
    require(away <= 1e-5 and ours <= 2 * theirs, text)
    return text


def train_job(name, target, precision):
    networks = [network.train() for network in pair(dropout=0.1)]
    return Job(
        name=name,
        input="Beauty's histories, 6 batches of 256 from short to long, dropout 0.1; "
        "the peer padded to 20 items",
        peer="transformers",
        target=target,
        setup=lambda round: (*networks, batches(6, 256, first=round)),
        ours=lambda theirs, ours, blocks: run(ours, our_loss, blocks, precision),
        theirs=lambda theirs, ours, blocks: run(theirs, their_loss, blocks, precision),
        gate=lambda rounds: loss_curves(),
    )


def test_t5_train(benchmark):
    measure(train_job("t5_train", TRAINING, None), benchmark)


def test_t5_train_bf16(benchmark):
    measure(train_job("t5_train_bf16", TRAINING, torch.bfloat16), benchmark)
