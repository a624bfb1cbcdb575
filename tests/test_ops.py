"""Products and dropout against plain definitions."""

import pytest
import torch

from semid_lib.compute.products import Dropout, Linear, linear


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("outputs", [2, 9])
def test_linear_and_its_gradients(shape, outputs):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(outputs, 5, requires_grad=True)
    grad = torch.randn(*shape[:-1], outputs)
    linear(x, weight).backward(grad)
    wide_x, wide_w, wide_g = x.detach().double(), weight.detach().double(), grad.double()
    wanted = torch.einsum("...i,oi->...o", wide_x, wide_w)
    torch.testing.assert_close(linear(x, weight).double(), wanted, rtol=0, atol=1e-5)
    by_x = torch.einsum("...o,oi->...i", wide_g, wide_w)
    torch.testing.assert_close(x.grad.double(), by_x, rtol=0, atol=1e-5)
    by_weight = wide_g.reshape(-1, outputs).T @ wide_x.reshape(-1, 5)
    torch.testing.assert_close(weight.grad.double(), by_weight, rtol=0, atol=1e-5)


def test_linear_of_transposed_and_empty_rows():
    x, weight = torch.randn(5, 7).T, torch.randn(6, 5)[::2]
    torch.testing.assert_close(linear(x, weight), x @ weight.T)
    assert linear(torch.empty(0, 5), weight).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    layer = Linear(5, 3).to(dtype)
    assert layer(torch.randn(2, 5, dtype=dtype)).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(5, 3)(torch.randn(2, 5)).dtype == torch.bfloat16


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout(p):
    torch.manual_seed(0)
    dropout, x = Dropout(p), torch.randn(1_001, 503, requires_grad=True)
    torch.manual_seed(1)
    y = dropout(x)
    kept = y != 0
    share = kept.double().mean().item()
    assert share == pytest.approx(1 - p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 1e-5)
    torch.testing.assert_close(y[kept], x[kept] / (1 - p), rtol=1e-4, atol=0)
    y.sum().backward()
    torch.testing.assert_close(
        x.grad[kept], torch.full_like(x[kept], 1 / (1 - p)), rtol=1e-4, atol=0
    )
    assert (x.grad[~kept] == 0).all()
    rows = kept.double().mean(1)  # independent: no row or column is special
    assert rows.std().item() == pytest.approx((p * (1 - p) / 503) ** 0.5, rel=0.15)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
