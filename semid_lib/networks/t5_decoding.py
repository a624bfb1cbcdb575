"""T5's decoder, one code at a time, for the searches of `recommenders.decoding` (SPEC 14)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semid_lib.errors import InputError
from semid_lib.networks.t5 import T5

NORMALIZE = ("level", "vocabulary")


class Decoding:
    """Decodes many beams of many users, one code a call, with cached keys and values.

    The memory's keys and values are made once per user; a user's beams are query rows that
    share them, so nothing of the memory is repeated. A beam's own keys and values, at most L, are
    kept with the beam and copied to its children.

    A `StepDecoder` of the beam search and of the exact scores.

    Args:
        model: in eval mode; its weights may be float64, float32 or bfloat16, on any device.
        memory, padding: what `T5.encode` returned, for B users.
        normalize: the codes over which p sums to 1: those of the "level" (before a trie's mask, so
            that scores compare across beams), or the whole "vocabulary" (then scores are those of
            Hugging Face's `generate` with a `prefix_allowed_tokens_fn`).

    Raises:
        InputError: an unknown `normalize`.

    Cost: a dense product with the keys of all beams (of which a beam may see L) was 3 times
    slower than `Layer.step`'s sums over the L that it may see. "vocabulary" pays logits and a
    softmax of 1,026 instead of 256, about 10 % of a search.
    """

    def __init__(self, model: T5, memory: Tensor, padding: Tensor | None, normalize="level"):
        if normalize not in NORMALIZE:
            raise InputError(f"normalize is {normalize!r}, but must be one of {NORMALIZE}")
        self.model = model
        self.level_sizes = model.level_sizes
        self.normalize = normalize
        self.num_users = len(memory)
        self.cross = [layer.memory(memory) for layer in model.decoder]
        self.padding = None
        if padding is not None:
            self.padding = memory.new_zeros(padding.shape).masked_fill(~padding, -math.inf)
        self.bias = model.position_bias(
            model.decoder_bias, model.decoder_buckets, len(model.level_sizes)
        )
        self.past = [[] for _ in model.decoder]

    def start(self) -> Tensor:
        """Begin anew: log-probabilities `[B, 1, K_0]` of the first code."""
        self.past = [[] for _ in self.model.decoder]
        tokens = torch.zeros(self.num_users, 1, dtype=torch.int64, device=self.bias.device)
        return self._log_probs(self._states(tokens), 0)

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """Write a code to each beam; log-probabilities `[B, W, K_l]` of the next one.

        Args:
            codes: `[B, W]` int64, each beam's newest code, of level l - 1.
            parents: `[B, W]` int64, of which beam of the step before each beam is the child.

        Returns:
            Float32, or float64 if the model is.
        """
        self.past = [[_of_parents(kept, parents) for kept in past] for past in self.past]
        level = len(self.past[0])
        tokens = codes + self.model.vocabulary.first_token[level - 1]
        return self._log_probs(self._states(tokens), level)

    def _states(self, tokens):
        """States `[B, W, D]` after the tokens `[B, W]`, whose keys and values are kept."""
        place = len(self.past[0])
        bias = self.bias[0, :, place, : place + 1]
        x = self.model.embedding(tokens)
        for layer, past, cross in zip(self.model.decoder, self.past, self.cross):
            x = layer.step(x, past, bias, cross, self.padding)
        return self.model.decoder_norm(x)

    def _log_probs(self, states, level):
        whole = self.normalize == "vocabulary"
        logits = self.model.logits(states, None if whole else level)
        exact = torch.promote_types(states.dtype, torch.float32)
        log_probs = logits.to(exact).log_softmax(-1)
        if whole:
            first = self.model.vocabulary.first_token[level]
            log_probs = log_probs[..., first : first + self.level_sizes[level]]
        return log_probs


def _of_parents(kept: Tensor, parents: Tensor) -> Tensor:
    """Rows `parents` `[B, W]` of `[B, V, C]`; as it is where V is 1, for it broadcasts."""
    if kept.shape[1] == 1:
        return kept
    row = parents + kept.shape[1] * torch.arange(len(kept), device=kept.device)[:, None]
    return kept.flatten(0, 1).index_select(0, row.flatten()).unflatten(0, row.shape)
