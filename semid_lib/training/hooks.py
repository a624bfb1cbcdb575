"""What a model does between the steps of its training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Hook:
    """Work at the edges of steps and epochs; a subclass overrides what it needs.

    Every method is called without gradients. The order in an epoch is `begin_epoch`, then
    `after_step` for each step, then `end_epoch`; several hooks take turns in the order given.
    A run that was stopped calls none of them twice.
    """

    def begin_epoch(self, epoch: int) -> None:
        """Before the first step of an epoch (from 1), the model in training mode.

        What it draws comes from the first step's random numbers.
        """

    def after_step(self, step: int) -> None:
        """After an optimiser step (from 1)."""

    def end_epoch(self, entry: Mapping) -> Mapping | None:
        """After an epoch, the model in eval mode.

        Args:
            entry: what is known of the epoch: `epoch`, `loss`, and what `validate` returned.

        Returns:
            What to add to it (JSON-able), or None. `TrainSettings.monitor` may name some of it.
        """

    def state(self) -> dict[str, Tensor]:
        """What a resumed run must know: it is in the checkpoint."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `state` gave, on the device of the model."""
