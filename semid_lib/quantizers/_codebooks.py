"""What tokenizers with an autoencoder share: the codebooks, their start and repair, training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.compute.device import resolve_device
from semid_lib.quantizers._learnt import CHUNK, LearntQuantizer, Run, in_chunks, load_weights
from semid_lib.quantizers.base import check_codes
from semid_lib.quantizers.kmeans import kmeans
from semid_lib.settings import NONE, SIZE, choice, real, several, whole

KMEANS_ROWS, RESTART_ROWS = 100, 4  # rows per code that the start and a restart look at
START_STEPS = 10  # most Lloyd steps of the start


class CodebookNetwork(nn.Module):
    """L codebooks of K words in D dimensions, between an encoder and a decoder.

    A subclass implements `encode(x [B, d]) -> [B, M, D]` and `decode([B, D]) -> [B, d]`. With
    `residual` M is 1 and level l codes what the levels before it left over; else M is L and level
    l codes part l.

    Args:
        update: "gradient" (the words are parameters) or "ema" (running means of the vectors that
            chose them, of decay `ema_decay`).
        sinkhorn: epsilon of the balanced assignment of the last level in training; 0 for none.
    """

    residual = True

    def __init__(
        self, num_levels, num_codes, dim, *, update="gradient", ema_decay=0.99, sinkhorn=0
    ):
        super().__init__()
        words = torch.empty(num_levels, num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes)
        self.update, self.ema_decay, self.sinkhorn = update, ema_decay, sinkhorn
        if update == "gradient":
            self.codebooks = nn.Parameter(words)
        else:
            self.register_buffer("codebooks", words)
            self.register_buffer("ema_count", torch.ones(num_levels, num_codes))
            self.register_buffer("ema_sum", words.clone())

    def assign(self, latents: Tensor, prepare=None) -> Tensor:
        """Codes `[B, L]` of `latents` `[B, M, D]`: the nearest word of each level in turn.

        `prepare(level, rest)` may change the words of a level before they are used.
        """
        codes, before = [], 0.0
        for level, words in enumerate(self.codebooks.detach()):
            rest = latents[:, 0] - before if self.residual else latents[:, level]
            if prepare is not None:
                prepare(level, rest)
            cost = torch.addmm((words * words).sum(1), rest, words.T, alpha=-2)
            if self.sinkhorn and self.training and level == len(self.codebooks) - 1:
                codes.append(balanced(cost, self.sinkhorn).argmax(1))
            else:
                codes.append(cost.argmin(1))
            if self.residual:
                before = before + words[codes[-1]]
        return torch.stack(codes, 1)

    def words(self, codes: Tensor) -> Tensor:
        """The words `[B, l, D]` of codes or prefixes `[B, l]`."""
        return F.embedding(self.flat(codes), self.codebooks.flatten(0, 1))

    def flat(self, codes: Tensor) -> Tensor:
        """Rows of the words of all levels put below each other."""
        return codes + self.codebooks.shape[1] * torch.arange(codes.shape[1], device=codes.device)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes `[B, L]`, words `[B, L, D]`, and what each level coded `[B, L, D]`.

        What a level codes depends on `latents` alone: the words before it count as constants.
        """
        codes = self.assign(latents.detach())
        words = self.words(codes)
        inputs = latents
        if self.residual:
            inputs = latents - F.pad(words.detach().cumsum(1)[:, :-1], (0, 0, 1, 0))
        if self.training and self.update == "ema":
            self._move_words(codes, inputs.detach())
        return codes, words, inputs

    def _move_words(self, codes, inputs):
        """Running means: of the number of vectors that chose each word, and of their sum."""
        flat = self.flat(codes).flatten()
        count, total = torch.zeros_like(self.ema_count), torch.zeros_like(self.ema_sum)
        count.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=count.dtype))
        total.flatten(0, 1).index_add_(0, flat, inputs.flatten(0, 1))
        self.ema_count.lerp_(count, 1 - self.ema_decay)
        self.ema_sum.lerp_(total, 1 - self.ema_decay)
        count = self.ema_count[..., None]
        self.codebooks.copy_(torch.where(count > 1e-6, self.ema_sum / count, self.codebooks))

    def set_words(self, level: int, index, words: Tensor):
        """Give some words of a level new values."""
        self.codebooks.data[level, index] = words
        if self.update == "ema":
            self.ema_count[level, index] = 1.0
            self.ema_sum[level, index] = words

    def start(self, level: int, rest: Tensor, seed: int):
        """Set the words of a level to the k-means centres of `rest` `[B, D]`."""
        rng = np.random.default_rng([seed, level])
        centres, _, _ = kmeans(rest.cpu().numpy(), self.codebooks.shape[1], START_STEPS, rng)
        self.set_words(level, slice(None), torch.as_tensor(centres).to(self.codebooks))

    def restart(self, level: int, dead: Tensor, rest: Tensor, rng):
        """Move the words `dead` of a level onto some rows of `rest`."""
        rows = rng.choice(len(rest), len(dead), replace=len(dead) > len(rest))
        self.set_words(level, dead, rest[torch.as_tensor(rows, device=rest.device)])


