"""Encoders: from item fields, text or behaviour to one vector per item."""

from importlib import import_module

_MODULES = {"FAMAE": "semid_lib.encoders.famae"}
__all__ = ["FAMAE"]


def __getattr__(name):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
