"""The recorded click models (chapter 08): MovieLens-1M in place of private impressions.

Each is a run like any other (`semid_lib.runs.workspace`): codes, which both forms of the model
share, the model, its scores of the test part, the record. A run that was stopped goes on where it
was. The item ID comes first, since every other run is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from semid_lib import diagnostics, quantizers
from semid_lib.clicks.auc import uauc, user_auc
from semid_lib.clicks.data import Clicks, clicks, coldest
from semid_lib.clicks.din import DIN
from semid_lib.codes import SemanticIds
from semid_lib.diagnostics.judge import plain
from semid_lib.encoders import ALS, TextEncoder
from semid_lib.errors import InputError
from semid_lib.evaluation import bootstrap_interval
from semid_lib.runs.locks import BusyError, locked
from semid_lib.runs.preparation import read_data, settings_of
from semid_lib.runs.provenance import commit, versions
from semid_lib.runs.records import records_folder, slug
from semid_lib.runs.stages import describe
from semid_lib.runs.workspace import Workspace, digest, runs_folder
from semid_lib.settings import meant
from semid_lib.storage import load_tensors, save_tensors, write_json

K = 256
MODEL = {"batch_size": 1024, "learning_rate": 5e-3, "schedule": "cosine", "epochs": 3}
TOKENIZERS: dict[str, tuple[str, dict]] = {
    "KMeans": ("KMeans", {"n_clusters": K}),
    "OPQ-KMeans": ("OPQ", {"num_blocks": 3, "num_codes": K}),
    "R-KMeans": ("ResidualKMeans", {"num_levels": 3, "n_clusters": K}),
    "MQ": ("MQ", {"num_levels": 3, "num_codes": K, "epochs": 60}),
    "RQ-VAE": ("RQVAE", {"num_levels": 3, "num_codes": K, "epochs": 200}),
    "R3-VAE": ("R3VAE", {"num_levels": 3, "num_codes": K, "epochs": 200}),
}
SCALED = ("RQ-VAE", "MQ")  # numbers as small as ALS's collapse them
CUT = [
    "MovieLens ratings instead of Toutiao's impressions",
    f"3 x {K} codes instead of 3 x 8192",
    "DIN alone, without SIM and RankMixer; AdamW instead of RMSProp; 3 epochs",
    "RQ-VAE and R3-VAE 200 epochs, MQ 60; RQ-VAE and MQ on vectors over their standard deviation",
]
FLOORS = ("popularity", "click rate")


@dataclass(frozen=True)
class ClickEntry:
    """One click model that should have a record.

    Attributes:
        tokenizer: a key of `TOKENIZERS`, "random", "item ID" or one of `FLOORS`.
        vectors: "behaviour", "text" or "none". form: `DIN`'s `code_form`, or "none".
    """

    tokenizer: str
    vectors: str = "none"
    form: str = "none"
    seed: int = 0

    def name(self, dataset: str) -> str:
        """Name of its record: `r3-vae--text--sum--ml-1m--s0`."""
        tokenizer = self.tokenizer.lower().replace(" ", "-")
        parts = tokenizer, self.vectors, self.form, slug(dataset)
        return "--".join([*(part for part in parts if part != "none"), f"s{self.seed}"])


BASE = ClickEntry("item ID")  # what every other is compared with


def click_entries() -> Iterator[ClickEntry]:
    """Yield every entry, the most informative first."""
    yield BASE
    yield ClickEntry("KMeans", "behaviour", "prefix")  # one level: the forms are the same
    for vectors, names in (
        ("behaviour", ("R-KMeans", "R3-VAE", "RQ-VAE", "OPQ-KMeans")),
        ("none", ("random",)),
        ("text", ("R-KMeans", "R3-VAE")),
        ("behaviour", ("MQ",)),
        ("text", ("RQ-VAE", "OPQ-KMeans", "MQ")),
    ):
        for name in names:
            for form in ("prefix", "sum"):
                yield ClickEntry(name, vectors, form)
        if vectors == "none":
            yield ClickEntry("item ID", seed=1)
    yield ClickEntry("KMeans", "text", "prefix")
    yield ClickEntry("item ID", seed=2)


# ---------------------------------------------------------------- the stages


class _Codes(Workspace):
    """The codes of one tokenizer, which the runs of both forms read."""

    def __init__(self, shown: Clicks, entry: ClickEntry, **how):
        self.shown, self.entry, self.parts = shown, entry, {}
        if entry.tokenizer != "random":
            kind, settings = TOKENIZERS[entry.tokenizer]
            behaviour = entry.vectors == "behaviour"
            self.parts["encoder"] = ALS(63) if behaviour else TextEncoder("minilm")
            self.parts["quantizer"] = getattr(quantizers, kind)(**settings)
        self.identity = {
            "config": settings_of(self.parts), "tokenizer": entry.tokenizer, "codes": K,
            "data": shown.data.sha256, "contents": shown.data.contents_sha256,
        }  # fmt: skip
        parts = (slug(entry.tokenizer), entry.vectors, slug(shown.data.name))
        name = "--".join(["click-codes", *parts])
        super().__init__(name, runs_folder() / f"{name}-{digest(self.identity)}", **how)

    def read(self):
        """`(SemanticIds, the stage's result)`, made now unless they are there."""
        self.claim(self.folder, self.identity)
        with _alone(self):
            info = self.stage("tokenizer", self._make)
        return SemanticIds.from_json(self.path("codes.json")), info

    def _make(self) -> dict:
        vectors, codebooks = None, None
        if self.entry.tokenizer == "random":  # asks what the content of codes does
            shape = (self.shown.num_items, 3)
            sids = SemanticIds(np.random.default_rng(0).integers(K, size=shape), (K,) * 3)
        else:
            encoder = self.train(self.parts["encoder"], "encoder", self.shown.train_split())
            vectors = encoder.embed()
            if self.entry.tokenizer in SCALED:
                vectors = vectors / vectors.std()
            fitted = self.train(self.parts["quantizer"], "quantizer", vectors)
            sids, codebooks = SemanticIds(fitted.codes_, fitted.level_sizes_), fitted.codebooks_
        sids.to_json(self.path("codes.json"))
        return {"diagnostics": plain(judge(sids, vectors, codebooks))}


class _Model(Workspace):
    """One click model: its training, and its scores of the test part."""

    def __init__(self, shown: Clicks, entry: ClickEntry, **how):
        self.shown, self.entry, self.codes = shown, entry, None
        if entry.tokenizer != "item ID":
            self.codes = _Codes(shown, entry, **how)
        form = {} if self.codes is None else {"code_form": entry.form}
        self.model = DIN(**MODEL, **form, random_state=entry.seed)
        self.identity = {
            "config": settings_of({"model": self.model}),
            "codes": None if self.codes is None else self.codes.identity,
            "data": shown.data.sha256, "contents": shown.data.contents_sha256,
        }  # fmt: skip
        name = entry.name(shown.data.name)
        folder = runs_folder() / f"click--{name}-{digest(self.identity)}"
        super().__init__(name, folder, **how)

    def run(self) -> tuple[np.ndarray, dict, dict]:
        """`(scores of the test rows, the model's result, the codes' result)`."""
        self.claim(self.folder, self.identity)
        with _alone(self):
            sids, coded = (None, {}) if self.codes is None else self.codes.read()
            info = self.stage("model", lambda: self._fit(sids))
        scores = load_tensors(self.path("scores.safetensors"), "scores")[0]["scores"]
        return scores.numpy(), info, coded

    def _fit(self, sids) -> dict:
        model = self.train(self.model, "model", self.shown, sids)
        model.save(self.path("model.safetensors"))
        scores = torch.from_numpy(model.predict(self.shown))
        save_tensors(self.path("scores.safetensors"), {"scores": scores}, {"kind": "scores"})
        return describe(model)


@contextmanager
def _alone(work: Workspace):
    """Hold the lock of a folder, or raise BusyError."""
    lock = work.path(".lock")
    with locked(lock) as free:
        if not free:
            raise BusyError(f"{work.name} is being run by another process", lock)
        yield


# ---------------------------------------------------------------- numbers


def judge(sids, vectors, codebooks) -> dict:
    """SC, PD, CR and Gini (R3-VAE Table 4) of codes; the first two only with vectors."""
    found = {
        "collision_rate": diagnostics.collision_rate(sids),
        "gini": diagnostics.gini(sids),
        "usage": diagnostics.code_usage(sids),
    }
    if vectors is not None:
        found["sc"] = diagnostics.semantic_cohesion(vectors, sids)
        found["pd"] = diagnostics.preference_discrimination(codebooks, sids)
    return found


def measure(shown: Clicks, scores, base) -> dict:
    """UAUC of the test part, of its cold items and cold users, with bootstrap intervals.

    Args:
        scores, base: `[M]`, of the test rows; `base` are those of the item IDs, from which the
            same users' difference is taken.
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
        gain = auc - user_auc(base[mask], *asked)[1]
        found[name] = {
            "uauc": auc.mean(),
            "interval": bootstrap_interval(auc),
            "users": len(users),
            "rows": int(mask.sum()),
            "weighted": uauc(scores[mask], *asked, "impressions"),
            "auc": uauc(scores[mask], label[mask], np.zeros(mask.sum())),  # all users as one
            "gain": gain.mean(),
            "gain_interval": bootstrap_interval(gain),
        }
    return found


