"""The same seeds give the same codes, weights and lists as when `same_as_before.json` was written.

    PYTHONPATH=. python tests/test_same_as_before.py

writes it anew, where a change is meant to change numbers.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from semid_lib import quantizers as Q
from semid_lib import recommenders as R
from semid_lib.clicks import DIN, clicks
from semid_lib.codes import SemanticIds
from semid_lib.data import Interactions, leave_one_out, synthetic_catalogue
from semid_lib.encoders import ALS, FAMAE, TextEncoder

STORED = Path(__file__).parent / "same_as_before.json"
DECIMALS = 6
NEAR = 1e-12  # no number lies so near to where it would be rounded the other way
CLEAR = 1e-4  # a list ends where two scores are nearer to each other
NOT_COMPUTED = {"seconds", "train_seconds", "outside_seconds", "samples_per_second", "flops"}

SHARED = dict(precision="float64", device="cpu", random_state=1, learning_rate=0.01, epochs=2)
NET = dict(dim=8, num_heads=2, ffn_dim=16, num_layers=2, dropout=0.2, **SHARED)
READER = dict(max_history=4, batch_size=32, **NET)
LEARNT = dict(num_codes=4, batch_size=32, **SHARED)
CODER = dict(hidden=(8,), latent=4, **LEARNT)
# Normalisation takes the biases before it out: their gradients are rounding, so steps are short.
MASKED = {**CODER, "num_levels": 2, "hidden": (8, 8), "learning_rate": 1e-5}
CLICK = dict(dim=4, attention=3, hidden=(5, 3), batch_size=32, **SHARED)


def reader(kind, **settings):
    """A recommender with those of the settings `READER` that it has, and its own."""
    shared = {name: value for name, value in READER.items() if name in kind().get_params()}
    return kind(**{**shared, **settings})


QUANTIZERS = {
    "BalancedKMeans": Q.BalancedKMeans(4, random_state=1),
    "KMeans": Q.KMeans(4, random_state=1),
    "ResidualKMeans": Q.ResidualKMeans(2, 4, random_state=1),
    "ResidualKMeans balanced": Q.ResidualKMeans(2, 4, balanced=True, normalize_residuals=True),
    "HierarchicalKMeans": Q.HierarchicalKMeans((4, 4, 40), random_state=1, n_jobs=1),
    "GAOQ": Q.GAOQ((4, 4, 40), random_state=1, n_jobs=1),
    "PQ": Q.PQ(4, 4, random_state=1, precision="float64"),
    "OPQ": Q.OPQ(4, 4, num_rounds=3, random_state=1, precision="float64"),
    "RandomCodes": Q.RandomCodes(3, 8, random_state=1),
    "RandomCodes tree": Q.RandomCodes(branching=(4, 4, "auto"), random_state=1),
    "VQVAE": Q.VQVAE(**CODER),
    "RQVAE": Q.RQVAE(num_levels=2, **CODER),
    "RQVAE ema": Q.RQVAE(2, update="ema", gradient="rotation", restart=True, **CODER),
    "RQVAE sinkhorn": Q.RQVAE(2, sinkhorn=True, init="uniform", **CODER),
    "MQ": Q.MQ(dropout=(0.2, 0.2), restart_every=1, **MASKED),
    "MQ faithful": Q.MQ(faithful_code=True, **MASKED),
    "R3VAE": Q.R3VAE(2, top_k=2, **LEARNT),
    "R3VAE plain": Q.R3VAE(2, top_k=2, reference=False, rating=False, **LEARNT),
    "R3VAETop1": Q.R3VAETop1(2, **LEARNT),
}
ENCODERS = {
    "FAMAE": FAMAE(max_length=5, batch_size=64, **NET),
    "FAMAE random": FAMAE(masking="random", item_loss="sampled", num_negatives=8, **NET),
    "TextEncoder": TextEncoder(dim=8, random_state=1),
    "TextEncoder pca": TextEncoder(dim=8, pca=4, whiten=True, random_state=1),
    "ALS": ALS(dim=8, iterations=3, random_state=1),
}
RECOMMENDERS = {
    "Popularity": R.Popularity(),
    "MarkovChain": R.MarkovChain(),
    "ItemKNN": R.ItemKNN(neighbours=70, shrinkage=1.0),  # items have 47: a cut breaks ties
    "SASRec": reader(R.SASRec),
    "SASRec fields": reader(R.SASRec, field_names=None, score_with="id", loss="bpr"),
    "SASRec sampled": reader(R.SASRec, loss="sampled", num_negatives=8, similarity="cosine"),
    "SASRec last": reader(R.SASRec, targets="last", long_histories="windows", loss="bce"),
    "BERT4Rec": reader(R.BERT4Rec),
    "BERT4Rec fields": reader(R.BERT4Rec, field_names=None, loss="sampled", num_negatives=8),
    "HGN": reader(R.HGN),
    "HGN bpr": reader(R.HGN, loss="bpr"),
    "GRU4Rec": reader(R.GRU4Rec, hidden_dim=8, num_layers=1),
    "S3Rec": reader(R.S3Rec, pretrain_epochs=1, pretrain_batch_size=32),
    "T5": reader(R.T5Recommender, num_layers=1, head_dim=4, num_beams=20),
    "T5 free": reader(R.T5Recommender, num_layers=1, search="free", end_token=False),
    "RPG": reader(R.RPG),
    "RPG graph": reader(R.RPG, decoding="graph", beams=8, edges=20, head_norm="paper"),
    "ACERec": reader(R.ACERec, ratio=2, random_state=2),
    "ACERec mlp": reader(R.ACERec, ratio=2, merger="mlp", anchor="mlp", alignment=0.0),
    "ACERec conv": reader(R.ACERec, ratio=2, merger="conv", anchor="last", head_norm="both"),
}
CLICK_MODELS = {
    "DIN": DIN(**CLICK),
    "DIN prefix": DIN(code_form="prefix", user_ids=False, **CLICK),
}


TALLIES = ("chosen", "sums", "epochs", "running")  # buffers once, of a loop and not of a network


class SameDraws(TorchDispatchMode):
    """Random numbers that are the same on every processor.

    Torch draws normal and uniform float32 numbers by vector instructions where there are any, which
    changes the last digit: here they are drawn in float64. It takes what dropout drops from MKL
    where there is MKL: here always from its own generator.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, aten = kwargs or {}, torch.ops.aten
        if function is aten.bernoulli_.float:
            return args[0].copy_(torch.rand(args[0].shape, dtype=torch.float64) < args[1])
        if function in (aten.normal_.default, aten.uniform_.default):
            return args[0].copy_(function(args[0].double(), *args[1:], **kwargs))
        if function is aten.randn.default:
            return function(*args, **{**kwargs, "dtype": torch.float64}).float()
        return function(*args, **kwargs)


