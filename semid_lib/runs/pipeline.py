"""One run: data, encoder, quantizer, semantic IDs, recommender, evaluation, record.

Each stage leaves its result in a work folder as soon as it is complete, and a training stage its
checkpoint. So a run that was stopped at any moment, by the deadline or by `kill -9`, goes on where
it was and ends with the same record. Encoders have folders of their own, so that all runs whose
encoder, data and seed are equal train it once. Under `torchrun` a run is that of several processes
(`semid_lib.compute.distributed`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from semid_lib import systems
from semid_lib.compute.distributed import agree, join, place
from semid_lib.compute.memory import enough_memory
from semid_lib.compute.threads import one_thread
from semid_lib.diagnostics.judge import judge_codes, judge_quantizer, judge_vectors
from semid_lib.errors import CheckpointError, InputError
from semid_lib.runs.locks import BusyError, locked
from semid_lib.runs.provenance import commit, device_name, peak_memory, versions
from semid_lib.runs.records import CUTOFFS, METRICS, cut_keys, is_name, run_name, slug
from semid_lib.settings import SEED
from semid_lib.storage import load_tensors, read_json, read_sealed, save_tensors, sealed, write_json

_TIMES = ("seconds", "train_seconds", "outside_seconds", "samples_per_second", "flops")
_FAR = 30  # a further cut-off of R3-VAE's tables, where so many items are ranked
_POINTS = 100  # most epochs of a tokenizer's curve that a record holds


def runs_folder() -> Path:
    """Return where runs keep their work: `$SEMID_RUNS`, default `.semid/runs`."""
    return Path(os.environ.get("SEMID_RUNS") or Path(".semid") / "runs")


def run(system: str | systems.System | systems.Plan, dataset, **settings) -> dict:
    """Run a system on a dataset and return its record.

    Validation chooses (inside the stages); the test part is ranked once, when all is fitted.
    On a CPU the quick profile computes in one thread, so that the seed decides the numbers; the
    paper profile takes those of torch; their number, which the record names, moves last digits.

    Args:
        system: a name of `systems.SYSTEMS`; or a `System`; or a `Plan`, such as `systems.combine`
            makes, which has the profile, the variant and all settings in it.
        dataset: name, folder in the bring-your-own form, or `Interactions`.
        settings: keywords, as follows.
        profile: "quick" (default) or "paper". variant, overrides: see `systems.plan`.
        until: "quantizer" stops there: codes and their diagnostics, no recommender. The whole run
            goes on from it.
        seed: 0 by default.
        device: "auto" is the GPU in the paper profile where there is one, else the CPU
            ($SEMID_DEVICE decides first). precision: "auto" is the profile's where it has one,
            else bfloat16 or float16 on a GPU.
        folder: where all of the work is kept; default `runs_folder()/NAME-HASH`, the hash being
            that of every setting and of the data, so that other settings never meet this run's
            files, and for the encoder a folder that other runs share.
        deadline: `time.monotonic()` value after which the run stops between two steps.
        progress: bars with loss, speed and time left; default: only on a terminal.

    Returns:
        The record (DESIGN "Result record"; keys in `records.RECORD_KEYS`). It is also written to
        `record.json` in the work folder, but not among the recorded results: see
        `records.write_record`.

    Raises:
        TrainingPaused: the deadline came; calling again with the same arguments goes on.
        BusyError: another process works on this run, or trains its encoder: call again later.
        UnorderedError: the data carry no order. InputError: see `systems.plan`.
        CheckpointError: `folder` holds another run's work, or a damaged file of tensors.
        RecordError, CodesError: a file of the work folder is not what was written.
    """
    work = Work(system, dataset, **settings)
    lock = work.folder / ".lock"
    with locked(lock) as free:
        if not free:
            raise BusyError(f"{work.name} is being run by another process in {work.folder}", lock)
        with one_thread(work.device) if work.plan.profile == "quick" else nullcontext():
            return work.record()


class Work:
    """A run's stages and their files; arguments as `run`."""

    def __init__(
        self, system, dataset, *, profile="quick", variant="default", until=None, seed=0,
        device="auto", precision="auto", overrides=None, folder=None, deadline=None, progress=None,
    ):  # fmt: skip
        from semid_lib.compute.device import resolve_device
        from semid_lib.data import Interactions, leave_one_out, load_dataset

        given = system if isinstance(system, systems.Plan) else None
        self.device = join(resolve_device(device, given.profile if given else profile))
        self.data = dataset if isinstance(dataset, Interactions) else load_dataset(dataset)
        if not is_name(self.data.name):
            raise InputError(
                f"the data are called {self.data.name!r}: rename them, without < > | `"
            )
        if given is None:
            chosen = systems.plan(system, self.data, profile, variant, overrides, until)
        else:
            chosen = given.up_to(until)
        if given is not None and (overrides or variant != "default"):
            raise InputError("a plan has its variant and overrides in it: make another plan")
        if chosen.dataset != self.data.name:
            raise InputError(f"the plan is for {chosen.dataset!r}, not for {self.data.name!r}")
        self.plan, precision = _with_precision(chosen, precision, self.device)
        if not SEED.holds(seed):
            raise InputError(f"seed is {seed!r}, but {SEED.words}")
        seed = int(seed)
        self.seed, self.deadline, self.progress = seed, deadline, progress
        self.split = leave_one_out(self.data)
        around = {"random_state": seed, "device": self.device, "precision": precision}
        self.estimators = {s.role: s.build(**around) for s in self.plan.stages}
        if until is not None and (until != "quantizer" or until not in self.estimators):
            known = " or 'quantizer'" if "quantizer" in self.estimators else ""
            raise InputError(f"until is {until!r}, but {chosen.system} can run until None{known}")
        self.until = until
        self._check_size()
        self.config = {
            role: {"class": type(e).__name__, **e.get_params()}
            for role, e in self.estimators.items()
        }
        for settings in self.config.values():
            settings.pop("device", None)
        data = {"data": self.data.sha256, "contents": self.data.contents_sha256}
        shared = {"config": dict(self.config.get("encoder", {})), **data}
        self.config["evaluation"] = {"ks": list(CUTOFFS), "seen_items": "ranked, and excluded"}
        self.config["precision"] = precision
        if place()[1] > 1:
            self.config["processes"] = place()[1]
        if self.plan.checkpoint is not None:
            self.config["checkpoint"] = self.plan.checkpoint
        if self.plan.centred:
            self.config["centred"] = True
        if self.plan.collisions != "extra_digit":
            self.config["collisions"] = self.plan.collisions
        self.fitted: dict[str, object] = {}
        self.sids = None
        self.name = self._name(self.plan.variant)
        identity = {"config": self.config, **data, "seed": seed}
        name = self.name
        if given is None:
            same = systems.plan(system, self.data, profile, "default", overrides)
            if replace(same, variant=variant, cut=chosen.cut) == chosen:
                name = self._name("default")  # the variant changes nothing here
        self.folder = Path(folder or runs_folder() / f"{name}-{_digest(identity)}")
        self._claim(self.folder, identity)
        self.encoder_folder = self.folder
        if folder is None and "encoder" in self.estimators:
            kind = slug(shared["config"]["class"])
            name = f"encoder--{kind}--{slug(self.plan.dataset)}--s{seed}-{_digest(shared)}"
            self.encoder_folder = runs_folder() / name
            self._claim(self.encoder_folder, shared)

    def _check_size(self) -> None:
        """Raise InputError if the catalogue is too small for the codes or the cut-offs."""
        n, quantizer = self.data.num_items, self.estimators.get("quantizer")
        if hasattr(quantizer, "branching"):
            from semid_lib.quantizers.hierarchical import level_sizes

            level_sizes(quantizer.branching, n)
        elif quantizer is not None:
            from semid_lib.quantizers.balanced_kmeans import check_clusters

            check_clusters(getattr(quantizer, "n_clusters", None) or quantizer.num_codes, n)
        recommender = self.estimators["recommender"]
        if self.until is None and not recommender.scores_all_items and n < max(CUTOFFS):
            raise InputError(
                f"{self.data.name!r} has {n} items, but {type(recommender).__name__} is asked for "
                f"its best {max(CUTOFFS)}: a catalogue needs as many"
            )

    def _name(self, variant: str) -> str:
        plan = self.plan
        return run_name(plan.system, variant, plan.dataset, plan.profile, self.seed)

    def _claim(self, folder: Path, identity: dict) -> None:
        """Write down whose work the folder holds, or compare."""
        path = folder / "run.json"
        if not path.exists():
            write_json(path, identity)
        elif read_json(path) != json.loads(json.dumps(identity)):
            raise CheckpointError(
                f"{folder} holds the work of a run with other settings, data or seed than "
                f"{self.name}; choose another folder or delete it"
            )

    def path(self, name: str) -> Path:
        """Where a file lies: what the encoder leaves is in a folder that runs may share."""
        ours = not name.startswith(("encoder", "embeddings"))
        return (self.folder if ours else self.encoder_folder) / name

    def stage(self, name: str, make) -> dict:
        """Return the stored result of a complete stage, or make, time and store it."""
        from semid_lib.training import TrainingPaused

        path = self.path(f"{name}.json")
        if known := agree(read_sealed(path)):
            return known
        if self.deadline is not None and agree(time.monotonic() > self.deadline):
            raise TrainingPaused(f"{self.name} paused before {name}")
        began = time.perf_counter()
        with enough_memory(f"stage {name!r} of {self.name}"):
            info = make()
        info.setdefault("seconds", time.perf_counter() - began)
        info["peak_memory"], info["peak_device_memory"] = peak_memory(self.device)
        info.update(device=device_name(self.device), commit=commit(), versions=versions())
        write_json(path, sealed(info))
        return agree(info)

    def fit(self, role: str, *inputs):
        """Fit a stage's estimator, or bring a fitted one back from its finished checkpoint."""
        if role not in self.fitted:
            estimator = self.estimators[role]
            known = inspect.signature(estimator.fit).parameters
            extra = {"deadline": self.deadline, "progress": self.progress}
            extra["checkpoint"] = self.path(f"{role}.checkpoint.safetensors")
            estimator.fit(*inputs, **{k: v for k, v in extra.items() if k in known})
            self.fitted[role] = estimator
        return self.fitted[role]

    def record(self) -> dict:
        """Run what has not run yet and assemble the record."""
        stages = {}
        if "encoder" in self.estimators:
            stages |= self._encoded()
        if "quantizer" in self.estimators:
            stages["quantizer"] = self.stage("quantizer", self.run_quantizer)
            stages["diagnostics"] = self.stage("diagnostics", self.judge_codes)
        if self.until == "quantizer":
            return self._assemble(stages, {})
        stages["recommender"] = self.stage("recommender", self.run_recommender)
        parts = {p: self.stage(p, partial(self._rank, p)) for p in ("validation", "test")}
        record = self._assemble(stages, parts)
        write_json(self.folder / "record.json", record)
        return record

    def _encoded(self) -> dict:
        """The encoder's stages, made here or by another run; one process at a time makes them."""
        todo = {"encoder": self.run_encoder, "embeddings": self.judge_vectors}
        names = {"encoder": "encoder", "embeddings": self._vectors}
        if all(read_sealed(self.path(f"{name}.json")) for name in names.values()):
            return {stage: self.stage(name, todo[stage]) for stage, name in names.items()}
        lock = self.path("encoder.lock")
        with locked(lock) as free:
            if not free:
                raise BusyError(
                    f"the encoder of {self.name} is being trained by another process in "
                    f"{self.encoder_folder}; when it is done, the same call goes on", lock,
                )  # fmt: skip
            return {stage: self.stage(name, todo[stage]) for stage, name in names.items()}

    # -------------------------------------------------------------- the stages

    @property
    def _vectors(self) -> str:
        """Name of the vectors' files, those of a snapshot apart."""
        chosen = self.plan.checkpoint
        return "embeddings" if chosen is None else f"embeddings.checkpoint-{chosen}"

    def run_encoder(self) -> dict:
        encoder = self.fit("encoder", self.split)
        self.keep_vectors(encoder)
        info = _describe(self.fitted.pop("encoder"))
        if info["curve"]:
            best = info["curve"][info["best_epoch"] - 1]
            info["diagnostics"] = {k: v for k, v in best.items() if k not in _TIMES}
        history, info["checkpoints"] = getattr(encoder, "history_", None), []
        for number, step in enumerate(sorted(history.snapshots) if history else (), start=1):
            then = encoder.at_step(step)
            self.keep_vectors(then, f"embeddings.checkpoint-{number}")
            info["checkpoints"].append({"step": step, **then.metrics(self.split)})
        return info

    def keep_vectors(self, encoder, name: str = "embeddings") -> None:
        """Store what the encoder learnt, for the quantizer."""
        import torch

        vectors = torch.from_numpy(np.ascontiguousarray(encoder.embed()))
        path = self.path(f"{name}.safetensors")
        save_tensors(path, {"vectors": vectors}, {"kind": "embeddings"})

    def vectors(self) -> np.ndarray:
        """The items' vectors that the quantizer reads, float32 `[N, D]`.

        Raises InputError if the training ended before the snapshot that the variant asks for.
        """
        path, chosen = self.path(f"{self._vectors}.safetensors"), self.plan.checkpoint
        if chosen is not None and not path.exists():
            kept = len(self.stage("encoder", self.run_encoder)["checkpoints"])
            raise InputError(f"{self.name} asks for snapshot {chosen}; the encoder has {kept}")
        return load_tensors(path, "embeddings")[0]["vectors"].numpy()

    def judge_vectors(self) -> dict:
        return {"diagnostics": judge_vectors(self.vectors(), self.split, self.communities())}

    def communities(self) -> np.ndarray:
        """Louvain communities of the train part, `[N]`, found once for each dataset and folder."""
        from semid_lib.diagnostics import co_occurrence, louvain

        alone = self.encoder_folder == self.folder
        folder = self.folder if alone else runs_folder()
        path = folder / f"communities-{slug(self.plan.dataset)}-{self.data.sha256[:10]}.json"
        if known := agree(read_sealed(path)):
            return np.array(known["communities"])
        found = louvain(co_occurrence(self.split))
        write_json(path, sealed({"communities": found.tolist()}))
        return found

    def run_quantizer(self) -> dict:
        from semid_lib.codes import SemanticIds

        vectors, began = self.vectors(), time.perf_counter()
        if self.plan.centred:
            vectors = vectors - vectors.mean(axis=0)
        quantizer = self.fit("quantizer", vectors)
        info = {"seconds": time.perf_counter() - began, **_describe(self.fitted.pop("quantizer"))}
        sizes = [int(size) for size in quantizer.level_sizes_]
        sids = SemanticIds(quantizer.codes_, sizes, catalogue=self.data.catalogue_sha256)
        sids.to_json(self.folder / "codes.json")
        return {**info, "diagnostics": judge_quantizer(quantizer, vectors)}

    def judge_codes(self) -> dict:
        return {"diagnostics": judge_codes(self.semantic_ids(), self.vectors(), self.split)}

    def semantic_ids(self, unique: bool = False):
        """The run's SemanticIds, or None for a system without codes.

        With `unique`, as recommenders read them: told apart by the plan's rule (a digit more) if
        any two items share an ID.
        """
        from semid_lib.codes import SemanticIds

        if self.sids is None and "quantizer" in self.estimators:
            self.sids = SemanticIds.from_json(self.folder / "codes.json")
        if not unique or self.sids is None or self.sids.is_unique:
            return self.sids
        return self.sids.resolve(self.plan.collisions)

    def fitted_recommender(self):
        sids = self.semantic_ids(self.estimators["recommender"].unique_ids)
        return self.fit("recommender", self.split, sids)

    def run_recommender(self) -> dict:
        recommender = self.fitted_recommender()
        recommender.save(self.folder / "recommender.safetensors")
        return _describe(recommender)

    def _rank(self, part: str) -> dict:
        import torch

        from semid_lib.evaluation import evaluate

        recommender = self.fitted_recommender()
        whole = recommender.scores_all_items or recommender.num_beams >= _FAR
        far = (_FAR,) if whole and self.split.num_items >= _FAR else ()
        result = evaluate(
            recommender, self.split, part, ks=(*CUTOFFS, *far), progress=self.progress
        )
        tensors = {"users": torch.from_numpy(result.users)}  # for paired comparisons of two runs
        for rule, ranks in result.ranks.items():
            tensors[f"{rule}.above"] = torch.from_numpy(ranks.above)
            tensors[f"{rule}.ties"] = torch.from_numpy(ranks.ties)
        save_tensors(self.folder / f"{part}.ranks.safetensors", tensors, {"kind": "ranks"})
        info = {"users": len(result), "cut": result.cut, "metrics": {}, "intervals": {}}
        for rule, name in (("all", part), ("unseen", f"{part}_unseen")):
            info["metrics"][name] = result.metrics(rule)
            info["intervals"][name] = {m: list(result.interval(m, rule)) for m in METRICS}
        info["cold_targets"] = int(self.split.cold_targets(part).sum())
        info["buckets"] = {
            label: {k: v for k, v in bucket.items() if k in ("n", "recall@10", "ndcg@10")}
            for label, bucket in result.by_bucket().items()
        }
        return info

    # -------------------------------------------------------------- the record

    def _assemble(self, stages: Mapping, parts: Mapping) -> dict:
        everything, whole = {**stages, **parts}, self.until is None
        kept = ("seconds", "samples_per_second", "outside_seconds", "utilisation", "parameters",
                "epochs", "best_epoch", "stopped", "device", "commit")  # fmt: skip
        curves = {role: s.get("curve", []) for role, s in stages.items()}
        if len(curves.get("quantizer", [])) > _POINTS:
            kept_epochs = np.linspace(0, len(curves["quantizer"]) - 1, _POINTS).round().astype(int)
            curves["quantizer"] = [curves["quantizer"][i] for i in kept_epochs]
        record = {
            "system": self.plan.system, "variant": self.plan.variant, "dataset": self.plan.dataset,
            "dataset_sha256": self.data.sha256, "profile": self.plan.profile, "seed": self.seed,
            "diagnostics": self._diagnostics(stages, parts),
            "cost": {
                "seconds": sum(s["seconds"] for s in everything.values()),
                "stages": {
                    name: {k: s[k] for k in kept if k in s} for name, s in everything.items()
                },
                "parameters": sum(s.get("parameters", 0) for s in stages.values()),
                "peak_memory": max(s["peak_memory"] for s in everything.values()),
                "peak_device_memory": max(s["peak_device_memory"] for s in everything.values()),
            },
            "config": self.config, **cut_keys(self.plan.cut),
            **{k: list(stages.values())[-1][k] for k in ("device", "versions", "commit")},
            "curve": {role: curve for role, curve in curves.items() if curve},
        }  # fmt: skip
        if not whole:
            return {**record, "until": self.until}
        for key in ("metrics", "intervals"):
            record[key] = {k: v for info in parts.values() for k, v in info[key].items()}
        return record

    def _diagnostics(self, stages: Mapping, parts: Mapping) -> dict:
        found = {}
        if "encoder" in stages:
            chosen = self.plan.checkpoint
            learnt = stages["encoder"].get("diagnostics", {})
            if chosen is not None:
                learnt = stages["encoder"]["checkpoints"][chosen - 1]
            found["encoder"] = {**learnt, **stages["embeddings"]["diagnostics"]}
        if "quantizer" in stages:
            judged = stages["diagnostics"]["diagnostics"]
            found["quantizer"] = {**judged, **stages["quantizer"]["diagnostics"]}
        if parts:
            for key in ("users", "cold_targets", "buckets"):
                found[key] = {part: info[key] for part, info in parts.items()}
            found["mrr_cut"] = parts["test"]["cut"]
        return found


def _with_precision(plan, precision: str, device: str) -> tuple:
    """`(plan, precision)`: the one asked for, else the plan's own, else the device's."""
    from semid_lib.compute.device import resolve_precision

    own = {
        s.settings["precision"] for s in plan.stages
        if "precision" in s.settings and s.role != "quantizer"
    }  # fmt: skip
    if precision == "auto" and len(own) == 1:
        return plan, resolve_precision(*own, device)
    precision = resolve_precision(precision, device)
    stages = [
        replace(s, settings={**s.settings, "precision": precision})
        if "precision" in s.settings
        else s
        for s in plan.stages
    ]
    return replace(plan, stages=tuple(stages)), precision


def _digest(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def _describe(estimator) -> dict:
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
