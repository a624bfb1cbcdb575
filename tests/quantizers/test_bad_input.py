"""What no tokenizer can work with, asked of every one of them: one error type, the cause named."""

import numpy as np
import pytest

from semid_lib.errors import CollapseWarning, InputError
from semid_lib.quantizers import (
    GAOQ,
    MQ,
    OPQ,
    PQ,
    R3VAE,
    RQVAE,
    VQVAE,
    HierarchicalKMeans,
    KMeans,
    ResidualKMeans,
)
from semid_lib.quantizers.mq import MaskedEncoders
from semid_lib.quantizers.r3vae import _Network
from semid_lib.quantizers.rqvae import ResidualAutoencoder

SMALL = {"hidden": (8,), "latent": 4, "batch_size": 20}
LEARNT = {
    "VQVAE": (lambda k, n: VQVAE(k, epochs=n, **SMALL), ResidualAutoencoder),
    "RQVAE": (lambda k, n: RQVAE(2, k, epochs=n, **SMALL), ResidualAutoencoder),
    "MQ": (lambda k, n: MQ(2, k, dropout=(0.1,), epochs=n, **SMALL), MaskedEncoders),
    "R3VAE": (lambda k, n: R3VAE(2, k, epochs=n, batch_size=20), _Network),
}
ALL = {
    "KMeans": lambda k: KMeans(k),
    "ResidualKMeans": lambda k: ResidualKMeans(2, k),
    "ResidualKMeans, balanced": lambda k: ResidualKMeans(2, k, balanced=True),
    "ResidualKMeans, normalised": lambda k: ResidualKMeans(2, k, normalize_residuals=True),
    "HierarchicalKMeans": lambda k: HierarchicalKMeans((k, 1, "auto")),
    "GAOQ": lambda k: GAOQ((k, 1, "auto")),
    "PQ": lambda k: PQ(2, k),
    "OPQ": lambda k: OPQ(2, k, num_rounds=2),
    **{name: lambda k, make=make: make(k, 2) for name, (make, _) in LEARNT.items()},
}
EVERY = pytest.mark.parametrize("name", ALL)


def vectors(n=60):
    return np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)


@EVERY
@pytest.mark.filterwarnings("ignore::semid_lib.errors.CollapseWarning")
def test_more_codes_than_items_and_equal_items(name):
    with pytest.raises(InputError, match="n_samples = 7 is fewer than"):
        ALL[name](8).fit(vectors(7))
    with pytest.raises(InputError, match="n_samples = 1 is fewer than"):
        ALL[name](2).fit(vectors(1))
    with pytest.raises(InputError, match="rows 0 to 8 of X are all the same vector"):
        ALL[name](4).fit(np.ones((9, 6)))
    assert len(ALL[name](8).fit(vectors(8)).codes_) == 8  # as many as items will do


@EVERY
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(name, bad):
    X = vectors()
    X[41, 3] = bad
    with pytest.raises(InputError, match="row 41 of X .of 60. holds NaN or inf"):
        ALL[name](4).fit(X)


@EVERY
def test_numbers_whose_squares_overflow(name):
    X = vectors()
    X[41, 3] = 1e25
    with pytest.raises(InputError, match="row 41 of X holds .* 1e[+]25, but squares of float32"):
        ALL[name](4).fit(X)


@pytest.mark.parametrize("name", ["KMeans", "ResidualKMeans", "VQVAE", "RQVAE", "GAOQ"])
def test_one_item_and_one_code(name):
    assert len(ALL[name](1).fit(vectors(1)).codes_) == 1


def test_one_item_is_too_few_where_something_is_taken_from_it():
    with pytest.raises(InputError, match="batch normalisation needs 2 rows"):
        ALL["MQ"](1).fit(vectors(1))
    with pytest.raises(InputError, match="multiple of the reference"):
        ALL["R3VAE"](1).fit(vectors(1))


@pytest.mark.parametrize("name", LEARNT)
def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_good_state(name, monkeypatch):
    """60 rows in batches of 20: the seventh step is the first of epoch 3."""
    make, network = LEARNT[name]
    X, model, good, calls = vectors(), make(4, 5), make(4, 2).fit(vectors()), []
    method = "loss" if name == "R3VAE" else "losses"
    exact = getattr(network, method)

    def spoiled(self, x):
        calls.append(1)
        factor = float("nan") if len(calls) > 6 else 1
        found = exact(self, x)
        return found * factor if name == "R3VAE" else (found[0] * factor, *found[1:])

    monkeypatch.setattr(network, method, spoiled)
    with pytest.raises(InputError, match="the loss is nan since step 7, in epoch 3"):
        model.fit(X)
    assert (model.codes_ == good.codes_).all() and (model.transform(X) == good.codes_).all()
    for ours, theirs in zip(model.codebooks_, good.codebooks_):
        assert np.isfinite(ours).all() and (ours == theirs).all()


@pytest.mark.parametrize("name", LEARNT)
def test_a_level_that_collapses_is_warned_of(name):
    X = np.repeat(np.eye(2, 6), 10, axis=0)
    if name == "VQVAE":
        X = 100 + 1e-3 * vectors()  # words about the origin: one is the nearest of all
    model = ALL[name](4)
    if name == "VQVAE":
        model.set_params(init="uniform", learning_rate=1e-9)
    with pytest.warns(CollapseWarning, match=r"level \d collapsed: all \d+ rows have code \d of 4"):
        model.fit(X)
