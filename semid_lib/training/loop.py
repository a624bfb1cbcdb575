"""The one training loop: resumable at any step, the same result however often it was stopped.

Everything random about step s depends on `(seed, s)` alone, so a checkpoint needs no random
state, and a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from semid_lib.compute.device import resolve_precision
from semid_lib.compute.distributed import (
    all_reduce,
    broadcast,
    broadcast_parameters,
    rank,
    world_size,
)
from semid_lib.compute.flops import FlopCounter
from semid_lib.compute.memory import keep_memory, while_it_fits
from semid_lib.compute.precision import PRECISIONS
from semid_lib.errors import CheckpointError, DeviceMemoryError, InputError
from semid_lib.settings import check_settings
from semid_lib.storage import load_tensors, save_tensors
from semid_lib.training.batches import batches_of_epoch
from semid_lib.training.history import History, TrainingPaused
from semid_lib.training.schedule import rate_factor

_KIND = "training checkpoint"
# What a checkpoint keeps of a loop and of its history, besides tensors.
_PLACE = ("step", "position", "spent", "outside", "places", "seen", "finished", "bad_epochs")
_PAST = ("epochs", "best_epoch", "stopped")
_COUNTED = 8  # the steps whose FLOPs are counted, after the first


def train(
    model: nn.Module, loss: Callable[..., Tensor], num_samples: int, *, epochs: int,
    batch_size: int, learning_rate: float, weight_decay: float = 0.0, schedule: str = "cosine",
    warmup: float = 0.0, clip: float | None = None, samples_per_epoch: int | None = None,
    lengths: np.ndarray | None = None, alike: bool = True,
    validate: Callable[[], Mapping[str, float]] | None = None, monitor: str = "",
    patience: int | None = None, patience_steps: int = 0, snapshot_steps: tuple[int, ...] = (),
    snapshot: Callable[[], dict[str, Tensor]] | None = None, precision: str = "float32",
    device: str | torch.device = "cpu", seed: int = 0, checkpoint: str | Path | None = None,
    save_every: float = 60.0, at_once: int | None = None, deadline: float | None = None,
    progress: bool | None = None, label: str = "", identity: Mapping | None = None,
    shared: bool = True,
) -> History:  # fmt: skip
    """Fit `model` with AdamW; on return it holds the best weights and is in eval mode.

    Args:
        model: moved to `device` and to the precision's dtype here.
        loss: sample indices `[b]` int64, as a tensor on `device` and as a NumPy array -> scalar
            mean loss. Data should live on the device already; the loop never waits for it inside
            an epoch, and with the array `loss` can look up what is known here, such as the longest
            length, and need not wait either.
        num_samples: how many samples `loss` knows, 0..num_samples-1.
        warmup: share of all steps in which the learning rate rises linearly from 0.
        schedule: after the warm-up, "cosine" (to 0) or "constant".
        clip: largest gradient norm.
        samples_per_epoch: draw only so many samples each epoch (others come in later epochs).
        lengths: `[num_samples]`, how long each sample is.
        alike: samples of like `lengths` share a batch, so that `loss` can trim padding. Only for
            samples with one target each: where a longer sample has more targets, a batch of long
            ones has many, its step is no larger for that, and the targets of short samples weigh
            more. False: batches are random, and `loss` may group them (`like_lengths`).
        at_once: send a batch through the model in pieces of so many samples and add up their
            gradients: the same step but for rounding (and other dropout), in less memory.
        validate: called after each epoch, model in eval mode; `monitor` names the entry that
            chooses the best epoch (higher is better); `patience` epochs without gain stop the run,
            but no fewer than make `patience_steps` steps: on a small set an epoch is a few steps.
        snapshot, snapshot_steps: tensors to keep as they were after these steps.
        precision: "float32", "float64", or autocast "bfloat16" / "float16" (with loss scaling).
        checkpoint: file that is resumed from if it exists, and written every `save_every`
            seconds, at each epoch's end, at the deadline and at the end.
        deadline: `time.monotonic()` value after which TrainingPaused is raised.
        progress: bar with loss, speed and time left; default: only on a terminal.
        identity: whatever else the result depends on (model settings, the data's hash), JSON-able;
            a checkpoint with another identity is refused.
        shared: under torchrun (`semid_lib.compute.distributed`) a batch is `batch_size` x processes
            samples, and each process takes the gradient of its share: the same steps as of one
            process with a batch of that size, but for rounding, dropout, and terms that compare
            the samples of a batch. False: every process does all of it.

    $SEMID_COMPILE names a backend of `torch.compile` for `loss`, such as "inductor" (after the
    first steps; default: none). It was tested for equal results on a CPU, its gain on no GPU.

    Raises:
        TrainingPaused: the deadline came. CheckpointError: the checkpoint is corrupt or of another
        model or setting. DeviceMemoryError: a step does not fit (the message names how many
        samples do; the checkpoint holds the steps before). InputError: nothing to train on, or the
        loss is not finite (the message names the epoch and step; the checkpoint keeps the last
        good state).
    """
    _check(SimpleNamespace(**locals()))
    per_epoch = min(num_samples, samples_per_epoch or num_samples)
    batch_size *= world_size() if shared else 1
    total_steps = epochs * math.ceil(per_epoch / batch_size)
    patience = _in_epochs(patience, patience_steps, epochs / max(total_steps, 1))
    loop = _Loop(model, learning_rate, weight_decay, precision, device, checkpoint, shared)
    fast, work = _compiled(loss), np.ones(num_samples) if lengths is None else lengths + 1
    loop.fingerprint = _fingerprint(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule,
        weight_decay=weight_decay, warmup=warmup, clip=clip, per_epoch=per_epoch, seed=seed,
        precision=precision, num_samples=num_samples, monitor=monitor, patience=patience,
        snapshot_steps=sorted(snapshot_steps), identity=dict(identity or {}),
        parameters={name: list(p.shape) for name, p in model.named_parameters()},
        **({} if alike else {"alike": False}),
    )  # fmt: skip
    loop.resume(epochs)
    show = rank() == 0 and (sys.stderr.isatty() if progress is None else progress)
    shown, width = loop.clock, shutil.get_terminal_size().columns  # tqdm hides where that is 0
    with tqdm(
        total=total_steps, initial=loop.step, desc=label, disable=not show, unit="step", ncols=width
    ) as bar:
        while not loop.finished:
            sizes, epoch = lengths if alike else None, len(loop.history.epochs)
            batches = batches_of_epoch(
                num_samples, per_epoch, batch_size, sizes, seed, epoch, device
            )
            places = [work[known.numpy()].sum().item() for _, known in batches]
            model.train()
            loop.outside += loop.lap()
            for position in range(loop.position, len(batches)):
                if deadline is not None and broadcast(time.monotonic() > deadline):
                    loop.spent += loop.lap()
                    loop.save(position)
                    raise TrainingPaused(
                        f"{label or 'training'} paused at step {loop.step} of {total_steps}",
                        loop.step, total_steps, loop.history.seconds + loop.spent,
                    )  # fmt: skip
                loop.position = position
                loop.reseed(seed)
                rate = learning_rate * rate_factor(loop.step, total_steps, warmup, schedule)
                early = 0 < loop.step <= _COUNTED
                loop.places += early * places[position]
                with loop.counter if early else nullcontext():
                    loop.take(loss if early else fast, batches[position], rate, clip, at_once)
                if loop.step in snapshot_steps:
                    loop.history.snapshots[loop.step] = _copy(snapshot(), "cpu")
                now = time.monotonic()
                if show and now - shown > 1:
                    shown = now
                    bar.set_postfix(loss=f"{loop.mean_loss():.4f}", refresh=False)
                bar.update()
                if checkpoint is not None and now - loop.saved > save_every:
                    loop.spent += loop.lap()
                    loop.save(position + 1)
                    loop.outside += loop.lap()
            loop.spent += loop.lap()
            loop.end_epoch(per_epoch, sum(places), validate, monitor, patience, epochs)
            loop.save(0)
    if loop.best is not None:
        model.load_state_dict(loop.best)
    model.eval()
    return loop.history


_OWN = (
    "epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "clip", "schedule",
    "samples_per_epoch", "patience_steps",
)  # fmt: skip


def train_model(model, loss, num_samples: int, **settings) -> History:
    """Train `model.network_` by `train`, with the model's settings where `settings` has none."""
    device = next(model.network_.parameters()).device
    own = {name: getattr(model, name) for name in _OWN if hasattr(model, name)}
    own.update(precision=resolve_precision(model.precision, device), device=device)
    own.update(seed=model.random_state, label=type(model).__name__)
    return train(model.network_, loss, num_samples, **{**own, **settings})


def _in_epochs(patience, steps: int, epochs_a_step: float) -> int | None:
    """`patience` in epochs, no fewer than make so many steps."""
    return None if patience is None else max(patience, math.ceil(steps * epochs_a_step))


def _fingerprint(**settings) -> str:
    """Digest of all that a run's result depends on."""
    text = json.dumps(settings, sort_keys=True, default=lambda x: x.item())
    return hashlib.sha256(text.encode()).hexdigest()


def _compiled(loss):
    backend = os.environ.get("SEMID_COMPILE")
    return torch.compile(loss, backend=backend, dynamic=True) if backend else loss


def _copy(tensors, device=None) -> dict[str, Tensor]:
    return {name: t.detach().to(device, copy=True) for name, t in tensors.items()}


def _check(settings) -> None:
    if settings.num_samples < 1:
        raise InputError("no training samples: every user's train part is shorter than 2 items")
    check_settings(
        settings, epochs=0, batch_size=1, samples_per_epoch=1, patience=1, at_once=1,
        patience_steps=0,
        schedule=("cosine", "constant"), precision=tuple(PRECISIONS),
    )  # fmt: skip


class _Loop:
    """The state of a run between two steps, and its file."""

    def __init__(self, model, learning_rate, weight_decay, precision, device, checkpoint, shared):
        dtype, self.autocast = PRECISIONS[precision]
        self.model = model.to(device=device, dtype=dtype)
        broadcast_parameters(model)
        self.rank, self.processes = (rank(), world_size()) if shared else (0, 1)
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_memory()
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")
        self.history = History(device=str(device), precision=precision)
        self.best: dict[str, Tensor] | None = None
        self.best_value, self.bad_epochs = -math.inf, 0
        self.step, self.position, self.spent, self.finished = 0, 0, 0.0, False
        self.sound = torch.zeros((), dtype=torch.int64, device=self.device)  # last finite step
        self.clock = self.saved = time.monotonic()
        self.fingerprint, self.counter, self.places = "", FlopCounter(), 0
        self._clear()

    def _clear(self):
        self.position, self.spent, self.outside, self.seen = 0, 0.0, 0.0, 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def reseed(self, seed: int):
        """Fix what the coming step draws: `torch.manual_seed` of the generators in use alone.

        Where CUDA is not, that call keeps a traceback to seed it later: 1.5 ms a step.
        """
        number = (seed * 1_000_003 + self.step + (self.rank << 40)) % 2**63
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(number)

    def lap(self) -> float:
        """Seconds since this was called last, when the device is done with its work."""
        self.mean_loss()
        before, self.clock = self.clock, time.monotonic()
        return self.clock - before

    def take(self, loss, batch, rate, clip, at_once=None):
        """One optimiser step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        whole = len(batch[0])
        share = [t.tensor_split(self.processes)[self.rank].split(at_once or whole) for t in batch]
        pieces = [(rows, known.numpy()) for rows, known in zip(*share) if len(rows)]
        total = None
        with while_it_fits():
            total = self._gradients(loss, pieces, whole)
        if total is None:  # here the error, and the tensors that it held, are gone
            raise self._too_large(loss, pieces[0])
        if self.processes > 1:
            for p in self.model.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            all_reduce([p.grad for p in self.model.parameters()])
            all_reduce([total])
        self.loss_sum += total
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.seen += whole
        self.step += 1
        self.sound.masked_fill_(self.loss_sum.isfinite(), self.step)

    def _gradients(self, loss, pieces, whole):
        """Add up the gradients of pieces of a batch of `whole`; return the sum of their losses."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        enabled = self.autocast is not None
        for piece in pieces:
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled):
                value = loss(*piece)
            self.scaler.scale(value * (len(piece[0]) / whole)).backward()
            total += value.detach() * len(piece[0])
        return total

    def _too_large(self, loss, piece) -> DeviceMemoryError:
        """Save the state before the step, find what fits, and say so."""
        self.optimizer.zero_grad(set_to_none=True)
        self.save(self.position)
        size = len(piece[0])
        fits = size // 2
        while fits:
            with while_it_fits():
                self._gradients(loss, [tuple(part[:fits] for part in piece)], size)
                break
            fits //= 2
        return DeviceMemoryError(
            f"step {self.step + 1} needs more memory than {self.device} has for {size} "
            f"samples at once; {fits or 'not even 1'} of them fit. Set the batch size to "
            f"{fits or 1}, or choose a smaller model. A checkpoint, if any, holds the steps before."
        )

    def mean_loss(self) -> float:
        """Mean loss per sample of the epoch so far; waits for the device."""
        return float(self.loss_sum) / max(self.seen, 1)

    def _check_finite(self):
        loss, parameters = self.mean_loss(), self.model.parameters()
        sound = torch.stack([p.detach().isfinite().all() for p in parameters]).all()
        if not (math.isfinite(loss) and sound):
            what = f"a weight is not finite after step {self.step}"
            if not math.isfinite(loss):
                what = f"the loss is {loss} since step {int(self.sound) + 1}"
            raise InputError(
                f"{what}, in epoch {len(self.history.epochs) + 1}: lower "
                "the learning rate, clip the gradient or look for non-finite inputs. "
                "The checkpoint, if any, keeps the last good state."
            )

    def end_epoch(self, samples, places, validate, monitor, patience, epochs):
        """Book the epoch, validate, keep the best weights, decide whether to stop."""
        self._check_finite()
        entry = {"epoch": len(self.history.epochs) + 1, "loss": self.mean_loss()}
        if validate is not None:
            self.model.eval()
            with torch.no_grad():
                entry.update(broadcast(validate()))
            if entry[monitor] > self.best_value:
                self.best_value, self.bad_epochs = entry[monitor], 0
                self.history.best_epoch = entry["epoch"]
                self.best = _copy(self.model.state_dict())
            else:
                self.bad_epochs += 1
        else:
            self.history.best_epoch = entry["epoch"]
        validation = self.lap()
        entry["train_seconds"], entry["seconds"] = self.spent, self.spent + validation
        entry["outside_seconds"] = self.outside + validation
        entry["samples_per_second"] = samples / max(self.spent, 1e-9)
        entry["flops"] = round(self.counter.total / max(self.places, 1) * places)
        self.history.epochs.append(entry)
        self.history.steps = self.step
        if patience is not None and self.bad_epochs >= patience:
            self.history.stopped, self.finished = "patience", True
        self.finished = self.finished or len(self.history.epochs) >= epochs
        self._clear()

    def save(self, position: int):
        """Write the checkpoint, atomically; a non-finite state never replaces a good one."""
        if self.checkpoint is None:
            return
        self._check_finite()
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in (self.best or {}).items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{n}": t for n, t in state.items()}
        for step, kept in self.history.snapshots.items():
            tensors |= {f"snapshot.{step}.{n}": t for n, t in kept.items()}
        tensors["loss_sum"] = self.loss_sum
        self.position = position
        meta = {
            "kind": _KIND, "fingerprint": self.fingerprint, "scaler": self.scaler.state_dict(),
            "best_value": self.best_value if self.best is not None else None,
            "flops": self.counter.total,
            **{name: getattr(self, name) for name in _PLACE},
            **{name: getattr(self.history, name) for name in _PAST},
        }  # fmt: skip
        save_tensors(self.checkpoint, tensors, meta)
        self.saved = time.monotonic()

    def resume(self, epochs: int):
        """Continue from the checkpoint file if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            self.finished = epochs < 1
            return
        tensors, meta = load_tensors(self.checkpoint, _KIND)
        if meta["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{self.checkpoint.name} was written by another model, dataset or setting; "
                "delete it to start again, or restore the settings it was made with"
            )

        def part(prefix):
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        if meta["best_value"] is not None:
            self.best = {n: t.to(self.device) for n, t in part("best.").items()}
            self.best_value = meta["best_value"]
        state = {}
        for name, t in part("optimizer.").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = t
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(meta["scaler"])
        for name, t in part("snapshot.").items():
            step, key = name.split(".", 1)
            self.history.snapshots.setdefault(int(step), {})[key] = t
        for name in _PLACE:
            setattr(self, name, meta.get(name, 0))  # what older files lack was not measured
        self.counter.total = meta.get("flops", 0)
        for name in _PAST:
            setattr(self.history, name, meta[name])
        self.history.steps = self.step
        self.sound.fill_(self.step)
        self.loss_sum = tensors["loss_sum"].to(self.device)
