"""What tokenizers with learnt codebooks share: the codebooks, their start and repair, training."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.errors import InputError
from semid_lib.layers import check_choices
from semid_lib.quantizers._learnt import warn_collapsed
from semid_lib.quantizers.balanced_kmeans import check_clusters
from semid_lib.quantizers.base import Quantizer, check_seed, check_vectors
from semid_lib.quantizers.kmeans import check_codes, flat_kmeans
from semid_lib.runtime import resolve_device, resolve_precision
from semid_lib.training import PRECISIONS, train

STEPS = 20_000  # optimiser steps of a fit with epochs=None
CHUNK = 8192  # rows that are coded or decoded at once
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
        # Tallies are buffers, so that a resumed epoch ends with the figures of an unbroken one.
        self.register_buffer("chosen", torch.zeros(num_levels, num_codes, dtype=torch.long))
        self.register_buffer("sums", torch.zeros(3))  # rows and the two losses
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("running", torch.zeros((), dtype=torch.bool))

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
        return F.embedding(self._flat(codes), self.codebooks.flatten(0, 1))

    def _flat(self, codes: Tensor) -> Tensor:
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
        flat = self._flat(codes).flatten()
        count, total = torch.zeros_like(self.ema_count), torch.zeros_like(self.ema_sum)
        count.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=count.dtype))
        total.flatten(0, 1).index_add_(0, flat, inputs.flatten(0, 1))
        self.ema_count.lerp_(count, 1 - self.ema_decay)
        self.ema_sum.lerp_(total, 1 - self.ema_decay)
        count = self.ema_count[..., None]
        self.codebooks.copy_(torch.where(count > 1e-6, self.ema_sum / count, self.codebooks))

    @torch.no_grad()
    def tally(self, codes, reconstruction, quantization):
        """Count a batch's codes and add up its losses."""
        flat = self._flat(codes).flatten()
        self.chosen.view(-1).scatter_add_(0, flat, torch.ones_like(flat))
        rows = torch.full_like(reconstruction, len(codes))
        batch = torch.stack([rows, len(codes) * reconstruction, len(codes) * quantization])
        self.sums += batch.to(self.sums.dtype)

    def set_words(self, level: int, index, words: Tensor):
        """Give some words of a level new values."""
        self.codebooks.data[level, index] = words
        if self.update == "ema":
            self.ema_count[level, index] = 1.0
            self.ema_sum[level, index] = words

    def start(self, level: int, rest: Tensor, seed: int):
        """Set the words of a level to the k-means centres of `rest` `[B, D]`."""
        start = int(np.random.SeedSequence([seed, level]).generate_state(1)[0])
        centres = flat_kmeans(rest.cpu().numpy(), self.codebooks.shape[1], START_STEPS, start)
        words = torch.as_tensor(centres.cluster_centers_).to(self.codebooks)
        self.set_words(level, slice(None), words)

    def restart(self, level: int, rest: Tensor, rng):
        """Move each word that nothing chose in the last epoch onto some row of `rest`."""
        dead = (self.chosen[level] == 0).nonzero()[:, 0]
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


