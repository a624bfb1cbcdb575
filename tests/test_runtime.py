"""Profile, device, precision and the set-up call."""

import random
import signal
import subprocess
import sys
import textwrap
import time
import timeit
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semid_lib import environment
from semid_lib.compute import device, products
from semid_lib.compute.memory import enough_memory
from semid_lib.compute.signals import pausing
from semid_lib.errors import DeviceMemoryError, InputError
from semid_lib.reports import chapter

HEAVY = {"torch", "pandas", "sklearn", "scipy", "numba", "umap", "faiss", "matplotlib"}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """No profile from outside, and torch's and matplotlib's settings as they were."""
    import matplotlib as mpl

    monkeypatch.delenv("SEMID_PROFILE", raising=False)
    monkeypatch.delenv("SEMID_DEVICE", raising=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with mpl.rc_context():
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that this machine has one GPU; call with its compute capability."""

    def pretend(major):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, 0))

    return pretend


def test_importing_the_library_is_light():
    code = "import sys; old = set(sys.modules); import semid_lib; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not HEAVY & {name.split(".")[0] for name in loaded}
    assert "semid_lib" in loaded and len(loaded) < 20  # counted: a clock would depend on the load


def test_profile_is_quick_unless_the_environment_names_another(monkeypatch):
    assert environment.profile() == "quick"
    monkeypatch.setenv("SEMID_PROFILE", "paper")
    assert environment.profile() == "paper"
    monkeypatch.setenv("SEMID_PROFILE", "papper")
    with pytest.raises(InputError, match="SEMID_PROFILE is 'papper'.*'quick', 'paper'"):
        environment.profile()


def test_a_gpu_alone_changes_neither_profile_nor_device(gpu):
    gpu(8)
    assert environment.profile() == "quick"
    assert device.resolve_device() == "cpu"


@pytest.mark.parametrize(
    ("profile", "named", "asked", "expected"),
    [
        ("paper", None, "auto", "cuda"),
        ("paper", "cpu", "auto", "cpu"),
        ("quick", "cuda:0", "auto", "cuda:0"),
        ("quick", "cuda", "cpu", "cpu"),
        ("paper", "auto", "auto", "cuda"),
        ("quick", "auto", "auto", "cpu"),
    ],
)
def test_device(monkeypatch, gpu, profile, named, asked, expected):
    gpu(8)
    monkeypatch.setenv("SEMID_PROFILE", profile)
    if named:
        monkeypatch.setenv("SEMID_DEVICE", named)
    assert device.resolve_device(asked) == expected


def test_paper_profile_without_gpu_computes_on_the_cpu(monkeypatch):
    monkeypatch.setenv("SEMID_PROFILE", "paper")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.resolve_device() == "cpu"


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="'cuda:1'.*sees 1 GPUs"):
        device.resolve_device("cuda:1")
    with pytest.raises(InputError, match="device 'gpu' is not"):
        device.resolve_device("gpu")


def test_precision_follows_the_device(gpu):
    assert device.resolve_precision("auto", "cpu") == "float32"
    gpu(8)
    assert device.resolve_precision("auto", "cuda") == "bfloat16"
    gpu(7)  # a T4: torch would emulate bfloat16 there
    assert device.resolve_precision("auto", "cuda:0") == "float16"
    gpu(6)  # no tensor cores: half precision gains little there, or is slower
    assert device.resolve_precision("auto", "cuda") == "float32"
    gpu(7)
    assert device.resolve_precision("float64", "cuda") == "float64"
    with pytest.raises(InputError, match="precision 'half'"):
        device.resolve_precision("half", "cpu")


def test_matrix_rate_is_that_of_the_fastest_product(monkeypatch):
    """By a clock on which the products of 512 x 512 matrices take 5, 2, 3, 3, ... seconds."""
    reads = iter(np.cumsum([0, 5, 1, 2, 1, 3, 1] + [3, 1] * 6).tolist())
    repeat = partial(timeit.repeat, timer=lambda: next(reads))
    monkeypatch.setattr(device, "timeit", SimpleNamespace(repeat=repeat))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rate = device.matrix_rate.__wrapped__("cpu", "float32")
    assert rate == 2 * 512**3 / 2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "float16"])
def test_matrix_rate_is_measured_once_by_a_few_small_products(precision, monkeypatch):
    sizes = []
    product = products.linear

    def counted(a, b):
        sizes.append(len(a))
        return product(a, b)

    monkeypatch.setattr(products, "linear", counted)
    device.matrix_rate.cache_clear()
    rate = device.matrix_rate("cpu", precision)
    assert 1e7 < rate < 1e14 and sizes == [512] * 9
    assert device.matrix_rate("cpu", precision) == rate and len(sizes) == 9


def test_kept_memory_is_not_mapped_again():
    """Page faults while tensors of 40 MB and 4 MB come and go, in a round of a fresh process."""
    code = """
        import platform, resource, torch
        from semid_lib.compute.memory import keep_memory
        keep_memory()
        def use():
            for size in (10_000_000, 1_000_000, 1_000_000, 1_000_000):
                tensor = torch.zeros(size)
        faults = []
        for _ in range(15):  # the heap takes a few rounds to find its places
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            use()
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        print(min(faults) if platform.libc_ver()[0] == "glibc" else 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1_000  # 10,000 pages of 4 KB in each round that maps


def test_setup_repeats_every_generator_and_prints_one_line(capsys):
    def draws():
        run = chapter.setup("07", seed=3)
        return run, random.random(), np.random.random(), torch.rand(1).item()

    first, second = draws(), draws()
    assert first == second
    assert first[0] == chapter.Run(chapter="07", profile="quick", device="cpu", seed=3)
    line = "chapter 07 | profile quick | device cpu | seed 3\n"
    assert capsys.readouterr().out == 2 * line
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    chapter.setup("07", seed=4)
    assert torch.rand(1).item() != first[3]


def test_setup_refuses_a_seed_that_numpy_cannot_take():
    with pytest.raises(InputError, match="seed is -1"):
        chapter.setup("01", seed=-1)


def test_setup_holds_blas_to_one_thread():
    from threadpoolctl import threadpool_info

    chapter.setup("01")
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}


# ------------------------------------------------------------------ signals and memory


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_brings_the_deadline_of_training_forward(name, request):
    if name == "SIGINT":  # ignored in what is started in the background, tests included
        told = signal.signal(signal.SIGINT, signal.default_int_handler)
        request.addfinalizer(lambda: signal.signal(signal.SIGINT, told))
    before = signal.getsignal(getattr(signal, name))
    with pausing() as deadline:
        assert not time.monotonic() > deadline  # training asks between two steps
        signal.raise_signal(getattr(signal, name))
        assert time.monotonic() > deadline
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(getattr(signal, name))
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_signal_where_nothing_trains_stops_at_once():
    with pytest.raises(KeyboardInterrupt), pausing():
        signal.raise_signal(signal.SIGTERM)


def test_a_deadline_is_a_number_of_the_monotonic_clock():
    with pausing(100) as deadline:
        assert deadline - time.monotonic() == pytest.approx(100, abs=1)
        assert not time.monotonic() > deadline and time.monotonic() + 101 > deadline


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_full_memory_is_named(error):
    with pytest.raises(DeviceMemoryError, match="the stage needs more memory"):
        with enough_memory("the stage"):
            raise error
    with pytest.raises(RuntimeError, match="another"), enough_memory("the stage"):
        raise RuntimeError("another")
