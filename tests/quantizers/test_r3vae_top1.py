"""R3-VAE's third reading: by NumPy loops, its residual's identity, files, faults."""

import numpy as np
import pytest
import torch

from semid_lib.errors import CheckpointError, InputError
from semid_lib.quantizers import R3VAETop1

SMALL = dict(num_levels=3, num_codes=8, batch_size=100, precision="float64")


def planted(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, d))
    X = centres[rng.integers(12, size=n)] + 0.05 * rng.normal(size=(n, d))
    return X + 1.0


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def model():
    return R3VAETop1(**SMALL, epochs=20).fit(planted())


def in_loops(model, x):
    """e^0, the sums y_l, the codes, and the residuals of one row."""
    r = unit(model.network_.reference.detach().numpy())
    x = unit(x)
    rest = x - x @ r * r
    first, y, sums, codes, residuals = rest, x @ r * r, [], [], [rest]
    for book in model.network_.codebooks.detach().numpy():
        cosines = [unit(rest) @ unit(word) for word in book]
        codes.append(int(np.argmax(cosines)))
        part = max(cosines) * unit(book[codes[-1]])
        y, rest = y + part, rest - part
        sums.append(y)
        residuals.append(rest)
    return first, sums, codes, residuals


def test_codes_and_loss_equal_loops(model):
    X, held, rebuilt = planted()[:40], [], []
    net = model.network_
    for x, codes in zip(X, model.transform(X)):
        first, sums, own, residuals = in_loops(model, x)
        assert own == codes.tolist()
        held.append([1 - unit(first) @ unit(y) for y in sums])
        decoded = net.decoder(torch.as_tensor(sums[-1])).detach().numpy()
        rebuilt.append(1 - unit(x) @ unit(decoded))
        for e, after in zip(residuals, residuals[1:]):  # it grows where it is short
            n = np.linalg.norm(e)
            square = (n**2 - e @ after) / n  # of s
            assert abs(after @ after - (n**2 - 2 * square * n + square)) < 1e-10
    spread = []
    for book in unit(net.codebooks.detach().numpy()):
        pairs = [
            np.exp(-((a - b) @ (a - b))) for i, a in enumerate(book) for j, b in enumerate(book)
            if i != j
        ]  # fmt: skip
        spread.append(np.log(np.mean(pairs)))
    truth = np.mean(rebuilt) + 0.1 * np.mean(held) + 0.05 * np.mean(spread)
    np.testing.assert_allclose(float(net.loss(torch.as_tensor(X)).detach()), truth, rtol=1e-9)


def test_training_helps_and_keeps_the_epoch_whose_codes_are_used_most():
    X = planted()
    model = R3VAETop1(**SMALL, epochs=150, learning_rate=5e-3).fit(X)
    losses = [epoch["loss"] for epoch in model.history_.epochs]
    assert losses[-1] < 0.5 * losses[0] and len(np.unique(model.codes_, axis=0)) >= 12
    sums = [sum(epoch["perplexity"]) for epoch in model.history_.epochs]
    assert model.history_.best_epoch == 2 + 2 * int(np.argmax(sums[1::2]))  # it looks at every 2nd
    shares = [np.bincount(column, minlength=8) / len(X) for column in model.codes_.T]
    spread = sum(np.exp(-(s[s > 0] * np.log(s[s > 0])).sum()) for s in shares)
    np.testing.assert_allclose(spread, max(sums[1::2]))


def test_files_and_repeats(model, tmp_path):
    X = planted()
    assert (R3VAETop1(**SMALL, epochs=20).fit(X).codes_ == model.codes_).all()
    path = model.save(tmp_path / "top1.safetensors")
    other = R3VAETop1.load(path)
    assert (other.transform(X) == model.codes_).all()
    rows = (m.inverse_transform(model.codes_) for m in (model, other))
    np.testing.assert_array_equal(*rows)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(CheckpointError):
        R3VAETop1.load(path)


def test_faults_are_named():
    X = planted()
    X[7] = 0
    with pytest.raises(InputError, match="row 7 of X is all 0"):
        R3VAETop1(**SMALL).fit(X)
    with pytest.raises(InputError, match="sc_weight is -1"):
        R3VAETop1(**SMALL, sc_weight=-1).fit(planted())
