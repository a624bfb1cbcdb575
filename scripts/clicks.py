"""Make the records of the click model (chapter 08): MovieLens-1M in place of private impressions.

    python scripts/clicks.py [DATASET] [--only NAME ...]

One JSON file a run in book/results/clicks/; a run that has its record is not made again. The item
ID comes first, since every other run is compared with it. About 40 seconds of one CPU core a run.
"""

from __future__ import annotations

import argparse
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

from semid_lib import diagnostics, quantizers
from semid_lib.clicks import DIN, clicks, coldest, uauc, user_auc
from semid_lib.codes import SemanticIds
from semid_lib.data import load_dataset
from semid_lib.diagnostics.judge import plain
from semid_lib.encoders import ALS, TextEncoder
from semid_lib.evaluation import bootstrap_interval
from semid_lib.runs import commit, versions
from semid_lib.storage import write_json

FOLDER = Path(__file__).resolve().parent.parent / "book" / "results" / "clicks"
WORK = Path(__file__).resolve().parent.parent / ".semid" / "clicks"
K = 256
MODEL = {"batch_size": 1024, "learning_rate": 5e-3, "schedule": "cosine", "epochs": 3}
TOKENIZERS = {
    "KMeans": lambda: quantizers.KMeans(K),
    "OPQ-KMeans": lambda: quantizers.OPQ(3, K),
    "R-KMeans": lambda: quantizers.ResidualKMeans(3, K),
    "MQ": lambda: quantizers.MQ(3, K, epochs=60),
    "RQ-VAE": lambda: quantizers.RQVAE(3, K, epochs=200),
    "R3-VAE": lambda: quantizers.R3VAE(3, K, epochs=200),
}
CUT = [
    "MovieLens ratings instead of Toutiao's impressions",
    f"3 x {K} codes instead of 3 x 8192",
    "DIN alone, without SIM and RankMixer; AdamW instead of RMSProp; 3 epochs",
    "RQ-VAE and R3-VAE 200 epochs, MQ 60; RQ-VAE and MQ on vectors over their standard deviation",
]


def runs():
    """`(tokenizer, vectors, form, seed)`, the most informative first."""
    both = "prefix", "sum"
    yield "item ID", "none", "none", 0
    yield "KMeans", "behaviour", "prefix", 0  # one level: the forms are the same
    for vectors, names in (
        ("behaviour", ("R-KMeans", "R3-VAE", "RQ-VAE", "OPQ-KMeans")),
        ("none", ("random",)),
        ("text", ("R-KMeans", "R3-VAE")),
        ("behaviour", ("MQ",)),
        ("text", ("RQ-VAE", "OPQ-KMeans", "MQ")),
    ):
        yield from ((name, vectors, form, 0) for name in names for form in both)
        if vectors == "none":
            yield "item ID", "none", "none", 1
    yield "KMeans", "text", "prefix", 0
    yield "item ID", "none", "none", 2


def name_of(run, dataset) -> str:
    tokenizer, vectors, form, seed = run
    parts = tokenizer.lower().replace(" ", "-"), vectors, form, dataset, f"s{seed}"
    return "--".join(part for part in parts if part != "none")


def judge(sids, vectors, codebooks) -> dict:
    """SC, PD, CR and Gini (R3-VAE Table 4)."""
    found = {
        "collision_rate": diagnostics.collision_rate(sids),
        "gini": diagnostics.gini(sids),
        "usage": diagnostics.code_usage(sids),
    }
    if vectors is not None:
        found["sc"] = diagnostics.semantic_cohesion(vectors, sids)
        found["pd"] = diagnostics.preference_discrimination(codebooks, sids)
    return found


