"""RQVAE and VQVAE: a plain loop, planted residuals, collapse and its cures, faults, resumption."""

import warnings

import numpy as np
import pytest
import torch

from semid_lib.errors import CheckpointError, CodesError, CollapseWarning, InputError
from semid_lib.quantizers import RQVAE, VQVAE
from semid_lib.quantizers._codebooks import balanced
from semid_lib.quantizers.base import NotFittedError
from semid_lib.quantizers.rqvae import ResidualAutoencoder, rotated
from semid_lib.storage import load_tensors, save_tensors
from semid_lib.training import TrainingPaused

SMALL = dict(num_levels=2, num_codes=12, hidden=(24,), latent=8, batch_size=150, learning_rate=3e-3)


def planted(n=600, d=10, seed=0):
    """Coarse groups, each of the same 12 fine offsets, and noise; unit variance in all."""
    rng = np.random.default_rng(seed)
    coarse, fine = 8 * rng.normal(size=(12, d)), 4 * rng.normal(size=(12, d))
    X = coarse[rng.integers(12, size=n)] + fine[rng.integers(12, size=n)]
    X += 0.3 * rng.normal(size=(n, d))
    return ((X - X.mean(0)) / X.std()).astype(np.float32)


def relative_error(X, model):
    return float(((X - model.inverse_transform(model.codes_)) ** 2).sum() / X.var(0).sum() / len(X))


def plain_loop(x, encoder, tables, decoder, beta):
    """The equations of SPEC 9 row by row: codes, reconstruction, and the loss."""
    codes, decoded, losses = [], [], []
    for row in x:
        rest = np.array(row)
        for weight, bias in encoder[:-1]:
            rest = np.maximum(weight @ rest + bias, 0)
        rest = encoder[-1][0] @ rest + encoder[-1][1]
        own, total, loss = [], np.zeros_like(rest), 0.0
        for table in tables:
            k = int(np.argmin([((rest - word) ** 2).sum() for word in table]))
            loss += (1 + beta) * ((rest - table[k]) ** 2).sum()
            rest, total = rest - table[k], total + table[k]
            own.append(k)
        out = total
        for weight, bias in decoder[:-1]:
            out = np.maximum(weight @ out + bias, 0)
        out = decoder[-1][0] @ out + decoder[-1][1]
        losses.append(loss + ((row - out) ** 2).sum())
        codes.append(own)
        decoded.append(out)
    return np.array(codes), np.array(decoded), float(np.mean(losses))


def test_codes_reconstruction_and_loss_of_a_plain_loop():
    X = planted(120).astype(np.float64)
    model = RQVAE(**{**SMALL, "num_levels": 3, "epochs": 3, "precision": "float64"}).fit(X)
    network = model.network_

    def layers(module):
        linear = [m for m in module if isinstance(m, torch.nn.Linear)]
        return [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linear]

    codes, decoded, loss = plain_loop(
        X, layers(network.encoder), model.codebooks_, layers(network.decoder), 0.25
    )
    assert (codes == model.codes_).all()
    np.testing.assert_allclose(model.inverse_transform(codes), decoded, rtol=0, atol=1e-10)
    value, reconstruction, quantization, chosen = network.losses(torch.as_tensor(X))
    assert value.item() == pytest.approx(loss, rel=1e-10)
    assert (reconstruction + 1.25 * quantization).item() == pytest.approx(loss, rel=1e-10)
    assert (chosen.numpy() == codes).all()


@pytest.mark.trained
@pytest.mark.parametrize("switches", [{}, {"update": "ema", "ema_decay": 0.9}])
def test_planted_levels_are_found(switches):
    """12 + 12 words explain groups and offsets; the offsets, a fifth, are beyond 12 alone."""
    X = planted()
    shared = {k: v for k, v in SMALL.items() if k != "num_levels"}
    shared |= {"learning_rate": 1e-2, "epochs": 60, "restart": True, **switches}
    two = RQVAE(num_levels=2, **shared).fit(X)
    assert relative_error(X, two) < 0.15
    assert relative_error(X, VQVAE(**shared).fit(X)) > 0.2
    first, last = two.history_.epochs[0], two.history_.epochs[-1]
    assert last["reconstruction"] < 0.2 * first["reconstruction"]
    assert two.codes_.shape == (600, 2) and two.level_sizes_ == (12, 12)


