"""The layers of a transformer in NumPy, for one sequence `[S, D]`.

`w` maps names of parameters, as `network.named_parameters()` gives them, to arrays; a layer takes
those whose names begin with its own.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def affine(w, name: str, x):
    """W x + b."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w, name: str, x):
    """(x - mean) / sqrt(variance + 1e-5), times a weight, plus a bias."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(x):
    """exp(x_j) / sum_k exp(x_k) over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(x):
    """x / ||x|| over the last axis."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def silu(x):
    """x sigmoid(x)."""
    return x / (1 + np.exp(-x))


def gelu(x):
    """x Phi(x), with the normal distribution function Phi."""
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_tanh(x):
    """GPT-2's approximation of gelu."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(queries, keys, values, num_heads: int, allowed=True):
    """softmax(q k / sqrt(size)) v, head by head (Vaswani et al. 2017).

    Args: queries `[Q, D]`; keys, values `[S, D]`; allowed `[Q, S]`, who may look at whom.
    Returns: `[Q, D]`, the heads side by side.
    """
    size = queries.shape[1] // num_heads
    mixed = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[:, part] @ keys[:, part].T / np.sqrt(size)
        weights = softmax(np.where(allowed, scores, -np.inf))
        mixed.append(weights @ values[:, part])
    return np.concatenate(mixed, axis=1)


def gpt2_block(w, name: str, x, num_heads: int, allowed):
    """x <- x + W attention(LN x); x <- x + W2 gelu(W1 LN x) (Radford et al. 2019)."""
    h = layer_norm(w, f"{name}.norm1", x)
    keys, values = np.split(affine(w, f"{name}.key_value", h), 2, axis=1)
    mixed = attention(affine(w, f"{name}.query", h), keys, values, num_heads, allowed)
    x = x + affine(w, f"{name}.out", mixed)
    h = layer_norm(w, f"{name}.norm2", x)
    return x + affine(w, f"{name}.outer", gelu_tanh(affine(w, f"{name}.inner", h)))
