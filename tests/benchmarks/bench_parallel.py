"""RPG and ACERec: training with rows as long as the histories or of 50 items; users a second."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2Model

from harness import Job, measure, require, store
from semid_lib.codes import SemanticIds
from semid_lib.compute.memory import keep_memory
from semid_lib.data import leave_one_out, load_dataset
from semid_lib.evaluation import evaluate
from semid_lib.recommenders import RPG, ACERec
from semid_lib.runs import Work, stages

DIGITS, CODES, ITEMS, USERS, BATCHES = 32, 256, 50, 32, 6
GPT2 = dict(n_embd=448, n_layer=2, n_head=4, n_inner=1024, n_positions=ITEMS, resid_pdrop=0.0)


@cache
def split():
    return leave_one_out(load_dataset("beauty"))


def fresh(kind, **settings):
    """A model with random codes, which cost what learnt ones cost, and large random weights."""
    torch.manual_seed(0)
    model = kind(max_history=ITEMS, device="cpu", **settings)
    codes = np.random.default_rng(0).integers(0, CODES, (split().num_items, DIGITS))
    model._build(SemanticIds(codes, [CODES] * DIGITS))
    for name, parameter in model.network_.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def batches(model, first):
    """Batches from short to long, as an epoch in length buckets has: `[3, USERS]` samples each.

    Of each sixth of the samples, by length, a run that is nearest to its mean length and number of
    targets, so that the batches have about those of the epoch.
    """
    start, end, targets_from = rows = np.stack(model._sequences(split()))
    counts = np.stack([end - start, end - targets_from])  # items and targets
    shuffled, found = np.random.default_rng(first).permutation(len(start)), []
    order = shuffled[np.argsort(counts[0, shuffled], kind="stable")]
    for part in np.array_split(order, BATCHES):
        sums = counts[:, part].cumsum(axis=1)
        runs = (sums[:, USERS:] - sums[:, :-USERS]) / USERS
        at = np.abs(runs - sums[:, -1:] / len(part)).sum(axis=0).argmin() + 1
        found.append(torch.as_tensor(rows[:, part[at : at + USERS]]))
    return found


def train(network, loss, blocks):
    """A step of AdamW on each batch; returns the losses."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    losses = []
    for block in blocks:
        value = loss(block)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
    return losses


@cache
def items_and_counts():
    counts = torch.as_tensor(split().train_counts())
    return torch.as_tensor(split().items), counts.clamp(min=1)


def our_loss(model):
    return lambda rows: model._loss(items_and_counts()[0], rows, items_and_counts()[1]) / USERS


def padded(rows):
    """Items `[B, 50]`, which are valid, and what follows the valid ones."""
    items, (start, end, first) = items_and_counts()[0], rows
    place = start[:, None] + torch.arange(ITEMS)
    keep = (place >= first[:, None]) & (place < end[:, None])
    return items[torch.minimum(place, end[:, None] - 1)], keep, items[place[keep] + 1]


def padded_loss(model):
    """The same network on rows of 50 items."""

    def loss(rows):
        read, keep, targets = padded(rows)
        both = torch.cat([read.flatten(), targets])
        known, at = torch.unique(both, return_inverse=True)
        vectors, summaries = model.network_.vectors(known)
        hidden = model.network_(vectors[at[: read.numel()].view(read.shape)], keep)
        wanted = at[read.numel() :]
        counts = items_and_counts()[1]
        return model._objective(hidden, known, wanted, summaries, counts) / USERS

    return loss


def hugging_face(ours):
    """`GPT2Model` with the weights of our RPG, and RPG's heads: one linear layer each."""
    config = GPT2Config(
        vocab_size=1, activation_function="gelu_new", embd_pdrop=ours.network_.dropout.p,
        attn_pdrop=ours.network_.blocks[0].rate, **GPT2,
    )  # fmt: skip
    net, gpt = ours.network_, GPT2Model(config)
    with torch.no_grad():
        gpt.wpe.weight.copy_(net.position)
        for block, copy in zip(net.blocks, gpt.h):
            for name in ("weight", "bias"):
                one = torch.cat([getattr(block.query, name), getattr(block.key_value, name)])
                for target, source in (
                    (copy.attn.c_attn, one), (copy.attn.c_proj, getattr(block.out, name)),
                    (copy.mlp.c_fc, getattr(block.inner, name)),
                    (copy.mlp.c_proj, getattr(block.outer, name)),
                    (copy.ln_1, getattr(block.norm1, name)),
                    (copy.ln_2, getattr(block.norm2, name)),
                ):  # fmt: skip
                    getattr(target, name).copy_(source.T if source.dim() == 2 else source)
        gpt.ln_f.load_state_dict(net.norm.state_dict())
    heads = torch.nn.ModuleList(torch.nn.Linear(448, 448) for _ in range(DIGITS))
    for head, weight, bias in zip(heads, net.heads, net.head_bias):
        head.weight.data.copy_(weight)
        head.bias.data.copy_(bias)
    table = torch.nn.Embedding.from_pretrained(net.table.detach().clone(), freeze=False)
    return torch.nn.ModuleDict({"gpt": gpt, "heads": heads, "table": table}).train()