@pytest.mark.trained
def test_collapse_is_provoked_and_cured():
    X = planted()
    settings = {**SMALL, "num_codes": 64, "epochs": 10, "learning_rate": 1e-3}
    last_usage = {}
    uniform = {"init": "uniform"}
    starts = {"uniform": uniform, "kmeans": {}, "restart": {**uniform, "restart": True}}
    for name, switches in starts.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            model = RQVAE(**{**settings, **switches}).fit(X)
        used = [len(np.unique(column)) / 64 for column in model.codes_.T]
        last_usage[name] = np.mean(used)
        assert len(model.history_.epochs) == 10
    assert last_usage["uniform"] < 0.35
    assert last_usage["kmeans"] > 2 * last_usage["uniform"]
    assert last_usage["restart"] > 2 * last_usage["uniform"]


@pytest.mark.trained
def test_a_level_of_one_code_is_named():
    """Vectors far from the origin, small words about it: one word is the nearest of all rows."""
    X = 5 + 0.01 * planted(100)
    model = RQVAE(**{**SMALL, "learning_rate": 1e-6}, init="uniform", epochs=1)
    with pytest.warns(CollapseWarning) as seen:
        model.fit(X)
    for level, warning in enumerate(seen):
        assert f"level {level} collapsed: all 100 rows have code" in str(warning.message)
    assert len(seen) == 2
    assert (model.codes_ == model.codes_[0]).all()


