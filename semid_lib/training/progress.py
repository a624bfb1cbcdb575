"""A bar with loss, speed and time left."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

from tqdm import tqdm

from semid_lib.compute.distributed import rank


class ProgressBar:
    """The bar of a run of `total` steps, `done` of which are taken; a context.

    Args:
        label: its name. wanted: False for none, None for one on a terminal only; of several
            processes the first one shows it. now: the time.
    """

    def __init__(self, total: int, done: int, label: str, wanted: bool | None, now: float):
        self.shows = rank() == 0 and (sys.stderr.isatty() if wanted is None else wanted)
        self.shown = now
        width = shutil.get_terminal_size().columns  # tqdm hides where that is 0
        self.bar = tqdm(
            total=total, initial=done, desc=label, disable=not self.shows, unit="step", ncols=width
        )

    def __enter__(self) -> ProgressBar:
        self.bar.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.bar.__exit__(*error)

    def update(self, now: float, mean_loss: Callable[[], float]) -> None:
        """Count a step; once a second ask for the loss, which waits for the device."""
        if self.shows and now - self.shown > 1:
            self.shown = now
            self.bar.set_postfix(loss=f"{mean_loss():.4f}", refresh=False)
        self.bar.update()
