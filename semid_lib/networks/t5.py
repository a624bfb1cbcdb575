"""A small T5: encoder and decoder over the tokens of semantic IDs (SPEC 14)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.codes import Vocabulary
from semid_lib.compute.products import Dropout, Linear, linear
from semid_lib.errors import InputError
from semid_lib.networks import t5_fused

BUCKETS, MAX_DISTANCE = 32, 128


class T5(nn.Module):
    """T5 with tied embeddings over the shared vocabulary of semantic IDs.

    Equations, as in T5 (Raffel et al. 2020, section 2.1): pre-norm residual blocks
    x + f(RMSNorm(x)); attention softmax(q k + b) v without 1/sqrt(d), where b depends on the
    distance alone (32 buckets, up to 128) and is shared by all layers of a stack; ReLU
    feed-forward; no biases; logits <h, e_token> / sqrt(D). Dropout stands after the embedding, on
    attention weights, after every sublayer, inside the feed-forward and after the last norm.

    Args:
        level_sizes: K_l, the number of codes of each of the L levels, whose tokens are those of
            `codes.Vocabulary`. Padding also starts the decoder; one token more, `end`, may close a
            history.
        dim: width D. num_layers: of each stack. num_heads, head_dim: attention.
        ffn_dim: feed-forward width. dropout: rate in [0, 1).

    Cost: about 4 D (H d_h) + 2 D F parameters per encoder layer, 8 D (H d_h) + 2 D F per decoder
    layer (H heads of d_h, F = ffn_dim).
    """

    def __init__(
        self, level_sizes: Sequence[int], *, dim: int = 128, num_layers: int = 4,
        num_heads: int = 4, head_dim: int = 32, ffn_dim: int = 512, dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        if min(dim, num_layers, num_heads, head_dim, ffn_dim) < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"dim {dim}, num_layers {num_layers}, num_heads {num_heads}, head_dim {head_dim} "
                f"and ffn_dim {ffn_dim} must be at least 1, and dropout {dropout} in [0, 1)"
            )
        self.vocabulary = Vocabulary(level_sizes)
        self.level_sizes = self.vocabulary.level_sizes
        self.num_heads, self.head_dim = num_heads, head_dim
        self.end = self.vocabulary.num_tokens
        self.embedding = nn.Embedding(self.end + 1, dim)
        self.encoder_bias = nn.Embedding(BUCKETS, num_heads)
        self.decoder_bias = nn.Embedding(BUCKETS, num_heads)
        sizes = (dim, num_heads, head_dim, ffn_dim, dropout)
        self.encoder = nn.ModuleList(Layer(*sizes, cross=False) for _ in range(num_layers))
        self.decoder = nn.ModuleList(Layer(*sizes, cross=True) for _ in range(num_layers))
        self.encoder_norm, self.decoder_norm = RMSNorm(dim), RMSNorm(dim)
        self.dropout = Dropout(dropout)
        for name, two_sided in (("encoder", True), ("decoder", False)):
            self.register_buffer(f"{name}_buckets", distance_buckets(two_sided), persistent=False)
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.encoder_bias.weight, std=dim**-0.5)
        nn.init.normal_(self.decoder_bias.weight, std=dim**-0.5)

    def encode(self, tokens: Tensor, full: bool | None = None) -> tuple[Tensor, Tensor | None]:
        """Encode tokens `[B, S]` int64 (0: padding) to `(memory [B, S, D], padding)`.

        `padding` is a `[B, 1, 1, S]` bool mask, true at real tokens, or None if all are real; who
        knows whether they are says it by `full`, so that a GPU need not be waited for.
        """
        padding = (tokens != 0)[:, None, None, :]
        if full or (full is None and bool(padding.all())):
            padding = None
        bias = self.position_bias(self.encoder_bias, self.encoder_buckets, tokens.shape[1])
        if padding is not None:
            bias = bias.masked_fill(~padding, -math.inf)
        x = self.dropout(self.embedding(tokens))
        for layer in self.encoder:
            x = layer(x, bias)
        return self.dropout(self.encoder_norm(x)), padding

    def decode(self, memory: Tensor, padding: Tensor | None, targets: Tensor) -> Tensor:
        """Decode with teacher forcing: targets `[B, L]` int64 tokens to states `[B, L, D]`.

        State l has seen the targets before l only, and predicts target l.
        """
        length = targets.shape[1]
        inputs = F.pad(targets[:, :-1], (1, 0))
        bias = self.position_bias(self.decoder_bias, self.decoder_buckets, length)
        future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
        bias = bias.masked_fill(future, -math.inf)
        x = self.dropout(self.embedding(inputs))
        for layer in self.decoder:
            x = layer(x, bias, layer.memory(memory), padding)
        return self.dropout(self.decoder_norm(x))

    def logits(self, states: Tensor, level: int | None = None) -> Tensor:
        """Logits of states `[..., D]`: `[..., K_level]`, or `[..., V]` over all V tokens."""
        weight = self.embedding.weight
        if level is not None:
            first = self.vocabulary.first_token[level]
            weight = weight[first : first + self.level_sizes[level]]
        return linear(states * states.shape[-1] ** -0.5, weight)

    def loss(self, tokens: Tensor, targets: Tensor, normalize="level", full=None) -> Tensor:
        """Mean cross-entropy of target tokens `[B, L]` after history tokens `[B, S]`.

        Each code is one of its level's codes ("level"), or of the whole "vocabulary". `full`: see
        `encode`.
        """
        states = self._states(tokens, targets, full)
        if normalize == "vocabulary":
            return F.cross_entropy(self.logits(states).flatten(0, 1).float(), targets.flatten())
        losses = [
            F.cross_entropy(self.logits(states[:, level], level), targets[:, level] - first)
            for level, first in enumerate(self.vocabulary.first_token)
        ]
        return torch.stack(losses).mean()

    def _states(self, tokens, targets, full):
        dtype = t5_fused.compute_dtype(self)
        lengths = None if dtype is None else t5_fused.packed(tokens)
        if lengths is None:
            return self.decode(*self.encode(tokens, full), targets)
        return t5_fused.states(self, tokens, lengths, targets, dtype)

    def num_parameters(self, embedding: bool = False) -> int:
        """Count parameters; without the token embedding unless `embedding` (Fig. 4's count)."""
        total = sum(p.numel() for p in self.parameters())
        return total if embedding else total - self.embedding.weight.numel()

    @staticmethod
    def position_bias(table: nn.Embedding, buckets: Tensor, length: int) -> Tensor:
        """`[1, H, length, length]`: the bias of query i (row) and key j (column)."""
        place = torch.arange(length, device=buckets.device)
        distance = (place - place[:, None]).clamp(-MAX_DISTANCE, MAX_DISTANCE)
        return table(buckets[distance + MAX_DISTANCE]).permute(2, 0, 1)[None]


class Layer(nn.Module):
    """One block: self-attention, cross-attention in the decoder, feed-forward."""

    def __init__(self, dim, num_heads, head_dim, ffn_dim, dropout, cross):
        super().__init__()
        width = num_heads * head_dim
        self.num_heads = num_heads
        self.norm, self.qkv = RMSNorm(dim), _linear(dim, 3 * width)
        self.out = _linear(width, dim)
        nn.init.normal_(self.qkv.weight[:width], std=(dim * head_dim) ** -0.5)
        if cross:
            self.cross_norm, self.cross_q = RMSNorm(dim), _linear(dim, width)
            self.cross_kv, self.cross_out = _linear(dim, 2 * width), _linear(width, dim)
            nn.init.normal_(self.cross_q.weight, std=(dim * head_dim) ** -0.5)
        self.ffn_norm = RMSNorm(dim)
        self.wide, self.narrow = _linear(dim, ffn_dim), _linear(ffn_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x, bias, memory=None, padding=None):
        """`[B, T, D]` to `[B, T, D]`; `bias` `[1 or B, H, T, T]`; `memory` from `memory()`."""
        q, k, v = self._heads(self.qkv(self.norm(x)), 3)
        x = x + self.dropout(self.out(self._attend(q, k, v, bias)))
        if memory is not None:
            x = x + self.dropout(self._cross(x, memory, padding))
        return x + self.dropout(self._ffn(x))

    def step(self, x, past, bias, memory, padding):
        """Advance W beams of B users, `[B, W, D]`, by one place.

        `past` holds keys and values `[B, W or 1, 2 H d]` of each place before, and gets this
        one's; `bias` `[H, places]`.
        """
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        past.append(qkv[:, :, 1:].flatten(2))
        x = self.out(self._attend_places(qkv[:, :, 0], past, bias)).add_(x)
        x = self._cross(x, memory, padding).add_(x)
        return self._ffn(x).add_(x)

    def memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H, S, d]` of the encoder's output `[B, S, D]`."""
        return self._heads(self.cross_kv(memory), 2)

    def _cross(self, x, memory, padding):
        (q,) = self._heads(self.cross_q(self.cross_norm(x)), 1)
        return self.cross_out(self._attend(q, *memory, padding))

    def _ffn(self, x):
        return self.narrow(self.dropout(self.wide(self.ffn_norm(x))).relu_())

    def _attend_places(self, q, past, bias):
        """Attention of `[B, W, H, d]` to the few places of each beam, heads joined again."""
        keys, values = zip(*(kept.unflatten(-1, (2, *q.shape[2:])).unbind(2) for kept in past))
        scores = torch.stack([(q * k).sum(-1) + b for k, b in zip(keys, bias.unbind(-1))])
        first, *others = zip(scores.softmax(0)[..., None], values)
        mixed = torch.mul(*first)
        for weight, value in others:
            mixed.addcmul_(weight, value)
        return mixed.flatten(2)

    def _heads(self, x, parts):
        x = x.unflatten(-1, (parts, self.num_heads, -1))
        return [part.transpose(1, 2) for part in x.unbind(2)]

    def _attend(self, q, k, v, mask):
        """Unscaled attention of `[B, H, T, d]`, heads joined again: `[B, T, H d]`."""
        p = self.dropout.p if self.training else 0.0
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        if p and q.device.type == "cpu":  # no fused kernel with dropout there, and slow masks
            scores = q @ k.transpose(-1, -2)
            if mask is not None and mask.is_floating_point():
                scores = scores + mask
            elif mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            x = self.dropout(scores.softmax(-1)) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, scale=1.0)
        return x.transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) times a learnt weight; the mean in at least float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return (wide * scale).to(self.weight.dtype) * self.weight


def _linear(inputs: int, outputs: int) -> Linear:
    linear = Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    return linear


def distance_buckets(two_sided: bool) -> Tensor:
    """Bucket of each distance key - query in -128..128, `[257]` int64.

    Half of the buckets (of each side) hold one distance each, the others grow logarithmically
    up to 128. A one-sided stack puts every later key into bucket 0 (it is masked anyway).
    """
    distance = torch.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
    buckets = BUCKETS // 2 if two_sided else BUCKETS
    side = (distance > 0) * buckets if two_sided else 0
    away = distance.abs() if two_sided else (-distance).clamp(min=0)
    exact = buckets // 2
    growth = torch.log(away.float() / exact) / math.log(MAX_DISTANCE / exact) * (buckets - exact)
    far = (exact + growth.clamp(min=0).long()).clamp(max=buckets - 1)
    return side + torch.where(away < exact, away, far)
