"""What a run stands on: its profile, device, precision, seed and threads."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from semid_lib.errors import DeviceMemoryError, InputError, SemidError

PROFILES = ("quick", "paper")


@dataclass(frozen=True)
class Run:
    """What `setup` decided for a chapter.

    Attributes:
        chapter: its number, such as "01".
        profile: "quick" or "paper".
        device: "cpu", "cuda" or "cuda:N".
        seed: the seed that everything random was given.
    """

    chapter: str
    profile: str
    device: str
    seed: int


def profile() -> str:
    """Return the profile named by $SEMID_PROFILE: "quick" (the default) or "paper".

    A GPU never changes the profile: on another machine the book would show other numbers.

    Raises:
        InputError: $SEMID_PROFILE names no profile.
    """
    name = os.environ.get("SEMID_PROFILE") or "quick"
    if name not in PROFILES:
        raise InputError(f"SEMID_PROFILE is {name!r}, but must be one of {PROFILES}")
    return name


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
        from semid_lib.training import PRECISIONS

        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not 'auto' or one of {tuple(PRECISIONS)}")
        return precision
    if not str(device).startswith("cuda"):
        return "float32"
    import torch

    # torch.cuda.is_bf16_supported() also says yes where bf16 is only emulated.
    capability = torch.cuda.get_device_capability(device)[0]
    return "bfloat16" if capability >= 8 else "float16" if capability == 7 else "float32"


_LATELY = 10.0  # seconds in which training that goes on has looked at its deadline


class Deadline(float):
    """A `time.monotonic()` value after which work pauses, which a signal brings forward.

    Attributes:
        reached: whether a signal came. asked: when work last compared it with the clock.
    """

    reached, asked = False, -math.inf

    def __lt__(self, now) -> bool:
        """`time.monotonic() > deadline` comes here, the right side being of a subclass."""
        self.asked = time.monotonic()
        return self.reached or float(self) < now


@contextmanager
def pausing(seconds: float = math.inf) -> Iterator[Deadline]:
    """A deadline `seconds` from now, or at Ctrl-C, SIGTERM or SIGHUP (a closed terminal).

    Training that meets it writes its checkpoint and raises TrainingPaused. Where nothing that could
    do so is running, and at the second signal, KeyboardInterrupt is raised at once. The handlers
    are those before when the block ends.
    """
    deadline = Deadline(time.monotonic() + seconds)

    def handle(number, frame):
        if deadline.reached or time.monotonic() - deadline.asked > _LATELY:
            raise KeyboardInterrupt
        deadline.reached = True

    with handling(handle):
        yield deadline


@contextmanager
def handling(handle: Callable) -> Iterator[None]:
    """Let `handle(number, frame)` meet the signals that end a process; in the main thread alone."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(parent: int) -> None:
    """Ask Linux for a SIGTERM when the process `parent` dies; end at once if it is dead."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            raise KeyboardInterrupt


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


def setup(chapter: str, seed: int = 0) -> Run:
    """Make a chapter's numbers the same on every machine, and say in one line what was chosen.

    Seeds Python, NumPy and torch, asks torch for deterministic algorithms, sets the figure
    style, and in the quick profile computes in one thread.

    Args:
        chapter: its number, such as "01".
        seed: 0 or more, below 2**32.

    Raises:
        InputError: a seed out of range, or see `profile` and `resolve_device`.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}, but must lie in 0..{2**32 - 1}")
    run = Run(chapter=chapter, profile=profile(), device=resolve_device(), seed=seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=run.device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, changes no result
    if run.profile == "quick":  # two threads gain a quarter on idle cores, lose 4 x on busy ones
        import sklearn  # noqa: F401 - its OpenMP library must be loaded to be held
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(1)
        threadpool_limits(limits=1)
    if "matplotlib" in sys.modules or "IPython" in sys.modules:
        from semid_lib import plotting

        plotting.use_style()
    print(f"chapter {run.chapter} | profile {run.profile} | device {run.device} | seed {run.seed}")
    return run


def send(tensor, device):
    """Copy a tensor to a device; one of the CPU without waiting for what a GPU still computes."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextmanager
def one_thread(device: str = "cpu"):
    """Let torch compute in one thread on a CPU.

    Its sums over many rows (gradients of weights, batch normalisation) are split between the
    threads, so their last digit, and in the end a code, depends on how many there are.
    """
    import torch

    before = torch.get_num_threads()
    if str(device).startswith("cpu"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def matrix_rate(device: str, precision: str) -> float:
    """Measure FLOP/s of matrix products on a device, in a precision of `training.PRECISIONS`.

    The fastest of nine products of square matrices, once a process. Draws no random numbers.
    """
    import torch

    from semid_lib.ops import linear
    from semid_lib.training import PRECISIONS

    size, dtypes = 4096 if device.startswith("cuda") else 512, PRECISIONS[precision]
    matrix = torch.full((size, size), 1 / size, device=device, dtype=dtypes[1] or dtypes[0])

    def product():
        return linear(matrix, matrix)[0, 0].item()  # waits for a GPU

    return 2 * size**3 / min(timeit.repeat(product, number=1, repeat=9))


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