def balanced(cost: Tensor, epsilon: float, steps: int = 50) -> Tensor:
    """Sinkhorn's plan `[B, K]` of least cost with equal rows and equal columns (entropic, float64).

    Costs are scaled to -1..1 first, as in LC-Rec's code.
    """
    low, high = cost.min(), cost.max()
    middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=1e-12)
    plan = torch.exp(-((cost - middle) / half).double() / epsilon)
    rows, columns = torch.ones_like(plan[:, 0]), torch.ones_like(plan[0])
    for _ in range(steps):
        columns = 1 / (plan.T @ rows).clamp(min=1e-300) / len(columns)
        rows = 1 / (plan @ columns).clamp(min=1e-300) / len(rows)
    return rows[:, None] * plan * columns


def mlp(sizes) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them."""
    layers = []
    for narrow, wide in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(narrow, wide), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class CodebookRun(Run):
    """A training whose epochs begin with work on the codebooks and end with their tallies."""

    def __init__(self, model: CodebookQuantizer, X, seed: int):
        super().__init__(model, X, seed)
        words = self.network.codebooks.detach()
        self.chosen = torch.zeros_like(words[..., 0], dtype=torch.long)  # how often, this epoch
        self.sums = words.new_zeros(3)  # rows and the two losses
        self.latest = None  # codes and losses of the step that is being taken
        order = np.random.default_rng([seed, 1]).permutation(len(X))
        kept = max(len(X) - int(model._held_out * len(X)), model.num_codes)
        self.rows = torch.as_tensor(np.sort(order[:kept]), device=self.device)
        self.held_out = self.data[torch.as_tensor(order[kept:], device=self.device)]
        if len(self.held_out):
            self.monitor = "score"

    def __len__(self):
        return len(self.rows)

    def loss(self, index: Tensor, known=None) -> Tensor:
        """Mean loss of some rows."""
        value, *self.latest = self.network.losses(self.data[self.rows[index]])
        return value

    def begin_epoch(self, epoch: int) -> None:
        """Start the codebooks or restart words that nothing chose, and begin new tallies."""
        model, before = self.model, epoch - 1
        rng = np.random.default_rng([self.seed, before, 2])
        if model._starts(before):
            self._start(rng)
        elif before and model.restart:
            self._restart(rng)
        self.chosen.zero_()
        self.sums.zero_()

    def _start(self, rng) -> None:
        network = self.network
        latents = self._latents(rng, self.model._start_rows())
        network.assign(latents, lambda level, rest: network.start(level, rest, self.seed))

    def _restart(self, rng) -> None:
        def prepare(level, rest):
            dead = (self.chosen[level] == 0).nonzero()[:, 0]
            self.network.restart(level, dead, rest, rng)

        latents = self._latents(rng, RESTART_ROWS * self.model.num_codes)
        self.network.assign(latents, prepare)

    def after_step(self, step: int) -> None:
        """Count the batch's codes and add up its losses."""
        reconstruction, quantization, codes = self.latest
        flat = self.network.flat(codes).flatten()
        self.chosen.view(-1).scatter_add_(0, flat, torch.ones_like(flat))
        rows = torch.full_like(reconstruction, len(codes))
        batch = torch.stack([rows, len(codes) * reconstruction, len(codes) * quantization])
        self.sums += batch.to(self.sums.dtype)

    def state(self) -> dict[str, Tensor]:
        """The tallies, so that a resumed epoch ends with the figures of an unbroken one."""
        return {"chosen": self.chosen, "sums": self.sums}

    def load_state(self, tensors) -> None:
        self.chosen.copy_(tensors["chosen"])
        self.sums.copy_(tensors["sums"])

    def _latents(self, rng, count: int) -> Tensor:
        """Encode a sample of the rows that are trained on."""
        rows = rng.choice(len(self.rows), min(count, len(self.rows)), replace=False)
        rows = self.rows[torch.as_tensor(np.sort(rows), device=self.device)]
        return torch.cat([self.network.encode(self.data[r]) for r in rows.split(CHUNK)])

    def report(self) -> dict:
        rows, reconstruction, quantization = self.sums.tolist()
        share = self.chosen.double() / self.chosen.sum(1, keepdim=True)
        entropy = -torch.special.xlogy(share, share).sum(1)
        entry = {
            "reconstruction": reconstruction / rows,
            "quantization": quantization / rows,
            "usage": (share > 0).double().mean(1).tolist(),
            "perplexity": entropy.exp().tolist(),
        }
        if len(self.held_out):
            parts = self.held_out.split(CHUNK)
            total = sum(float(self.network.losses(x)[0]) * len(x) for x in parts)
            entry["held_out"] = total / len(self.held_out)
            entry["score"] = -entry["held_out"]
        return entry


