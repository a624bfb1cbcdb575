"""Which samples share a batch."""

from __future__ import annotations

import numpy as np
import torch


def batches_of_epoch(
    num_samples, per_epoch, batch_size, lengths, seed, epoch, device
) -> list[tuple]:
    """The batches of one epoch, on the device and on the CPU: a permutation of the samples, like
    lengths together if given.

    With fewer samples per epoch than there are, epochs walk through one long permutation, so
    that every sample is drawn once before any is drawn twice.
    """
    cycle, place = divmod(epoch * per_epoch, num_samples)
    order = np.random.default_rng([seed, cycle]).permutation(num_samples)
    if place + per_epoch > num_samples:
        order = np.append(order, np.random.default_rng([seed, cycle + 1]).permutation(num_samples))
    order = order[place : place + per_epoch]
    cuts = np.arange(batch_size, per_epoch, batch_size)
    if lengths is not None:
        span = 50 * batch_size
        parts = np.split(order, np.arange(span, per_epoch, span))
        order = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in parts])
    order = torch.from_numpy(order)
    batches = list(zip(*(rows.tensor_split(cuts.tolist()) for rows in (order.to(device), order))))
    if lengths is not None:
        shuffled = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
        batches = [batches[i] for i in shuffled]
    return batches


def like_lengths(lengths: np.ndarray, least: int, most: int | None = None) -> list[np.ndarray]:
    """Cut a batch into groups of like length, the longest of each less than 5/3 of the shortest.

    Args:
        lengths: `[b]`. least, most: rows of a group; with fewer than `least`, or before fewer, it
            takes in shorter samples, too.

    Returns:
        The places 0..b-1 of each group, int64; shorter samples first.
    """
    order = np.argsort(lengths, kind="stable")
    groups, end = [], len(order)
    while end:
        first = np.searchsorted(lengths[order], 0.6 * lengths[order[end - 1]], side="right")
        first = min(first, end - least)
        first = first if first >= least else 0
        first = max(first, end - (most or end))
        groups.append(order[first:end])
        end = first
    return groups[::-1]
