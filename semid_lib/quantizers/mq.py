"""MQ, TokenRec's tokenizer: masked encoders, each with its own codebook, and one decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semid_lib.errors import InputError
from semid_lib.quantizers._codebooks import CodebookNetwork, CodebookQuantizer
from semid_lib.quantizers._learnt import squared_error
from semid_lib.settings import FLAG, NONE, SHARE, keep_settings, several, whole


class MaskedEncoders(CodebookNetwork):
    """L encoders of masked inputs, L codebooks, one decoder of the sum of their words."""

    residual = False

    def __init__(self, widths, num_levels, num_codes, *, commitment, dropout, mask_ratio, faithful):
        super().__init__(num_levels, num_codes, widths[-1])
        self.commitment, self.mask_ratio, self.faithful = commitment, mask_ratio, faithful
        self.encoders = nn.ModuleList(normalized_mlp(widths, dropout) for _ in range(num_levels))
        self.decoder = normalized_mlp(widths[::-1], dropout)
        self.position = nn.Parameter(torch.empty(widths[0]).uniform_(-1 / num_codes, 1 / num_codes))

    def encode(self, x: Tensor) -> Tensor:
        """Latents `[B, L, D]`; in training each encoder misses some inputs of its own patch."""
        if not self.training:
            views = [x + self.position] * len(self.encoders)
        else:
            views = self._masked(x)
        return torch.stack([encoder(view) for encoder, view in zip(self.encoders, views)], 1)

    def _masked(self, x: Tensor) -> list[Tensor]:
        views, size = [], x.shape[1] // len(self.encoders)
        for level in range(len(self.encoders)):
            last = level == len(self.encoders) - 1
            patch = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
            patch[level * size : None if last else (level + 1) * size] = True
            lots = torch.rand(x.shape[1:] if self.faithful else x.shape, device=x.device)
            view = x.masked_fill(patch & (lots < self.mask_ratio), 0.0) + self.position
            views.append(view)
            if self.faithful:
                x = view  # the public code overwrites its input
        return views

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def losses(self, x: Tensor):
        """Loss of a batch `[B, d]`, its two parts (means over the rows), and the codes `[B, L]`."""
        if self.training and len(x) == 1:
            x = x.expand(2, -1)  # batch normalisation needs two rows
        latents = self.encode(x)
        with torch.autocast(x.device.type, enabled=False):
            codes, words, inputs = self.quantize(latents.to(x.dtype))
            drawn = squared_error(words, inputs.detach())
            held = squared_error(inputs, words.detach())
            passed = words.sum(1)
            if not self.faithful:
                passed = inputs.sum(1) + (passed - inputs.sum(1)).detach()
        reconstruction = squared_error(self.decode(passed), x)
        if self.faithful:  # means over the dimensions too, and no commitment
            value = reconstruction / x.shape[1] + drawn / words.shape[2]
        else:
            value = reconstruction + drawn + self.commitment * held
        return value, reconstruction.detach(), held.detach(), codes


def normalized_mlp(widths, dropout) -> nn.Sequential:
    """Linear layers with batch normalisation, dropout and ReLU between them."""
    layers = []
    for narrow, wide, rate in zip(widths[:-2], widths[1:-1], dropout):
        layers += [nn.Linear(narrow, wide), nn.BatchNorm1d(wide), nn.Dropout(rate), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class MQ(CodebookQuantizer):
    """Code items by L masked encoders side by side (MQ, the "masked vector quantizer" of TokenRec).

    The input's dimensions are cut into L equal patches (the last takes what is over). In training
    encoder m sees x with a random part of patch m set to zero, plus a learnt position vector p;
    z_m = enc_m(x + p), c_m = argmin_k ||z_m - e^m_k||, and one decoder sees sum_m e^m_(c_m). The
    levels are not residual: no code depends on another. The loss, summed over dimensions and
    averaged over a batch, is

        ||x - dec(sum_m e^m)||^2 + sum_m ( ||sg(z_m) - e^m||^2 + beta ||z_m - sg(e^m)||^2 ),

    with the decoder's gradient passed straight through to every z_m. `transform` masks nothing.

    Args:
        num_levels: L. num_codes: K, at most N. latent: D, the width of the words.
        hidden, dropout: widths of the encoders' hidden layers (batch normalisation, dropout, ReLU)
            and the dropout after each; the decoder mirrors the widths.
        mask_ratio: share of a patch's inputs that is masked. commitment: beta.
        init: words start as the k-means centres of the z_m, or "uniform" in -1/K..1/K.
        restart_every: epochs after which the words become k-means centres again (those of "uniform"
            never do); None for the start alone. The encoders move much faster than the words:
            without a restart the z_m leave the centres within an epoch or two.
        faithful_code: train as the public code does instead (Quhaoh233/TokenRec, K-way form; its
            own settings are `dropout=(0.5, 0.2)` and a restart every 50 epochs, which is fixed
            here): no commitment, and the decoder sees the words themselves, so the encoders get
            no gradient at all; losses are means over the dimensions too; one mask for a whole
            batch, and masks and position vectors pile up from encoder to encoder, though
            `transform` adds the position once; codebooks are set to k-means centres of one batch
            of z_m as it is in training; a fifth of the rows is held out and chooses the epoch that
            is kept. With that dropout z_m are noise in training and nearly one point without it:
            all rows share a handful of IDs.
        epochs: None for as many as make 20,000 steps.
        batch_size, learning_rate, weight_decay, device, precision, random_state: see
            `training.TrainSettings`; the learning rate is constant.

    Attributes:
        codes_, level_sizes_, codebooks_, history_, network_: as `RQVAE`; "quantization" is
            sum_m ||z_m - e^m||^2. With `faithful_code` an epoch also has "held_out", its loss.

    Raises, Warns: see `fit`.

    Deviates: no dropout and k-means every 5 epochs, where TokenRec has (0.5, 0.2) and every 50:
        with its settings the form of the paper, too, ends with a handful of IDs.
        `faithful_code` leaves out two slips: the public code overwrites the first row of every
        batch with the mask, and never masks the last dimension of a patch. (An early commit of it,
        09e4351, is another model: one encoder, and residual codes.)

    Cost: O(N L (d h_1 + h_1 h_2 + ... + K D)) an epoch.
    """

    limits = {
        "dropout": several(SHARE), "faithful_code": FLAG, "restart_every": whole() | NONE,
    }  # fmt: skip

    def __init__(
        self, num_levels=3, num_codes=256, hidden=(128, 256), latent=512, dropout=(0.0, 0.0),
        mask_ratio=0.2, commitment=0.25, faithful_code=False, init="kmeans", restart_every=5,
        epochs=1000, batch_size=512, learning_rate=1e-3, weight_decay=0.01, device="auto",
        precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    @property
    def _held_out(self) -> float:
        return 0.2 if self.faithful_code else 0.0

    def _starts(self, epoch: int) -> bool:
        if self.faithful_code:
            return epoch % 50 == 0
        if self.init == "uniform":
            return False
        return epoch == 0 or (self.restart_every is not None and epoch % self.restart_every == 0)

    def _start_rows(self) -> int:
        few = max(self.batch_size, self.num_codes)
        return few if self.faithful_code else super()._start_rows()

    def _check_own(self):
        if len(self.dropout) != len(self.hidden) or not self.hidden:
            raise InputError(
                f"dropout {self.dropout!r} and hidden {self.hidden!r} must be equally long, >= 1"
            )
        for name, rates in ("dropout", self.dropout), ("mask_ratio", [self.mask_ratio]):
            if not all(0 <= rate < 1 for rate in rates):
                raise InputError(f"{name} is {getattr(self, name)!r}, but must lie in [0, 1)")
        if self.num_levels > self.n_features_in_:
            raise InputError(
                f"n_features = {self.n_features_in_} cannot be cut into num_levels = "
                f"{self.num_levels} patches: each encoder needs an input of its own to mask"
            )

    def _build(self, X, seed):
        if len(X) < 2:
            raise InputError("n_samples = 1, but batch normalisation needs 2 rows at least")
        return super()._build(X, seed)

    def _network(self, width: int) -> MaskedEncoders:
        return MaskedEncoders(
            [width, *self.hidden, self.latent], self.num_levels, self.num_codes,
            commitment=self.commitment, dropout=self.dropout, mask_ratio=self.mask_ratio,
            faithful=self.faithful_code,
        )  # fmt: skip
