"""A GPU against the CPU: losses, half precision, decoding, resumption, memory, two runs at once."""

import copy
import json
import os
import subprocess
import sys
from inspect import signature
from itertools import count
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from semid_lib import training
from semid_lib.compute.scoring import holistic_scores, table_rows, top_items
from semid_lib.data import synthetic_catalogue
from semid_lib.encoders import FAMAE
from semid_lib.errors import DeviceMemoryError
from semid_lib.quantizers import MQ, R3VAE, RQVAE, VQVAE
from semid_lib.recommenders import (
    HGN,
    RPG,
    ACERec,
    BERT4Rec,
    GRU4Rec,
    S3Rec,
    SASRec,
    T5Recommender,
)
from semid_lib.training import TrainingPaused, loop

STEPS = 20
SMALL = dict(
    dim=32, num_layers=2, num_heads=2, head_dim=16, ffn_dim=64, hidden_dim=32, dropout=0.0,
    max_history=10, max_length=10, batch_size=64, samples_per_epoch=64, patience=STEPS,
    learning_rate=3e-3, num_beams=10, validate_users=20, pretrain_epochs=2,
    pretrain_batch_size=64,
)  # fmt: skip
TOKENIZER = dict(num_levels=2, num_codes=8, batch_size=500, learning_rate=1e-3)
NET = dict(hidden=(32,), latent=16)
KINDS = {
    "T5": (T5Recommender, {}), "SASRec": (SASRec, dict(field_names=None)),
    "BERT4Rec": (BERT4Rec, {}), "HGN": (HGN, {}), "GRU4Rec": (GRU4Rec, {}),
    "S3Rec": (S3Rec, dict(field_names=None)), "RPG": (RPG, dict(temperature=0.5)),
    "ACERec": (ACERec, dict(temperature=0.5, ratio=4)), "FAMAE": (FAMAE, {}),
    "FAMAE random": (FAMAE, dict(masking="random")), "SASRec sampled": (SASRec, dict(loss="bce")),
    "RQVAE": (RQVAE, NET), "RQVAE means": (RQVAE, dict(update="ema", restart=True, **NET)),
    "VQVAE": (VQVAE, NET), "R3VAE": (R3VAE, dict(top_k=3)),
    "MQ": (MQ, dict(hidden=(32, 32), latent=16, dropout=(0.0, 0.0))),
}  # fmt: skip
TOKENIZERS = (RQVAE, VQVAE, R3VAE, MQ)


@pytest.fixture
def fit(split, sids, long_sids, vectors):
    """Train a model of some name on a device."""

    def fitted(name, device, running=None, **settings):
        kind, own = KINDS[name]
        shared = TOKENIZER if kind in TOKENIZERS else SMALL
        wanted = {"epochs": STEPS, **shared, **own, **settings, "device": device}
        known = signature(kind).parameters
        model = kind(**{key: value for key, value in wanted.items() if key in known})
        if kind in TOKENIZERS:
            return model.fit(vectors, **(running or {}))
        codes = {T5Recommender: [sids], RPG: [long_sids], ACERec: [long_sids]}.get(kind, [])
        return model.fit(split, *codes, **(running or {}))

    return fitted


def losses(model):
    """The mean loss of each epoch, those of pre-training before."""
    epochs = getattr(model, "pretraining_", training.History()).epochs + model.history_.epochs
    return np.array([epoch["loss"] for epoch in epochs])


@pytest.mark.parametrize("name", KINDS)
def test_twenty_steps_have_the_losses_of_the_cpu(name, fit, device, same_draws):
    """One step an epoch, in float32, without dropout."""
    there, here = fit(name, device), fit(name, "cpu")
    assert there.history_.steps == here.history_.steps == STEPS
    assert there.history_.device.startswith(device) and here.history_.device == "cpu"
    np.testing.assert_allclose(losses(there), losses(here), rtol=2e-3)
    assert losses(here)[-1] < losses(here)[-STEPS]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", KINDS)
