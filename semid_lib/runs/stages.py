"""The stages of a run: each takes its `Work`, leaves files, and returns what the record needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from semid_lib.compute.distributed import broadcast
from semid_lib.diagnostics import judge
from semid_lib.errors import InputError
from semid_lib.runs.records import CUTOFFS, METRICS, slug
from semid_lib.runs.workspace import runs_folder
from semid_lib.storage import load_tensors, read_sealed, save_tensors, sealed, write_json

if TYPE_CHECKING:
    from semid_lib.runs.pipeline import Work

_TIMES = ("seconds", "train_seconds", "outside_seconds", "samples_per_second", "flops")
_FAR = 30  # a further cut-off of R3-VAE's tables, where so many items are ranked


# ---------------------------------------------------------------- encoder: vectors


def run_encoder(work: Work) -> dict:
    """Train the encoder, and store its vectors and those of its snapshots."""
    encoder = work.fit("encoder", work.split)
    keep_vectors(work, encoder)
    info = describe(work.fitted.pop("encoder"))
    if info["curve"]:
        best = info["curve"][info["best_epoch"] - 1]
        info["diagnostics"] = {k: v for k, v in best.items() if k not in _TIMES}
    history = getattr(encoder, "history_", None)
    info["checkpoints"] = []
    for number, step in enumerate(sorted(history.snapshots) if history else (), start=1):
        then = encoder.at_step(step)
        keep_vectors(work, then, f"embeddings.checkpoint-{number}")
        info["checkpoints"].append({"step": step, **then.metrics(work.split)})
    return info


def keep_vectors(work: Work, encoder, name: str = "embeddings") -> None:
    """Store what the encoder learnt, for the quantizer."""
    import torch

    vectors = torch.from_numpy(np.ascontiguousarray(encoder.embed()))
    path = work.path(f"{name}.safetensors")
    save_tensors(path, {"vectors": vectors}, {"kind": "embeddings"})


def vectors_name(work: Work) -> str:
    """Name of the vectors' files, those of a snapshot apart."""
    chosen = work.plan.checkpoint
    return "embeddings" if chosen is None else f"embeddings.checkpoint-{chosen}"


def read_vectors(work: Work) -> np.ndarray:
    """The items' vectors that the quantizer reads, float32 `[N, D]`.

    Raises InputError if the training ended before the snapshot that the variant asks for.
    """
    path, chosen = work.path(f"{vectors_name(work)}.safetensors"), work.plan.checkpoint
    if chosen is not None and not path.exists():
        kept = len(work.stage("encoder", lambda: run_encoder(work))["checkpoints"])
        raise InputError(f"{work.name} asks for snapshot {chosen}; the encoder has {kept}")
    return load_tensors(path, "embeddings")[0]["vectors"].numpy()


def judge_vectors(work: Work) -> dict:
    """Diagnostics of the vectors."""
    found = judge.judge_vectors(read_vectors(work), work.split, _communities(work))
    return {"diagnostics": found}


def _communities(work: Work) -> np.ndarray:
    """Louvain communities of the train part, `[N]`, found once for each dataset and folder."""
    from semid_lib.diagnostics import co_occurrence, louvain

    alone = work.encoder_folder == work.folder
    folder = work.folder if alone else runs_folder()
    path = folder / f"communities-{slug(work.plan.dataset)}-{work.data.sha256[:10]}.json"
    if known := broadcast(read_sealed(path)):
        return np.array(known["communities"])
    found = louvain(co_occurrence(work.split))
    write_json(path, sealed({"communities": found.tolist()}))
    return found


# ---------------------------------------------------------------- quantizer: codes


def run_quantizer(work: Work) -> dict:
    """Fit the quantizer and store the codes."""
    from semid_lib.codes import SemanticIds

    vectors, began = read_vectors(work), time.perf_counter()
    if work.plan.centred:
        vectors = vectors - vectors.mean(axis=0)
    quantizer = work.fit("quantizer", vectors)
    info = {"seconds": time.perf_counter() - began, **describe(work.fitted.pop("quantizer"))}
    sizes = [int(size) for size in quantizer.level_sizes_]
    sids = SemanticIds(quantizer.codes_, sizes, catalogue=work.data.catalogue_sha256)
    sids.to_json(work.path("codes.json"))
    return {**info, "diagnostics": judge.judge_quantizer(quantizer, vectors)}


