"""Semantic IDs for generative recommendation: from item fields to ranked items."""

__version__ = "0.1.0"


def __getattr__(name):
    if name == "setup":
        from semid_lib.reports import setup

        return setup
    raise AttributeError(f"module 'semid_lib' has no attribute {name!r}")