def test_steps_in_half_precision_are_finite_and_the_first_is_near(
    name, precision, fit, device, same_draws
):
    """In float16 the scaling of the loss may skip steps at first, so later ones may differ."""
    half = fit(name, device, precision=precision, epochs=4)
    whole = fit(name, device, epochs=1)
    assert half.history_.precision == precision and np.isfinite(losses(half)).all()
    np.testing.assert_allclose(losses(half)[0], losses(whole)[0], rtol=0.05)
    assert flat(half).isfinite().all()


def on(device, model, folder):
    """The model as its file gives it back on a device."""
    moved = copy.copy(model).set_params(device=device)
    return type(model).load(moved.save(folder / device.replace(":", "-")))


@pytest.mark.parametrize("search", ["constrained", "free"])
def test_beam_search_finds_what_the_cpu_finds(search, fit, device, split, tmp_path):
    model = fit("T5", "cpu", precision="float64", epochs=4, search=search)
    there, here = on(device, model, tmp_path / "there"), on("cpu", model, tmp_path / "here")
    assert str(next(there.network_.parameters()).device).startswith(device)
    histories = split.histories("test")
    for exclude in (False, True):
        (a, x), (b, y) = (
            m.recommend(histories, 10, exclude_history=exclude, return_scores=True)
            for m in (there, here)
        )
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(x, y, rtol=1e-9)


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec", "HGN", "GRU4Rec", "RPG", "ACERec"])
def test_a_model_trained_there_scores_the_same_here(name, fit, device, split, tmp_path):
    model = fit(name, device, precision="float64", epochs=2)
    here = on("cpu", model, tmp_path)
    histories = split.histories("test")
    np.testing.assert_allclose(
        model.score_items(histories), here.score_items(histories), rtol=1e-8, atol=1e-10
    )
    found, wanted = (m.recommend(histories, 10, return_scores=True)[1] for m in (model, here))
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["RQVAE", "VQVAE", "R3VAE", "MQ"])
def test_a_tokenizer_trained_there_gives_the_same_codes_here(name, fit, device, vectors, tmp_path):
    model = fit(name, device, epochs=4)
    here = on("cpu", model, tmp_path)
    assert (model.transform(vectors) == here.transform(vectors)).mean() > 0.995


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_holistic_scores_and_the_best_items_are_those_of_the_cpu(dtype, device):
    """3,000 items, a third of them with the codes of others, so that ties are resolved, too."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3000, 6))
    codes[2000:] = codes[rng.integers(0, 2000, 1000)]
    scores = torch.tensor(rng.normal(size=(70, 6, 16)), dtype=dtype).log_softmax(-1)
    rows = table_rows(codes, 16)
    here = holistic_scores(scores, rows).numpy()
    there = holistic_scores(scores.to(device), rows.to(device)).cpu().numpy()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance)
    (items, values), (mine, own) = (
        top_items(scores.to(at), rows.to(at), 25) for at in (device, "cpu")
    )
    np.testing.assert_allclose(values.cpu(), own, rtol=0, atol=tolerance)
    if dtype == torch.float64:
        assert torch.equal(items.cpu(), mine)


@pytest.mark.parametrize("name", ["T5", "SASRec", "FAMAE", "RPG", "RQVAE", "R3VAE", "MQ"])
def test_paused_and_resumed_training_ends_with_the_same_weights(
    name, fit, device, tmp_path, monkeypatch
):
    """To the bit, with dropout, stopped after every few steps and gone on from the file."""
    settings = dict(epochs=6, dropout=(0.1, 0.1) if name == "MQ" else 0.1)
    whole = fit(name, device, **settings)
    again = fit(name, device, **settings)
    same = torch.equal(flat(whole), flat(again))
    assert same, "two unbroken runs differ: this device's sums are not repeatable"
    clock, pauses = SimpleNamespace(monotonic=count().__next__), 0
    monkeypatch.setattr(loop, "time", clock)
    while True:
        running = dict(checkpoint=tmp_path / "run", deadline=clock.monotonic() + 12)
        try:
            parts = fit(name, device, running, **settings)
            break
        except TrainingPaused:
            pauses += 1
    assert pauses > 0 and torch.equal(flat(parts), flat(whole))


def flat(model):
    """All numbers that a model has learnt, in a row; R3VAE keeps its codewords alone."""
    if isinstance(model, R3VAE):
        return torch.tensor(np.stack(model.codebooks_)).double().flatten()
    state = model.network_.state_dict().values()
    return torch.cat([t.detach().double().flatten().cpu() for t in state])


@pytest.fixture
def little_memory(device, monkeypatch):
    """Leave 256 MB; return the sample's size in floats, and what a loss has to call first."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        room = torch.cuda.memory_reserved(device) + 2**28
        torch.cuda.set_per_process_memory_fraction(room / total, device)
        yield lambda rows: None
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
        return

    def refuse(rows):
        if rows > 60:
            raise torch.cuda.OutOfMemoryError("as on a GPU")

    yield refuse


