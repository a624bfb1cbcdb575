"""Tokenizers: item vectors `[N, D]` in, codes `[N, L]` out. Names are imported on first use."""

from importlib import import_module

_HOMES = {
    "BalancedKMeans": "balanced_kmeans",
    "GAOQ": "gaoq",
    "HierarchicalKMeans": "kmeans",
    "KMeans": "kmeans",
    "MQ": "mq",
    "OPQ": "product",
    "PQ": "product",
    "R3VAE": "r3vae",
    "RQVAE": "rqvae",
    "ResidualKMeans": "residual",
    "VQVAE": "vqvae",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
