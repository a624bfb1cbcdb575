"""Encoders: from item fields, text or behaviour to one vector per item."""

from importlib import import_module

_MODULES = {
    "ALS": "semid_lib.encoders.behaviour",
    "FAMAE": "semid_lib.encoders.famae",
    "TextEncoder": "semid_lib.encoders.text",
}
__all__ = ["ALS", "FAMAE", "TextEncoder"]


def __getattr__(name):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
