"""The file that a training run is resumed from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from semid_lib.errors import CheckpointError
from semid_lib.storage import load_tensors, save_tensors
from semid_lib.training.history import History
from semid_lib.training.hooks import Hook
from semid_lib.training.step import Stepper

KIND = "training checkpoint"
# What the file keeps of a run's state and of its history, besides tensors.
_STATE = ("step", "position", "spent", "outside", "places", "seen", "finished", "bad_epochs")
_HISTORY = ("epochs", "best_epoch", "stopped")


@dataclass
class RunState:
    """Where a run stands between two steps.

    Attributes:
        history: the epochs so far. loss_sum: of the samples of this epoch, float64 on the device.
        step: optimiser steps taken. position: those of this epoch. seen: its samples.
        begun: the hooks have begun this epoch.
        spent, outside: seconds of this epoch in steps, and between them.
        places: lengths + 1 of the samples of the steps whose FLOPs were counted.
        best, best_value: the weights of the best epoch and its monitored value.
        bad_epochs: epochs since then. finished: no step is left.
    """

    history: History
    loss_sum: Tensor
    step: int = 0
    position: int = 0
    seen: int = 0
    begun: bool = False
    spent: float = 0.0
    outside: float = 0.0
    places: float = 0
    best: dict[str, Tensor] | None = None
    best_value: float = -math.inf
    bad_epochs: int = 0
    finished: bool = False

    def next_epoch(self) -> None:
        """Forget the steps of the epoch that is over."""
        self.position = self.seen = 0
        self.begun = False
        self.spent = self.outside = 0.0
        self.loss_sum = torch.zeros_like(self.loss_sum)

    def mean_loss(self) -> float:
        """Mean loss per sample of the epoch so far; waits for the device."""
        return float(self.loss_sum) / max(self.seen, 1)


def fingerprint(**settings) -> str:
    """Digest of all that a run's result depends on."""
    text = json.dumps(settings, sort_keys=True, default=lambda x: x.item())
    return hashlib.sha256(text.encode()).hexdigest()


def copied(tensors: Mapping[str, Tensor], device=None) -> dict[str, Tensor]:
    """Copies of tensors, without gradients."""
    return {name: t.detach().to(device, copy=True) for name, t in tensors.items()}


class Checkpoint:
    """A run's file: `model.*`, `best.*`, `optimizer.*`, `snapshot.*`, `hook.*`, and its place.

    Args:
        path: None for no file. digest: the `fingerprint` of the run.
    """

    def __init__(self, path, digest: str, stepper: Stepper, hooks: Sequence[Hook]):
        self.path = None if path is None else Path(path)
        self.digest = digest
        self.stepper = stepper
        self.hooks = hooks

    def write(self, state: RunState) -> None:
        """Write the file, atomically."""
        stepper, history = self.stepper, state.history
        tensors = _under("model", stepper.model.state_dict())
        tensors |= _under("best", state.best or {})
        for index, kept in stepper.optimizer.state_dict()["state"].items():
            tensors |= _under(f"optimizer.{index}", kept)
        for step, kept in history.snapshots.items():
            tensors |= _under(f"snapshot.{step}", kept)
        for number, hook in enumerate(self.hooks):
            tensors |= _under(f"hook.{number}", hook.state())
        tensors["loss_sum"] = state.loss_sum
        meta = {
            "kind": KIND, "fingerprint": self.digest, "scaler": stepper.scaler.state_dict(),
            "best_value": state.best_value if state.best is not None else None,
            "flops": stepper.counter.total, "begun": state.begun,
            **{name: getattr(state, name) for name in _STATE},
            **{name: getattr(history, name) for name in _HISTORY},
        }  # fmt: skip
        save_tensors(self.path, tensors, meta)

    def read(self, state: RunState) -> bool:
        """Bring model, optimiser, hooks and state to where the file has them, if there is one.

        Raises:
            CheckpointError: a damaged file, or one of another model, data or setting.
        """
        if self.path is None or not self.path.exists():
            return False
        tensors, meta = load_tensors(self.path, KIND)
        if meta["fingerprint"] != self.digest:
            raise CheckpointError(
                f"{self.path.name} was written by another model, dataset or setting; "
                "delete it to start again, or restore the settings it was made with"
            )
        self._read_model(tensors, meta)
        device = self.stepper.device
        if meta["best_value"] is not None:
            state.best = {name: t.to(device) for name, t in _below("best", tensors).items()}
            state.best_value = meta["best_value"]
        state.history.snapshots = {int(n): kept for n, kept in _each("snapshot", tensors).items()}
        for number, hook in enumerate(self.hooks):
            kept = _below(f"hook.{number}", tensors)
            hook.load_state({name: t.to(device) for name, t in kept.items()})
        for name in _STATE:
            setattr(state, name, meta.get(name, 0))  # what older files lack was not measured
        state.begun = meta.get("begun", state.position > 0)
        for name in _HISTORY:
            setattr(state.history, name, meta[name])
        state.history.steps = state.step
        state.loss_sum = tensors["loss_sum"].to(device)
        return True

    def _read_model(self, tensors, meta) -> None:
        stepper = self.stepper
        stepper.model.load_state_dict(_below("model", tensors))
        kept = {int(n): t for n, t in _each("optimizer", tensors).items()}
        groups = stepper.optimizer.state_dict()["param_groups"]
        stepper.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        stepper.scaler.load_state_dict(meta["scaler"])
        stepper.counter.total = meta.get("flops", 0)


def _under(prefix: str, tensors: Mapping) -> dict:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping) -> dict:
    prefix += "."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _each(prefix: str, tensors: Mapping) -> dict[str, dict]:
    """The tensors under `prefix.KEY`, by their keys."""
    found: dict[str, dict] = {}
    for name, tensor in _below(prefix, tensors).items():
        key, rest = name.split(".", 1)
        found.setdefault(key, {})[rest] = tensor
    return found
