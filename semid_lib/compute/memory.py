"""Memory that is kept, and what happens where it is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from semid_lib.errors import DeviceMemoryError, SemidError


def memory_is_full(error: Exception) -> bool:
    """Whether an error says that the memory, the computer's or a GPU's, holds no more."""
    import torch

    if isinstance(error, SemidError):
        return False
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    full = "not enough memory", "can't allocate memory", "out of memory"
    return isinstance(error, RuntimeError) and any(part in str(error) for part in full)


@contextmanager
def while_it_fits() -> Iterator[None]:
    """Leave the block, without an error, where the memory is full."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn the errors of a memory that is full, the computer's or a GPU's, into DeviceMemoryError.

    `what` needs it: the message begins so.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        words = str(error).strip().splitlines()
        raise DeviceMemoryError(
            f"{what} needs more memory than there is ({words[0][:160] if words else 'MemoryError'})"
            ": choose a smaller model or batch size. A checkpoint, if any, holds the steps before."
        ) from error


def keep_memory() -> None:
    """Let this process reuse the memory of freed tensors instead of returning it to the system.

    glibc, the C library of most Linux systems, returns each block of 32 MB and more, and the end
    of its heap, when they are freed; the next step has to map and clear the same memory again.
    Elsewhere this does nothing.

    Cost: the process holds its peak memory until it ends. Without it, a T5's training spends
    10 to 30 % of its CPU time on this, and its beam search 12 to 20 %.
    """
    import ctypes

    try:
        option = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # not glibc
        return
    trim_threshold, mmap_threshold = -1, -3
    option(trim_threshold, 2**31 - 1)
    if not option(mmap_threshold, 2**30):
        option(mmap_threshold, 2**25)  # the most that an older glibc takes
