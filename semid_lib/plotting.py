"""The figures' one style: a method keeps its colour, marker and dash in the whole book."""

from __future__ import annotations

import matplotlib as mpl


def use_style() -> None:
    """Set the book's figure style, and in a notebook SVG that is the same in every run."""
    mpl.rcParams["svg.hashsalt"] = "semid"
