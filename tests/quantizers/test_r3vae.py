"""R3VAE against loops over items, codewords and pairs; its presets; ablations; faults."""

import time
import warnings

import numpy as np
import pytest
import torch

from semid_lib import plain
from semid_lib.diagnostics import (
    code_usage,
    collision_rate,
    preference_discrimination,
    reconstruction_error,
)
from semid_lib.errors import CheckpointError, CodesError, CollapseWarning, InputError
from semid_lib.quantizers import R3VAE, ResidualKMeans
from semid_lib.quantizers.base import NotFittedError
from semid_lib.quantizers.kmeans import kmeans
from semid_lib.quantizers.r3vae import _Network
from semid_lib.training import TrainingPaused

RATINGS = {
    "working": dict(top_k=3, temperature=0.05),
    "literal": dict(top_k=None, temperature=1.0),
    "unscaled": dict(top_k=3, temperature=0.3, renormalise=False),
    "top-1": dict(top_k=1),
    "all": dict(top_k=5, temperature=0.5),
    "no reference": dict(top_k=2, temperature=0.3, reference=False),
    "quantized": dict(top_k=2, temperature=0.3, sc_vectors="quantized"),
}
LEVELS, CODES, WIDTH, BATCH = 3, 5, 4, 14


def settings_of(**params):
    return R3VAE(num_levels=LEVELS, num_codes=CODES, **params)


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, WIDTH)) + 1
    r = rng.normal(size=WIDTH) + 1
    return x, r, rng.normal(size=(LEVELS, CODES, WIDTH))


def one_direction(n=1200, d=24, seed=0):
    """Unit vectors around a common direction, in 30 groups."""
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(30, d))[rng.integers(30, size=n)]
    X = 0.2 * (0.7 * groups + 0.5 * rng.normal(size=(n, d)))
    X[:, 0] += 2
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("rating", RATINGS)
def test_forward_equals_the_loops(rating):
    s = settings_of(**RATINGS[rating])
    x, r, books = drawn()
    network = _Network(s, r, books)
    steps = network(torch.tensor(x))
    soft, hard = network.soft(steps).detach().numpy(), network.hard(steps).detach().numpy()
    for i, row in enumerate(x):
        along, residuals, weights, codes, parts = plain.r3vae_item(row, r, books, s)
        assert steps.projection[i].tolist() == pytest.approx(along.tolist())
        assert steps.codes[i].tolist() == codes
        for level in range(LEVELS):
            assert steps.residuals[level][i].tolist() == pytest.approx(residuals[level].tolist())
            w = np.zeros(CODES)
            w[steps.chosen[level][i]] = steps.weights[level][i].detach()
            assert w == pytest.approx(weights[level])
            assert steps.parts[level][i].tolist() == pytest.approx(parts[level].tolist())
        assert soft[i] == pytest.approx(along + sum(parts))
        assert hard[i] == pytest.approx(along + sum(b[c] for b, c in zip(books, codes)))


def test_the_first_residual_is_orthogonal_to_the_reference():
    x, r, books = drawn()
    first = _Network(settings_of(top_k=1), r, books)(torch.tensor(x)).residuals[0]
    assert (first.detach().numpy() @ r) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rating", RATINGS)
def test_loss_and_its_gradients_equal_loops_and_finite_differences(rating):
    """Weights of the terms so large that a wrong term could not hide."""
    s = settings_of(**{**RATINGS[rating], "sc_weight": 0.8, "pd_weight": 0.6})
    x, r, books = drawn(1)
    network = _Network(s, r, books)
    loss = network.loss(torch.tensor(x))
    assert loss.item() == pytest.approx(plain.r3vae_loss(x, r, books, s))
    loss.backward()
    rng, step = np.random.default_rng(2), 1e-6
    for _ in range(3):
        dr, dbooks = rng.normal(size=r.shape), rng.normal(size=books.shape)
        ahead = plain.r3vae_loss(x, r + step * dr, books + step * dbooks, s)
        behind = plain.r3vae_loss(x, r - step * dr, books - step * dbooks, s)
        slope = (network.codebooks.grad.numpy() * dbooks).sum()
        if s.reference:
            slope += (network.reference.grad.numpy() * dr).sum()
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("term", ["sc_weight", "pd_weight"])
def test_each_term_alone(term):
    s = settings_of(**{"top_k": 2, "sc_weight": 0, "pd_weight": 0})
    x, r, books = drawn(3)
    without = _Network(s, r, books).loss(torch.tensor(x)).item()
    s.set_params(**{term: 1.0})
    items = [plain.r3vae_item(row, r, books, s) for row in x]
    if term == "pd_weight":
        value = np.mean([plain.preference_discrimination(book) for book in books])
    else:
        value = -plain.r3vae_cohesion(items, s)
    assert _Network(s, r, books).loss(torch.tensor(x)).item() == pytest.approx(without + value)


