"""A system with all its settings fixed: what a run computes, and what it leaves out.

A system has a paper preset and a quick preset, which only says where it differs; a variant
overrules both, and overrides come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from semid_lib.errors import InputError
from semid_lib.settings import check_settings, meant, of_python, setting_names, whole
from semid_lib.systems.cuts import Cut
from semid_lib.systems.registry import SYSTEMS
from semid_lib.systems.system import Preset, Settings, System, Variant
from semid_lib.systems.trees import branching

#: The sets of Amazon-2014 that stand in for ReSID's Amazon-2023 ones.
AMAZON_2014 = (
    "beauty", "beauty-complete", "sports", "toys", "clothing", "instruments", "office", "baby",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One estimator to build: its role, its class and its settings."""

    role: str
    place: str
    settings: Mapping[str, Any]

    def build(self, **surroundings):
        """Create the estimator, with those of `random_state`, `device`, `precision` that it knows.

        The settings overrule them. Raises InputError for a setting that the class does not have,
        or that is out of its range.
        """
        module, name = self.place.split(":")
        kind = getattr(import_module(module), name)
        known = setting_names(kind)
        for name in self.settings:
            if name not in known:
                has = ", ".join(known) or "none"
                raise InputError(
                    f"{kind.__name__} has no setting {name!r}{meant(name, known)}; it has {has}"
                )
        around = {name: value for name, value in surroundings.items() if name in known}
        estimator = kind(**{**around, **self.settings})
        check_settings(estimator)
        return estimator


@dataclass(frozen=True)
class Plan:
    """All that decides what a run computes, but for seed, device and precision.

    `stages` stand in the order in which they run; `cut` says what differs from the paper;
    `checkpoint` is the encoder's snapshot to embed, None for the weights that validation chose;
    `centred` takes the mean off the vectors that the quantizer is given; `collisions` is the rule
    for items that share an ID, where the recommender wants them apart.
    """

    system: str
    variant: str
    dataset: str
    profile: str
    stages: tuple[Stage, ...]
    cut: tuple[Cut, ...]
    checkpoint: int | None = None
    centred: bool = False
    collisions: str = "extra_digit"

    def up_to(self, role: str | None) -> Plan:
        """The plan of a run that ends with a role (None: the last): silent about later cuts."""
        roles = [stage.role for stage in self.stages]
        later = roles[roles.index(role) + 1 :] if role in roles else []
        return replace(self, cut=tuple(cut for cut in self.cut if cut.stage not in later))


def plan(
    system: str | System,
    data,
    profile: str = "quick",
    variant: str = "default",
    overrides: Settings | None = None,
    until: str | None = None,
) -> Plan:
    """Fix every setting of a run, and say what it cuts.

    Args:
        system: a name of `SYSTEMS`, or a `System`, whose title is then its name.
        data: the `Interactions`; its name, size and fields decide a few settings.
        profile: "quick" or "paper".
        variant: "default" or one of the system's.
        overrides: role -> setting -> value, on top of everything.
        until: the last role that runs; `cut` is silent about those after it.

    Raises:
        InputError: an unknown system, profile, variant or role.
    """
    name, system = _named(system)
    overrides = of_python(dict(overrides or {}))
    chosen = _checked(name, system, profile, variant, overrides)
    stages, changed = [], []
    for role in system.presets:
        stage, cuts = _stage(system, role, data, profile, chosen, overrides.get(role, {}))
        stages.append(stage)
        changed += cuts
    read = [s.settings.get(key, ()) for s in stages for key in ("field_names", "attributes")]
    of_data = _data_cuts(system, data, chosen, any(names != () for names in read))
    made = Plan(
        name, variant, data.name, profile, tuple(stages), (*system.cut, *of_data, *changed),
        checkpoint=chosen.checkpoint, centred=chosen.centred, collisions=chosen.collisions,
    )  # fmt: skip
    return made.up_to(until)


def _named(system: str | System) -> tuple[str, System]:
    if isinstance(system, System):
        return system.title, system
    if system not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise InputError(f"unknown system {system!r}{meant(system, SYSTEMS)}; there are {known}")
    return system, SYSTEMS[system]


