"""VQ-VAE: an autoencoder whose latents are the words of one codebook."""

from __future__ import annotations

from semid_lib.quantizers.rqvae import RQVAE


class VQVAE(RQVAE):
    """Code each item by the word nearest to its latents: `RQVAE` of one level (VQ-VAE).

    With z = enc(x) and k = argmin_j ||z - c_j||, the loss is

        ||x - dec(c_k)||^2 + ||sg(z) - c_k||^2 + beta ||z - sg(c_k)||^2.

    Args, Attributes, Raises, Deviates, Cost: as `RQVAE` with num_levels = 1.
    """

    def __init__(
        self, num_codes=256, hidden=(512, 256, 128), latent=32, commitment=0.25,
        gradient="straight_through", update="gradient", ema_decay=0.99, restart=False,
        sinkhorn=False, sinkhorn_epsilon=0.003, init="kmeans", epochs=None, batch_size=1024,
        learning_rate=1e-3, weight_decay=1e-4, device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        super().__init__(
            1, num_codes, hidden, latent, commitment, gradient, update, ema_decay, restart,
            sinkhorn, sinkhorn_epsilon, init, epochs, batch_size, learning_rate, weight_decay,
            device, precision, random_state,
        )  # fmt: skip
