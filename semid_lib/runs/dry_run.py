"""What a run would cost: its models built for real, a few steps measured, the rest extrapolated."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from semid_lib.recommenders import ItemModel
from semid_lib.runs.pipeline import Work
from semid_lib.runs.provenance import device_name, peak_memory
from semid_lib.runs.stages import RUN, count_parameters, keep_vectors, networks

_LONG = 20.0  # seconds in steps after which even fewer steps will do


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a run would cost; `reports.table(frame, caption, kinds)` shows it.

    Attributes:
        frame: one row a stage, the last one all of them: parameters, steps of all epochs, seconds
            a step and in all, peak memory of this process so far. Empty text where a number means
            nothing.
        caption: the run, its device and how it was measured.
        kinds: column -> a kind of `reports.format_number`.
    """

    frame: pd.DataFrame
    caption: str
    kinds: dict[str, str]


def estimate(system: str, dataset, *, steps: int = 3, users: int = 64, **settings) -> Estimate:
    """Estimate a run's parameters, time and memory without doing it.

    Builds every model, takes a few real steps of each training (the first, which warm up, are left
    out where others follow), ranks some users with the hardly trained models, and extrapolates to
    all epochs. `settings` as `pipeline.run`, but for `folder`, `deadline` and `progress`.

    Args:
        steps: how many steps of each training to measure at least.
        users: how many users to rank.

    Returns:
        The `Estimate`. Early stopping only shortens its times.

    Cost: seconds on a GPU, up to minutes on a CPU in the paper profile.
    """
    with tempfile.TemporaryDirectory(prefix="semid-") as folder:
        work = Work(system, dataset, folder=folder, progress=False, **settings)
        rows = [row for role in work.estimators for row in _try_out(work, role, steps, users)]
    frame = pd.DataFrame(rows, columns=["stage", "parameters", "steps", "step", "time", "memory"])
    total = {"stage": "all", "parameters": frame["parameters"].sum(), "time": frame["time"].sum()}
    frame = pd.concat([frame, pd.DataFrame([{**total, "memory": frame["memory"].max()}])])
    caption = (
        f"{work.name} on {device_name(work.device)}\na few steps and {users} users measured, "
        "extrapolated to all epochs; early stopping shortens it"
    )
    kinds = {"parameters": "count", "steps": "count", "step": "seconds", "time": "seconds"}
    cells = frame.reset_index(drop=True).astype(object).fillna("")  # what means nothing is empty
    return Estimate(cells, caption, {**kinds, "memory": "bytes"})


def _try_out(work: Work, role: str, steps: int, users: int) -> list[dict]:
    """Fit a stage for a few steps (whole, if it does not train), use it a little, extrapolate."""
    estimator, began = work.estimators[role], time.perf_counter()
    measured = _first_steps(work, role, steps)
    row = {"stage": role, "time": time.perf_counter() - began}
    if measured is not None:
        step, total = measured
        row.update(steps=total, step=step, time=step * total)
        for network in networks(estimator):
            network.eval()
        work.fitted[role] = estimator
        if isinstance(estimator, ItemModel):
            estimator.remember(work.split)  # hardly trained, yet it knows the catalogue
    rows = [{**row, "parameters": count_parameters(estimator)}]
    if role == "encoder" and measured is not None:
        keep_vectors(work, estimator)  # for the next stage
        began = time.perf_counter()
        estimator.metrics(work.split)
        seconds = estimator.epochs * (time.perf_counter() - began)
        rows.append({"stage": "encoder, validation after each epoch", "time": seconds})
    if role == "recommender":
        rows += _time_ranking(work, estimator, users)
    return [{**r, "memory": max(peak_memory(work.device))} for r in rows]


def _first_steps(work: Work, role: str, steps: int) -> tuple[float, int] | None:
    """`(seconds a step, steps of all epochs)`, or None if the stage is over before."""
    from semid_lib.training import TrainingPaused

    marks, allowance = [], 0.1
    while not marks or (marks[-1].step < steps and marks[-1].seconds < _LONG):
        work.deadline = time.monotonic() + allowance
        try:
            RUN[role](work)
            return None
        except TrainingPaused as pause:
            marks += [pause] * (pause.step > 0)
        finally:
            work.deadline = None
        allowance *= 2  # preparing may take longer than the first allowances
    first, last = marks[0], marks[-1]
    if last.step == first.step:
        return last.seconds / last.step, last.total_steps
    return (last.seconds - first.seconds) / (last.step - first.step), last.total_steps


def _time_ranking(work: Work, recommender, users: int) -> list[dict]:
    """Time the ranking of a few users, for each epoch's validation and for the two parts."""
    from semid_lib.evaluation import evaluate

    everyone = work.split.users
    chosen = np.sort(np.random.default_rng(0).permutation(everyone)[:users])
    began = time.perf_counter()
    evaluate(recommender, work.split, "validation", users=chosen, progress=False)
    each = (time.perf_counter() - began) / max(len(chosen), 1)
    settings = recommender.get_params()
    asked = settings.get("validate_users")
    asked = len(everyone) if asked is None else min(asked, len(everyone))
    rows = [{"stage": "validation and test", "time": 2 * each * len(everyone)}]
    if "epochs" in settings:
        seconds = settings["epochs"] * each * asked
        rows.insert(0, {"stage": "recommender, validation after each epoch", "time": seconds})
    return rows
