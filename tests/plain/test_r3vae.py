"""R3-VAE's equations for one item on the plane, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from semid_lib.plain import r3vae_cohesion, r3vae_item, r3vae_loss, r3vae_weights

X, REFERENCE = np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([2.0, 0.0])
BOOKS = [np.array([[0.0, 1.0], [0.0, -1.0]])]


def settings(**more):
    chosen = dict(
        reference=True, temperature=1.0, top_k=1, renormalise=True, sc_vectors="residual",
        sc_weight=0.1, pd_weight=0.01,
    )  # fmt: skip
    return SimpleNamespace(**{**chosen, **more})


def test_weights_of_cosines_1_and_minus_1():
    e, high = np.array([0.0, 2.0]), np.exp(1) / (np.exp(1) + np.exp(-1))
    assert r3vae_weights(e, BOOKS[0], settings(top_k=None)) == pytest.approx([high, 1 - high])
    assert r3vae_weights(e, BOOKS[0], settings()).tolist() == [1, 0]
    found = r3vae_weights(e, BOOKS[0], settings(renormalise=False))
    assert found == pytest.approx([high, 0])


def test_one_item():
    along, residuals, weights, codes, parts = r3vae_item(X[0], REFERENCE, BOOKS, settings())
    assert along.tolist() == [1, 0] and residuals[0].tolist() == [0, 2]
    assert weights[0].tolist() == [1, 0] and codes == [0] and parts[0].tolist() == [0, 1]
    along, residuals, *_ = r3vae_item(X[0], REFERENCE, BOOKS, settings(reference=False))
    assert along.tolist() == [0, 0] and residuals[0].tolist() == [1, 2]


@pytest.mark.parametrize("vectors", ["residual", "quantized"])
def test_loss(vectors):
    """Errors 1 and 4; both items have code 0 and one direction: SC = 1; PD = -4."""
    s = settings(sc_vectors=vectors)
    items = [r3vae_item(x, REFERENCE, BOOKS, s) for x in X]
    assert r3vae_cohesion(items, s) == pytest.approx(1)
    assert r3vae_loss(X, REFERENCE, BOOKS, s) == pytest.approx(2.5 - 0.1 - 0.04)
