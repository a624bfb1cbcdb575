"""R3-VAE: residual quantisation by rating every codeword, around a reference direction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.compute.device import resolve_device
from semid_lib.errors import InputError
from semid_lib.quantizers._learnt import CHUNK, LearntQuantizer, in_chunks, squared_error
from semid_lib.quantizers.base import check_codes, check_vectors
from semid_lib.quantizers.kmeans import kmeans
from semid_lib.settings import FLAG, NONE, SIZE, choice, keep_settings, real

PRESETS = {
    "working": {"top_k": 8, "renormalise": True, "temperature": 0.05},
    "literal": {"top_k": None, "renormalise": True, "temperature": 1.0},
}


class Steps(NamedTuple):
    """What the levels make of a batch: lists have an entry a level, from the first."""

    projection: Tensor  # [B, D] alpha r
    residuals: list[Tensor]  # [B, D] e^(l-1), what level l is given
    chosen: list[Tensor]  # [B, k] the codewords that share the weight
    weights: list[Tensor]  # [B, k] w^l, theirs
    parts: list[Tensor]  # [B, D] e_hat^l
    codes: Tensor  # [B, L] c


class R3VAE(LearntQuantizer):
    """Remove a learnt direction, then code what is left, level by level, by weighted codewords.

    With r the reference vector and c^l_k the codewords of level l (R3-VAE Eq. 1 to 7):

        alpha = <x, r> / ||r||^2,   e^0 = x - alpha r
        s_k = cos(e^(l-1), c^l_k),  w = softmax(s / temperature) over the `top_k` largest s
        e_hat^l = sum_k w_k c^l_k,  e^l = e^(l-1) - e_hat^l,  code c_l = argmax_k w_k

    and r and all c are learnt by AdamW from (Eq. 8 to 13), the mean over the batch of

        ||x - alpha r - sum_l e_hat^l||^2  -  sc_weight SC  +  pd_weight PD.

    SC of a level is the mean, over the codes that at least two items of the batch chose, of the
    mean pairwise cosine of these items' q; PD is that of `preference_discrimination` of a level's
    codewords; both are averaged over levels. Neither gradient passes through a choice of codes.

    Args:
        num_levels, num_codes: L, K.
        top_k: codewords that share the weight; None (or K and more) for all.
        renormalise: False takes their weights from a softmax over all K: they sum to less than 1.
        temperature: of the softmax. The paper has none, which is 1.
        reference: False leaves out r: e^0 = x (Table 8).
        rating: False replaces the weighted sum by the codeword of highest cosine, straight
            through as in RQ-VAE (Table 8), and adds, level by level, with sg stopping gradients,
            ||sg(e^(l-1)) - c||^2 + `commitment` ||e^(l-1) - sg(c)||^2.
        sc_weight, pd_weight: lambda of either term; 0 leaves it out (Tables 8 and 9).
        sc_vectors: q of SC, "residual" (e^(l-1)) or "quantized" (e_hat^1 + ... + e_hat^l).
        init: codewords start as centroids, "kmeans" or "spherical" (by cosine), of e^0 and of
            what the nearest ones of the levels before left; or "normal", at N(0, std of e^0).
        epochs, batch_size, learning_rate, weight_decay, device, precision, random_state: see
            `training.TrainSettings`; the learning rate is constant.

    Attributes:
        codes_: `[N, L]` int64 in 0..K-1. level_sizes_: (K,) * L.
        codebooks_: list of L arrays `[K, D]`. reference_: `[D]`, 0 without one.
        projection_: `[D]`, the mean of alpha r, which codes cannot tell.
        history_: `training.History`; each epoch holds, of all items at its end: "soft_error" and
            "hard_error" (`diagnostics.reconstruction_error` of `reconstruct`), "usage" (share of
            codes in use) and "perplexity" (exp of the mean entropy of w), lists over levels.

    Raises (in fit): InputError, of fewer rows than codes; rows that are not finite, all equal, or
        all multiples of r; a bad setting; a loss that is not finite (the last good state stays).
    Warns: CollapseWarning, if a level gives all items one code.

    Deviates: the paper gives no temperature, "top-K", decoder, batch or number of steps. Without
        a temperature the weights of 256 cosines are all but equal and codes decode badly: that is
        `preset("literal")`; the defaults are `preset("working")`. No network (Eq. 11 names none),
        nothing variational. r starts at the mean vector (if 0, at the first singular one). SC is
        of levels, as full IDs hardly meet in a batch. PD is minimised, as Eq. 12 has it.

    Cost: O(L K D) a vector for the ratings, O(L top_k D) for the sums, O(L K^2 D) a step for PD.
        384 dimensions, 3 x 256: 1.25 steps of an RQVAE with 512-256-128-32, and 1.6 without top K.
    """

    limits = {
        "top_k": SIZE | NONE, "renormalise": FLAG, "reference": FLAG, "rating": FLAG,
        "commitment": real(0), "sc_weight": real(0), "pd_weight": real(0),
        "sc_vectors": choice("residual", "quantized"),
        "init": choice("kmeans", "spherical", "normal"),
    }  # fmt: skip

    def __init__(
        self, num_levels=3, num_codes=256, top_k=8, renormalise=True, temperature=0.05,
        reference=True, rating=True, commitment=0.25, sc_weight=0.01, pd_weight=0.01,
        sc_vectors="residual", init="kmeans", epochs=200, batch_size=1024, learning_rate=5e-4,
        weight_decay=1e-5, device="auto", precision="float32", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    @classmethod
    def preset(cls, name: str, **params) -> R3VAE:
        """Make one with the settings of "working" or "literal", and others as given."""
        if name not in PRESETS:
            raise InputError(f"preset {name!r} is not one of {tuple(PRESETS)}")
        return cls(**{**PRESETS[name], **params})

    def _build(self, X, seed) -> _Network:
        """The network before training."""
        least = 1e3 * np.sqrt(np.finfo(X.dtype).tiny)
        if np.abs(X).max() < least:
            raise InputError(
                f"the largest value of X is {np.abs(X).max():.3g}, and squares of {X.dtype} below "
                f"{least:.3g} vanish: scale the vectors up"
            )
        scale = np.sqrt(np.vdot(X, X) / len(X))
        r, rest = np.zeros(X.shape[1], X.dtype), X
        if self.reference:
            r = X.mean(axis=0, dtype=np.float64)
            if np.linalg.norm(r) <= 1e-6 * scale:  # centred: the mean has no direction
                r = scale * np.linalg.eigh(X.T @ X)[1][:, -1]
            r = r.astype(X.dtype)
            rest = X - np.outer(X @ r / (r @ r), r)
        if np.linalg.norm(rest) <= 1e-5 * np.linalg.norm(X):
            raise InputError(
                f"every row of X (n_features = {X.shape[1]}) is a multiple of the reference "
                "vector, so nothing is left to code; reference=False codes them"
            )
        shape = (self.num_levels, self.num_codes)
        if self.init == "normal":
            rng = np.random.default_rng(seed)
            books = rng.normal(0, rest.std(), (*shape, X.shape[1])).astype(X.dtype)
            return _Network(self, r, books)
        books = []
        for level in range(self.num_levels):
            rng = np.random.default_rng([seed, level])
            centres, codes, _ = kmeans(rest, self.num_codes, 25, rng, self.init == "spherical")
            books.append(centres)
            rest = rest - centres[codes]
        return _Network(self, r, np.stack(books))

    def _adopt(self, network, X):
        self.reference_ = network.reference.detach().cpu().numpy()
        self.codebooks_ = list(network.codebooks.detach().cpu().numpy())
        self.level_sizes_ = (int(self.num_codes),) * int(self.num_levels)
        mean = X.mean(axis=0, dtype=np.float64)[None]
        self.projection_ = self._read(mean, lambda _, steps: steps.projection)[0]

    def _encode(self, X) -> np.ndarray:
        return self._read(X, lambda _, steps: steps.codes)

    def reconstruct(self, X, soft: bool = True) -> np.ndarray:
        """x_hat `[N, D]`: each row's own alpha r plus weighted codewords, or the codes' own."""
        self.check_fitted()
        X = check_vectors(self, X, reset=False)
        return self._read(X, _Network.soft if soft else _Network.hard)

    def inverse_transform(self, codes) -> np.ndarray:
        """Mean projection plus the codewords that codes or prefixes `[N, l]` name, `[N, D]`."""
        self.check_fitted()
        codes = check_codes(codes, self.level_sizes_)
        chosen = (book[column] for book, column in zip(self.codebooks_, codes.T))
        return self.projection_ + sum(chosen)

    def _read(self, X, read) -> np.ndarray:
        """`read(network, steps)` of all rows."""
        network = _Network(self, self.reference_, np.stack(self.codebooks_))
        network.to(resolve_device(self.device))
        return in_chunks(lambda x: read(network, network(x)), X, network.codebooks)

    def state(self):
        arrays = {"reference": self.reference_, "projection": self.projection_}
        return {**arrays, "codebooks": np.stack(self.codebooks_)}

    def restore(self, arrays):
        self.reference_, self.projection_ = arrays["reference"], arrays["projection"]
        self.codebooks_ = list(arrays["codebooks"])


class _Network(nn.Module):
    """The equations on torch tensors; `settings` is the R3VAE they belong to."""

    def __init__(self, settings: R3VAE, reference: np.ndarray, codebooks: np.ndarray):
        super().__init__()
        self.settings = settings
        self.reference = nn.Parameter(torch.tensor(reference), requires_grad=settings.reference)
        self.codebooks = nn.Parameter(torch.tensor(codebooks))
        # below it a vector has no direction: gradients of cosines grow as 1 / length
        self.floor = 1e-6 * float(self.codebooks.detach().norm(dim=-1).max())

    def unit(self, vectors: Tensor) -> Tensor:
        """Vectors divided by their lengths; 0 where they have no direction."""
        length = vectors.norm(dim=-1, keepdim=True)
        return vectors / torch.where(length > self.floor, length, torch.inf)

    def rate(self, e: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codewords `[B, k]` that share the weight, weights (Eq. 3, 4), and codes `[B]` (Eq. 7)."""
        settings = self.settings
        scores = self.unit(e) @ self.unit(codebook).T
        top_k = settings.top_k if settings.rating else 1
        if top_k is None or top_k >= len(codebook):
            every = torch.arange(len(codebook), device=e.device).expand_as(scores)
            return every, (scores / settings.temperature).softmax(dim=1), scores.argmax(dim=1)
        top, chosen = scores.topk(top_k, dim=1)
        if settings.renormalise or not settings.rating:
            return chosen, (top / settings.temperature).softmax(dim=1), chosen[:, 0]
        weights = (scores / settings.temperature).softmax(dim=1)
        return chosen, weights.gather(1, chosen), chosen[:, 0]

    def forward(self, x: Tensor) -> Steps:
        projection, r = torch.zeros_like(x), self.reference
        if self.settings.reference:
            projection = torch.outer(x @ r / (r @ r), r)  # Eq. 1
        e = x - projection  # Eq. 2
        levels = []
        for codebook in self.codebooks:
            k, w, code = self.rate(e, codebook)
            if k.shape[1] == len(codebook):
                part = w @ codebook  # Eq. 5
            else:
                w = w.to(codebook.dtype)  # autocast on a CPU leaves them in half precision
                part = F.embedding_bag(k, codebook, per_sample_weights=w, mode="sum")
            levels.append((e, k, w, part, code))
            e = e - (part if self.settings.rating else part.detach())  # Eq. 6
        *lists, codes = map(list, zip(*levels))
        return Steps(projection, *lists, torch.stack(codes, dim=1))

    def soft(self, steps: Steps) -> Tensor:
        """x_hat of Eq. 11, `[B, D]`."""
        return steps.projection + sum(steps.parts)

    def hard(self, steps: Steps) -> Tensor:
        """x_hat with the codewords of the codes in place of the weighted ones, `[B, D]`."""
        return steps.projection + sum(b[c] for b, c in zip(self.codebooks, steps.codes.T))

    def loss(self, x: Tensor) -> Tensor:
        """Eq. 13, mean over the batch."""
        settings, steps = self.settings, self(x)
        loss = squared_error(x, self.soft(steps))  # Eq. 11
        if not settings.rating:  # straight through: x_hat = x + sg(...) moves nothing
            loss = loss.detach()
            for e, c in zip(steps.residuals, steps.parts):
                commitment = settings.commitment * squared_error(e, c.detach())
                loss = loss + squared_error(c, e.detach()) + commitment
        if settings.sc_weight:
            loss = loss - settings.sc_weight * self.cohesion(steps)
        if settings.pd_weight and settings.num_codes > 1:
            loss = loss + settings.pd_weight * self.discrimination()
        return loss

    def cohesion(self, steps: Steps) -> Tensor:
        """SC (Eq. 8 and 9) of the items of the batch that share a code, mean over levels."""
        vectors = steps.residuals
        if self.settings.sc_vectors == "quantized":
            vectors = torch.stack(steps.parts).cumsum(dim=0)
        values = []
        for q, code in zip(vectors, steps.codes.T):
            u = self.unit(q)
            sums = u.new_zeros(self.settings.num_codes, u.shape[1]).index_add(0, code, u)
            own = u.new_zeros(len(sums)).index_add(0, code, u.square().sum(dim=1))
            size = u.new_zeros(len(sums)).index_add(0, code, torch.ones_like(u[:, 0]))
            # the sum of u_i . u_j over i != j is ||sum u||^2 - sum ||u||^2
            cosine = (sums.square().sum(dim=1) - own) / (size * (size - 1)).clamp(min=1)
            values.append(cosine.sum() / (size > 1).sum().clamp(min=1))
        return torch.stack(values).mean()

    def discrimination(self) -> Tensor:
        """PD (Eq. 10, t = 2) of each level's codewords, mean over levels."""
        u = self.unit(self.codebooks)
        kernel = torch.exp(2 * (u @ u.transpose(1, 2) - 1))
        pairs = kernel.sum(dim=(1, 2)) - kernel.diagonal(dim1=1, dim2=2).sum(dim=1)
        return (pairs / (kernel.shape[1] * (kernel.shape[1] - 1))).log().mean()

    def report(self, rows: Tensor) -> dict:
        """Errors of all rows as shares of their variance; usage and perplexity of each level."""
        total = float((rows - rows.mean(dim=0)).square().sum())
        soft, hard, entropy = rows.new_zeros(()), rows.new_zeros(()), 0
        used = torch.zeros(self.codebooks.shape[:2], device=rows.device)
        for x in rows.split(CHUNK):
            steps = self(x)
            soft += (x - self.soft(steps)).square().sum()
            hard += (x - self.hard(steps)).square().sum()
            used.scatter_(1, steps.codes.T, 1)
            shares = torch.stack([w / w.sum(dim=1, keepdim=True) for w in steps.weights])
            entropy = entropy + torch.special.entr(shares).sum(dim=(1, 2))
        return {
            "soft_error": float(soft) / total,
            "hard_error": float(hard) / total,
            "usage": used.mean(dim=1).tolist(),
            "perplexity": (entropy / len(rows)).exp().tolist(),
        }
