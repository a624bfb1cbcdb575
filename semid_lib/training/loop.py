"""The one training loop: resumable at any step, the same result however often it was stopped.

Everything random about step s depends on `(seed, s)` alone, so a checkpoint needs no random
state, and a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from semid_lib.compute.device import resolve_precision
from semid_lib.compute.distributed import broadcast, rank, world_size
from semid_lib.errors import InputError
from semid_lib.training.batches import Batches
from semid_lib.training.checkpoint import Checkpoint, RunState, copied, fingerprint
from semid_lib.training.history import History, TrainingPaused
from semid_lib.training.hooks import Hook
from semid_lib.training.progress import ProgressBar
from semid_lib.training.schedule import rate_factor
from semid_lib.training.settings import TrainSettings
from semid_lib.training.step import Stepper

COUNTED = 8  # the steps whose FLOPs are counted, after the first


def train(
    model: nn.Module, loss: Callable[..., Tensor], num_samples: int, settings: TrainSettings, *,
    lengths: np.ndarray | None = None, alike: bool = True,
    validate: Callable[[], Mapping[str, float]] | None = None, hooks: Sequence[Hook] = (),
    checkpoint: str | Path | None = None, save_every: float = 60.0, deadline: float | None = None,
    progress: bool | None = None, label: str = "", identity: Mapping | None = None,
    shared: bool = True, device: str | torch.device | None = None,
) -> History:  # fmt: skip
    """Fit `model` with AdamW; on return it holds the best weights and is in eval mode.

    Args:
        model: moved to `device` (None: it stays where it is) and to the precision's dtype here.
        loss: sample indices `[b]` int64, as a tensor on `device` and as a NumPy array -> scalar
            mean loss. Data should live on the device already; the loop never waits for it inside
            an epoch, and with the array `loss` can look up what is known here, such as the longest
            length, and need not wait either.
        num_samples: how many samples `loss` knows, 0..num_samples-1.
        settings: all else that decides the result.
        lengths: `[num_samples]`, how long each sample is.
        alike: samples of like `lengths` share a batch, so that `loss` can trim padding. Only for
            samples with one target each: where a longer sample has more targets, a batch of long
            ones has many, its step is no larger for that, and the targets of short samples weigh
            more. False: batches are random, and `loss` may group them (`like_lengths`).
        validate: called after each epoch, model in eval mode; what it returns is in the history.
        hooks: work between the steps; their state is in the checkpoint.
        checkpoint: file that is resumed from if it exists, and written every `save_every`
            seconds, at each epoch's end, at the deadline and at the end.
        deadline: `time.monotonic()` value after which TrainingPaused is raised.
        progress: bar with loss, speed and time left; default: only on a terminal. label: its name.
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
        good state), or `validate` and `hooks` do not report `settings.monitor`.
    """
    if num_samples < 1:
        raise InputError("no training samples: every user's train part is shorter than 2 items")
    device = next(model.parameters()).device if device is None else device
    settings = replace(settings, precision=resolve_precision(settings.precision, device))
    processes = world_size() if shared else 1
    batches = Batches(num_samples, settings, lengths, alike, processes)
    stepper = Stepper(model, settings, device, rank() if shared else 0, processes)
    loop = Loop(loss, settings, batches, stepper, validate, hooks, label)
    digest = _digest(settings, batches, loop.patience, model, hooks, alike, identity)
    loop.resume(Checkpoint(checkpoint, digest, stepper, hooks))
    state = loop.state
    with ProgressBar(batches.total_steps, state.step, label, progress, loop.clock) as bar:
        while not state.finished:
            loop.draw_epoch()
            while state.position < len(loop.epoch):
                loop.pause_after(deadline)
                loop.take_step()
                now = time.monotonic()
                bar.update(now, loop.mean_loss)
                loop.save_when(now - loop.saved > save_every)
            loop.end_epoch()
            loop.save()
    if state.best is not None:
        model.load_state_dict(state.best)
    model.eval()
    return state.history


def _digest(settings, batches: Batches, patience, model, hooks, alike, identity) -> str:
    """The fingerprint of a run."""
    kept = (
        "epochs", "learning_rate", "schedule", "weight_decay", "warmup", "clip", "seed",
        "precision", "monitor",
    )  # fmt: skip
    more = {} if alike else {"alike": False}
    if hooks:
        more["hooks"] = [type(hook).__name__ for hook in hooks]
    return fingerprint(
        **{name: getattr(settings, name) for name in kept}, patience=patience,
        batch_size=batches.size, per_epoch=batches.per_epoch, num_samples=batches.num_samples,
        snapshot_steps=sorted(settings.snapshot_steps), identity=dict(identity or {}),
        parameters={name: list(p.shape) for name, p in model.named_parameters()}, **more,
    )  # fmt: skip


def _compiled(loss):
    backend = os.environ.get("SEMID_COMPILE")
    return torch.compile(loss, backend=backend, dynamic=True) if backend else loss


def _in_epochs(settings: TrainSettings, total_steps: int) -> int | None:
    """The patience in epochs, no fewer than make `patience_steps`."""
    if settings.patience is None:
        return None
    epochs_a_step = settings.epochs / max(total_steps, 1)
    return max(settings.patience, math.ceil(settings.patience_steps * epochs_a_step))


class Loop:
    """A run between two of its steps: what `train` does next, in the order it does it."""

    def __init__(self, loss, settings, batches, stepper, validate, hooks, label):
        self.loss, self.compiled = loss, _compiled(loss)
        self.settings: TrainSettings = settings
        self.batches: Batches = batches
        self.stepper: Stepper = stepper
        self.validate = validate
        self.hooks: Sequence[Hook] = hooks
        self.label = label
        self.patience = _in_epochs(settings, batches.total_steps)
        device = stepper.device
        self.state = RunState(
            History(device=str(device), precision=settings.precision),
            torch.zeros((), dtype=torch.float64, device=device),
        )
        self.sound = torch.zeros((), dtype=torch.int64, device=device)  # the last finite step
        self.clock = self.saved = time.monotonic()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint file if there is one."""
        self.checkpoint = checkpoint
        if not checkpoint.read(self.state):
            self.state.finished = self.settings.epochs < 1
        self.sound.fill_(self.state.step)

    def draw_epoch(self) -> None:
        """Draw the batches of the epoch."""
        number = len(self.state.history.epochs)
        self.epoch = self.batches.of_epoch(number, self.stepper.device)
        self.work = self.batches.work(self.epoch)
        self.stepper.model.train()
        self.state.outside += self.lap()

    def pause_after(self, deadline: float | None) -> None:
        """Save and raise TrainingPaused if the deadline is over."""
        if deadline is None or not broadcast(time.monotonic() > deadline):
            return
        state, total = self.state, self.batches.total_steps
        state.spent += self.lap()
        self.save()
        raise TrainingPaused(
            f"{self.label or 'training'} paused at step {state.step} of {total}",
            state.step, total, state.history.seconds + state.spent,
        )  # fmt: skip

    def take_step(self) -> None:
        """One optimiser step; the first of an epoch begins it."""
        state, settings, stepper = self.state, self.settings, self.stepper
        batch = self.epoch[state.position]
        stepper.reseed(state.step)
        counted = 0 < state.step <= COUNTED
        state.places += counted * self.work[state.position]
        with stepper.counter if counted else nullcontext():
            if not state.begun:
                self._begin_epoch()
            total = stepper.gradients(self.loss if counted else self.compiled, batch)
            if total is None:
                self.save()
                raise stepper.too_large(self.loss, batch, state.step + 1)
            share = rate_factor(
                state.step, self.batches.total_steps, settings.warmup, settings.schedule
            )
            stepper.descend(settings.learning_rate * share)
        state.loss_sum += total
        state.seen += len(batch[0])
        state.step += 1
        state.position += 1
        self.sound.masked_fill_(state.loss_sum.isfinite(), state.step)
        with torch.no_grad():
            for hook in self.hooks:
                hook.after_step(state.step)
        if state.step in settings.snapshot_steps:
            state.history.snapshots[state.step] = copied(stepper.model.state_dict(), "cpu")

    @torch.no_grad()
    def _begin_epoch(self) -> None:
        for hook in self.hooks:
            hook.begin_epoch(len(self.state.history.epochs) + 1)
        self.state.begun = True

    def end_epoch(self) -> None:
        """Validate, keep the best weights, book the epoch, decide whether to stop."""
        state, history = self.state, self.state.history
        state.spent += self.lap()
        self.check_finite()
        entry = self._report()
        self._compare(entry)
        validation = self.lap()
        entry["train_seconds"] = state.spent
        entry["seconds"] = state.spent + validation
        entry["outside_seconds"] = state.outside + validation
        entry["samples_per_second"] = self.batches.per_epoch / max(state.spent, 1e-9)
        flops = self.stepper.counter.total / max(state.places, 1)
        entry["flops"] = round(flops * sum(self.work))
        history.epochs.append(entry)
        history.steps = state.step
        if self.patience is not None and state.bad_epochs >= self.patience:
            history.stopped = "patience"
            state.finished = True
        state.finished = state.finished or len(history.epochs) >= self.settings.epochs
        state.next_epoch()

    @torch.no_grad()
    def _report(self) -> dict:
        """What loss, validation and hooks say of the epoch."""
        entry = {"epoch": len(self.state.history.epochs) + 1, "loss": self.mean_loss()}
        self.stepper.model.eval()
        if self.validate is not None:
            entry.update(broadcast(self.validate()))
        for hook in self.hooks:
            entry.update(broadcast(hook.end_epoch(dict(entry)) or {}))
        return entry

    def _compare(self, entry: dict) -> None:
        """Keep the weights if the epoch is the best one; without a monitor, the last one is."""
        state, monitor = self.state, self.settings.monitor
        if monitor not in entry:
            if monitor and self.validate is not None:
                known = ", ".join(entry)
                raise InputError(f"monitor is {monitor!r}, but an epoch reports {known}")
            state.history.best_epoch = entry["epoch"]
        elif entry[monitor] > state.best_value:
            state.best_value = entry[monitor]
            state.bad_epochs = 0
            state.history.best_epoch = entry["epoch"]
            state.best = copied(self.stepper.model.state_dict())
        else:
            state.bad_epochs += 1

    def save_when(self, due: bool) -> None:
        """Write the checkpoint between two steps."""
        if due and self.checkpoint.path is not None:
            self.state.spent += self.lap()
            self.save()
            self.state.outside += self.lap()

    def save(self) -> None:
        """Write the checkpoint, if any; a non-finite state never replaces a good one."""
        if self.checkpoint.path is not None:
            self.check_finite()
            self.checkpoint.write(self.state)
            self.saved = time.monotonic()

    def lap(self) -> float:
        """Seconds since this was called last, when the device is done with its work."""
        self.mean_loss()
        before, self.clock = self.clock, time.monotonic()
        return self.clock - before

    def mean_loss(self) -> float:
        """Mean loss per sample of the epoch so far; waits for the device."""
        return self.state.mean_loss()

    def check_finite(self) -> None:
        """Raise InputError, naming epoch and step, if the loss or a weight is not finite."""
        state = self.state
        loss = self.mean_loss()
        if not math.isfinite(loss):
            what = f"the loss is {loss} since step {int(self.sound) + 1}"
        elif not self.stepper.weights_are_finite():
            what = f"a weight is not finite after step {state.step}"
        else:
            return
        raise InputError(
            f"{what}, in epoch {len(state.history.epochs) + 1}: lower "
            "the learning rate, clip the gradient or look for non-finite inputs. "
            "The checkpoint, if any, keeps the last good state."
        )
