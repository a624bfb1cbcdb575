"""Training an RQ-VAE against the same network around vector-quantize-pytorch's ResidualVQ."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from vector_quantize_pytorch import ResidualVQ

from harness import Job, measure, require
from inputs import clustered_embeddings
from semid_lib.quantizers import RQVAE
from semid_lib.quantizers._codebooks import mlp

N, WIDTH, HIDDEN, LATENT, LEVELS, CODES, BATCH = 12_101, 768, (512, 256, 128), 32, 4, 256, 1024
EPOCHS = 50
X = cache(clustered_embeddings)


def setup(round):
    return X(N, WIDTH), EPOCHS, round


def theirs(vectors, epochs, seed):
    """Error of what an RQ-VAE on ResidualVQ makes of the rows: k-means start, EMA (its default)."""
    torch.manual_seed(seed)
    widths = [WIDTH, *HIDDEN, LATENT]
    encoder, decoder = mlp(widths), mlp(widths[::-1])
    books = ResidualVQ(
        dim=LATENT, num_quantizers=LEVELS, codebook_size=CODES, kmeans_init=True,
        commitment_weight=0.25, rotation_trick=False, threshold_ema_dead_code=0,
    )  # fmt: skip
    data = torch.as_tensor(vectors)
    with torch.no_grad():
        books(encoder(data)[None])  # the k-means start sees all rows, as ours does
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(BATCH):
            x = data[rows]
            quantised, _, losses = books(encoder(x)[None])
            loss = (x - decoder(quantised[0])).square().sum(1).mean() + LATENT * losses.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float(
            (data - decoder(books.eval()(encoder(data)[None])[0][0])).square().sum(1).mean()
        )


def ours(precision):
    """The peer's objective: its decoder's gradient reaches the encoder once a level, that is four
    times, which under AdamW is one time beside a quarter of the commitment."""

    def run(vectors, epochs, seed):
        model = RQVAE(
            LEVELS, CODES, HIDDEN, LATENT, 0.25 / LEVELS, update="ema", ema_decay=0.8,
            epochs=epochs, batch_size=BATCH, device="cpu", precision=precision, random_state=seed,
        ).fit(vectors)  # fmt: skip
        return float(((vectors - model.inverse_transform(model.codes_)) ** 2).sum(1).mean())

    return run


def gate(rounds) -> str:
    """Error of the decoded codes, after as many epochs: ours at most 2 % above the peer's."""
    mine, other = (np.mean([r[side] for r in rounds]) for side in (1, 2))
    require(
        mine <= 1.02 * other, f"squared error {mine:.3f} after training, the peer's {other:.3f}"
    )
    return f"squared error {mine:.2f} (peer {other:.2f}) after {EPOCHS} epochs"


@pytest.mark.parametrize("precision, target", [("float32", 1.2), ("bfloat16", 2.0)])
def test_rqvae_epoch(benchmark, precision, target):
    name = "rqvae_epoch" if precision == "float32" else "rqvae_epoch_bf16"
    size = f"{N:,} x {WIDTH}, {LEVELS} x {CODES}, {EPOCHS} epochs, {precision} (peer fp32)"
    job = Job(name, size, "vector-quantize-pytorch", target, setup, ours(precision), theirs, gate,
              rounds=3)  # fmt: skip
    measure(job, benchmark)
