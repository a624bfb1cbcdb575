"""The device to compute on, the number format, and how fast it multiplies."""

from __future__ import annotations

import os
import timeit
from functools import cache

from semid_lib.environment import profile
from semid_lib.errors import InputError

DEVICES = ("cpu", "cuda")  # kinds of devices that models run on


def resolve_device(device: str = "auto", profile_name: str | None = None) -> str:
    """Return the device to compute on.

    Args:
        device: "cpu", "cuda", "cuda:N", or "auto": $SEMID_DEVICE if it is set, else the GPU in
            the paper profile where there is one, else the CPU. profile_name: if not `profile()`.

    Raises:
        InputError: no such device, or a GPU was asked for and this machine has none.
    """
    import torch

    wanted = os.environ.get("SEMID_DEVICE") or "auto" if device == "auto" else device
    if wanted == "auto":
        paper = (profile_name or profile()) == "paper"
        return "cuda" if paper and torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(wanted)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device {wanted!r} is not 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if parsed.type not in DEVICES:
        raise InputError(f"device {wanted!r} is not 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {wanted!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs; was the CPU build of torch installed?"
        )
    return str(parsed)


def resolve_precision(precision: str = "auto", device: str = "cpu") -> str:
    """Return the number format to train in on `device`.

    Args:
        precision: one of `training.PRECISIONS`, or "auto": "bfloat16" on a GPU that computes in it
            (compute capability 8 and later), "float16" on one of 7 (as a T4), else "float32".

    Raises:
        InputError: no such precision.
    """
    if precision != "auto":
        from semid_lib.compute.precision import PRECISIONS

        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not 'auto' or one of {tuple(PRECISIONS)}")
        return precision
    if not str(device).startswith("cuda"):
        return "float32"
    import torch

    # torch.cuda.is_bf16_supported() also says yes where bf16 is only emulated.
    capability = torch.cuda.get_device_capability(device)[0]
    return "bfloat16" if capability >= 8 else "float16" if capability == 7 else "float32"


def send(tensor, device):
    """Copy a tensor to a device; one of the CPU without waiting for what a GPU still computes."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@cache
def matrix_rate(device: str, precision: str) -> float:
    """Measure FLOP/s of matrix products on a device, in a precision of `training.PRECISIONS`.

    The fastest of nine products of square matrices, once a process. Draws no random numbers.
    """
    import torch

    from semid_lib.compute.precision import PRECISIONS
    from semid_lib.compute.products import linear

    size, dtypes = 4096 if device.startswith("cuda") else 512, PRECISIONS[precision]
    matrix = torch.full((size, size), 1 / size, device=device, dtype=dtypes[1] or dtypes[0])

    def product():
        return linear(matrix, matrix)[0, 0].item()  # waits for a GPU

    return 2 * size**3 / min(timeit.repeat(product, number=1, repeat=9))
