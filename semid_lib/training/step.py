"""One optimiser step: gradients of a batch, of its pieces, of several processes; AdamW."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from semid_lib.compute.distributed import all_reduce, broadcast_parameters
from semid_lib.compute.flops import FlopCounter
from semid_lib.compute.memory import keep_memory, while_it_fits
from semid_lib.compute.precision import PRECISIONS
from semid_lib.errors import DeviceMemoryError
from semid_lib.training.settings import TrainSettings


class Stepper:
    """A model and its optimiser.

    Args:
        model: moved to `device` and to the precision's dtype. settings: its precision is resolved.
        rank, processes: which share of each batch is taken here, of how many.

    Attributes:
        counter: counts the FLOPs of what it is entered for.
    """

    def __init__(
        self, model: nn.Module, settings: TrainSettings, device, rank: int, processes: int
    ):
        dtype, self.autocast = PRECISIONS[settings.precision]
        self.model = model.to(device=device, dtype=dtype)
        broadcast_parameters(model)
        self.settings = settings
        self.device = torch.device(device)
        self.rank = rank
        self.processes = processes
        if self.device.type == "cpu":
            keep_memory()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay,
            fused=True,
        )  # fmt: skip
        scaled = settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.counter = FlopCounter()

    def reseed(self, step: int) -> None:
        """Fix what a step draws: `torch.manual_seed` of the generators in use alone.

        Where CUDA is not, that call keeps a traceback to seed it later: 1.5 ms a step.
        """
        number = (self.settings.seed * 1_000_003 + step + (self.rank << 40)) % 2**63
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(number)

    def gradients(self, loss: Callable, batch) -> Tensor | None:
        """Set the gradients of a batch's mean loss.

        Returns:
            The sum of its samples' losses, float64; None if the memory does not hold it. By then
            the error, and the tensors that it held, are gone.
        """
        total = None
        with while_it_fits():
            total = self._backward(loss, self._pieces(batch), len(batch[0]))
        if total is not None and self.processes > 1:
            for p in self.model.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            all_reduce([p.grad for p in self.model.parameters()])
            all_reduce([total])
        return total

    def descend(self, rate: float) -> None:
        """Move the weights against the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def too_large(self, loss: Callable, batch, step: int) -> DeviceMemoryError:
        """Find how much of a batch fits; return the error that says so."""
        self.optimizer.zero_grad(set_to_none=True)
        piece = self._pieces(batch)[0]
        size = len(piece[0])
        fits = size // 2
        while fits:
            with while_it_fits():
                self._backward(loss, [tuple(part[:fits] for part in piece)], size)
                break
            fits //= 2
        return DeviceMemoryError(
            f"step {step} needs more memory than {self.device} has for {size} "
            f"samples at once; {fits or 'not even 1'} of them fit. Set the batch size to "
            f"{fits or 1}, or choose a smaller model. A checkpoint, if any, holds the steps before."
        )

    def weights_are_finite(self) -> bool:
        """Whether no weight is NaN or infinite; waits for the device."""
        finite = [p.detach().isfinite().all() for p in self.model.parameters()]
        return bool(torch.stack(finite).all())

    def _pieces(self, batch) -> list[tuple]:
        """This process's share of a batch, in pieces of `at_once`."""
        size = self.settings.at_once or len(batch[0])
        shares = [rows.tensor_split(self.processes)[self.rank].split(size) for rows in batch]
        return [(rows, known.numpy()) for rows, known in zip(*shares) if len(rows)]

    def _backward(self, loss, pieces, whole: int) -> Tensor:
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
