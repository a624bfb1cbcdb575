"""Matrix products and dropout that are fast on every CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.flop_counter import flop_registry


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


class FlopCounter(TorchDispatchMode):
    """Adds up, while it is entered, the FLOPs of matrix products and attention in `total`.

    By PyTorch's formulas, and one for `linear`. Its own `FlopCounterMode` splits some operators
    into others, which changes the rounding; this one changes nothing. Not counted: recurrent
    layers, and the fused attention of a CPU, which dropout rules out.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, operator = func(*args, **(kwargs or {})), func.overloadpacket
        if operator is getattr(torch.ops.mkldnn, "_linear_pointwise", None):
            self.total += 2 * args[0].numel() * len(args[1])
        elif operator in flop_registry:
            self.total += flop_registry[operator](*args, **(kwargs or {}), out_val=out)
        return out


def count(flops: int) -> None:
    """Add the FLOPs of what no operator of torch's computes to the counter that is entered."""
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, FlopCounter):
            mode.total += flops


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
