"""The settings of a model: kept under their names, and checked."""

from __future__ import annotations

from numbers import Real
from typing import Any

from semid_lib.errors import InputError


def keep_settings(arguments: dict[str, Any]) -> None:
    """Store what `__init__` was called with, its `locals()`, as attributes of the same names.

    There scikit-learn's `get_params`, `set_params` and `clone` look for the settings as given.
    """
    settings = {name: value for name, value in arguments.items() if name != "__class__"}
    vars(settings.pop("self")).update(settings)


def check_settings(settings: object, **limits) -> None:
    """Raise InputError, naming value and limit, for an attribute that is out of range.

    Args:
        settings: has the attributes, such as a model.
        limits: name -> the least number (None as a value is left alone), or a tuple of choices.
    """
    for name, limit in limits.items():
        value = getattr(settings, name)
        if isinstance(limit, tuple):
            if value not in limit:
                raise InputError(f"{name} is {value!r}, but must be one of {limit}")
        elif value is not None and not (isinstance(value, Real) and value >= limit):
            raise InputError(f"{name} is {value!r}, but must be at least {limit}")
