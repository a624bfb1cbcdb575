"""What decides the result of a training run, besides the model, its loss and its samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from semid_lib.settings import NONE, SEED, Limit, check_settings, setting_names, several, whole


@dataclass(frozen=True)
class TrainSettings:
    """How `train` trains: AdamW, its learning rate over the steps, the batches, when it stops.

    Args:
        epochs: how many; 0 leaves the model as it is.
        batch_size: samples of a step; under torchrun, of each process.
        learning_rate: the peak of the schedule. weight_decay: of AdamW.
        schedule: after the warm-up, "cosine" (to 0 at the last step) or "constant".
        warmup: share of all steps in which the learning rate rises linearly from 0.
        clip: largest gradient norm; None for no limit.
        samples_per_epoch: draw only so many samples each epoch (others come in later epochs).
        at_once: send a batch through the model in pieces of so many samples and add up their
            gradients: the same step but for rounding (and other dropout), in less memory.
        monitor: the entry of an epoch, from `validate` or a hook, that chooses the best epoch
            (higher is better); where an epoch has no such entry, the last one is kept.
        patience: epochs without gain in it that stop the run, but no fewer than make
            `patience_steps` steps: on a small set an epoch is a few steps.
        snapshot_steps: the weights are kept as they were after these steps.
        precision: "float32", "float64", autocast "bfloat16" / "float16" (with loss scaling), or
            "auto": what the device computes fastest in (`resolve_precision`).
        seed: of the batches, and of what the loss draws.

    Raises:
        InputError: a setting out of range.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    samples_per_epoch: int | None = None
    at_once: int | None = None
    monitor: str = ""
    patience: int | None = None
    patience_steps: int = 0
    snapshot_steps: tuple[int, ...] = ()
    precision: str = "float32"
    seed: int = 0

    limits: ClassVar[dict[str, Limit]] = {
        "at_once": whole() | NONE,
        "monitor": Limit(lambda name: isinstance(name, str), "must be text"),
        "snapshot_steps": several(whole()),
        "seed": SEED,
    }

    def __post_init__(self):
        check_settings(self)

    @classmethod
    def of(cls, estimator, **changes) -> TrainSettings:
        """The settings that an estimator's constructor takes under the same names.

        Its `random_state` is the seed. `changes` come on top: what it has not, or means otherwise.
        """
        names = {field.name for field in fields(cls)} & set(setting_names(type(estimator)))
        own = {name: getattr(estimator, name) for name in names}
        return cls(**{**own, "seed": estimator.random_state, **changes})
