"""Numba kernel of holistic scoring: one item's sums for as many users as fill a cache line.

Imported only when it is used, so that importing the package stays fast.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from semid_lib.compute.jit import kernel

LINE = 64  # bytes of a table's row: one vector register where there is AVX-512, else two or four


@kernel
def group_maxima(table, rows, group, out, column, first, last):
    """Write the highest sums of the groups first..last-1 to `out[g, column : column + W]`.

    Args:
        table: `[m M, W]` float32; a row takes `LINE` bytes.
        rows: `[N, m]` int16 or int32. group: items in each; the last may be smaller.
        out: `[G, U]` float32. All three arrays are C-contiguous.
    """
    for g in range(first, last):
        end = min(len(rows), (g + 1) * group)
        _highest_sums(table, rows, g * group, end, out, g * out.shape[1] + column)


@intrinsic
def _highest_sums(context, table, rows, first, end, out, at):
    """Of the items first..end-1, from the flat position `at` of `out` on.

    In LLVM's own terms, since Numba turns no loop over users into vector instructions that keep
    the sums in a register.
    """
    width = 8 * LINE // table.dtype.bitwidth
    sums = ir.VectorType(ir.FloatType(), width)

    def generate(context, build, signature, values):
        table, rows, out = (
            context.make_array(signature.args[i])(context, build, values[i]) for i in (0, 1, 4)
        )
        first, end, at = values[2], values[3], values[5]
        digits = cgutils.unpack_tuple(build, rows.shape)[1]
        best = cgutils.alloca_once_value(build, ir.Constant(sums, [float("-inf")] * width))
        total = cgutils.alloca_once(build, sums)
        with cgutils.for_range_slice(build, first, end, first.type(1)) as (item, _):
            build.store(ir.Constant(sums, [0.0] * width), total)
            start = build.mul(item, digits)
            with cgutils.for_range(build, digits) as digit:
                row = build.load(build.gep(rows.data, [build.add(start, digit.index)]))
                row = build.mul(build.sext(row, first.type), first.type(width))
                place = build.bitcast(build.gep(table.data, [row]), sums.as_pointer())
                line = build.load(place, align=4)
                build.store(build.fadd(build.load(total), line), total)
            old, new = build.load(best), build.load(total)
            build.store(build.select(build.fcmp_ordered(">", new, old), new, old), best)
        place = build.bitcast(build.gep(out.data, [at]), sums.as_pointer())
        build.store(build.load(best), place, align=4)
        return context.get_dummy_value()

    return types.void(table, rows, first, end, out, at), generate
