"""MQ: a plain loop, what its masks hide, the paper's form beside the public code's, faults."""

import warnings

import numpy as np
import pytest
import torch

from semid_lib.errors import CheckpointError, CollapseWarning, InputError
from semid_lib.quantizers import MQ
from semid_lib.quantizers.mq import MaskedEncoders
from semid_lib.training import TrainingPaused

SMALL = dict(num_levels=3, num_codes=8, hidden=(16, 24), latent=12, batch_size=100, epochs=5)


def clustered(n=300, d=9, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(15, d))[rng.integers(15, size=n)] + 0.1 * rng.normal(size=(n, d))
    return X.astype(np.float32)


def network(faithful, d=9, ratio=0.5):
    torch.manual_seed(0)
    return MaskedEncoders(
        [d, 6, 5, 4], 3, 7, commitment=0.25, dropout=(0.0, 0.0), mask_ratio=ratio,
        faithful=faithful,
    ).double()  # fmt: skip


def layer_by_layer(x, module):
    """The network in evaluation mode by NumPy: linear, batch normalisation, ReLU."""
    for layer in module:
        if isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        elif isinstance(layer, torch.nn.BatchNorm1d):
            mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
            x = (x - mean) / np.sqrt(var + 1e-5) * layer.weight.detach().numpy()
            x = x + layer.bias.detach().numpy()
        elif isinstance(layer, torch.nn.ReLU):
            x = np.maximum(x, 0)
    return x


def test_codes_and_reconstruction_of_a_plain_loop():
    X = clustered().astype(np.float64)
    model = MQ(**SMALL, precision="float64").fit(X)
    shifted = X + model.network_.position.detach().numpy()
    codes, total = np.empty((len(X), 3), int), np.zeros((len(X), 12))
    for level, (encoder, words) in enumerate(zip(model.network_.encoders, model.codebooks_)):
        z = layer_by_layer(shifted, encoder)
        codes[:, level] = [np.argmin(((row - words) ** 2).sum(1)) for row in z]
        total += words[codes[:, level]]
    assert (model.codes_ == codes).all()
    decoded = layer_by_layer(total, model.network_.decoder)
    np.testing.assert_allclose(model.inverse_transform(codes), decoded, atol=1e-10)


def test_each_encoder_misses_inputs_of_its_own_patch_only():
    """10 inputs in patches of 3, 3 and 4; zeros show, because the position is set to zero."""
    net, x = network(False, d=10).train(), torch.ones(2000, 10, dtype=torch.float64)
    net.position.data.zero_()
    for level, view in enumerate(net._masked(x)):
        hidden = (view == 0).double().mean(0)
        inside = torch.zeros(10, dtype=torch.bool)
        inside[3 * level : 3 * level + 3 + (level == 2)] = True
        assert (hidden[~inside] == 0).all() and ((hidden[inside] - 0.5).abs() < 0.05).all()
    assert (net.eval().encode(x)[0] == net.encode(x)[1]).all()


def test_the_public_codes_masks_and_positions_pile_up():
    net, x = network(True).train(), torch.ones(50, 9, dtype=torch.float64)
    net.position.data.fill_(0.25)
    views = net._masked(x)
    for level, view in enumerate(views):
        assert (view == view[0]).all()  # one mask for the batch
        later = view[0, 3 * (level + 1) :]
        assert (later == 1 + 0.25 * (level + 1)).all()
    gone = views[0][0] == 0.25
    assert gone.any() and (views[2][0][gone] == 0.75).all()


@pytest.mark.parametrize("faithful", [False, True])
def test_loss_and_who_gets_gradients(faithful):
    net = network(faithful, ratio=0.0).train()
    x = torch.randn(20, 9, dtype=torch.float64)
    value, reconstruction, quantization, codes = net.losses(x)
    if faithful:
        expected = reconstruction / 9 + quantization / 4
    else:
        expected = reconstruction + 1.25 * quantization
    torch.testing.assert_close(value, expected)
    value.backward()
    trained = [p.grad is not None for p in net.encoders.parameters()]
    assert not any(trained) if faithful else all(trained)
    assert net.codebooks.grad.abs().sum() > 0
    if not faithful:  # the decoder's gradient does not reach the words, only their own term does
        latents, words = net.encode(x), net.words(codes)
        pull = torch.zeros_like(net.codebooks)
        for level in range(3):
            gradient = 2 * (words[:, level] - latents[:, level]) / len(x)
            pull[level].index_add_(0, codes[:, level], gradient)
        torch.testing.assert_close(net.codebooks.grad, pull.detach())