def test_without_rating_the_terms_of_vq_replace_the_gradient():
    """Codewords move by ||sg(e) - c||^2 alone, r by the commitment alone."""
    s = settings_of(rating=False, sc_weight=0, pd_weight=0, commitment=0.3)
    x, r, books = drawn(4)
    network = _Network(s, r, books)
    loss = network.loss(torch.tensor(x))
    loss.backward()
    chosen = np.zeros((BATCH, LEVELS), int)
    expected, gradient = 0, np.zeros_like(books)
    for i, row in enumerate(x):
        e = row - (row @ r) / (r @ r) * r
        for level, book in enumerate(books):
            chosen[i, level] = k = np.argmax([plain.cosine(e, c) for c in book])
            expected += 1.3 * ((e - book[k]) ** 2).sum() / BATCH
            gradient[level, k] += 2 * (book[k] - e) / BATCH
            e = e - book[k]
        expected += (e**2).sum() / BATCH
    assert loss.item() == pytest.approx(expected)
    assert network.codebooks.grad.numpy() == pytest.approx(gradient)

    def commitment(r):
        total = 0
        for row, codes in zip(x, chosen):
            e = row - (row @ r) / (r @ r) * r
            for level, k in enumerate(codes):
                e = e - books[level, k]
                total += 0.3 * (e**2).sum() / BATCH
        return total

    for axis in np.eye(WIDTH):
        slope = (commitment(r + 1e-6 * axis) - commitment(r - 1e-6 * axis)) / 2e-6
        assert network.reference.grad.numpy() @ axis == pytest.approx(slope, abs=1e-7)


def test_vectors_without_direction_have_no_gradient():
    x, r, books = drawn(5)
    x[0], books[1, 2] = r, 0  # e^0 of item 0 is 0
    network = _Network(settings_of(top_k=2, temperature=0.3), r, books)
    network.loss(torch.tensor(x)).backward()
    assert network.codebooks.grad.abs().max() < 100 and network.reference.grad.abs().max() < 100


# ------------------------------------------------------------------ start


def test_start_of_kmeans_is_residual_kmeans_around_the_mean():
    X = one_direction(300)
    model = R3VAE(num_levels=2, num_codes=6, epochs=0).fit(X)
    r = X.mean(0)
    rest = X - np.outer(X @ r / (r @ r), r)
    assert model.reference_ == pytest.approx(r, rel=1e-5, abs=1e-7)
    alike = ResidualKMeans(2, 6).fit(rest)
    for ours, theirs in zip(model.codebooks_, alike.codebooks_):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_start_by_cosine_groups_by_cosine():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=200)
    X = np.eye(6)[labels] * rng.uniform(0.1, 10, size=(200, 1)) + 0.01 * rng.normal(size=(200, 6))
    book, _, _ = kmeans(X, 4, 25, np.random.default_rng(0), spherical=True)
    cosines = X @ book.T / np.linalg.norm(X, axis=1)[:, None] / np.linalg.norm(book, axis=1)
    code = cosines.argmax(1)
    for group in range(4):  # lengths differ a hundredfold, yet directions decide
        assert len(np.unique(code[labels == group])) == 1
        assert book[code[labels == group][0]] == pytest.approx(X[labels == group].mean(0))


def test_normal_start_has_the_spread_of_the_residual():
    X = one_direction(300)
    model = R3VAE(num_levels=2, num_codes=100, init="normal", epochs=0).fit(X)
    r = model.reference_
    rest = X - np.outer(X @ r / (r @ r), r)
    assert np.stack(model.codebooks_).std() == pytest.approx(rest.std(), rel=0.05)


def test_centred_vectors_start_at_the_first_singular_vector():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5)) * [1, 9, 1, 1, 1]
    X -= X.mean(0)
    r = R3VAE(num_levels=1, num_codes=4, epochs=0, precision="float64").fit(X).reference_
    assert abs(r[1]) > 0.99 * np.linalg.norm(r) > 1


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def trained():
    X = one_direction(600, 16)
    params = dict(num_levels=3, num_codes=32, epochs=20, batch_size=300, learning_rate=8e-3)
    changes = {
        "working": {}, "literal": {}, "no reference": dict(reference=False),
        "no rating": dict(rating=False), "no pd": dict(pd_weight=0), "much pd": dict(pd_weight=0.1),
    }  # fmt: skip
    models = {}
    for name, change in changes.items():
        preset = "literal" if name == "literal" else "working"
        models[name] = R3VAE.preset(preset, **params, **change).fit(X)
    return X, models


