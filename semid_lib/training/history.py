"""What a training run did."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from semid_lib.compute.device import matrix_rate


class TrainingPaused(RuntimeError):
    """The deadline came; the checkpoint holds everything needed to go on.

    Attributes:
        step, total_steps: steps taken, and those of all epochs. 0 if it came between two stages.
        seconds: spent in steps and validation so far.
    """

    def __init__(self, message: str, step: int = 0, total_steps: int = 0, seconds: float = 0.0):
        super().__init__(message)
        self.step, self.total_steps, self.seconds = step, total_steps, seconds


@dataclass
class History:
    """What a training run did.

    Attributes:
        epochs: one dict per epoch: `epoch` (from 1), `loss` (mean per sample), `train_seconds` (in
            steps), `seconds` (with validation), `outside_seconds` (validation, checkpoints, making
            batches), `samples_per_second`, `flops` (of this process's steps: counted in steps 2 to
            9, `compute.flops`, the others in proportion to their samples' lengths + 1), and
            whatever `validate` and the hooks returned.
        best_epoch: the epoch whose weights the model holds now (the last one where nothing is
            monitored).
        stopped: "epochs" (ran to the end) or "patience" (validation stopped improving).
        steps: optimiser steps taken.
        snapshots: step -> the weights after it, on the CPU, of `TrainSettings.snapshot_steps`.
        device, precision: where and in what the steps were computed.
    """

    epochs: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = "epochs"
    steps: int = 0
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "float32"

    @property
    def seconds(self) -> float:
        """Seconds spent in steps and validation, over all resumptions."""
        return sum(e["seconds"] for e in self.epochs)

    @property
    def samples_per_second(self) -> float:
        """Training samples per second, validation left out."""
        samples = sum(e["samples_per_second"] * e["train_seconds"] for e in self.epochs)
        return samples / max(sum(e["train_seconds"] for e in self.epochs), 1e-9)

    @property
    def outside_seconds(self) -> float:
        """Seconds outside the steps; the writing of the last checkpoint is left out."""
        return sum(e.get("outside_seconds", 0.0) for e in self.epochs)

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation: FLOP/s in the steps over `matrix_rate`, measured now."""
        spent = max(sum(e["train_seconds"] for e in self.epochs), 1e-9)
        rate = matrix_rate(self.device, self.precision)
        return sum(e.get("flops", 0) for e in self.epochs) / spent / rate
