"""RQ-VAE: residual quantisation in the latent space of an autoencoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.errors import InputError
from semid_lib.quantizers._codebooks import CodebookNetwork, CodebookQuantizer, mlp
from semid_lib.quantizers._learnt import squared_error
from semid_lib.settings import FLAG, SHARE, choice, keep_settings, real


class ResidualAutoencoder(CodebookNetwork):
    """Encoder, L codebooks, decoder; `widths` runs from the input's to the latents'."""

    def __init__(self, widths, num_levels, num_codes, *, commitment, gradient, **codebooks):
        super().__init__(num_levels, num_codes, widths[-1], **codebooks)
        self.commitment, self.gradient = commitment, gradient
        self.encoder, self.decoder = mlp(widths), mlp(widths[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """Latents `[B, 1, D]`."""
        return self.encoder(x)[:, None]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def losses(self, x: Tensor):
        """Loss of a batch `[B, d]`, its two parts (means over the rows), and the codes `[B, L]`."""
        latents = self.encode(x)
        with torch.autocast(x.device.type, enabled=False):
            latents = latents.to(x.dtype)
            codes, words, inputs = self.quantize(latents)
            commitment = squared_error(inputs, words.detach())
            value = self.commitment * commitment
            if self.update == "gradient":
                value = value + squared_error(words, inputs.detach())
            z, nearest = latents[:, 0], words.detach().sum(1)
            passed = (
                rotated(z, nearest) if self.gradient == "rotation" else z + (nearest - z).detach()
            )
        reconstruction = squared_error(self.decode(passed), x)
        return reconstruction + value, reconstruction.detach(), commitment.detach(), codes


def rotated(z: Tensor, target: Tensor) -> Tensor:
    """`target` `[B, D]`, with the gradient to z of the rotation and scaling that take z there.

    The rotation is R = 1 - 2 w w^T + 2 v u^T, with u and v the directions of z and target and w
    that of u + v (Fifty et al. 2024, section 4.2); R and the scale are constants.
    """
    with torch.no_grad():
        u, v = F.normalize(z, dim=1), F.normalize(target, dim=1)
        w = F.normalize(u + v, dim=1)
        scale = target.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
    along = [(z * direction).sum(1, keepdim=True) for direction in (w, u)]
    return scale * (z - 2 * along[0] * w + 2 * along[1] * v)


class RQVAE(CodebookQuantizer):
    """Code items by residual quantisation of an autoencoder's latents (RQ-VAE, as in TIGER).

    z = enc(x), r_1 = z; level l takes the nearest of its K words and passes on the remainder:

        c_l = argmin_k ||r_l - e^l_k||,    r_(l+1) = r_l - e^l_(c_l),    z_q = sum_l e^l_(c_l);

    the decoder sees z_q, and the loss, summed over dimensions and averaged over a batch, is

        ||x - dec(z_q)||^2 + sum_l ( ||sg(r_l) - e^l||^2 + beta ||r_l - sg(e^l)||^2 ).

    Args:
        num_levels: L. num_codes: K, at most N. latent: D, the width of the words.
        hidden: widths of the encoder's hidden layers (ReLU); the decoder mirrors them.
        commitment: beta.
        gradient: how the decoder's gradient passes the codebooks: "straight_through" (as if
            z_q were z) or "rotation" (turned and scaled as z is to become z_q).
        update: how the words learn: "gradient" (the loss's second term), or "ema": running means,
            of decay `ema_decay`, of the r_l that chose them, in place of that term.
        restart: before each epoch, words that nothing chose in the last one move onto random r_l.
        sinkhorn: in training the last level's codes come from a balanced assignment of the batch
            (Sinkhorn, epsilon `sinkhorn_epsilon`, as in LC-Rec); `transform` takes the nearest.
        init: words start as the k-means centres of r_l, or "uniform" in -1/K..1/K.
        epochs: None for as many as make 20,000 steps.
        batch_size, learning_rate, weight_decay, device, precision, random_state: see
            `training.TrainSettings`; the learning rate is constant.

    Attributes:
        codes_: `[N, L]` int64 in 0..K-1. level_sizes_: (K,) * L.
        codebooks_: list of L arrays `[K, D]`, words in the latent space.
        history_: `training.History`; of each epoch, besides `loss`: "reconstruction",
            "quantization" (sum_l ||r_l - e^l||^2, the value of both other terms), "usage" (share
            of each level's words that were chosen) and "perplexity" (exp of the entropy of the
            choices, per level), all while the words moved.
        network_: the trained module.

    Raises, Warns: see `fit`.

    Deviates: gradients of a level's terms do not reach the words of the levels before it. EMA
        without Laplace smoothing. k-means looks at 100 rows per code at most.

    Cost: O(N (d h_1 + h_1 h_2 + ... + L K D)) an epoch; the matrix products of the encoder and
        the decoder are nearly all of it.

    Example:
        >>> codes = RQVAE(num_codes=64, epochs=50).fit_transform(X)  # doctest: +SKIP
    """

    limits = {
        "gradient": choice("straight_through", "rotation"), "update": choice("gradient", "ema"),
        "ema_decay": SHARE, "restart": FLAG, "sinkhorn": FLAG, "sinkhorn_epsilon": real(0),
    }  # fmt: skip

    def __init__(
        self, num_levels=3, num_codes=256, hidden=(512, 256, 128), latent=32, commitment=0.25,
        gradient="straight_through", update="gradient", ema_decay=0.99, restart=False,
        sinkhorn=False, sinkhorn_epsilon=0.003, init="kmeans", epochs=None, batch_size=1024,
        learning_rate=1e-3, weight_decay=1e-4, device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _check_own(self):
        if not 0 < self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay!r}, but must lie between 0 and 1")
        if not self.sinkhorn_epsilon >= 0.002:
            raise InputError(
                f"sinkhorn_epsilon is {self.sinkhorn_epsilon!r}, but must be at least 0.002: "
                "costs reach 1, and exp(-1 / epsilon) must not vanish in float64"
            )

    def _network(self, width: int) -> ResidualAutoencoder:
        return ResidualAutoencoder(
            [width, *self.hidden, self.latent], self.num_levels, self.num_codes,
            commitment=self.commitment, gradient=self.gradient, update=self.update,
            ema_decay=self.ema_decay, sinkhorn=self.sinkhorn_epsilon if self.sinkhorn else 0,
        )  # fmt: skip
