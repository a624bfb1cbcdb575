"""One run: data, encoder, quantizer, semantic IDs, recommender, evaluation, record.

Each stage leaves its result in a work folder as soon as it is complete, and a training stage its
checkpoint. So a run that was stopped at any moment, by the deadline or by `kill -9`, goes on where
it was and ends with the same record. Encoders have folders of their own, so that all runs whose
encoder, data and seed are equal train it once. Under `torchrun` a run is that of several processes
(`semid_lib.compute.distributed`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from semid_lib import systems
from semid_lib.compute.distributed import join
from semid_lib.compute.threads import one_thread
from semid_lib.errors import InputError
from semid_lib.runs import stages
from semid_lib.runs.assemble import assemble
from semid_lib.runs.locks import BusyError, locked
from semid_lib.runs.preparation import (
    check_size,
    check_until,
    chosen_plan,
    configuration,
    read_data,
    with_precision,
)
from semid_lib.runs.records import run_name, slug
from semid_lib.runs.workspace import Workspace, digest, runs_folder
from semid_lib.settings import SEED
from semid_lib.storage import read_sealed, write_json


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


class Work(Workspace):
    """A run's plan, estimators and folders; arguments as `run`.

    Attributes:
        plan: the `systems.Plan`. config: all settings, as the record shows them.
        data, split: what is learnt from. estimators: role -> estimator, not fitted.
        fitted: role -> estimator, of stages that ran in this process.
        encoder_folder: where the encoder's files lie, which several runs may share.
    """

    def __init__(
        self, system, dataset, *, profile="quick", variant="default", until=None, seed=0,
        device="auto", precision="auto", overrides=None, folder=None, deadline=None, progress=None,
    ):  # fmt: skip
        from semid_lib.compute.device import resolve_device
        from semid_lib.data import leave_one_out

        given = system if isinstance(system, systems.Plan) else None
        device = join(resolve_device(device, given.profile if given else profile))
        self.data = read_data(dataset)
        chosen = chosen_plan(system, self.data, profile, variant, overrides, until)
        self.plan, precision = with_precision(chosen, precision, device)
        if not SEED.holds(seed):
            raise InputError(f"seed is {seed!r}, but {SEED.words}")
        self.seed = int(seed)
        self.split = leave_one_out(self.data)
        around = {"random_state": self.seed, "device": device, "precision": precision}
        self.estimators = {s.role: s.build(**around) for s in self.plan.stages}
        check_until(until, chosen.system, self.estimators)
        check_size(self.data, self.estimators, until)
        self.until = until
        self.config = configuration(self.plan, self.estimators, precision)
        self.fitted: dict[str, object] = {}
        name = own = self._name(chosen.variant)
        if given is None:
            same = systems.plan(system, self.data, profile, "default", overrides)
            if replace(same, variant=variant, cut=chosen.cut) == chosen:
                name = self._name("default")  # the variant changes nothing here
        data = {"data": self.data.sha256, "contents": self.data.contents_sha256}
        identity = {"config": self.config, **data, "seed": self.seed}
        around = {"device": device, "deadline": deadline, "progress": progress}
        super().__init__(own, folder or runs_folder() / f"{name}-{digest(identity)}", **around)
        self.claim(self.folder, identity)
        self.encoder_folder = self.folder
        if folder is None and "encoder" in self.estimators:
            shared = {"config": self.config["encoder"], **data}
            kind, named = slug(shared["config"]["class"]), slug(self.plan.dataset)
            name = f"encoder--{kind}--{named}--s{self.seed}-{digest(shared)}"
            self.encoder_folder = runs_folder() / name
            self.claim(self.encoder_folder, shared)

    def _name(self, variant: str) -> str:
        plan = self.plan
        return run_name(plan.system, variant, plan.dataset, plan.profile, self.seed)

    def path(self, name: str) -> Path:
        """Where a file lies: what the encoder leaves is in a folder that runs may share."""
        ours = not name.startswith(("encoder", "embeddings"))
        return (self.folder if ours else self.encoder_folder) / name

    def fit(self, role: str, *inputs):
        """Fit a stage's estimator, or bring a fitted one back from its finished checkpoint."""
        if role not in self.fitted:
            estimator = self.estimators[role]
            self.train(estimator, role, *inputs)
            self.fitted[role] = estimator
        return self.fitted[role]

    def run_stage(self, name: str, make) -> dict:
        """The result of `make(self)`, stored or made now, of the stage of this name."""
        return self.stage(name, partial(make, self))

    def record(self) -> dict:
        """Run what has not run yet and assemble the record."""
        done = {}
        if "encoder" in self.estimators:
            done |= self._encoded()
        if "quantizer" in self.estimators:
            done["quantizer"] = self.run_stage("quantizer", stages.RUN["quantizer"])
            done["diagnostics"] = self.run_stage("diagnostics", stages.judge_codes)
        if self.until == "quantizer":
            return assemble(self, done, {})
        done["recommender"] = self.run_stage("recommender", stages.RUN["recommender"])
        parts = {
            part: self.run_stage(part, partial(stages.rank, part=part))
            for part in ("validation", "test")
        }
        record = assemble(self, done, parts)
        write_json(self.folder / "record.json", record)
        return record

    def _encoded(self) -> dict:
        """The encoder's stages, made here or by another run; one process at a time makes them."""
        todo = {"encoder": stages.RUN["encoder"], "embeddings": stages.judge_vectors}
        names = {"encoder": "encoder", "embeddings": stages.vectors_name(self)}

        def run_both():
            return {stage: self.run_stage(name, todo[stage]) for stage, name in names.items()}

        if all(read_sealed(self.path(f"{name}.json")) for name in names.values()):
            return run_both()
        lock = self.path("encoder.lock")
        with locked(lock) as free:
            if not free:
                raise BusyError(
                    f"the encoder of {self.name} is being trained by another process in "
                    f"{self.encoder_folder}; when it is done, the same call goes on", lock,
                )  # fmt: skip
            return run_both()