def _checked(name: str, system: System, profile: str, variant: str, overrides) -> Variant:
    """The variant, once it, the profile and the roles of the overrides are known to exist."""
    if profile not in ("quick", "paper"):
        raise InputError(f"profile is {profile!r}, but must be 'quick' or 'paper'")
    if variant != "default" and variant not in system.variants:
        known = ["default", *system.variants]
        close = meant(variant, known)
        raise InputError(f"{name} has no variant {variant!r}{close}; it has {', '.join(known)}")
    for role in overrides.keys() - system.presets.keys():
        known = ", ".join(system.presets)
        close = meant(role, system.presets)
        raise InputError(f"{name} has no stage {role!r} to change{close}; it has {known}")
    return system.variants.get(variant, Variant())


def _stage(
    system: System, role: str, data, profile: str, chosen: Variant, overrides: Mapping
) -> tuple[Stage, list[Cut]]:
    """A stage with its settings, and those that are not the paper's."""
    preset, changed = _preset(system, role, data), []
    if role in chosen.stages:
        ours, paper = (place.split(":")[1] for place in (chosen.stages[role], system.stages[role]))
        changed.append(Cut("setting", role, "class", ours, paper))
        preset = Preset(chosen.stages[role])
    varied = _of_data(chosen.settings.get(role, {}), data)
    printed = {**_of_data(preset.paper, data), **varied}
    smaller = preset.quick if profile == "quick" else {}
    settings = {**printed, **smaller, **varied, **_of_data(overrides, data)}
    for key, value in settings.items():
        of_the_quick = profile == "quick" and key == "patience_steps"  # it never runs so long
        silent = key == "snapshot_epochs" or of_the_quick
        if not silent and (key not in printed or printed[key] != value):
            paper = str(printed[key]) if key in printed else None
            changed.append(Cut("setting", role, key, str(value), paper))
    if "steps" in settings:
        settings = _in_epochs(settings, data.num_items)
    return Stage(role, preset.place, settings), changed


def _preset(system: System, role: str, data) -> Preset:
    """A stage's preset: for data without text another encoder, for some what is printed for it."""
    if role == "encoder" and system.no_text is not None and data.name in system.no_text.datasets:
        return system.no_text.encoder
    return system.presets[role].updated(system.printed.get(data.name, {}).get(role))


def _of_data(settings: Mapping, data) -> dict[str, Any]:
    """Settings in which `branching`, where it stands for a value, has given its answer."""
    chosen = branching(data.name, data.num_items)
    return {key: chosen if value is branching else value for key, value in settings.items()}


def _in_epochs(settings: Mapping, num_items: int) -> dict[str, Any]:
    """Settings whose `steps` are told in epochs of all items."""
    for key in ("steps", "batch_size"):
        if not whole().holds(settings[key]):
            raise InputError(f"{key} is {settings[key]!r}, but {whole().words}")
    batches = -(-num_items // settings["batch_size"])
    others = {key: value for key, value in settings.items() if key != "steps"}
    return {"epochs": -(-settings["steps"] // batches), **others}


def _data_cuts(system: System, data, chosen: Variant, reads_fields: bool) -> list[Cut]:
    """What the dataset itself changes against ReSID's (Amazon-2023, five complete fields)."""
    if not system.seeded:
        return []
    if system.vectors:
        other = system.no_text
        replaced = "encoder" in chosen.stages or (other and data.name in other.datasets)
        return [Cut("vectors", note=other.vectors if replaced else system.vectors)]
    cuts = []
    if data.name in AMAZON_2014:
        note = "Amazon-2014, and ReSID's settings were printed for Amazon-2023"
        cuts.append(Cut("data", note=note))
    if reads_fields:
        names = ", ".join(["item", *data.fields])
        note = f"{names} (ReSID: item, store, category levels 1 to 3)"
        cuts.append(Cut("fields", note=note))
        shares = {name: (values < 0).mean() for name, values in data.fields.items()}
        missing = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
        if missing:
            cuts.append(Cut("missing", note=f"{missing} (ReSID drops them)"))
    return cuts