class CodebookQuantizer(LearntQuantizer):
    """A tokenizer whose `CodebookNetwork` codes what an encoder makes of the rows.

    A subclass checks its own settings in `_check_own()` and implements
    `_network(d) -> CodebookNetwork` with `losses(x) -> (loss, reconstruction, quantization,
    codes)`; it also has the settings hidden, latent, commitment and init.
    """

    _run = CodebookRun
    restart = False
    limits = {
        "hidden": several(SIZE), "latent": SIZE, "commitment": real(0), "epochs": whole() | NONE,
        "init": choice("kmeans", "uniform"),
    }  # fmt: skip
    _held_out = 0.0  # share of the rows that choose the epoch instead of being trained on

    def _starts(self, epoch: int) -> bool:
        """Whether the codebooks get k-means centres before an epoch (from 0)."""
        return epoch == 0 and self.init == "kmeans"

    def _start_rows(self) -> int:
        """How many rows these centres come from."""
        return KMEANS_ROWS * self.num_codes

    def _check(self):
        self._check_own()

    def _build(self, X, seed):
        return self._network(X.shape[1])

    def _adopt(self, network, X=None):
        """Make a trained network this estimator's."""
        self.network_ = network
        self.codebooks_ = [words.cpu().numpy() for words in network.codebooks.detach()]
        self.level_sizes_ = tuple(len(words) for words in self.codebooks_)

    def _encode(self, X) -> np.ndarray:
        network = self.network_
        return in_chunks(lambda x: network.assign(network.encode(x)), X, network.codebooks)

    def inverse_transform(self, codes) -> np.ndarray:
        """The decoded sum of the words that codes or prefixes `[N, l >= 1]` name, `[N, d]`."""
        self.check_fitted()
        codes, network = check_codes(codes, self.level_sizes_), self.network_
        rows = in_chunks(
            lambda c: network.decode(network.words(c).sum(1)), codes, network.codebooks
        )
        return rows.astype(self._dtype)

    def state(self):
        return {k: t.cpu().numpy() for k, t in self.network_.state_dict().items()}

    def restore(self, arrays):
        network = self._network(self.n_features_in_).to(resolve_device(self.device))
        network.to(torch.as_tensor(arrays["codebooks"]).dtype)
        load_weights(network, arrays)
        self._adopt(network.eval())