def test_too_large_a_batch_is_an_error_that_names_one_that_fits(device, little_memory, tmp_path):
    """4 MB a sample: the step that does not fit says what does, and with that it trains."""
    width = 2**20

    def start(batch_size):
        torch.manual_seed(0)
        model = nn.Linear(1, 1)

        def loss(rows, known):
            little_memory(len(rows))
            wide = model(rows[:, None].float()) * torch.ones(width, device=device)
            return wide.square().mean()

        settings = training.TrainSettings(epochs=2, batch_size=batch_size, learning_rate=1e-3)
        return training.train(model, loss, 512, settings, device=device)

    with pytest.raises(DeviceMemoryError, match="needs more memory") as caught:
        start(512)
    fits = int(str(caught.value).split("Set the batch size to ")[1].split(",")[0])
    assert 2 <= fits <= 64
    assert start(fits).steps == 2 * 512 // fits


def test_two_runs_at_once_on_one_device(device, tmp_path):
    """As two workers of the queue: each leaves the record that it leaves alone."""
    data = synthetic_catalogue(60, 80, random_state=1)[0]
    folder = tmp_path / "party"
    folder.mkdir()
    rows = pd.DataFrame({"user": data.user, "item": data.item, "timestamp": data.timestamp})
    rows.to_csv(folder / "interactions.csv", index=False)
    changed = ["epochs=3", "dim=16", "ffn_dim=16", "num_heads=2", "batch_size=32"]
    sets = [part for setting in changed for part in ("--set", f"recommender.{setting}")]

    def start(home, seed):
        environment = {
            **os.environ, "SEMID_RESULTS": str(tmp_path / home / "results"),
            "SEMID_RUNS": str(tmp_path / home / "runs"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-c", "from semid_lib.cli import main; main()", "run"]
        command += ["sasrec", str(folder), "--record", "--device", device, "--seed", str(seed)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen([*command, *sets], env=environment, **pipes)

    def record(home, process):
        text = process.communicate()[0]
        assert process.returncode == 0, text
        (path,) = (tmp_path / home / "results").glob("*.json")
        return json.loads(path.read_text())

    together = [start(f"run {seed}", seed) for seed in (0, 1)]
    both = [record(f"run {seed}", process) for seed, process in enumerate(together)]
    alone = record("alone", start("alone", 0))
    assert both[0]["device"] == both[1]["device"] == alone["device"]
    assert ("CPU" in alone["device"] or "cores" in alone["device"]) == (device == "cpu")
    for part, metrics in alone["metrics"].items():
        assert both[0]["metrics"][part] == pytest.approx(metrics, abs=0.02)
    losses = [[e["loss"] for e in r["curve"]["recommender"]] for r in (*both, alone)]
    assert losses[0] == pytest.approx(losses[2], rel=1e-3)
    assert losses[1] != pytest.approx(losses[2], rel=1e-3)  # another seed