def gpt2_loss(network, model):
    """RPG's loss, its heads applied to the valid positions alone."""

    def loss(rows):
        read, keep, targets = padded(rows)
        vectors = network["table"](model.network_.rows[read]).mean(2)
        lengths = rows[1] - rows[0]
        mask = torch.arange(ITEMS) < lengths[:, None]
        hidden = network["gpt"](inputs_embeds=vectors, attention_mask=mask).last_hidden_state[keep]
        codes, total = model.network_.codes(targets), 0.0
        books = F.normalize(network["table"].weight, dim=-1).view(DIGITS, CODES, -1)
        for k, head in enumerate(network["heads"]):
            state = F.normalize(hidden + F.silu(head(hidden)), dim=-1)
            logits = state @ books[k].T / model.temperature
            total = total + F.cross_entropy(logits, codes[:, k], reduction="sum")
        return total / DIGITS / USERS

    return loss


def same_losses(kind, peer, **settings):
    """Gate: the losses of the batches without dropout, before a step and after each."""

    @cache
    def check():
        model = fresh(kind, dropout=0.0, **settings)
        ours, theirs, network = model, *peer(fresh(kind, dropout=0.0, **settings))
        blocks = batches(model, 99)
        away = np.abs(
            np.subtract(
                train(ours.network_, our_loss(ours), blocks), train(network, theirs, blocks)
            )
        ).max()
        require(away < 1e-3, f"losses differ by {away:.1e}")
        return f"losses of {BATCHES} steps without dropout within {away:.0e}"

    return lambda rounds: check()


def job(name, kind, peer, of, target, **settings):
    model, (loss, network) = fresh(kind, **settings), peer(fresh(kind, **settings))
    keep_memory()
    return Job(
        name=name,
        input=f"Beauty's histories, long ones as {model.long_histories}, {BATCHES} batches of "
        f"{USERS} from short to long, "
        f"{DIGITS} x {CODES} codes, width 448; the peer padded to {ITEMS} items",
        peer=of, target=target, setup=lambda round: (batches(model, round),),
        ours=lambda blocks: train(model.network_.train(), our_loss(model), blocks),
        theirs=lambda blocks: train(network.train(), loss, blocks),
        gate=same_losses(kind, peer, **settings),
    )  # fmt: skip


def itself(model):
    return padded_loss(model), model.network_


def with_gpt2(model):
    network = hugging_face(model)
    return gpt2_loss(network, model), network


def test_acerec_train(benchmark):
    """As the paper-profile: half of the time goes to rows of 50 items with one target each."""
    measure(job("acerec_train", ACERec, itself, "torch", 3), benchmark)


def test_acerec_train_windows(benchmark):
    """The same targets, but those of a long history in windows that do not overlap."""
    once = dict(long_histories="windows")
    measure(job("acerec_train_windows", ACERec, itself, "torch", 3, **once), benchmark)


def test_rpg_train(benchmark):
    measure(job("rpg_train", RPG, with_gpt2, "transformers", 2), benchmark)


# --- users a second beside NDCG@10

SYSTEMS = {"ACERec": "acerec", "RPG": "rpg", "RPG, graph": "rpg", "T5, 50 beams": "rkmeans"}
PUBLISHED = {"toys": dict(beams=200, edges=20, steps=3)}  # RPG's README; Beauty's are the defaults
BUDGET = "20,480 targets: 128 steps of 32 histories, T5 160 of 128 targets"
CUTS = {
    "rkmeans": dict(epochs=1, batch_size=128, samples_per_epoch=20_480, validate_users=0)
} | dict.fromkeys(("acerec", "rpg"), dict(epochs=1, batch_size=32, samples_per_epoch=4096))


def trained(system, dataset):
    """The recommender of a run on a dataset, cut to the budget; trained here once, then kept."""
    overrides = {"recommender": CUTS[system]}
    if system != "rkmeans":
        overrides["quantizer"] = {"num_rounds": 1}  # of OPQ; 50 cost as much as the training here
    work = Work(system, dataset, profile="paper", overrides=overrides, device="cpu")
    work.stage("encoder", work.run_encoder)
    work.stage("quantizer", work.run_quantizer)
    return stages.fitted_recommender(work)


def test_decoding():
    """256 test users at once, top 10, in turn; NDCG@10 of every tenth test user."""
    dataset, texts = "toys", []
    data = leave_one_out(load_dataset(dataset))
    models = {name: trained(system, dataset) for name, system in SYSTEMS.items()}
    models["RPG, graph"].set_params(decoding="graph", **PUBLISHED[dataset])
    histories, seconds = data.histories("test")[:256], {name: [] for name in models}
    for _ in range(6):
        for name, model in models.items():
            began = time.perf_counter()
            model.generate(histories, 10, False)
            seconds[name].append(time.perf_counter() - began)
    for name, model in models.items():
        speed = len(histories) / np.median(seconds[name][1:])
        ndcg = evaluate(model, data, "test", ks=(10,), users=data.users[::10]).metrics()["ndcg@10"]
        texts.append(f"{name}: {speed:.0f} users/s, NDCG@10 {ndcg:.4f}")
    store({
        "job": "parallel_decoding", "peer": "each other", "quality": "; ".join(texts),
        "input": f"{dataset}, presets of the paper, but each trained on only about {BUDGET}; OPQ "
        "of one round, R-KMeans' codes for T5; 256 users, top 10",
        "peer s": "", "our s": "", "ratio": "", "target": "none", "met": "", "raw": seconds,
    })  # fmt: skip