LEARNING = {
    **SMALL, "hidden": (32, 32), "dropout": (0.1, 0.0), "epochs": 40, "learning_rate": 5e-3,
}  # fmt: skip


@pytest.mark.trained
def test_training_helps():
    X = clustered()
    model = MQ(**LEARNING).fit(X)
    error = ((X - model.inverse_transform(model.codes_)) ** 2).sum() / X.var(0).sum() / len(X)
    assert error < 0.1
    assert model.level_sizes_ == (8, 8, 8) and model.codes_.shape == (300, 3)


def test_training_is_repeatable():
    X = clustered()
    model, again = (MQ(**LEARNING).fit(X) for _ in range(2))
    assert (model.codes_ == again.codes_).all() and (model.transform(X) == model.codes_).all()


def test_the_public_codes_form_holds_rows_out_and_keeps_the_best_epoch():
    X = clustered()
    model = MQ(**{**SMALL, "epochs": 8}, faithful_code=True).fit(X)
    held = [epoch["held_out"] for epoch in model.history_.epochs]
    assert model.history_.best_epoch == 1 + int(np.argmin(held))
    start = MQ(**SMALL, faithful_code=True, random_state=0)
    torch.manual_seed(0)
    fresh = start._network(9)
    for trained, new in zip(model.network_.encoders.parameters(), fresh.encoders.parameters()):
        assert (trained.detach() == new.detach()).all()  # encoders never learn


def test_codebooks_start_anew_every_50_epochs_of_the_public_code():
    starts = [e for e in range(120) if MQ(faithful_code=True)._starts(e)]
    assert starts == [0, 50, 100]
    assert [e for e in range(13) if MQ()._starts(e)] == [0, 5, 10]
    assert [e for e in range(13) if MQ(restart_every=None)._starts(e)] == [0]
    assert not any(MQ(init="uniform")._starts(e) for e in range(13))


def test_most_codes_are_used_where_the_published_settings_use_a_handful():
    """600 rows around 120 planted centres, at most 3 x 32 words, latents of 128 dimensions."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(120, 24))
    X = np.repeat(centres, 5, axis=0) + 0.05 * rng.normal(size=(600, 24))
    settings = dict(num_codes=32, hidden=(32, 64), latent=128, batch_size=100, epochs=22)

    def counts(**more):
        model = MQ(**settings, **more).fit(X)
        used = [len(np.unique(column)) for column in model.codes_.T]
        of_centres = model.codes_.reshape(120, 5, 3)
        whole = (of_centres == of_centres[:, :1]).all((1, 2)).mean()  # centres with one ID
        return min(used), len(np.unique(model.codes_, axis=0)), whole

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        used, distinct, _ = counts(dropout=(0.5, 0.2), restart_every=None)
        assert used < 16 and distinct < 100
        used, distinct, whole = counts()
    assert used >= 28 and distinct >= 110 and whole > 0.5


@pytest.mark.parametrize("faithful", [False, True])
def test_paused_and_resumed_is_as_if_unbroken(tmp_path, monkeypatch, faithful):
    X = clustered(201)  # a last batch of one row
    settings = {**SMALL, "faithful_code": faithful, "batch_size": 50 if not faithful else 40}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        whole, model = MQ(**settings).fit(X), MQ(**settings)
        clock, pauses = iter(range(10_000)), 0
        monkeypatch.setattr("semid_lib.training.loop.time.monotonic", lambda: next(clock))
        while True:
            try:
                model.fit(X, checkpoint=tmp_path / "mq.safetensors", deadline=next(clock) + 15)
                break
            except TrainingPaused:
                pauses += 1
    assert pauses >= 2 and (model.codes_ == whole.codes_).all()


def test_saved_and_loaded(tmp_path):
    X = clustered()
    model = MQ(**SMALL).fit(X)
    path = model.save(tmp_path / "mq.safetensors")
    other = MQ.load(path)
    assert (other.transform(X) == model.codes_).all() and other.get_params() == model.get_params()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError):
        MQ.load(path)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"num_codes": 301}, "n_samples = 300 is fewer than n_clusters = 301"),
        ({"dropout": (0.5,)}, "equally long"),
        ({"dropout": (0.5, 1.0)}, r"dropout is \(0.5, 1.0\)"),
        ({"restart_every": 0}, "restart_every"),
        ({"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ({"commitment": float("nan")}, "commitment is nan"),
        ({"num_levels": 10}, "n_features = 9 cannot be cut into num_levels = 10"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(InputError, match=message):
        MQ(**{**SMALL, **params}).fit(clustered())