@pytest.mark.trained
def test_literal_reading_decodes_worse_than_the_mean_vector(trained):
    """SPEC 12.2: without a temperature the weights stay uniform and codes are no quantisation."""
    X, models = trained
    last = {name: model.history_.epochs[-1] for name, model in models.items()}
    working, literal = last["working"], last["literal"]
    assert working["soft_error"] < working["hard_error"] < 0.5
    assert literal["soft_error"] < 1 < literal["hard_error"]
    assert min(literal["perplexity"]) > 0.9 * 32 > 10 > max(working["perplexity"])
    hard = [epoch["hard_error"] for epoch in models["literal"].history_.epochs]
    assert hard[-1] > 1.5 * hard[0]  # it gets worse the longer it trains
    lengths = [np.linalg.norm(models[name].codebooks_[0], axis=1).mean() for name in last]
    assert lengths[1] > 1.3 * lengths[0]  # since its codewords grow
    rates = {name: collision_rate(model.codes_) for name, model in models.items()}
    assert rates["literal"] > rates["working"] + 0.2


@pytest.mark.trained
def test_ablations_move_what_they_should(trained):
    X, models = trained
    level_1 = {n: preference_discrimination(m.codebooks_[0]) for n, m in models.items()}
    assert level_1["working"] < level_1["no reference"] - 0.5
    mean = {n: preference_discrimination(m.codebooks_) for n, m in models.items()}
    assert mean["much pd"] < mean["working"] < mean["no pd"]
    hard = models["no rating"].history_.epochs[-1]
    assert hard["soft_error"] == pytest.approx(hard["hard_error"], rel=1e-6)
    assert hard["perplexity"] == [1, 1, 1]
    assert (models["no reference"].reference_ == 0).all()


def test_sc_term_raises_the_cohesion_of_residuals():
    X = torch.tensor(one_direction(400, 12))
    params = dict(num_levels=2, num_codes=16, epochs=30, learning_rate=4e-3, precision="float64")
    cohesion = []
    for weight in (0, 0.3):
        model = R3VAE(sc_weight=weight, batch_size=400, **params).fit(X.numpy())
        network = _Network(model, model.reference_, np.stack(model.codebooks_))
        cohesion.append(network.cohesion(network(X)).item())
    assert cohesion[1] > cohesion[0] + 0.01


def test_history_is_what_the_diagnostics_say(trained):
    X, models = trained
    for model in models.values():
        last = model.history_.epochs[-1]
        soft, hard = (reconstruction_error(X, model.reconstruct(X, soft=s)) for s in (True, False))
        assert last["soft_error"] == pytest.approx(soft, rel=1e-4)
        assert last["hard_error"] == pytest.approx(hard, rel=1e-4)
        assert last["usage"] == pytest.approx(code_usage(model.codes_, model.level_sizes_))
        assert len(model.history_.epochs) == 20 == model.history_.best_epoch


def test_codes_decode_to_the_mean_projection_and_their_codewords(trained):
    X, models = trained
    model = models["working"]
    r = model.reference_
    along = (X @ r / (r @ r))[:, None] * r
    assert model.projection_ == pytest.approx(along.mean(0), abs=1e-6)
    words = sum(book[column] for book, column in zip(model.codebooks_, model.codes_.T))
    assert model.inverse_transform(model.codes_) == pytest.approx(words + along.mean(0), abs=1e-6)
    assert model.reconstruct(X, soft=False) == pytest.approx(words + along, abs=1e-5)
    first = model.inverse_transform(model.codes_[:, :1])
    assert first == pytest.approx(model.codebooks_[0][model.codes_[:, 0]] + along.mean(0), abs=1e-6)
    assert (model.transform(X) == model.codes_).all()


SMALL = dict(num_levels=2, num_codes=6, epochs=3, batch_size=50)


def test_same_seed_same_codes_and_others_differ():
    X = one_direction(200)
    a, b, c = (R3VAE(**SMALL, random_state=s).fit(X) for s in (1, 1, 2))
    assert (a.codes_ == b.codes_).all() and (a.codebooks_[0] == b.codebooks_[0]).all()
    assert not np.array_equal(a.codebooks_[0], c.codebooks_[0])


def test_stopped_and_resumed_is_the_same(tmp_path):
    X = one_direction(200)
    whole = R3VAE(**SMALL).fit(X)
    path = tmp_path / "r3vae.ckpt"
    with pytest.raises(TrainingPaused):
        R3VAE(**SMALL).fit(X, checkpoint=path, deadline=time.monotonic() - 1)
    resumed = R3VAE(**SMALL).fit(X, checkpoint=path)
    assert (whole.codebooks_[1] == resumed.codebooks_[1]).all()
    assert whole.history_.epochs[-1]["loss"] == resumed.history_.epochs[-1]["loss"]
    with pytest.raises(CheckpointError, match="another model, dataset"):
        R3VAE(**SMALL).fit(X[::-1].copy(), checkpoint=path)


