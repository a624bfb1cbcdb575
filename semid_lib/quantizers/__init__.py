"""Tokenizers: item vectors `[N, D]` in, codes `[N, L]` out. Names are imported on first use."""

from semid_lib._lazy import lazy

_HOMES = {
    "BalancedKMeans": "balanced_kmeans", "GAOQ": "gaoq", "HierarchicalKMeans": "hierarchical",
    "KMeans": "kmeans", "MQ": "mq", "OPQ": "product", "PQ": "product", "R3VAE": "r3vae",
    "R3VAETop1": "r3vae_top1",
    "RQVAE": "rqvae", "RandomCodes": "random_codes", "ResidualKMeans": "kmeans", "VQVAE": "vqvae",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
