"""Constrained beam search: the best IDs of a catalogue, for many users at once."""

from __future__ import annotations

import torch
from torch import Tensor

from semid_lib.codes import Trie
from semid_lib.errors import InputError
from semid_lib.networks import T5, Decoding

NORMALIZE = ("level", "vocabulary")


@torch.no_grad()
def beam_search(
    model: T5, memory: Tensor, padding: Tensor | None, trie: Trie, beams: int, *,
    normalize: str = "level", free: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Find the `beams` most probable IDs of the catalogue for each user (SPEC 14).

    The score of an ID (c_0..c_{L-1}) is sum_l log p(c_l | history, c_0..c_{l-1}). At every level
    a beam's children in the trie are its only candidates, so each ID returned exists. No
    length penalty: all IDs are of one length.

    Args:
        model: in eval mode; its weights may be float64, float32 or bfloat16, on any device.
        memory, padding: `model.encode(tokens)` of B users; not repeated per beam.
        trie: of the catalogue (`SemanticIds.trie`), L levels, with n_l nodes at level l.
        beams: how many prefixes are kept after each level.
        normalize: the codes over which p sums to 1: those of the "level" (before the trie's
            mask, so that scores compare across beams), or the whole "vocabulary" (then scores are
            those of Hugging Face's `generate` with a `prefix_allowed_tokens_fn`).
        free: search among all tuples of codes, as without a trie, and only then look which exist.

    Returns:
        `(leaves, scores)`, `[B, W]` with W = min(beams, number of IDs): trie leaves (int64; their
        items by `trie.leaf_ptr`, `trie.leaf_items`) and log-probabilities (float32, or float64 if
        the model is), best first. With `beams` at least the number of prefixes of every level the
        search is exhaustive. A `free` search may give tuples that no item has: their score is
        minus infinity, their leaf 0, and they keep their place in the list.

    Raises:
        InputError: beams below 1, an unknown `normalize`, or a trie of other levels than the
            model's.

    Cost: the encoder once per user; L decoder steps of W rows per user; candidates
    W * (most children of a node) per user and level. With 50 beams, 4 levels of 256 codes and 80
    tokens, 55 % of the time is matrix products at the CPU's peak, 20 % attention to the memory
    and in the encoder. "vocabulary" pays logits and a softmax of 1,026 instead of 256, about 10 %.
    """
    if beams < 1:
        raise InputError(f"beams is {beams}, but at least 1 is needed")
    if normalize not in NORMALIZE:
        raise InputError(f"normalize is {normalize!r}, but must be one of {NORMALIZE}")
    levels = len(model.level_sizes)
    if trie.num_levels != levels:
        raise InputError(f"a trie of {trie.num_levels} levels, but the model has {levels}")
    trie = trie.tensors(memory.device)
    users = len(memory)
    exact = torch.promote_types(memory.dtype, torch.float32)
    kept = [min(beams, len(code)) for code in trie.code]
    decoding = Decoding(model, memory, padding)
    tokens = torch.zeros(users, 1, dtype=torch.int64, device=memory.device)
    score = torch.zeros(users, 1, dtype=exact, device=memory.device)
    node = torch.zeros(users, 1, dtype=torch.int64, device=memory.device)
    parents = None
    for level, size in enumerate(model.level_sizes):
        states = decoding.step(tokens, parents)
        logits = model.logits(states, level if normalize == "level" else None)
        first = 0 if normalize == "level" else model.first_token[level]
        gain = logits.to(exact).log_softmax(-1)
        if free:
            total = score[:, :, None] + gain[..., first : first + size]
            score, best = total.flatten(1).topk(min(beams, total[0].numel()))
            code, parents = best % size, best.div(size, rounding_mode="floor")
            node = _find(trie, level, node.gather(1, parents), code, size)
        else:
            child, live = _children(trie, level, node, users)
            total = score[:, :, None] + gain.gather(-1, first + trie.code[level][child])
            score, best = total.masked_fill_(~live, -torch.inf).flatten(1).topk(kept[level])
            node = child.flatten(1).gather(1, best)
            code, parents = trie.code[level][node], best.div(child.shape[2], rounding_mode="floor")
        tokens = code + model.first_token[level]
    return node.clamp(min=0), score.masked_fill(node < 0, -torch.inf)


def _find(trie: Trie, level: int, node: Tensor, code: Tensor, size: int) -> Tensor:
    """The children `[B, W]` with these codes, of nodes of the level above; -1 if there is none."""
    keys = trie.parent[level] * size + trie.code[level]  # ascends, as the nodes are numbered
    wanted = node * size + code
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where((keys[at] == wanted) & (node >= 0), at, -1)


def _children(trie: Trie, level: int, node: Tensor | None, users: int) -> tuple[Tensor, Tensor]:
    """Candidates `[B, W, C]` of the beams at `node` `[B, W]`, and which of them exist.

    C is the most children of any node of the level. Missing ones repeat the first child.
    """
    if level == 0:
        child = torch.arange(len(trie.code[0]), device=trie.code[0].device)
        child = child.expand(users, 1, -1)
        return child, torch.ones_like(child, dtype=torch.bool)
    first = trie.first_child[level - 1][node][:, :, None]
    count = trie.num_children[level - 1][node][:, :, None]
    slot = torch.arange(trie.max_children[level - 1], device=node.device)
    live = slot < count
    return first + slot * live, live
