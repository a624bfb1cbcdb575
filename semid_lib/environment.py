"""What the environment decides: the profile."""

from __future__ import annotations

import os
from pathlib import Path

from semid_lib.errors import InputError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent  # if the package is not installed
PROFILES = ("quick", "paper")


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
