"""Holistic scoring against a gather of Eq. 9 in chunks of items."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import Job, measure, require
from semid_lib.compute.memory import keep_memory
from semid_lib.compute.scoring import holistic_scores, table_rows, top_items

DIGITS, CODES, K = 32, 256, 10
SIZES = {"pq_score": (12_101, 256), "pq_score_million": (1_000_000, 16)}


@cache
def catalogue(items):
    codes = np.random.default_rng(0).integers(0, CODES, (items, DIGITS))
    return table_rows(codes, CODES), torch.from_numpy(codes)


def setup(items, users):
    def arguments(round):
        keep_memory()
        generator = torch.Generator().manual_seed(round)
        logits = torch.randn(users, DIGITS, CODES, generator=generator)
        return logits.log_softmax(-1), *catalogue(items)

    return arguments


def gathered(log_probs, rows, codes):
    """Eq. 9 as RPG's and ACERec's gather, in chunks of 512 items."""
    table = log_probs.flatten(1)[:, None]
    parts = [
        table.expand(-1, len(part), -1).gather(2, part.expand(len(table), -1, -1)).sum(2)
        for part in (codes + CODES * torch.arange(DIGITS)).split(512)
    ]
    return torch.cat(parts, dim=1)


def gathered_top(log_probs, rows, codes):
    return gathered(log_probs, rows, codes).topk(K)


def scores(log_probs, rows, codes):
    return holistic_scores(log_probs, rows)


def best(log_probs, rows, codes):
    return top_items(log_probs, rows, K)


def same_scores(rounds):
    worst = max(float((ours - theirs).abs().max()) for _, ours, theirs in rounds)
    require(worst < 1e-4, f"scores differ by {worst:.2g}")
    return f"scores within {worst:.0e}"


def same_items(rounds):
    """Ours have the scores that they are said to have, and these are the peer's best."""
    for (log_probs, _, codes), (items, values), theirs in rounds:
        exact = log_probs.double().gather(2, codes[items].transpose(1, 2)).sum(1)
        worst = max(float((values - other).abs().max()) for other in (exact, theirs.values))
        require(worst < 1e-4, f"scores of the best items differ by {worst:.2g}")
    return f"the same {K} best scores"


def test_scores_alone(benchmark):
    items, users = SIZES["pq_score"]
    size = f"{users} users x {items:,} items x {DIGITS} digits, scores alone"
    job = Job("pq_score", size, "torch", 15, setup(items, users), scores, gathered, same_scores)
    measure(job, benchmark)


@pytest.mark.parametrize("name, target", [("pq_score", 6), ("pq_score_million", 12)])
def test_with_top_items(benchmark, name, target):
    items, users = SIZES[name]
    size = f"{users} users x {items:,} items x {DIGITS} digits, with top {K}"
    gate = same_items
    if name == "pq_score_million":
        gate = within_memory(gate, setup(items, users))
    job = Job(f"{name}_top{K}", size, "torch", target, setup(items, users), best, gathered_top,
              gate)  # fmt: skip
    measure(job, benchmark)


def within_memory(gate, arguments):
    """Also less than 1 GB above what the codes take: measured in a process of its own."""

    def check(rounds):
        from multiprocessing import get_context

        with get_context("spawn").Pool(1) as pool:
            more = pool.apply(_memory, SIZES["pq_score_million"])
        require(more < 2**30, f"{more / 2**20:.0f} MB beyond the codes")
        return f"{gate(rounds)}; {more / 2**20:.0f} MB beyond the codes"

    return check


def _memory(items, users):
    """Bytes that rows, table, scores and lists took at most, the codes as given left out.

    By the kernel's own figures, the peak set back before.
    """

    def field(name):
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) * 1024

    log_probs = torch.randn(users, DIGITS, CODES).log_softmax(-1)
    codes = np.random.default_rng(0).integers(0, CODES, (items, DIGITS), np.int16)
    top_items(log_probs, table_rows(codes[:100_000], CODES), K)
    Path("/proc/self/clear_refs").write_text("5")
    before = field("VmRSS")
    top_items(log_probs, table_rows(codes, CODES), K)
    return field("VmHWM") - before
