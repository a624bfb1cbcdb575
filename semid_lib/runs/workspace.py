"""A run's folder: each stage is made once, and leaves its result as soon as it is complete."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from semid_lib.compute.distributed import broadcast
from semid_lib.compute.memory import enough_memory
from semid_lib.errors import CheckpointError
from semid_lib.runs.provenance import commit, device_name, peak_memory, versions
from semid_lib.storage import read_json, read_sealed, sealed, write_json


def runs_folder() -> Path:
    """Return where runs keep their work: `$SEMID_RUNS`, default `.semid/runs`."""
    return Path(os.environ.get("SEMID_RUNS") or Path(".semid") / "runs")


def digest(identity: dict) -> str:
    """Ten hexadecimal digits of all that decides what a run computes, for its folder's name."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


class Workspace:
    """A named run's folder, its stages and its deadline.

    Args:
        name: of the run, for messages.
        folder: where its files lie; made with the first of them.
        device: where it computes, for the record. deadline: `time.monotonic()` value after which
            no stage begins. progress: whether trainings show bars.
    """

    def __init__(
        self, name: str, folder: Path, *, device: str = "cpu", deadline: float | None = None,
        progress: bool | None = None,
    ):  # fmt: skip
        self.name = name
        self.folder = Path(folder)
        self.device = device
        self.deadline = deadline
        self.progress = progress

    def claim(self, folder: Path, identity: dict) -> None:
        """Write down whose work a folder holds, or raise CheckpointError if it is another's."""
        path = folder / "run.json"
        if not path.exists():
            write_json(path, identity)
        elif read_json(path) != json.loads(json.dumps(identity)):
            raise CheckpointError(
                f"{folder} holds the work of a run with other settings, data or seed than "
                f"{self.name}; choose another folder or delete it"
            )

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.folder / name

    def stage(self, name: str, make: Callable[[], dict]) -> dict:
        """Return the stored result of a complete stage, or make, time and store it.

        Raises:
            TrainingPaused: the deadline has come. RecordError: the stored result was edited.
            DeviceMemoryError: the stage needs more memory than there is.
        """
        from semid_lib.training import TrainingPaused

        path = self.path(f"{name}.json")
        if known := broadcast(read_sealed(path)):
            return known
        if self.deadline is not None and broadcast(time.monotonic() > self.deadline):
            raise TrainingPaused(f"{self.name} paused before {name}")
        began = time.perf_counter()
        with enough_memory(f"stage {name!r} of {self.name}"):
            info = make()
        info.setdefault("seconds", time.perf_counter() - began)
        info["peak_memory"], info["peak_device_memory"] = peak_memory(self.device)
        info.update(device=device_name(self.device), commit=commit(), versions=versions())
        write_json(path, sealed(info))
        return broadcast(info)

    def train(self, estimator, name: str, *inputs):
        """Fit an estimator, giving it the checkpoint, the deadline and the bars that it can use.

        A training that was stopped goes on, and one that had ended is brought back.
        """
        extra = {
            "checkpoint": self.path(f"{name}.checkpoint.safetensors"),
            "deadline": self.deadline,
            "progress": self.progress,
        }
        known = inspect.signature(estimator.fit).parameters
        return estimator.fit(*inputs, **{k: v for k, v in extra.items() if k in known})
