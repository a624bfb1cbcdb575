"""An epoch of R3VAE with all its terms against one of our own RQVAE of the same sizes."""

from __future__ import annotations

from functools import cache

import numpy as np

from harness import Job, measure, require
from inputs import clustered_embeddings
from semid_lib.quantizers import R3VAE, RQVAE

N, WIDTH, SIZES, EPOCHS = 12_101, 384, {"num_levels": 3, "num_codes": 256, "batch_size": 1024}, 5
X = cache(clustered_embeddings)


def fitted(kind, error, **settings):
    """Fit on the vectors and return the errors of the epochs; a start that takes no time."""

    def fit(vectors, seed):
        model = kind(**SIZES, **settings, epochs=EPOCHS, device="cpu", random_state=seed)
        return [epoch[error] for epoch in model.fit(vectors).history_.epochs]

    return fit


def gate(rounds) -> str:
    """Both learn: what they reconstruct gets better in every run."""
    falls = [[run[-1] / run[0] for run in column] for column in list(zip(*rounds))[1:]]
    require(np.max(falls) < 1, f"the last error is {np.max(falls):.2f} of the first")
    ours, theirs = np.mean(falls, axis=1)
    return f"errors fall to {ours:.2f} (RQVAE {theirs:.2f}) of the first epoch's; SC and PD on"


def test_r3vae_epoch(benchmark):
    ours = fitted(R3VAE, "soft_error", init="normal", sc_weight=0.01, pd_weight=0.01)
    job = Job(
        "r3vae_epoch",
        f"R1 {N:,} x {WIDTH}, 3 x 256, {EPOCHS} epochs with their reports; peer: our RQVAE",
        "semid-lib", 0.5, lambda round: (X(N, WIDTH), round), ours,
        fitted(RQVAE, "reconstruction", init="uniform"), gate,
    )  # fmt: skip
    measure(job, benchmark)
