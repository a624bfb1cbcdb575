"""Matrix products and dropout as this library computes them on a CPU and a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _onednn():
    """oneDNN's float32 product x W^T, or None where this torch has none (other platforms)."""
    try:
        product = torch.ops.mkldnn._linear_pointwise
        one = torch.ones(2, 2)
        if torch.equal(product(one, one, None, "none", [], ""), one @ one):
            return lambda x, weight: product(x, weight, None, "none", [], "")
    except (AttributeError, RuntimeError):
        pass
    return None


_PRODUCT = _onednn()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return _PRODUCT(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        for_x = _PRODUCT(grad, weight.T) if ctx.needs_input_grad[0] else None
        for_weight = None
        if ctx.needs_input_grad[1]:  # the first operand is copied slowly: the smaller goes first
            small = x.shape[1] <= grad.shape[1]
            for_weight = _PRODUCT(x.T, grad.T).T if small else _PRODUCT(grad.T, x.T)
        return for_x, for_weight


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows `[..., I]` by `weight` `[O, I]`: x W^T, `[..., O]`, differentiable.

    In float32 on a CPU the product is oneDNN's: torch calls MKL there, which on AMD processors
    runs at less than half of it. Same values up to rounding; everything else is `F.linear`.
    """
    plain = (
        _PRODUCT is None
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or x.numel() == 0
    )
    if plain:
        return F.linear(x, weight)
    return _Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """`nn.Linear` without bias, by `linear`."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class Dropout(nn.Module):
    """Inverted dropout: each number is 0 with probability `p`, else divided by 1 - p.

    On a CPU four decisions are cut from one 64-bit draw, and the comparison writes numbers rather
    than booleans, which torch converts slowly: 4 times as fast as `nn.Dropout`.

    Deviates: there p is rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = round(self.p * 2**16)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = draws.view(torch.int16)[: x.numel()].view(x.shape)
        keep = torch.ge(draws, dropped - 2**15, out=torch.empty(x.shape, dtype=x.dtype))
        return x * keep.mul_(2**16 / (2**16 - dropped))
