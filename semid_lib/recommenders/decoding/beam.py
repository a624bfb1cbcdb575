"""Constrained beam search: the best IDs of a catalogue, for many users at once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from semid_lib.codes import Trie
from semid_lib.errors import InputError


class StepDecoder(Protocol):
    """Writes IDs code by code, for B users with W beams each: all that a search needs of a model.

    What it has read of the users, it holds. Log-probabilities are float32 or float64, and the
    decoder's device is theirs. `networks.Decoding` is T5's.

    Attributes:
        level_sizes: K_l, the number of codes of each of the L levels.
    """

    level_sizes: tuple[int, ...]

    def start(self) -> Tensor:
        """Forget what was written; log-probabilities `[B, 1, K_0]` of the first code."""

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """Write a code of level l - 1 to each beam; log-probabilities `[B, W, K_l]` of the next.

        `codes` `[B, W]` int64; `parents` `[B, W]` int64: of which beam of the call before (one beam
        after `start`) each beam is the child.
        """


@torch.no_grad()
def beam_search(
    decoder: StepDecoder, trie: Trie, beams: int, *, free: bool = False
) -> tuple[Tensor, Tensor]:
    """Find the `beams` most probable IDs of the catalogue for each user (SPEC 14).

    The score of an ID (c_0..c_{L-1}) is sum_l log p(c_l | history, c_0..c_{l-1}). At every level
    a beam's children in the trie are its only candidates, so each ID returned exists. No
    length penalty: all IDs are of one length.

    Args:
        decoder: has read the histories of B users.
        trie: of the catalogue (`SemanticIds.trie`), L levels, with n_l nodes at level l.
        beams: how many prefixes are kept after each level.
        free: search among all tuples of codes, as without a trie, and only then look which exist.

    Returns:
        `(leaves, scores)`, `[B, W]` with W = min(beams, number of IDs): trie leaves (int64; their
        items by `trie.leaf_ptr`, `trie.leaf_items`) and log-probabilities (of the decoder's type),
        best first. With `beams` at least the number of prefixes of every level the
        search is exhaustive. A `free` search may give tuples that no item has: their score is
        minus infinity, their leaf 0, and they keep their place in the list.

    Raises:
        InputError: beams below 1, or a trie of other levels than the decoder's.

    Cost: L decoder steps of W rows per user; candidates W * (most children of a node) per user and
    level. With T5, 50 beams, 4 levels of 256 codes and 80 tokens, 55 % of the time is matrix
    products at the CPU's peak, 20 % attention to the memory and in the encoder.
    """
    if beams < 1:
        raise InputError(f"beams is {beams}, but at least 1 is needed")
    check_levels(decoder, trie)
    kept = [min(beams, len(code)) for code in trie.code]
    gain = decoder.start()
    trie = trie.tensors(gain.device)
    users = len(gain)
    score = torch.zeros(users, 1, dtype=gain.dtype, device=gain.device)
    node = torch.zeros(users, 1, dtype=torch.int64, device=gain.device)
    for level, size in enumerate(decoder.level_sizes):
        if free:
            total = score[:, :, None] + gain
            score, best = total.flatten(1).topk(min(beams, total[0].numel()))
            code, parents = best % size, best.div(size, rounding_mode="floor")
            node = _find(trie, level, node.gather(1, parents), code, size)
        else:
            child, live = _children(trie, level, node, users)
            total = score[:, :, None] + gain.gather(-1, trie.code[level][child])
            score, best = total.masked_fill_(~live, -torch.inf).flatten(1).topk(kept[level])
            node = child.flatten(1).gather(1, best)
            code, parents = trie.code[level][node], best.div(child.shape[2], rounding_mode="floor")
        if level + 1 < trie.num_levels:
            gain = decoder.step(code, parents)
    return node.clamp(min=0), score.masked_fill(node < 0, -torch.inf)


def check_levels(decoder: StepDecoder, trie: Trie) -> None:
    """Raise InputError if the trie has another number of levels than the decoder."""
    levels = len(decoder.level_sizes)
    if trie.num_levels != levels:
        raise InputError(f"a trie of {trie.num_levels} levels, but the model has {levels}")


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