def judge_codes(work: Work) -> dict:
    """Diagnostics of the codes."""
    found = judge.judge_codes(read_codes(work), read_vectors(work), work.split)
    return {"diagnostics": found}


def read_codes(work: Work, unique: bool = False):
    """The run's SemanticIds, or None for a system without codes.

    With `unique`, as recommenders read them: told apart by the plan's rule (a digit more) if
    any two items share an ID.
    """
    from semid_lib.codes import SemanticIds

    if "quantizer" not in work.estimators:
        return None
    sids = SemanticIds.from_json(work.path("codes.json"))
    if not unique or sids.is_unique:
        return sids
    return sids.resolve(work.plan.collisions)


# ---------------------------------------------------------------- recommender: ranked items


def run_recommender(work: Work) -> dict:
    """Train the recommender and store it."""
    recommender = fitted_recommender(work)
    recommender.save(work.path("recommender.safetensors"))
    return describe(recommender)


def fitted_recommender(work: Work):
    """The recommender, fitted or brought back from its finished checkpoint."""
    if "recommender" not in work.fitted:
        sids = read_codes(work, work.estimators["recommender"].unique_ids)
        work.fit("recommender", work.split, sids)
    return work.fitted["recommender"]


def rank(work: Work, part: str) -> dict:
    """Rank the targets of "validation" or "test", and store each user's rank."""
    import torch

    from semid_lib.evaluation import evaluate

    recommender = fitted_recommender(work)
    whole = recommender.scores_all_items or recommender.num_beams >= _FAR
    far = (_FAR,) if whole and work.split.num_items >= _FAR else ()
    result = evaluate(recommender, work.split, part, ks=(*CUTOFFS, *far), progress=work.progress)
    tensors = {"users": torch.from_numpy(result.users)}  # for paired comparisons of two runs
    for rule, ranks in result.ranks.items():
        tensors[f"{rule}.above"] = torch.from_numpy(ranks.above)
        tensors[f"{rule}.ties"] = torch.from_numpy(ranks.ties)
    save_tensors(work.path(f"{part}.ranks.safetensors"), tensors, {"kind": "ranks"})
    info = {"users": len(result), "cut": result.cut, "metrics": {}, "intervals": {}}
    for rule, name in (("all", part), ("unseen", f"{part}_unseen")):
        info["metrics"][name] = result.metrics(rule)
        info["intervals"][name] = {m: list(result.interval(m, rule)) for m in METRICS}
    info["cold_targets"] = int(work.split.cold_targets(part).sum())
    info["buckets"] = {
        label: {k: v for k, v in bucket.items() if k in ("n", "recall@10", "ndcg@10")}
        for label, bucket in result.by_bucket().items()
    }
    return info


#: role -> what runs its estimator.
RUN = {"encoder": run_encoder, "quantizer": run_quantizer, "recommender": run_recommender}


# ---------------------------------------------------------------- what a fitted estimator cost


def describe(estimator) -> dict:
    """Cost, curve and size of a fitted estimator, as JSON."""
    info = {"parameters": count_parameters(estimator), "curve": []}
    history = getattr(estimator, "history_", None)
    if history is not None and history.epochs:
        info.update(
            seconds=history.seconds, samples_per_second=history.samples_per_second,
            curve=history.epochs, epochs=len(history.epochs), steps=history.steps,
            best_epoch=history.best_epoch, stopped=history.stopped,
            outside_seconds=history.outside_seconds, utilisation=history.utilisation,
        )  # fmt: skip
    if (earlier := getattr(estimator, "pretraining_", None)) is not None:
        info["seconds"] = info.get("seconds", 0.0) + earlier.seconds
        info["pretraining"] = earlier.epochs
    return info


def networks(estimator) -> list:
    """List the networks that an estimator holds."""
    from torch import nn

    return [value for value in vars(estimator).values() if isinstance(value, nn.Module)]


def count_parameters(estimator) -> int:
    """Count the learnt numbers of every network that an estimator holds."""
    return sum(p.numel() for network in networks(estimator) for p in network.parameters())