def planted_rows():
    """120 rows of 8 dimensions: 4 groups of 4 groups, all well apart."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.arange(120) % 16)
    middle = 4 * rng.normal(size=(4, 8))[group // 4] + rng.normal(size=(16, 8))[group]
    return middle + 0.1 * rng.normal(size=(120, 8))


def planted_split():
    """60 users who walk the 80 items of 3 communities."""
    data = synthetic_catalogue(80, 60, branching=(3, 2, 1), num_communities=3, random_state=1)[0]
    return leave_one_out(data)


def planted_clicks():
    """Ratings of 12 users for 9 items."""
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(12), 10), rng.integers(9, size=120)
    rating = rng.integers(1, 6, size=120).astype(np.float32)
    return clicks(Interactions(user, item, 12, 9, timestamp=np.arange(120), rating=rating))


def some_ids(num_items):
    """Four digits of four codes for every item."""
    codes = np.random.default_rng(2).permutation(256)[:num_items, None] // (1, 4, 16, 64) % 4
    return SemanticIds(codes, (4, 4, 4, 4))


def learnt(model):
    """The weights of a model's networks, and what the epochs of its trainings reported."""
    found = {}
    for name, value in vars(model).items():
        if isinstance(value, torch.nn.Module):
            weights = {k: t for k, t in value.state_dict().items() if k not in TALLIES}
            found |= {f"{name}.{key}": t.numpy() for key, t in weights.items()}
        elif hasattr(value, "epochs"):
            for place, epoch in enumerate(value.epochs):
                kept = epoch.keys() - NOT_COMPUTED
                found |= {f"{name}.{place}.{key}": np.array(epoch[key]) for key in kept}
    return found