class LearntQuantizer(Quantizer):
    """A tokenizer whose `CodebookNetwork` is trained by gradient steps.

    A subclass checks its settings in `_check()` and implements `_network(d) -> CodebookNetwork`
    with `losses(x) -> (loss, reconstruction, quantization, codes)`; it has the settings
    num_codes, init, epochs, batch_size, learning_rate, weight_decay, device, precision and
    random_state.
    """

    restart = False
    _held_out = 0.0  # share of the rows that choose the epoch instead of being trained on

    def fit(self, X, y=None, *, checkpoint=None, deadline=None, progress=None):
        """Train on the rows of X, `[N, d]`; `y` is ignored.

        Args:
            checkpoint: file to resume from and write to. deadline, progress: see `training.train`.

        Raises:
            InputError: a bad setting, fewer rows than codes, non-finite or all-equal rows; or a
            loss that is not finite: the message names epoch and step, and the estimator keeps the
            state at the end of the epoch before, if there is one. TrainingPaused,
            CheckpointError: see `training.train`.

        Warns:
            CollapseWarning: a level gives every row the same code.
        """
        seed = check_seed(self.random_state)
        X = check_vectors(self, X, reset=True)
        self._check_settings(len(X))
        run = _Run(self, X, seed)
        try:
            self.history_ = run.train(checkpoint, deadline, progress)
        except InputError:
            if run.good is not None:
                run.network.load_state_dict(run.good)
                self._finish(run.network, X)
            raise
        return self._finish(run.network, X)

    def _starts(self, epoch: int) -> bool:
        """Whether the codebooks get k-means centres before an epoch (from 0)."""
        return epoch == 0 and self.init == "kmeans"

    def _start_rows(self) -> int:
        """How many rows these centres come from."""
        return KMEANS_ROWS * self.num_codes

    def _check_settings(self, n: int):
        for name in ("num_levels", "num_codes", "latent", "batch_size"):
            check_whole(name, getattr(self, name))
        if self.epochs is not None:
            check_whole("epochs", self.epochs)
        if not np.iterable(self.hidden):
            raise InputError(f"hidden is {self.hidden!r}, but must be a sequence of widths")
        for width in self.hidden:
            check_whole("a width of hidden", width)
        check_choices(self, init=("kmeans", "uniform"))
        if not self.commitment >= 0:
            raise InputError(f"commitment is {self.commitment!r}, but must be at least 0")
        check_clusters(self.num_codes, n)
        self._check()

    def _finish(self, network, X):
        self._adopt(network)
        self.codes_ = self._encode(X)
        warn_collapsed(self.codes_, self.num_codes)
        return self

    def _adopt(self, network):
        """Make a trained network this estimator's."""
        self.network_ = network.eval()
        self.codebooks_ = [words.cpu().numpy() for words in network.codebooks.detach()]
        self.level_sizes_ = tuple(len(words) for words in self.codebooks_)

    def transform(self, X) -> np.ndarray:
        """Hard codes, the nearest word of each level in turn, `[N, L]` int64."""
        self._check_fitted()
        return self._encode(check_vectors(self, X, reset=False))

    def _encode(self, X) -> np.ndarray:
        words = self.network_.codebooks

        def code(rows):
            rows = torch.tensor(rows, device=words.device, dtype=words.dtype)
            return self.network_.assign(self.network_.encode(rows))

        return _in_chunks(code, X)

    def inverse_transform(self, codes) -> np.ndarray:
        """The decoded sum of the words that codes or prefixes `[N, l >= 1]` name, `[N, d]`."""
        self._check_fitted()
        codes = check_codes(codes, self.level_sizes_)

        def decode(rows):
            rows = torch.as_tensor(rows, device=self.network_.codebooks.device)
            return self.network_.decode(self.network_.words(rows).sum(1))

        return _in_chunks(decode, codes).astype(self._dtype)

    def _state(self):
        return {k: t.cpu().numpy() for k, t in self.network_.state_dict().items()}

    def _restore(self, arrays):
        device = resolve_device(self.device)
        network = self._network(self.n_features_in_).to(device)
        network.to(torch.as_tensor(arrays["codebooks"]).dtype)
        network.load_state_dict({k: torch.as_tensor(a) for k, a in arrays.items()})
        self._adopt(network)


