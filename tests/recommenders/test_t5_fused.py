"""The T5's fused step on a CPU: the plain network's loss, gradients and dropout, to rounding."""

import copy

import numpy as np
import pytest
import torch

from semid_lib.compute import products
from semid_lib.networks import T5, t5_fused
from semid_lib.training import TrainSettings, train

SIZES = (20, 30, 10)

pytestmark = pytest.mark.skipif(t5_fused.kernels() is None, reason="no C++ compiler")


def network(dropout=0.0, head_dim=16):
    torch.manual_seed(0)
    return T5(SIZES, dim=48, num_heads=3, head_dim=head_dim, num_layers=2, ffn_dim=80,
              dropout=dropout)  # fmt: skip


def batch(users=37, length=70, padded=True):
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(1, 62, (users, length)))
    for row in range(1, users if padded else 1):
        tokens[row, rng.integers(1, length + 1) :] = 0
    starts = np.cumsum((1, *SIZES[:-1]))
    return tokens, torch.from_numpy(starts + rng.integers(0, SIZES, (users, len(SIZES))))


def results(model, tokens, targets, fused=True, precision=None, **settings):
    """The loss and every gradient."""
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        if not fused:
            patch.setattr(t5_fused, "compute_dtype", lambda model: None)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = model.loss(tokens, targets, **settings)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def distance(found, exact):
    """The largest distance of a gradient from the exact one, in the latter's norm."""
    return max(float((found[n] - exact[n]).norm() / exact[n].norm()) for n in exact)


@pytest.mark.parametrize("head_dim", [16, 32, 64])
@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
def test_loss_and_gradients_are_those_of_float64(head_dim, normalize):
    """To 1e-5; few rows, since a ReLU within rounding of its kink would be an error of 1e-3."""
    model, samples = network(head_dim=head_dim), batch(users=20, length=37)
    exact = results(copy.deepcopy(model).double(), *samples, normalize=normalize)
    found = results(model, *samples, normalize=normalize)
    assert t5_fused.compute_dtype(model) == torch.float32
    assert found[0] == pytest.approx(exact[0], abs=1e-6)
    assert distance(found[1], exact[1]) < 1e-5


def test_bfloat16_is_as_near_to_float64_as_autocast():
    model, samples = network(), batch()
    exact = results(copy.deepcopy(model).double(), *samples)
    plain = results(model, *samples, fused=False, precision=torch.bfloat16)
    found = results(model, *samples, precision=torch.bfloat16)
    assert abs(found[0] - exact[0]) < 2e-3
    assert distance(found[1], exact[1]) < 1.5 * distance(plain[1], exact[1])


def hashed(key, index):
    """Which of the numbers at `index` are kept: the kernels' mixer again, in NumPy."""
    x = index.astype(np.uint32) ^ np.uint32(key.key)
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = ((x ^ (x >> 15)) + np.uint32(key.other)) * np.uint32(0x846CA68B)
    x = (x ^ (x >> 16)) * np.uint32(0x9E3779B1)
    return (x ^ (x >> 15)) >= key.limit


def test_dropout_stands_where_the_plain_network_has_it(monkeypatch):
    """The plain network, given the kernels' masks one after the other, has the same gradients."""
    rate, model, samples = 0.3, network(dropout=0.3), batch(padded=False)
    torch.manual_seed(5)
    found = results(model, *samples)
    torch.manual_seed(5)
    keys = t5_fused._Keys(rate, 4 + 4 * 2 + 6 * 2)

    def forward(self, x):
        index = np.arange(x.numel()).reshape(x.shape)
        if x.dim() == 4:  # weights [B, H, T, S], numbered as [B, T, H, S]
            users, heads, rows, columns = x.shape
            index = np.arange(x.numel()).reshape(users, rows, heads, columns).swapaxes(1, 2)
        return x * torch.from_numpy(hashed(keys(), index) / np.float32(1 - rate)).to(x.dtype)

    monkeypatch.setattr(products.Dropout, "forward", forward)
    exact = results(copy.deepcopy(model).double(), *samples)
    assert not keys.left
    assert found[0] == pytest.approx(exact[0], abs=1e-5)
    assert distance(found[1], exact[1]) < 1e-5


def test_masks_are_fair_and_unrelated():
    """Rates within four standard errors, overall and of pairs of masks and of neighbours."""
    torch.manual_seed(0)
    keys, count, rate = t5_fused._Keys(0.1, 20), 200_000, 0.1
    kept = [hashed(keys(), np.arange(count)) for _ in range(20)]
    near = 4 * (rate * (1 - rate) / count) ** 0.5
    both = 4 * (rate**2 * (1 - rate**2) / count) ** 0.5
    for i, mask in enumerate(kept):
        assert abs((~mask).mean() - rate) < near
        for lag in (1, 2, 16, 128, 512):
            assert abs((~mask[lag:] & ~mask[:-lag]).mean() - rate**2) < 1.1 * both
        for other in kept[:i]:
            assert abs((~mask & ~other).mean() - rate**2) < both


def test_one_and_two_threads_are_the_same():
    model, samples = network(dropout=0.1), batch(users=300)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(1)
            found.append(results(model, *samples, precision=torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert distance(*(grads for _, grads in found)) < 0.05


@pytest.mark.parametrize("place", ["inside", "all"])
def test_other_paddings_take_the_plain_path(place):
    tokens, targets = batch(users=5)
    if place == "inside":
        tokens[2, 0] = 0
        assert t5_fused.packed(tokens) is None
        exact = results(network().double(), tokens, targets)
        assert results(network(), tokens, targets)[0] == pytest.approx(exact[0], abs=1e-5)
    else:
        tokens[2] = 0
        assert t5_fused.packed(tokens) is None


def test_without_a_compiler_the_plain_path_is_taken(monkeypatch):
    t5_fused.kernels.cache_clear()
    try:
        monkeypatch.setenv("CXX", "/no/such/compiler")
        assert t5_fused.kernels() is None and t5_fused.compute_dtype(network()) is None
        assert np.isfinite(results(network(), *batch())[0])
    finally:
        t5_fused.kernels.cache_clear()


def test_flops_of_the_attention_are_counted():
    """By hand: projections, feed-forward and logits by torch; attention 4 H d a pair, and 10."""
    model, (tokens, targets) = network(), batch(users=16, padded=False)
    settings = TrainSettings(epochs=3, batch_size=16, learning_rate=1e-3)
    history = train(
        model, lambda rows, known: model.loss(tokens[known], targets[known]), 16, settings
    )
    rows, steps, width, dim, ffn = 16 * 70, 16 * 3, 48, 48, 80
    encoder = 2 * rows * (4 * dim * width + 2 * dim * ffn)
    decoder = 2 * (steps * (6 * dim * width + 2 * dim * ffn) + rows * 2 * dim * width)
    logits = 16 * dim * sum(SIZES)
    pairs = 2 * (16 * 70**2 + 16 * 3**2 + 16 * 3 * 70)
    wanted = 6 * (encoder + decoder + logits) + 14 * pairs * width
    assert history.epochs[-1]["flops"] == wanted
