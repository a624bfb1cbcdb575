"""The one training loop: resumable at any step, the same result however often it was stopped."""

from semid_lib._lazy import lazy

_HOMES = {
    "History": "history", "Hook": "hooks", "TrainSettings": "settings",
    "TrainingPaused": "history", "like_lengths": "batches", "rate_factor": "schedule",
    "train": "loop",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
