"""Before a run's first stage: what is refused, and the settings that make it this run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from semid_lib.compute.distributed import world_size
from semid_lib.errors import InputError
from semid_lib.runs.records import CUTOFFS, is_name
from semid_lib.systems import Plan, System, plan


def read_data(dataset):
    """Return `Interactions`, loaded if `dataset` is a name or a folder.

    Raises InputError unless they are called by a name that can stand in a table.
    """
    from semid_lib.data import Interactions, load_dataset

    data = dataset if isinstance(dataset, Interactions) else load_dataset(dataset)
    if not is_name(data.name):
        raise InputError(f"the data are called {data.name!r}: rename them, without < > | `")
    return data


def chosen_plan(
    system: str | System | Plan, data, profile: str, variant: str, overrides, until: str | None
) -> Plan:
    """The plan of a run; one that is given has its profile, variant and overrides in it.

    Raises InputError for a plan of other data, or beside which a variant or overrides are asked
    for; and see `systems.plan`.
    """
    if not isinstance(system, Plan):
        return plan(system, data, profile, variant, overrides, until)
    if overrides or variant != "default":
        raise InputError("a plan has its variant and overrides in it: make another plan")
    if system.dataset != data.name:
        raise InputError(f"the plan is for {system.dataset!r}, not for {data.name!r}")
    return system.up_to(until)


def with_precision(plan: Plan, precision: str, device: str) -> tuple[Plan, str]:
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


def check_until(until: str | None, system: str, estimators: Mapping) -> None:
    """Raise InputError unless a run of the system can end there."""
    if until is None or (until == "quantizer" and until in estimators):
        return
    known = " or 'quantizer'" if "quantizer" in estimators else ""
    raise InputError(f"until is {until!r}, but {system} can run until None{known}")


def check_size(data, estimators: Mapping, until: str | None) -> None:
    """Raise InputError if the catalogue is too small for the codes or the cut-offs."""
    n, quantizer = data.num_items, estimators.get("quantizer")
    if hasattr(quantizer, "branching"):
        from semid_lib.quantizers.hierarchical import level_sizes

        level_sizes(quantizer.branching, n)
    elif quantizer is not None:
        from semid_lib.quantizers.balanced_kmeans import check_clusters

        check_clusters(getattr(quantizer, "n_clusters", None) or quantizer.num_codes, n)
    recommender = estimators["recommender"]
    if until is None and not recommender.scores_all_items and n < max(CUTOFFS):
        raise InputError(
            f"{data.name!r} has {n} items, but {type(recommender).__name__} is asked for "
            f"its best {max(CUTOFFS)}: a catalogue needs as many"
        )


def settings_of(estimators: Mapping) -> dict[str, dict]:
    """Class and settings of each role's estimator, but for the device, which changes no result."""
    found = {}
    for role, estimator in estimators.items():
        found[role] = {"class": type(estimator).__name__, **estimator.get_params()}
        found[role].pop("device", None)
    return found


def configuration(plan: Plan, estimators: Mapping, precision: str) -> dict:
    """Return all settings of a run, as its record shows them."""
    config = settings_of(estimators)
    config["evaluation"] = {"ks": list(CUTOFFS), "seen_items": "ranked, and excluded"}
    config["precision"] = precision
    if world_size() > 1:
        config["processes"] = world_size()
    if plan.checkpoint is not None:
        config["checkpoint"] = plan.checkpoint
    if plan.centred:
        config["centred"] = True
    if plan.collisions != "extra_digit":
        config["collisions"] = plan.collisions
    return config
