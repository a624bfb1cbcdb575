"""A T5's training step in few passes, on a CPU: what `T5.loss` runs where it can.

The same network, loss and gradients as `t5_network` has, to rounding, but with rows of real tokens
alone (no padding) and with everything that is no matrix product over all rows in the passes of
`t5_kernels.cpp`, compiled at first use by the C++ compiler of the machine. Dropout's masks are
functions of a key, so none is stored; the keys are drawn from torch's generator once a call.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from semid_lib.compute import flops

_SOURCE = Path(__file__).with_name("t5_kernels.cpp")
_FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fopenmp-simd", "-fno-math-errno",
    "-fno-trapping-math", "-shared", "-fPIC",
)  # fmt: skip
_ROWS, _SAMPLES, _LANES = 256, 16, 16  # of a block, and numbers of a vector, as in the source
_HEAD_DIMS = (16, 32, 64)
_NAMES = {torch.float32: "float", torch.bfloat16: "half"}


def compute_dtype(model) -> torch.dtype | None:
    """float32 or bfloat16, in which the passes compute for `model` as things are; None: neither.

    It is None on a GPU, in float64 and float16, with other head sizes than 16, 32 and 64, and where
    no C++ compiler is found.
    """
    weight = model.embedding.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if model.head_dim not in _HEAD_DIMS or torch.compiler.is_compiling():
        return None
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
    return dtype if dtype in _NAMES and kernels() is not None else None


@cache
def kernels():
    """The compiled passes, or None where they cannot be compiled.

    They are kept, for this source and processor, in the folder of the datasets' cache.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return None
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    about = "\n".join([_SOURCE.read_text(), compiler, *_FLAGS, flags])
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    from semid_lib.data.download import cache_dir

    folder = cache_dir() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"t5-{name}.so"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / "t5.so"
                command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
                subprocess.run(command, check=True, capture_output=True)
                made.replace(path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError):
        return None


class _Drop(ctypes.Structure):
    """The key of one mask; see `t5_kernels.cpp`."""

    _fields_ = [(n, ctypes.c_uint32) for n in ("key", "other", "limit")]
    _fields_ += [("scale", ctypes.c_float)]


_KEPT = _Drop(0, 0, 0, 1.0)


class _Attention(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("q", "kv", "q_start", "kv_start", "bias")]
    _fields_ += [
        (n, ctypes.c_int64)
        for n in ("q_stride", "k_column", "v_column", "kv_stride", "samples", "heads", "longest",
                  "causal")
    ]  # fmt: skip
    _fields_ += [("drop", _Drop)]


class _Keys:
    """Hands out the keys of one call's masks, in the order in which the plain network draws."""

    def __init__(self, rate: float, count: int):
        self.rate, self.left = rate, []
        if rate:
            drawn = torch.empty(2 * count, dtype=torch.int64).random_(0, 2**32)
            self.left = drawn.view(count, 2).tolist()[::-1]

    def __call__(self) -> _Drop:
        if not self.rate:
            return _KEPT
        return _Drop(*self.left.pop(), round(self.rate * 2**32), 1 / (1 - self.rate))


@cache
def _pool():
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "t5")


