"""Count the floating point operations of a step."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.flop_counter import flop_registry


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