def quantized(model):
    """Codes of the fitted rows and of others near them, what these stand for, weights."""
    rows = planted_rows()
    model.fit(rows)
    if isinstance(model, Q.BalancedKMeans):
        return {"codes": model.labels_, "words": model.cluster_centers_}
    new = model.transform(rows[::5] if isinstance(model, Q.RandomCodes) else rows[::5] + 0.01)
    found = {"codes": model.codes_, "new": new, "words": model.inverse_transform(new)}
    return {**found, **learnt(model)}


def encoded(model):
    """Item vectors, weights."""
    if isinstance(model, ALS):
        pytest.importorskip("implicit")
    model.fit(planted_split())
    return {"vectors": model.embed(), **learnt(model)}


def recommended(model):
    """The first items for four users, as far as they stand clear of the next; scores; weights."""
    split = planted_split()
    model.fit(split, some_ids(80))
    histories = split.histories("test")[:4]
    items, scores = model.recommend(histories, 6, return_scores=True)
    clear = np.logical_and.accumulate(-np.diff(scores) > CLEAR, axis=1)
    found = {"lists": np.where(clear, items[:, :-1], -1), **learnt(model)}
    if isinstance(model, (R.Popularity, R.MarkovChain, R.ItemKNN)):
        found["scores"] = model.score_items(histories)
    return found


def rated(model):
    """Chances of a click, by the items' own vectors and by those of codes; weights."""
    shown, found = planted_clicks(), {}
    for name, sids in ("items", None), ("codes", some_ids(9)):
        model.fit(shown, sids)
        chances = {"chances": model.predict(shown, "test"), **learnt(model)}
        found |= {f"{name} {key}": array for key, array in chances.items()}
    return found


CASES = {
    **{name: (quantized, model) for name, model in QUANTIZERS.items()},
    **{name: (encoded, model) for name, model in ENCODERS.items()},
    **{name: (recommended, model) for name, model in RECOMMENDERS.items()},
    **{name: (rated, model) for name, model in CLICK_MODELS.items()},
}


def computed(name):
    """The arrays of a case."""
    work, model = CASES[name]
    with SameDraws():
        return {key: np.asarray(array) for key, array in sorted(work(model).items())}


def summary(arrays):
    """What is kept of a case: lists as they are; a digest of all else; the size of its floats."""
    digest, total = hashlib.sha256(), 0.0
    for array in (array for key, array in arrays.items() if key != "lists"):
        if array.dtype.kind == "f":
            array = array.astype("<f8").round(DECIMALS) + 0.0
            total += float(np.abs(array).sum())
        else:
            array = array.astype("<i8")
        digest.update(f"{array.dtype.kind}{array.shape}".encode() + array.tobytes())
    found = {"digest": digest.hexdigest()[:16], "sum": round(total, DECIMALS)}
    return {**found, "lists": arrays["lists"].tolist()} if "lists" in arrays else found


def margin(arrays):
    """The least distance of a number to where it would be rounded the other way."""
    floats = [array.ravel() for array in arrays.values() if array.dtype.kind == "f"]
    if not floats:
        return 1.0
    scaled = np.concatenate(floats).astype(np.float64) * 10**DECIMALS
    return float(np.abs(scaled - np.floor(scaled) - 0.5).min()) / 10**DECIMALS


@pytest.mark.trained  # so `make portable` tries it as other processors round
@pytest.mark.parametrize("name", CASES)
def test_nothing_computed_has_changed(name):
    before, now = json.loads(STORED.read_text(encoding="utf-8"))[name], summary(computed(name))
    assert now["digest"] == before["digest"], (
        f"codes, weights or losses: the sum of all sizes is {now['sum']}, was {before['sum']}"
    )
    assert now.get("lists") == before.get("lists")


if __name__ == "__main__":
    rows = []
    for case in CASES:
        made = computed(case)
        if margin(made) < NEAR:
            print(f"{case}: give it another seed, a number is {margin(made):.1e} from rounding")
        rows.append(f"{json.dumps(case)}: {json.dumps(summary(made))}")
    STORED.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