def measure(shown, scores, base=None) -> dict:
    """UAUC of the test part, of its cold items and cold users, with bootstrap intervals.

    `base`: scores of the item IDs, of which the same users' difference is taken.
    """
    rows = shown.rows("test")
    user, item, label = shown.data.user[rows], shown.data.item[rows], shown.label[rows]
    counts = {of: shown.train_counts(of) for of in ("item", "user")}
    masks = {
        "all": np.ones(len(rows), dtype=bool),
        "cold_items": coldest(counts["item"], by="impressions")[item],
        "coldest_items": coldest(counts["item"])[item],
        "cold_users": coldest(counts["user"])[user],
    }
    found = {}
    for name, mask in masks.items():
        asked = label[mask], user[mask]
        users, auc, _ = user_auc(scores[mask], *asked)
        one = {"uauc": auc.mean(), "interval": bootstrap_interval(auc), "users": len(users)}
        one |= {"rows": int(mask.sum()), "weighted": uauc(scores[mask], *asked, "impressions")}
        one["auc"] = uauc(scores[mask], label[mask], np.zeros(mask.sum()))  # all users as one
        if base is not None:
            gain = auc - user_auc(base[mask], *asked)[1]
            one |= {"gain": gain.mean(), "gain_interval": bootstrap_interval(gain)}
        found[name] = one
    return found


@lru_cache(maxsize=1)  # both forms read the same codes
def make_codes(shown, tokenizer, vectors):
    """`SemanticIds` and their diagnostics; "random" codes ask what the content of codes does."""
    if tokenizer == "random":
        sids = SemanticIds(
            np.random.default_rng(0).integers(K, size=(shown.num_items, 3)), (K,) * 3
        )
        return sids, judge(sids, None, None)
    encoder = ALS(63) if vectors == "behaviour" else TextEncoder("minilm")
    X = encoder.fit(shown.train_split()).embed()
    if tokenizer in ("RQ-VAE", "MQ"):  # numbers as small as ALS's collapse them
        X = X / X.std()
    fitted = TOKENIZERS[tokenizer]()
    sids = SemanticIds(fitted.fit_transform(X), fitted.level_sizes_)
    return sids, judge(sids, X, fitted.codebooks_)


def record(shown, run, scores, base, **more) -> None:
    tokenizer, vectors, form, seed = run
    write_json(FOLDER / f"{name_of(run, shown.data.name)}.json", plain({
        "kind": "click", "tokenizer": tokenizer, "vectors": vectors, "form": form, "seed": seed,
        "dataset": shown.data.name, "dataset_sha256": shown.data.sha256, "cut": CUT,
        "metrics": measure(shown, scores, base), "config": MODEL, "versions": versions(),
        "commit": commit(), "device": "cpu", **more,
    }))  # fmt: skip


def floors(shown) -> dict:
    """Scores of the test rows that need no model: impressions, and clicks per impression."""
    item, label = shown.data.item, shown.label
    train, test = shown.rows("train"), shown.rows("test")
    shows = shown.train_counts()
    good = np.bincount(item[train], label[train], minlength=shown.num_items)
    rate = (good + 10 * label[train].mean()) / (shows + 10)
    return {"popularity": shows[item[test]].astype(float), "click rate": rate[item[test]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", default="ml-1m")
    parser.add_argument("--only", nargs="*", help="tokenizers; all by default")
    options = parser.parse_args()
    shown = clicks(load_dataset(options.dataset))
    base = None
    for run in runs():
        tokenizer, vectors, form, seed = run
        name, began = name_of(run, options.dataset), time.monotonic()
        model_file = WORK / f"{name}.safetensors"
        skip = (FOLDER / f"{name}.json").exists() or tokenizer not in (options.only or [tokenizer])
        if skip and not (base is None and tokenizer == "item ID"):
            continue
        sids, found = (None, {})
        if tokenizer != "item ID":
            sids, found = make_codes(shown, tokenizer, vectors)
        coded = time.monotonic() - began
        if model_file.exists():
            model = DIN.load(model_file)
        else:
            how = {"code_form": form} if sids is not None else {}
            model = DIN(**MODEL, **how, random_state=seed).fit(shown, sids)
            model.save(model_file)
        scores = model.predict(shown)
        if base is None:
            base = scores
            for floor, values in floors(shown).items():
                record(shown, (floor, "none", "none", 0), values, base)
        if skip:
            continue
        trained = model.history_.seconds
        cost = {"seconds": coded + trained, "codes": coded, "model": trained}
        record(
            shown, run, scores, base, diagnostics=found, cost=cost, curve=model.history_.epochs
        )  # fmt: skip
        print(f"{name}: {cost['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
