"""The layers of the plain transformers, by hand and against torch's functions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid_lib.plain import layers


def test_layer_norm_and_affine_by_hand():
    w = {"a.weight": np.array([2.0, 2.0]), "a.bias": np.array([0.0, 1.0])}
    found = layers.layer_norm(w, "a", np.array([1.0, 3.0]))
    assert found == pytest.approx([-2, 3], abs=1e-4)
    w = {"b.weight": np.array([[1.0, 2.0]]), "b.bias": np.array([10.0])}
    assert layers.affine(w, "b", np.array([3.0, 4.0])).tolist() == [21.0]


def test_one_allowed_place_gives_its_value():
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(3, 2, 4))
    allowed = np.array([[True, False], [True, True]])
    mixed = layers.attention(queries, keys, values, 2, allowed)
    assert mixed[0] == pytest.approx(values[0])
    for part in (slice(0, 2), slice(2, 4)):
        a, b = np.exp(keys[:, part] @ queries[1, part] / 2**0.5)
        expected = (a * values[0, part] + b * values[1, part]) / (a + b)
        assert mixed[1, part] == pytest.approx(expected)


def test_the_curves_are_torchs():
    x = np.linspace(-4, 4, 33)
    t = torch.from_numpy(x)
    assert layers.gelu(x) == pytest.approx(F.gelu(t).numpy())
    assert layers.gelu_tanh(x) == pytest.approx(F.gelu(t, approximate="tanh").numpy())
    assert layers.silu(x) == pytest.approx(F.silu(t).numpy())
    assert layers.softmax(x) == pytest.approx(F.softmax(t, 0).numpy())
    assert np.linalg.norm(layers.unit(x)) == pytest.approx(1)
