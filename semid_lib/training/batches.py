"""Which samples share a batch."""

from __future__ import annotations

import math

import numpy as np
import torch

from semid_lib.training.settings import TrainSettings

SPAN = 50  # batches whose samples are sorted by length together


class Batches:
    """The batches of each epoch of a run.

    Args:
        num_samples: how many there are. lengths: `[num_samples]`, or None.
        alike: samples of like length share a batch.
        processes: a batch is `settings.batch_size` samples for each of them.

    Attributes:
        size: samples of a batch. per_epoch: samples of an epoch. total_steps: of all epochs.
    """

    def __init__(
        self, num_samples: int, settings: TrainSettings, lengths, alike: bool, processes: int
    ):
        self.num_samples = num_samples
        self.seed = settings.seed
        self.lengths = lengths if alike else None
        self.sizes = np.ones(num_samples) if lengths is None else lengths + 1
        self.size = settings.batch_size * processes
        self.per_epoch = min(num_samples, settings.samples_per_epoch or num_samples)
        self.total_steps = settings.epochs * math.ceil(self.per_epoch / self.size)

    def of_epoch(self, epoch: int, device) -> list[tuple]:
        """The batches of an epoch (from 0), on the device and on the CPU."""
        return batches_of_epoch(
            self.num_samples, self.per_epoch, self.size, self.lengths, self.seed, epoch, device
        )

    def work(self, batches) -> list[float]:
        """How much each batch gives the model to do: its samples' lengths + 1."""
        return [self.sizes[known.numpy()].sum().item() for _, known in batches]


def batches_of_epoch(
    num_samples, per_epoch, batch_size, lengths, seed, epoch, device
) -> list[tuple]:
    """The batches of one epoch, on the device and on the CPU: a permutation of the samples, like
    lengths together if given.

    With fewer samples per epoch than there are, epochs walk through one long permutation, so
    that every sample is drawn once before any is drawn twice.
    """
    order = _drawn(num_samples, per_epoch, seed, epoch)
    cuts = np.arange(batch_size, per_epoch, batch_size)
    if lengths is not None:
        spans = np.split(order, np.arange(SPAN * batch_size, per_epoch, SPAN * batch_size))
        order = np.concatenate([s[np.argsort(lengths[s], kind="stable")] for s in spans])
    order = torch.from_numpy(order)
    batches = list(zip(*(rows.tensor_split(cuts.tolist()) for rows in (order.to(device), order))))
    if lengths is not None:
        shuffled = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
        batches = [batches[i] for i in shuffled]
    return batches


def _drawn(num_samples, per_epoch, seed, epoch) -> np.ndarray:
    """The samples of an epoch, from a permutation of all and, at its end, from the next one."""
    cycle, place = divmod(epoch * per_epoch, num_samples)
    order = np.random.default_rng([seed, cycle]).permutation(num_samples)
    if place + per_epoch > num_samples:
        order = np.append(order, np.random.default_rng([seed, cycle + 1]).permutation(num_samples))
    return order[place : place + per_epoch]


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
