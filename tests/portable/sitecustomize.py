"""Rounding jitter: what another processor might compute, drawn anew each run.

    SEMID_JITTER=4 PYTHONPATH=tests/portable python ...

Every process that finds this folder on its path (pytest's workers and Jupyter's kernels, too) then
multiplies the results of matrix products and factorisations by 1 + e, where |e| is at most so many
units in the last place. Whatever changes in an output by more than the rounding that it prints
hangs on digits that another processor would change, too. Jittered are

- PyTorch's products on the CPU (`mm`, `addmm`, `bmm`, `baddbmm`, `addmv`), gradients included;
- NumPy's and SciPy's `@` in `semid_lib` and in the cells of notebooks, `np.einsum`, `np.linalg`;
- text vectors, behaviour vectors, and what scikit-learn and faiss are given to fit.

The library knows nothing of this: modules are changed as they are imported. SEMID_JITTER_SEED
repeats a draw; each process prints its seed to the file that SEMID_JITTER_LOG names.
"""

import ast
import builtins
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

ULPS = int(os.environ.get("SEMID_JITTER") or 0)
SEED = int(os.environ.get("SEMID_JITTER_SEED") or int.from_bytes(os.urandom(4), "little"))
TABLE = 1 << 16  # factors drawn once a process and dtype, read from a place drawn for each product
NAME = "_semid_jitter"
OUR_CODE = ("semid_lib",)
LINALG = ("svd", "eigh", "eigvalsh", "qr", "lstsq", "solve", "inv", "pinv", "norm")
PRODUCTS = ("einsum", "dot", "matmul", "tensordot", "inner", "cov", "corrcoef")


# ------------------------------------------------------------------ NumPy


@functools.cache
def lots():
    """This process's generator of random numbers: nobody else's draws are touched."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(SEED))


@functools.cache
def factors(dtype):
    """A table of 1 + e in NumPy's `dtype`."""
    import numpy as np

    ulps = lots().integers(-ULPS, ULPS + 1, TABLE)
    return (1 + ulps * np.finfo(dtype).eps).astype(dtype)


def drawn(count: int, dtype):
    """`count` factors."""
    import numpy as np

    place = int(lots().integers(TABLE))
    return np.resize(np.roll(factors(dtype), place), count)


def jittered(value):
    """Multiply floats in an array, a sparse array, a number or a tuple of them by 1 + e."""
    import numpy as np

    if isinstance(value, tuple):
        parts = [jittered(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, np.ndarray | np.floating):
        dtype = value.dtype
        if dtype not in (np.float32, np.float64):
            return value
        new = value * drawn(value.size, dtype).reshape(np.shape(value))
        return new if isinstance(value, np.ndarray) else dtype.type(new)
    data = getattr(value, "data", None)
    if isinstance(data, np.ndarray) and data.dtype in (np.float32, np.float64):
        value = value.copy()
        value.data = jittered(data)
    return value


def with_jittered_result(function):
    """The function, its result jittered; not where figures are laid out."""

    @functools.wraps(function)
    def wrapped(*args, **settings):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if settings.get("out") is not None or caller.startswith("matplotlib"):
            return function(*args, **settings)
        return jittered(function(*args, **settings))

    return wrapped


def with_jittered_input(method):
    """The method, its first argument jittered."""

    @functools.wraps(method)
    def wrapped(self, X, *args, **settings):
        return method(self, jittered(X), *args, **settings)

    return wrapped


def patch(owner, names, wrap):
    """Replace those of the names that the owner has."""
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, wrap(getattr(owner, name)))


# ------------------------------------------------------------------ products in our code and cells


class Products(ast.NodeTransformer):
    """Turn `a @ b` into `_semid_jitter(a @ b)`."""

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if not isinstance(node.op, ast.MatMult):
            return node
        call = ast.Call(ast.Name(NAME, ast.Load()), [node], [])
        return ast.fix_missing_locations(ast.copy_location(call, node))


class JitteredSource(importlib.machinery.SourceFileLoader):
    """Load a module with its products jittered; no bytecode is read or left."""

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        tree = Products().visit(ast.parse(self.get_data(path), path))
        return compile(tree, path, "exec", dont_inherit=True)


# ------------------------------------------------------------------ what is changed on import


def patch_numpy(numpy):
    patch(numpy, PRODUCTS, with_jittered_result)


def patch_linalg(linalg):
    patch(linalg, LINALG, with_jittered_result)