def test_usage_and_perplexity_are_those_of_the_choices():
    """With steps of no size the words stand still, so the epoch's tallies are the final codes'."""
    X = planted(300)
    model = RQVAE(**{**SMALL, "learning_rate": 1e-12}, weight_decay=0, epochs=2).fit(X)
    entry = model.history_.epochs[-1]
    for level, column in enumerate(model.codes_.T):
        share = np.bincount(column, minlength=12) / 300
        assert entry["usage"][level] == pytest.approx((share > 0).mean())
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        assert entry["perplexity"][level] == pytest.approx(np.exp(entropy), rel=1e-5)
    assert entry["reconstruction"] == pytest.approx(
        ((X - model.inverse_transform(model.codes_)) ** 2).sum(1).mean(), rel=1e-4
    )
    total = entry["reconstruction"] + 1.25 * entry["quantization"]
    assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_rotation_takes_one_vector_to_the_other_and_turns_gradients_alike():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(50, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    target = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    out = rotated(z, target)
    torch.testing.assert_close(out, target)
    (out * target).sum().backward()  # the gradient of the output is the target itself
    scale = (target.norm(dim=1) / z.norm(dim=1)).detach()[:, None]
    turned = z.detach() * scale**2  # R^T takes the target's direction back to that of z
    torch.testing.assert_close(z.grad, turned)


def test_straight_through_gives_the_encoder_the_decoders_gradient():
    torch.manual_seed(0)
    network = ResidualAutoencoder(
        [5, 4], 2, 6, commitment=0.0, gradient="straight_through"
    ).double()
    network.set_words(0, slice(None), torch.randn(6, 4, dtype=torch.float64))
    x = torch.randn(7, 5, dtype=torch.float64)
    network.losses(x)[0].backward()
    words = network.words(network.assign(network.encode(x).detach())).detach()
    z_q = words.sum(1).requires_grad_()
    (x - network.decode(z_q)).square().sum().div(7).backward()
    expected = z_q.grad.T @ x  # d loss / d weight of z = W x + b
    torch.testing.assert_close(network.encoder[0].weight.grad, expected)


@pytest.mark.trained
def test_sinkhorn_balances_the_last_level():
    cost = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7)
    plan = balanced(cost, 0.05, steps=500)
    torch.testing.assert_close(plan.sum(0), torch.full((6,), 1 / 6, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64))
    from scipy.optimize import linear_sum_assignment

    rows, slots = linear_sum_assignment(np.repeat(cost.numpy(), 10, axis=1))
    least = cost.numpy()[rows, slots // 10].mean()
    sharp = balanced(cost, 0.003, steps=500).argmax(1).numpy()
    assert cost.numpy()[np.arange(60), sharp].mean() == pytest.approx(least, rel=0.03)
    assert cost.argmin(1).bincount(minlength=6).max() > 20 > np.bincount(sharp).max()

    X = planted(300)
    spread = {}
    for switch in (False, True):
        model = RQVAE(**SMALL, sinkhorn=switch, epochs=15).fit(X)
        spread[switch] = model.history_.epochs[-1]["perplexity"][-1]
    assert spread[True] > spread[False] + 0.5


def test_the_same_seed_gives_the_same_codes_and_another_gives_others():
    X = planted(300)
    settings = {**SMALL, "epochs": 4}
    first, again, other = (RQVAE(**settings, random_state=s).fit(X) for s in (1, 1, 2))
    assert (first.codes_ == again.codes_).all() and (first.codes_ != other.codes_).any()
    assert (first.transform(X) == first.codes_).all()
    assert [e["loss"] for e in first.history_.epochs] == [e["loss"] for e in again.history_.epochs]


def test_float64_is_computed_in_float64():
    X = planted(200).astype(np.float64)
    model = RQVAE(**SMALL, epochs=2, precision="float64").fit(X)
    assert model.codebooks_[0].dtype == np.float64
    assert model.inverse_transform(model.codes_).dtype == np.float64
    half = RQVAE(**SMALL, epochs=2, precision="bfloat16").fit(X)
    assert half.codebooks_[0].dtype == np.float32


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_paused_and_resumed_is_as_if_unbroken(tmp_path, monkeypatch, update):
    X = planted(300)
    settings = {**SMALL, "epochs": 6, "update": update, "restart": True, "batch_size": 64}
    whole = RQVAE(**settings).fit(X)
    model, clock, pauses = RQVAE(**settings), iter(range(10_000)), 0
    monkeypatch.setattr("semid_lib.training.loop.time.monotonic", lambda: next(clock))
    while True:
        try:
            model.fit(X, checkpoint=tmp_path / "run.safetensors", deadline=next(clock) + 20)
            break
        except TrainingPaused:
            pauses += 1
    assert pauses >= 3 and (model.codes_ == whole.codes_).all()
    for mine, theirs in zip(model.codebooks_, whole.codebooks_):
        assert (mine == theirs).all()
    for mine, theirs in zip(model.history_.epochs, whole.history_.epochs):
        assert mine["usage"] == theirs["usage"] and mine["loss"] == theirs["loss"]
    with pytest.raises(CheckpointError):
        RQVAE(**{**settings, "commitment": 0.5}).fit(X, checkpoint=tmp_path / "run.safetensors")


def test_tallies_are_in_the_checkpoint_and_not_in_the_network(tmp_path):
    X = planted(300)
    model = RQVAE(**SMALL, epochs=1).fit(X, checkpoint=tmp_path / "run.safetensors")
    kept = load_tensors(tmp_path / "run.safetensors")[0]
    assert kept["hook.0.chosen"].sum(1).tolist() == [300] * model.num_levels
    assert kept["hook.0.sums"][0] == 300
    buffers = dict(model.network_.named_buffers())
    assert not buffers


def test_a_file_with_the_tallies_of_earlier_versions_is_read(tmp_path):
    X = planted(300)
    model = RQVAE(**SMALL, epochs=1).fit(X)
    tensors, meta = load_tensors(model.save(tmp_path / "model"))
    tallies = {"epochs": torch.tensor(1), "running": torch.tensor(False), "sums": torch.ones(3)}
    save_tensors(tmp_path / "model", {**tensors, **tallies}, meta)
    assert (RQVAE.load(tmp_path / "model").transform(X) == model.codes_).all()
    del tensors["codebooks"]
    save_tensors(tmp_path / "model", tensors, meta)
    with pytest.raises(CheckpointError):
        RQVAE.load(tmp_path / "model")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(monkeypatch):
    X = planted(300)
    model = RQVAE(**SMALL, epochs=5)
    exact, calls = ResidualAutoencoder.losses, []

    def losses(self, x):
        value, *rest = exact(self, x)
        calls.append(len(x))
        return (value * float("nan") if len(calls) > 5 else value, *rest)

    monkeypatch.setattr(ResidualAutoencoder, "losses", losses)
    with pytest.raises(InputError, match="the loss is nan since step 6, in epoch 3"):
        model.fit(X)
    monkeypatch.undo()
    good = RQVAE(**SMALL, epochs=2).fit(X)
    assert (model.codes_ == good.codes_).all() and (model.transform(X) == good.codes_).all()

    with pytest.raises(InputError, match="in epoch 1"):
        RQVAE(**{**SMALL, "learning_rate": 1e30}, epochs=3).fit(X)


def test_saved_and_loaded(tmp_path):
    X = planted(200)
    for model in (RQVAE(**SMALL, epochs=2, update="ema"), VQVAE(8, (16,), 4, epochs=2)):
        model.fit(X)
        path = model.save(tmp_path / "model.safetensors")
        other = type(model).load(path)
        assert other.get_params() == model.get_params()
        assert (other.transform(X) == model.codes_).all() and (other.codes_ == model.codes_).all()
        back = other.inverse_transform(model.codes_)
        assert (back == model.inverse_transform(model.codes_)).all()
    with pytest.raises(CheckpointError, match="another model"):
        RQVAE.load(path)


def test_prefixes_decode_and_one_level_is_vqvae():
    X = planted(200)
    model = RQVAE(**SMALL, epochs=5).fit(X)
    assert model.inverse_transform(model.codes_[:, :1]).shape == X.shape
    shared = {k: v for k, v in SMALL.items() if k != "num_levels"}
    one = RQVAE(**shared, num_levels=1, epochs=3).fit(X)
    flat = VQVAE(**shared, epochs=3).fit(X)
    assert (one.codes_ == flat.codes_).all() and flat.level_sizes_ == (12,)
    assert "num_levels" not in flat.get_params()


@pytest.mark.parametrize(
    "params, message",
    [
        ({"num_codes": 101}, "n_samples = 100 is fewer than n_clusters = 101"),
        ({"num_levels": 0}, "num_levels is 0"),
        ({"latent": 2.5}, "latent is 2.5"),
        ({"hidden": 64}, "hidden is 64"),
        ({"hidden": (64, 0)}, "hidden is .*0.* integer >= 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"commitment": -1}, "commitment is -1"),
        ({"gradient": "gumbel"}, "gradient is 'gumbel'"),
        ({"update": "sgd"}, "update is 'sgd'"),
        ({"init": "zeros"}, "init is 'zeros'"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"sinkhorn_epsilon": 0.0}, "sinkhorn_epsilon is 0.0"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"random_state": None}, "random_state is None"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(InputError, match=message):
        RQVAE(**{**SMALL, "epochs": 1, **params}).fit(planted(100))


def test_bad_vectors_and_codes_are_named():
    X = planted(60)
    model = RQVAE(**SMALL, epochs=1)
    with pytest.raises(NotFittedError):
        model.transform(X)
    with pytest.raises(InputError, match="n_samples = 1 is fewer"):
        model.fit(X[:1])
    with pytest.raises(InputError, match="all the same vector"):
        model.fit(X * 0)
    bad = X.copy()
    bad[7, 1] = np.inf
    with pytest.raises(InputError, match="row 7 of X"):
        model.fit(bad)
    model.fit(X)
    with pytest.raises(InputError, match="row 7 of X"):
        model.transform(bad)
    with pytest.raises(CodesError, match=r"code 12 of row 0, level 1, is outside 0..11"):
        model.inverse_transform([[0, 12]])
