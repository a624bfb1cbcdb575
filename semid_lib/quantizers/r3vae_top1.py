"""R3-VAE as its only public implementation reads it: one codeword a level, times its cosine."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.compute.device import resolve_device
from semid_lib.errors import InputError
from semid_lib.quantizers._learnt import LearntQuantizer, Run, in_chunks, load_weights
from semid_lib.quantizers.base import check_codes
from semid_lib.quantizers.kmeans import kmeans
from semid_lib.settings import NONE, keep_settings, real, whole

START_ROWS = 5  # rows per code that the start looks at


class Top1Network(nn.Module):
    """A reference, L codebooks of K words and a decoder, for unit vectors of D dimensions."""

    def __init__(self, num_levels: int, num_codes: int, dim: int, sc_weight=0.1, pd_weight=0.05):
        super().__init__()
        self.sc_weight, self.pd_weight = sc_weight, pd_weight
        self.reference = nn.Parameter(torch.empty(dim).uniform_(-1, 1))
        self.codebooks = nn.Parameter(torch.empty(num_levels, num_codes, dim).normal_())
        self.decoder = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        for layer in self.decoder[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha r and e^0 of x `[B, D]` at unit length."""
        x, r = F.normalize(x, dim=-1), F.normalize(self.reference, dim=0)
        along = torch.outer(x @ r, r)
        return along, x - along

    def level(self, e: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The largest cosine s `[B]` of e with a level's words, and whose it is, `[B]`."""
        words = F.normalize(self.codebooks[level], dim=-1)
        return (F.normalize(e, dim=-1) @ words.T).max(dim=1)

    def part(self, level: int, scale: Tensor, code: Tensor) -> Tensor:
        """s c / ||c||, `[B, D]`."""
        return scale[:, None] * F.normalize(self.codebooks[level][code], dim=-1)

    def forward(self, x: Tensor):
        """e^0 `[B, D]`; y_0 = alpha r to y_L, each `[B, D]`; cosines and codes `[B, L]`."""
        along, rest = self.split(x)
        first, sums, scales, codes = rest, [along], [], []
        for level in range(len(self.codebooks)):
            scale, code = self.level(rest, level)
            part = self.part(level, scale, code)
            rest = rest - part
            sums.append(sums[-1] + part)
            scales.append(scale)
            codes.append(code)
        return first, sums, torch.stack(scales, 1), torch.stack(codes, 1)

    def loss(self, x: Tensor) -> Tensor:
        first, sums, _, _ = self(x)
        loss = 1 - F.cosine_similarity(x, self.decoder(sums[-1])).mean()
        held = torch.stack([1 - F.cosine_similarity(first, y).mean() for y in sums[1:]])
        return loss + self.sc_weight * held.mean() + self.pd_weight * self.discrimination()

    def discrimination(self) -> Tensor:
        """PD (Eq. 10, t = 2) of each level's words, mean over levels."""
        words = F.normalize(self.codebooks, dim=-1)
        kernel = torch.exp(2 * (words @ words.transpose(1, 2) - 1))
        size = kernel.shape[1]
        pairs = kernel.sum(dim=(1, 2)) - kernel.diagonal(dim1=1, dim2=2).sum(dim=1)
        return (pairs / max(size * (size - 1), 1)).clamp(min=1e-30).log().mean()

    @torch.no_grad()
    def report(self, rows: Tensor) -> dict:
        """Share of the codes in use and perplexity of each level."""
        _, _, _, codes = self(rows)
        counts = [torch.bincount(c, minlength=self.codebooks.shape[1]) for c in codes.T]
        share = torch.stack(counts) / len(rows)
        spread = torch.special.entr(share).sum(1).exp()
        used = (share > 0).double().mean(1)
        return {"usage": used.tolist(), "perplexity": spread.tolist()}


class Top1Run(Run):
    """A training that keeps, of a hundred looks, the one with the largest sum of perplexities."""

    monitor = "spread"

    def end_epoch(self, entry) -> dict:
        found = super().end_epoch(entry)
        every = max(math.ceil((self.model.epochs or 1) / 100), 1)
        looked = entry["epoch"] % every == 0
        found["spread"] = sum(found["perplexity"]) if looked else -1.0
        return found


class R3VAETop1(LearntQuantizer):
    """Rate words by their cosine and take the best alone: the reading of RecBoard's R3-VAE.

    x and the reference r have unit length; e^0 = x - <x, r> r. At level l the word of largest
    cosine s is taken, and e_hat^l = s c / ||c||, e^l = e^(l-1) - e_hat^l: no softmax, and gradients
    through s and c. With y_l = <x, r> r + e_hat^1 + ... + e_hat^l the loss is the mean of

        1 - cos(x, dec(y_L))  +  sc_weight (1 - cos(e^0, y_l))  +  pd_weight PD_l

    over the batch and the levels; dec is Linear(D, 4 D), ReLU, Linear(4 D, D). As s is a cosine to
    the *unit* residual, ||e^l||^2 = ||e||^2 - 2 s^2 ||e|| + s^2: a short residual grows, so the
    levels are ratings one after the other rather than a sum that comes ever closer.

    Args:
        num_levels, num_codes: L, K. sc_weight, pd_weight: of the loss.
        epochs: a hundred times in them the levels' perplexities are looked at, and the weights of
            the largest sum are kept; None for as many as make 20,000 steps, with a look at each.
        batch_size, learning_rate, weight_decay, device, precision, random_state: see
            `training.TrainSettings`; the learning rate is constant.

    Attributes:
        codes_: `[N, L]` int64. level_sizes_: (K,) * L. codebooks_: L arrays `[K, D]`, unit length.
        history_: `training.History`; each epoch holds "usage" and "perplexity" of the levels.

    Raises, Warns: see `fit`; InputError for a row of zeros, which has no direction.

    Deviates: words start as plain k-means centres of the first 5 K rows' residuals (there: clusters
        of two or more); no digit is added where IDs are shared (`SemanticIds.resolve` does that).

    Cost: O(L K D + D^2) a row, O(L K^2 D) a step.
    """

    _run = Top1Run
    limits = {"sc_weight": real(0), "pd_weight": real(0), "epochs": whole() | NONE}

    def __init__(
        self, num_levels=3, num_codes=256, sc_weight=0.1, pd_weight=0.05, epochs=None,
        batch_size=1024, learning_rate=5e-4, weight_decay=0.0, device="auto", precision="float32",
        random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def _build(self, X, seed) -> Top1Network:
        lengths = np.linalg.norm(X, axis=1)
        if not lengths.all():
            raise InputError(f"row {lengths.argmin()} of X is all 0: it has no direction to code")
        network = self._network(X.shape[1]).to(torch.as_tensor(X).dtype)
        with torch.no_grad():
            _, rest = network.split(torch.as_tensor(X[: START_ROWS * self.num_codes]))
            for level in range(self.num_levels):
                rng = np.random.default_rng([seed, level])
                centres, _, _ = kmeans(rest.numpy(), self.num_codes, 10, rng)
                network.codebooks[level] = torch.as_tensor(centres)
                rest = rest - network.part(level, *network.level(rest, level))
        return network

    def _network(self, width: int) -> Top1Network:
        return Top1Network(self.num_levels, self.num_codes, width, self.sc_weight, self.pd_weight)

    @torch.no_grad()
    def _adopt(self, network, X=None):
        self.network_ = network
        words = F.normalize(network.codebooks, dim=-1)
        self.codebooks_ = list(words.cpu().numpy())
        self.level_sizes_ = (int(self.num_codes),) * int(self.num_levels)
        if X is None:
            return
        found = in_chunks(lambda x: torch.cat([*network(x)[2:]], 1).to(words), X, words)
        scales, codes = np.split(found, 2, axis=1)
        self.scales_ = np.zeros((self.num_levels, self.num_codes), X.dtype)
        for level, (scale, code) in enumerate(zip(scales.T, codes.T.astype(int))):
            count = np.bincount(code, minlength=self.num_codes)
            total = np.bincount(code, scale, minlength=self.num_codes)
            self.scales_[level] = total / np.maximum(count, 1)
        mean = (X / np.linalg.norm(X, axis=1, keepdims=True)).mean(axis=0)
        r = F.normalize(network.reference, dim=0).cpu().numpy()
        self.projection_ = (mean @ r * r).astype(X.dtype)
        self.length_ = np.array(np.linalg.norm(X, axis=1).mean(), X.dtype)

    def _encode(self, X) -> np.ndarray:
        network = self.network_
        return in_chunks(lambda x: network(x)[3], X, network.codebooks)

    def inverse_transform(self, codes) -> np.ndarray:
        """The decoded mean projection and words, each times its mean cosine, at the rows' mean
        length: of codes or prefixes `[N, l]`, `[N, D]`."""
        self.check_fitted()
        codes, total = check_codes(codes, self.level_sizes_), self.projection_
        for book, scales, column in zip(self.codebooks_, self.scales_, codes.T):
            total = total + scales[column, None] * book[column]
        network = self.network_
        rows = in_chunks(lambda y: F.normalize(network.decoder(y)), total, network.codebooks)
        return (self.length_ * rows).astype(self._dtype)

    def state(self):
        weights = {f"network.{n}": t.cpu().numpy() for n, t in self.network_.state_dict().items()}
        own = {"scales": self.scales_, "projection": self.projection_, "length": self.length_}
        return {**weights, **own}

    def restore(self, arrays):
        self.scales_, self.projection_, self.length_ = (
            arrays.pop(name) for name in ("scales", "projection", "length")
        )
        state = {n.removeprefix("network."): torch.as_tensor(a) for n, a in arrays.items()}
        network = self._network(self.n_features_in_).to(state["codebooks"].dtype)
        load_weights(network, state)
        self._adopt(network.to(resolve_device(self.device)).eval())