def _call(name: str, blocks: int, *arguments) -> None:
    """Run a pass on all blocks, with as many threads as torch has."""
    function = getattr(kernels(), name)
    arguments = [_pointer(a) for a in arguments]
    threads = min(torch.get_num_threads(), blocks)
    if threads <= 1:
        function(*arguments, ctypes.c_long(0), ctypes.c_long(blocks))
        return
    ends = [ctypes.c_long(blocks * i // threads) for i in range(threads + 1)]
    others = [_pool().submit(function, *arguments, *ends[i : i + 2]) for i in range(1, threads)]
    function(*arguments, *ends[:2])
    for other in others:
        other.result()


def _pointer(a):
    if a is None:
        return ctypes.c_void_p(0)
    if isinstance(a, Tensor):
        return ctypes.c_void_p(a.data_ptr())
    return ctypes.c_long(a) if isinstance(a, int) else ctypes.byref(a)


def _blocks(rows: int, size: int) -> int:
    return -(-rows // size)


class _AddNorm(torch.autograd.Function):
    """`(x + dropout(y), dropout'(RMSNorm of it))`: float32 `[N, D]`, and in `dtype`.

    x, or None for 0, and the sum are float32; y is float32 or of `dtype`.
    """

    @staticmethod
    def forward(ctx, x, y, weight, dtype, drop, after):
        rows, dim = y.shape
        y = y.contiguous()
        total, normed = torch.empty(rows, dim), torch.empty(rows, dim, dtype=dtype)
        ctx.name = f"{_NAMES[y.dtype]}_{_NAMES[dtype]}"
        ctx.drops, ctx.dtypes, ctx.first = (drop, after), (y.dtype, dtype), x is None
        ctx.save_for_backward(total, weight)
        ctx.set_materialize_grads(False)
        _call(
            f"add_norm_{ctx.name}", _blocks(rows, _ROWS), x, y, weight, total, normed, rows, dim,
            drop, after,
        )  # fmt: skip
        return total, normed

    @staticmethod
    def backward(ctx, g_total, g_normed):
        total, weight = ctx.saved_tensors
        rows, dim = total.shape
        blocks = _blocks(rows, _ROWS)
        gx = None if ctx.first else torch.empty(rows, dim)
        gy, gw = torch.empty(rows, dim, dtype=ctx.dtypes[0]), torch.empty(blocks, dim)
        g_total = None if g_total is None else g_total.contiguous()
        _call(
            f"add_norm_back_{ctx.name}", blocks, total, weight, g_total, g_normed.contiguous(),
            gx, gy, gw, rows, dim, *ctx.drops,
        )  # fmt: skip
        return gx, gy, gw.sum(0), None, None, None


class _FeedForward(torch.autograd.Function):
    """relu(dropout(x W1^T)) W2^T of rows `[N, D]`."""

    @staticmethod
    def forward(ctx, x, wide, narrow, drop):
        wide, narrow = wide.to(x.dtype), narrow.to(x.dtype)
        inner = F.linear(x, wide)
        ctx.drop = drop
        _call(f"relu_drop_{_NAMES[x.dtype]}", _blocks(len(x), _ROWS), inner, *inner.shape, drop)
        ctx.save_for_backward(x, inner, wide, narrow)
        return F.linear(inner, narrow)

    @staticmethod
    def backward(ctx, grad):
        x, inner, wide, narrow = ctx.saved_tensors
        g_inner = grad @ narrow
        g_narrow = (grad.T @ inner).float()
        _call(
            f"relu_drop_back_{_NAMES[x.dtype]}", _blocks(len(x), _ROWS), g_inner, inner,
            *inner.shape, ctx.drop,
        )  # fmt: skip
        return g_inner @ wide, (g_inner.T @ x).float(), g_narrow, None


class _Attend(torch.autograd.Function):
    """Attention of rows `[N, D]` to themselves, or to a memory `[M, D]`, with its projections.

    Args:
        query: weight of the queries, or of queries, keys and values where `memory` is None.
        key_value: that of the memory. bias: see `_bias`, or None.
        places: `(starts of the samples' rows, of the memory's, longest, causal)`.
    """

    @staticmethod
    def forward(ctx, x, memory, query, key_value, out, bias, places, heads, drop):
        query, out = query.to(x.dtype), out.to(x.dtype)
        width = out.shape[1]
        q = kv = F.linear(x, query)
        columns = width, 2 * width
        if memory is not None:
            key_value = key_value.to(x.dtype)
            kv, columns = F.linear(memory, key_value), (0, width)
        mixed = torch.empty(len(x), width, dtype=x.dtype)
        ctx.case = places, columns, heads, drop
        ctx.pairs = _pairs(places)
        flops.count(4 * ctx.pairs * width)
        call, blocks = _attention(q, kv, bias, *ctx.case)
        _call(f"attend_{_NAMES[x.dtype]}", blocks, call, width // heads, mixed)
        keep = None if memory is None else kv
        ctx.save_for_backward(x, memory, query, key_value, out, bias, q, keep, mixed)
        return F.linear(mixed, out)

    @staticmethod
    def backward(ctx, grad):
        x, memory, query, key_value, out, bias, q, kv, mixed = ctx.saved_tensors
        places, _, heads, _ = ctx.case
        g_out, g_mixed = (grad.T @ mixed).float(), grad @ out
        gq = torch.empty_like(q)
        g_kv = gq if kv is None else torch.empty_like(kv)
        call, blocks = _attention(q, q if kv is None else kv, bias, *ctx.case)
        g_bias = None if bias is None else torch.zeros(blocks, *bias.shape)
        flops.count(10 * ctx.pairs * out.shape[1])
        _call(
            f"attend_back_{_NAMES[x.dtype]}", blocks, call, out.shape[1] // heads,
            g_mixed, gq, g_kv, g_bias,
        )  # fmt: skip
        g_memory = g_key_value = None
        if memory is not None:
            g_memory, g_key_value = g_kv @ key_value, (g_kv.T @ memory).float()
        g_bias = None if bias is None else g_bias.sum(0)
        g_query = (gq.T @ x).float()
        return gq @ query, g_memory, g_query, g_key_value, g_out, g_bias, None, None, None


def _attention(q, kv, bias, places, columns, heads, drop):
    """The argument of the passes, and their blocks."""
    q_start, kv_start, longest, causal = places
    samples = len(q_start) - 1
    pointers = [None if t is None else t.data_ptr() for t in (q, kv, q_start, kv_start, bias)]
    numbers = q.shape[1], *columns, kv.shape[1], samples, heads, longest, causal
    return _Attention(*pointers, *numbers, drop), _blocks(samples, _SAMPLES)


def _pairs(places) -> int:
    """How many pairs of a query and a key there are in all samples."""
    q_start, kv_start = places[:2]
    return int((q_start.diff() * kv_start.diff()).sum())


def packed(tokens: Tensor) -> Tensor | None:
    """The samples' lengths `[B]` of tokens `[B, S]`; None where a 0 stands before a token."""
    real = tokens != 0
    lengths = real.sum(1)
    places = torch.arange(tokens.shape[1])
    return lengths if torch.equal(real, places < lengths.clamp(min=1)[:, None]) else None


def states(model, tokens: Tensor, lengths: Tensor, targets: Tensor, dtype) -> Tensor:
    """What `model.decode(*model.encode(tokens), targets)` is, `[B, L, D]`, in `dtype`."""
    rate = model.dropout.p if model.training else 0.0
    keys = _Keys(rate, 4 + 4 * len(model.encoder) + 6 * len(model.decoder))
    length = targets.shape[1]
    start = F.pad(lengths.cumsum(0), (1, 0))
    steps = torch.arange(len(targets) + 1) * length
    with torch.autocast("cpu", enabled=False):
        longest = int(lengths.max())
        inside = start, start, longest, False
        bias = _bias(model.encoder_bias, model.encoder_buckets, longest)
        memory = _stack(model, "encoder", tokens[tokens != 0], None, (inside,), bias, keys, dtype)
        own, cross = (steps, steps, length, True), (steps, start, longest, False)
        bias = _bias(model.decoder_bias, model.decoder_buckets, length)
        inputs = F.pad(targets[:, :-1], (1, 0)).flatten()
        found = _stack(model, "decoder", inputs, memory, (own, cross), bias, keys, dtype)
    return found.view(len(targets), length, -1)


def _stack(model, name, tokens, memory, places, bias, keys, dtype):
    """The encoder or the decoder on packed tokens `[N]`, final norm and dropout included."""
    layers, last = getattr(model, name), getattr(model, f"{name}_norm")
    heads = model.num_heads
    embedded = F.embedding(tokens, model.embedding.weight)
    x, normed = _AddNorm.apply(None, embedded, layers[0].norm.weight, dtype, keys(), _KEPT)
    for index, layer in enumerate(layers):
        final = index == len(layers) - 1
        following = last if final else layers[index + 1].norm
        y = _Attend.apply(
            normed, None, layer.qkv.weight, None, layer.out.weight, bias, places[0], heads, keys()
        )
        norm = layer.ffn_norm if memory is None else layer.cross_norm
        x, normed = _AddNorm.apply(x, y, norm.weight, dtype, keys(), _KEPT)
        if memory is not None:
            y = _Attend.apply(
                normed, memory, layer.cross_q.weight, layer.cross_kv.weight,
                layer.cross_out.weight, None, places[1], heads, keys(),
            )  # fmt: skip
            x, normed = _AddNorm.apply(x, y, layer.ffn_norm.weight, dtype, keys(), _KEPT)
        y = _FeedForward.apply(normed, layer.wide.weight, layer.narrow.weight, keys())
        drop, after = keys(), keys() if final else _KEPT
        x, normed = _AddNorm.apply(x, y, following.weight, dtype, drop, after)
    return normed


def _bias(table, buckets: Tensor, longest: int) -> Tensor:
    """The bias of each distance key - query from 1 - longest on: `[H, 2 W]`.

    W is `longest` rounded up to a whole vector; the last distances do not occur.
    """
    reach = (len(buckets) - 1) // 2
    width = 2 * _blocks(longest, _LANES) * _LANES
    distance = torch.arange(1 - longest, 1 - longest + width).clamp(-reach, reach)
    return table(buckets[distance + reach]).T.contiguous()