def patch_extmath(extmath):
    patch(extmath, ["randomized_svd"], with_jittered_result)


def patch_cluster(cluster):
    patch(cluster.KMeans, ["fit"], with_jittered_input)


def patch_decomposition(decomposition):
    patch(decomposition.PCA, ["fit", "transform"], with_jittered_input)
    patch(decomposition.TruncatedSVD, ["fit_transform"], with_jittered_input)


def patch_faiss(faiss):
    for name in ("OPQMatrix", "ProductQuantizer", "Kmeans", "PCAMatrix"):
        patch(getattr(faiss, name), ["train"], with_jittered_input)


def patch_als(module):
    fit = module.AlternatingLeastSquares.fit

    @functools.wraps(fit)
    def wrapped(self, *args, **settings):
        fit(self, *args, **settings)
        self.user_factors = jittered(self.user_factors)
        self.item_factors = jittered(self.item_factors)

    module.AlternatingLeastSquares.fit = wrapped


def patch_text(module):
    patch(module.TextEncoder, ["_network_vectors"], with_jittered_result)


def patch_shell(module):
    begin = module.InteractiveShell.__init__

    @functools.wraps(begin)
    def wrapped(self, *args, **settings):
        begin(self, *args, **settings)
        self.ast_transformers.append(Products())

    module.InteractiveShell.__init__ = wrapped


def patch_torch(torch):
    """Put kernels of our own in the place of the CPU's: the real product, then the factors."""
    import warnings

    empty = {
        "mm": lambda a, b: (a.shape[0], b.shape[1]),
        "bmm": lambda a, b: (*a.shape[:2], b.shape[2]),
        "addmm": lambda c, a, b: (a.shape[0], b.shape[1]),
        "baddbmm": lambda c, a, b: (*a.shape[:2], b.shape[2]),
        "addmv": lambda c, a, b: (a.shape[0],),
    }
    tables = {}

    def table(dtype):
        """Factors in float32 or float64; a half is multiplied in float32, as a product sums."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if wide not in tables:
            name = "float64" if wide == torch.float64 else "float32"
            values = torch.from_numpy(factors(name).copy())
            tables[wide] = values.repeat(4)
        return tables[wide]

    def shaken(out):
        if not out.is_floating_point() or not out.numel():
            return out
        known = table(out.dtype)
        flat = out.view(-1)
        for start in range(0, len(flat), TABLE):
            piece = flat[start : start + TABLE]
            place = int(lots().integers(TABLE))
            piece.copy_(piece * known[place : place + len(piece)])
        return out

    def kernel(name, shape):
        real = getattr(torch.ops.aten, name).out

        def product(*args, **scales):
            out = args[-1].new_empty(shape(*args))
            real(*args, **scales, out=out)
            return shaken(out)

        return product

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = torch.library.Library("aten", "IMPL")
        for name, shape in empty.items():
            library.impl(name, kernel(name, shape), "CPU")
    torch._semid_jitter = library  # kept as long as torch


AFTER = {
    "numpy": patch_numpy,
    "numpy.linalg": patch_linalg,
    "sklearn.utils.extmath": patch_extmath,
    "sklearn.cluster": patch_cluster,
    "sklearn.decomposition": patch_decomposition,
    "faiss": patch_faiss,
    "implicit.cpu.als": patch_als,
    "semid_lib.encoders.text": patch_text,
    "IPython.core.interactiveshell": patch_shell,
    "torch": patch_torch,
}


class Jitter(importlib.abc.MetaPathFinder):
    """Find our own modules for `JitteredSource`, and change others once they are loaded."""

    def __init__(self):
        self.busy = set()

    def find_spec(self, name, path=None, target=None):
        ours = name.split(".")[0] in OUR_CODE
        if name in self.busy or not (ours or name in AFTER):
            return None
        self.busy.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy.discard(name)
        if spec is None or spec.loader is None:
            return spec
        if ours and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = JitteredSource(spec.loader.name, spec.loader.path)
        if name in AFTER:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                AFTER[name](module)

            spec.loader.exec_module = exec_module
        return spec


if ULPS:
    setattr(builtins, NAME, jittered)
    sys.meta_path.insert(0, Jitter())
    if os.environ.get("SEMID_JITTER_LOG"):
        with open(os.environ["SEMID_JITTER_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{SEED} {' '.join(sys.argv)}\n")
