"""Scores of every ID of a catalogue, from a model that writes them code by code."""

from __future__ import annotations

import torch
from torch import Tensor

from semid_lib.codes import Trie
from semid_lib.recommenders.decoding.beam import StepDecoder, check_levels

PREFIXES = 4096  # beams a user that one pass may have


@torch.no_grad()
def exact_scores(decoder: StepDecoder, trie: Trie, *, prefixes: int = PREFIXES) -> Tensor:
    """Score all IDs for each user, by teacher forcing over the nodes of the trie.

    Each prefix is written once, whatever the number of its IDs: all nodes of a level are the beams
    of one step. What a beam search with as many beams as IDs finds, in the order of the leaves.

    Args:
        decoder: has read the histories of B users, a few.
        trie: of the catalogue, L levels.
        prefixes: at most so many beams a user at once; more prefixes are taken in several passes.

    Returns:
        `[B, leaves]` log-probabilities of the decoder's type.

    Raises:
        InputError: a trie of other levels than the decoder's.

    Cost: one row of the decoder for each user and each prefix of 0..L-1 codes; a pass writes the
    first levels of its own prefixes again.
    """
    check_levels(decoder, trie)
    if trie.num_levels == 1:
        return _scores_below(decoder, trie, [(0, len(trie.code[0]))])
    written = len(trie.code[-2])
    passes = [(low, min(low + prefixes, written)) for low in range(0, written, prefixes)]
    found = [_scores_below(decoder, trie, _ranges(trie, *part)) for part in passes]
    return torch.cat(found, dim=1)


def _ranges(trie: Trie, low: int, high: int) -> list[tuple[int, int]]:
    """Of each level, the nodes above and below the nodes low..high-1 of the last but one.

    They are contiguous, since nodes are numbered in the order of their prefixes.
    """
    last = high - 1
    ranges = [(low, high)]
    for level in range(trie.num_levels - 2, 0, -1):
        top, bottom = ranges[0]
        parent = trie.parent[level]
        ranges.insert(0, (int(parent[top]), int(parent[bottom - 1]) + 1))
    first_child = trie.first_child[-2]
    end = int(first_child[last]) + int(trie.num_children[-2][last])
    return [*ranges, (int(first_child[low]), end)]


def _scores_below(decoder: StepDecoder, trie: Trie, ranges) -> Tensor:
    """Scores `[B, n]` of the leaves of the last range, through the nodes of those before it."""
    gain = decoder.start()
    trie = trie.tensors(gain.device)
    users = len(gain)
    score = torch.zeros(users, 1, dtype=gain.dtype, device=gain.device)
    above = 0  # the first node of the level before
    for level, (low, high) in enumerate(ranges):
        parent = trie.parent[level][low:high] - above
        code = trie.code[level][low:high]
        score = score[:, parent] + gain[:, parent, code]
        if level + 1 < len(ranges):
            gain = decoder.step(code.expand(users, -1), parent.expand(users, -1))
        above = low
    return score
