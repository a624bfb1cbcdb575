"""The record of a run, put together from what its stages left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from semid_lib.runs.records import cut_keys

if TYPE_CHECKING:
    from semid_lib.runs.pipeline import Work

_POINTS = 100  # most epochs of a tokenizer's curve that a record holds
_COSTS = (
    "seconds", "samples_per_second", "outside_seconds", "utilisation", "parameters", "epochs",
    "best_epoch", "stopped", "device", "commit",
)  # fmt: skip


def assemble(work: Work, stages: Mapping, parts: Mapping) -> dict:
    """Return the record (keys: `records.RECORD_KEYS`, or `CODE_KEYS` of a run until its codes).

    Args:
        stages: name -> result of the stages before the ranking, in the order in which they ran.
        parts: "validation" and "test" -> what `stages.rank` returned; empty if the run ended
            with its codes.
    """
    record = {
        "system": work.plan.system, "variant": work.plan.variant, "dataset": work.plan.dataset,
        "dataset_sha256": work.data.sha256, "profile": work.plan.profile, "seed": work.seed,
        "diagnostics": _diagnostics(work, stages, parts), "cost": _cost(stages, parts),
        "config": work.config, **cut_keys(work.plan.cut),
        **{k: list(stages.values())[-1][k] for k in ("device", "versions", "commit")},
        "curve": _curves(stages),
    }  # fmt: skip
    if work.until is not None:
        return {**record, "until": work.until}
    for key in ("metrics", "intervals"):
        record[key] = {k: v for info in parts.values() for k, v in info[key].items()}
    return record


def _cost(stages: Mapping, parts: Mapping) -> dict:
    """Seconds, memory and parameters, of all and of each stage."""
    everything = {**stages, **parts}
    return {
        "seconds": sum(s["seconds"] for s in everything.values()),
        "stages": {name: {k: s[k] for k in _COSTS if k in s} for name, s in everything.items()},
        "parameters": sum(s.get("parameters", 0) for s in stages.values()),
        "peak_memory": max(s["peak_memory"] for s in everything.values()),
        "peak_device_memory": max(s["peak_device_memory"] for s in everything.values()),
    }


def _curves(stages: Mapping) -> dict:
    """The epochs of each stage that trained, of a tokenizer evenly chosen ones."""
    curves = {role: stage["curve"] for role, stage in stages.items() if stage.get("curve")}
    if len(curves.get("quantizer", [])) > _POINTS:
        chosen = np.linspace(0, len(curves["quantizer"]) - 1, _POINTS).round().astype(int)
        curves["quantizer"] = [curves["quantizer"][i] for i in chosen]
    return curves


def _diagnostics(work: Work, stages: Mapping, parts: Mapping) -> dict:
    found = {}
    if "encoder" in stages:
        chosen = work.plan.checkpoint
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
