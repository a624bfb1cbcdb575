"""Deadlines, and what a signal that ends the process does to work that goes on."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

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
