"""The device under test: a GPU, or what SEMID_GPU_TESTS_DEVICE names, compared with the CPU.

python scripts/gpu_report.py                # on a machine with a GPU
python scripts/gpu_report.py --device cpu   # the tests themselves, on any machine
"""

import os

import numpy as np
import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts

import torch  # noqa: E402

from semid_lib.codes import SemanticIds  # noqa: E402
from semid_lib.data import leave_one_out, synthetic_catalogue  # noqa: E402

ITEMS, DIGITS, CODES = 120, 8, 8


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test; without a GPU the test says so."""
    name = os.environ.get("SEMID_GPU_TESTS_DEVICE") or "cuda"
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU (SEMID_GPU_TESTS_DEVICE=cpu tests the tests)")
    return name


@pytest.fixture(autouse=True)
def exact(device, monkeypatch):
    """Whole float32 in products, the same sums in every run, and no device from outside."""
    monkeypatch.delenv("SEMID_DEVICE", raising=False)
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    for flag, value in zip(flags, before):
        flag.allow_tf32 = value


@pytest.fixture
def same_draws(monkeypatch):
    """Random numbers drawn on the CPU and sent, so that both devices see the same ones."""

    def sent(draw):
        def drawn(*size, device=None, **settings):
            return draw(*size, **settings).to(device)

        return drawn

    for name in ("rand", "randint", "randperm"):
        monkeypatch.setattr(torch, name, sent(getattr(torch, name)))


@pytest.fixture(scope="session")
def split():
    """200 users of 120 items with fields."""
    return leave_one_out(synthetic_catalogue(ITEMS, 200, random_state=1)[0])


@pytest.fixture(scope="session")
def sids():
    """Three levels of codes."""
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.permutation(ITEMS), (6, 5, 4)), axis=1)
    return SemanticIds(codes, (6, 5, 4))


@pytest.fixture(scope="session")
def long_sids():
    """Eight digits, two items with the same."""
    codes = np.random.default_rng(1).integers(0, CODES, (ITEMS, DIGITS))
    codes[20] = codes[4]
    return SemanticIds(codes, [CODES] * DIGITS)


@pytest.fixture(scope="session")
def vectors():
    """500 vectors in 16 far groups, so that rounding moves no code."""
    rng = np.random.default_rng(0)
    groups = 4 * rng.normal(size=(16, 24))
    return (groups[rng.integers(16, size=500)] + 0.2 * rng.normal(size=(500, 24))).astype("float32")
