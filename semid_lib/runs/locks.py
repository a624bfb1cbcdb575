"""One process at a time works on a run."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from semid_lib.compute.distributed import broadcast, rank
from semid_lib.errors import SemidError
from semid_lib.storage import writing


class BusyError(SemidError):
    """Another process is working on the same run, or on its encoder.

    Attributes:
        lock: the file that it holds locked until it ends.
    """

    def __init__(self, message: str, lock: Path):
        super().__init__(message)
        self.lock = lock


@contextmanager
def locked(path: Path):
    """Hold an exclusive lock on `path`; yields False at once if another process holds it.

    The operating system frees it when its holder dies, however it dies, so a lock is never stale.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, free = FileLock(path), True
        if rank() == 0:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                free = False
    try:
        yield broadcast(free)
    finally:
        lock.release()
