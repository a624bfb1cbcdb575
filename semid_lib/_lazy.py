"""Packages whose names are imported on first use, so that importing one stays fast."""

from importlib import import_module


def lazy(package: str, homes: dict[str, str]):
    """Make `(__getattr__, __dir__, __all__)` of a package from name -> module within it."""

    def load(name):
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: list(homes), list(homes)