def floor_scores(shown: Clicks) -> dict[str, np.ndarray]:
    """Scores of the test rows that need no model: impressions, and clicks per impression."""
    item, label = shown.data.item, shown.label
    train, test = shown.rows("train"), shown.rows("test")
    shows = shown.train_counts()
    good = np.bincount(item[train], label[train], minlength=shown.num_items)
    rate = (good + 10 * label[train].mean()) / (shows + 10)
    return {"popularity": shows[item[test]].astype(float), "click rate": rate[item[test]]}


# ---------------------------------------------------------------- records


def record_clicks(
    dataset, only: Iterable[str] | None = None, *, deadline: float | None = None,
    progress: bool | None = None, say: Callable[[str], None] = print,
) -> list[Path]:  # fmt: skip
    """Run the entries without a record, and record them in the folder `clicks` of the records.

    Args:
        dataset: name, folder or `Interactions`, with ratings and a time order.
        only: tokenizers; all by default. deadline: `time.monotonic()` value to stop at.
        say: is told of each record.

    Returns:
        The files that were written.

    Raises:
        InputError: an unknown tokenizer. TrainingPaused: the deadline came; again with the same
        arguments goes on. BusyError: another process works on the same model or codes.

    Cost: about 40 seconds of one CPU core a run of MovieLens-1M.
    """
    known = dict.fromkeys(entry.tokenizer for entry in click_entries())
    for name in only or ():
        if name not in known:
            raise InputError(
                f"no tokenizer {name!r}{meant(name, known)}; there are {', '.join(known)}"
            )
    shown, how = clicks(read_data(dataset)), {"deadline": deadline, "progress": progress}
    asked = [entry for entry in click_entries() if only is None or entry.tokenizer in only]
    todo = [entry for entry in asked if not _place(shown, entry).exists()]
    floors = [entry for entry in map(ClickEntry, FLOORS) if not _place(shown, entry).exists()]
    written = []
    if todo or floors:
        base = _Model(shown, BASE, **how).run()[0]
    for entry in floors:
        scores = floor_scores(shown)[entry.tokenizer]
        about = {"versions": versions(), "commit": commit()}
        written.append(_write(shown, entry, measure(shown, scores, base), **about))
    for entry in todo:
        scores, info, coded = _Model(shown, entry, **how).run()
        cost = {"codes": coded.get("seconds", 0.0), "model": info["seconds"]}
        cost = {"seconds": sum(cost.values()), **cost}
        about = {key: info[key] for key in ("versions", "commit", "curve")}
        about |= {"diagnostics": coded.get("diagnostics", {}), "cost": cost}
        written.append(_write(shown, entry, measure(shown, scores, base), **about))
        say(f"{entry.name(shown.data.name)}: {cost['seconds']:.0f} s")
    return written


def _place(shown: Clicks, entry: ClickEntry) -> Path:
    """Where the record of an entry stands."""
    return records_folder(to_write=True) / "clicks" / f"{entry.name(shown.data.name)}.json"


def _write(shown: Clicks, entry: ClickEntry, metrics: dict, **about) -> Path:
    record = {
        "kind": "click", "tokenizer": entry.tokenizer, "vectors": entry.vectors,
        "form": entry.form, "seed": entry.seed, "dataset": shown.data.name,
        "dataset_sha256": shown.data.sha256, "cut": CUT, "metrics": metrics, "config": MODEL,
        "device": "cpu", **about,
    }  # fmt: skip
    return write_json(_place(shown, entry), plain(record))