def test_saved_and_loaded(tmp_path):
    X = one_direction(150).astype(np.float32)
    model = R3VAE.preset("literal", **SMALL).fit(X)
    other = R3VAE.load(model.save(tmp_path / "r3vae.safetensors"))
    assert other.get_params() == model.get_params() and (other.codes_ == model.codes_).all()
    assert (other.transform(X) == model.codes_).all()
    assert (other.reconstruct(X) == model.reconstruct(X)).all()
    assert (other.inverse_transform(model.codes_) == model.inverse_transform(model.codes_)).all()
    with pytest.raises(CheckpointError, match="another model"):
        ResidualKMeans.load(tmp_path / "r3vae.safetensors")


@pytest.mark.trained
@pytest.mark.parametrize("top_k", [3, 6])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_too(precision, top_k):
    X = one_direction(200)
    model = R3VAE(**SMALL, top_k=top_k, precision=precision).fit(X)
    plain = R3VAE(**SMALL, top_k=top_k).fit(X)
    ours, theirs = (m.history_.epochs[-1]["soft_error"] for m in (model, plain))
    assert ours == pytest.approx(theirs, rel=0.1)


def test_presets():
    literal = R3VAE.preset("literal", num_codes=9)
    assert (literal.top_k, literal.temperature, literal.num_codes) == (None, 1.0, 9)
    assert R3VAE.preset("working").get_params() == R3VAE().get_params()
    with pytest.raises(InputError, match="preset 'best' is not one of"):
        R3VAE.preset("best")


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_codes": 31}, "n_samples = 30 is fewer than n_clusters = 31"),
        ({"num_levels": 0}, "num_levels is 0"),
        ({"top_k": 0}, "top_k is 0, but must be an integer >= 1"),
        ({"top_k": 2.0}, "top_k is 2.0"),
        ({"temperature": 0}, "temperature is 0, but must be above 0"),
        ({"sc_weight": -1}, "sc_weight is -1, but must be at least 0"),
        ({"pd_weight": np.nan}, "pd_weight is nan"),
        ({"sc_vectors": "x"}, "sc_vectors is 'x'"),
        ({"init": "uniform"}, "init is 'uniform'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"random_state": None}, "random_state is None"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(InputError, match=message):
        R3VAE(**{"num_levels": 2, "num_codes": 4, "top_k": 2, **params}).fit(one_direction(30))


def test_bad_vectors_and_codes_are_named():
    X = one_direction(30)
    model = R3VAE(**SMALL)
    with pytest.raises(NotFittedError):
        model.transform(X)
    bad = X.copy()
    bad[11, 2] = np.nan
    with pytest.raises(InputError, match="row 11 of X"):
        model.fit(bad)
    with pytest.raises(InputError, match="all the same vector"):
        model.fit(X * 0)
    with pytest.raises(InputError, match="fewer than n_clusters = 6"):
        model.fit(X[:1])
    line = np.outer(np.linspace(1, 2, 30), X[0])
    with pytest.raises(InputError, match="nothing is left to code; reference=False codes them"):
        model.fit(line)
    with pytest.warns(CollapseWarning):
        assert model.set_params(reference=False).fit(line).codes_.shape == (30, 2)
    with pytest.raises(CodesError, match=r"code 6 of row 0, level 1, is outside 0..5"):
        model.inverse_transform([[0, 6]])


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(monkeypatch):
    X = one_direction(200)
    good = R3VAE(**{**SMALL, "epochs": 2}).fit(X)
    real, calls = _Network.loss, []

    def loss(self, x):
        calls.append(1)
        return real(self, x) * (torch.nan if len(calls) > 8 else 1)  # 4 steps an epoch

    monkeypatch.setattr(_Network, "loss", loss)
    model = R3VAE(**SMALL)
    with pytest.raises(InputError, match="loss is nan since step 9, in epoch 3"):
        model.fit(X)
    assert (model.transform(X) == good.codes_).all()
    calls.extend([1] * 9)
    with pytest.raises(InputError, match="in epoch 1"):
        R3VAE(**SMALL).fit(X)


def test_a_collapsed_level_is_warned_of():
    X = np.repeat(one_direction(6), 5, axis=0)  # six distinct rows: one level codes them all
    with pytest.warns(CollapseWarning, match="level 1 collapsed: all 30 rows"):
        R3VAE(num_levels=2, num_codes=6, top_k=1, epochs=0, precision="float64").fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        R3VAE(num_levels=1, num_codes=1, top_k=1, epochs=1).fit(one_direction(10))