class _Run:
    """One training of a quantizer: its data on the device, and the work around an epoch."""

    def __init__(self, model: LearntQuantizer, X, seed: int):
        self.model, self.seed, self.good, self.running = model, seed, None, None
        self.device = resolve_device(model.device)
        self.precision = resolve_precision(model.precision, self.device)
        dtype = PRECISIONS[self.precision][0]
        torch.manual_seed(seed)
        self.network = model._network(X.shape[1]).to(self.device, dtype)
        self.data = torch.tensor(X, dtype=dtype, device=self.device)
        order = np.random.default_rng([seed, 1]).permutation(len(X))
        kept = max(len(X) - int(model._held_out * len(X)), model.num_codes)
        self.rows = torch.as_tensor(np.sort(order[:kept]), device=self.device)
        self.held_out = self.data[torch.as_tensor(order[kept:], device=self.device)]
        self.digest = hashlib.sha256(X).hexdigest()

    def train(self, checkpoint, deadline, progress):
        model = self.model
        steps = math.ceil(len(self.rows) / model.batch_size)
        chooses = len(self.held_out) > 0
        identity = {k: v for k, v in model.get_params().items() if k != "device"}
        return train(
            self.network, self.loss, len(self.rows),
            epochs=math.ceil(STEPS / steps) if model.epochs is None else model.epochs,
            batch_size=model.batch_size, learning_rate=model.learning_rate,
            weight_decay=model.weight_decay, schedule="constant", validate=self.end_epoch,
            monitor="score" if chooses else "epoch", precision=self.precision,
            device=self.device, seed=self.seed, checkpoint=checkpoint, deadline=deadline,
            progress=progress, label=type(model).__name__,
            identity={**identity, "data": self.digest},
        )  # fmt: skip

    def loss(self, index: Tensor) -> Tensor:
        """Mean loss of some rows; the first of an epoch prepares the codebooks."""
        network = self.network
        if self.running is None:
            self.running = bool(network.running)
        if not self.running:
            self._begin_epoch()
        value, *parts, codes = network.losses(self.data[self.rows[index]])
        network.tally(codes, *parts)
        return value

    @torch.no_grad()
    def _begin_epoch(self):
        network, model, epoch = self.network, self.model, int(self.network.epochs)
        rng = np.random.default_rng([self.seed, epoch, 2])
        with torch.autocast(torch.device(self.device).type, enabled=False):
            if model._starts(epoch):
                latents = self._latents(rng, model._start_rows())
                network.assign(latents, lambda level, rest: network.start(level, rest, self.seed))
            elif epoch and model.restart:
                latents = self._latents(rng, RESTART_ROWS * model.num_codes)
                network.assign(latents, lambda level, rest: network.restart(level, rest, rng))
        network.chosen.zero_()
        network.sums.zero_()
        network.running.fill_(True)
        self.running = True

    def _latents(self, rng, count: int) -> Tensor:
        """Encode a sample of the rows that are trained on."""
        rows = rng.choice(len(self.rows), min(count, len(self.rows)), replace=False)
        rows = self.rows[torch.as_tensor(np.sort(rows), device=self.device)]
        return torch.cat([self.network.encode(self.data[r]) for r in rows.split(CHUNK)])

    def end_epoch(self) -> dict:
        """What the history holds of an epoch besides its loss."""
        network = self.network
        rows, reconstruction, quantization = network.sums.tolist()
        share = network.chosen.double() / network.chosen.sum(1, keepdim=True)
        entropy = -torch.special.xlogy(share, share).sum(1)
        entry = {
            "reconstruction": reconstruction / rows,
            "quantization": quantization / rows,
            "usage": (share > 0).double().mean(1).tolist(),
            "perplexity": entropy.exp().tolist(),
        }
        if len(self.held_out):
            parts = self.held_out.split(CHUNK)
            total = sum(float(network.losses(x)[0]) * len(x) for x in parts)
            entry["held_out"] = total / len(self.held_out)
            entry["score"] = -entry["held_out"]
        network.epochs += 1
        network.running.fill_(False)
        self.running = False
        self.good = {name: t.clone() for name, t in network.state_dict().items()}
        return entry


def check_whole(name: str, value):
    """Raise InputError unless `value` is an integer >= 1."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < 1:
        raise InputError(f"{name} is {value!r}, but must be an integer >= 1")


@torch.no_grad()
def _in_chunks(function, rows: np.ndarray) -> np.ndarray:
    parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    return np.concatenate([function(part).cpu().numpy() for part in parts])
