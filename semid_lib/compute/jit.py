"""Compiling kernels with Numba."""

from __future__ import annotations

from numba import njit


def kernel(function):
    """Compile a function at its first call, and keep the machine code where Numba can write.

    It can nowhere if the package is read-only and there is no home: then each process compiles.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no locator available
        return njit(nogil=True)(function)
