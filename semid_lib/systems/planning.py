"""Named systems: which encoder, quantizer and recommender, with which settings.

Only this module knows the papers' names for combinations; `planning.toml` beside it holds them with
their settings and sources. A system has a paper preset (the printed settings, and the recommended
reading where the paper is silent) and a quick preset, which only says where it differs; a variant
overrules both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from semid_lib.errors import InputError
from semid_lib.settings import check_settings, meant, of_python, setting_names, whole

Settings = Mapping[str, Mapping[str, Any]]  # role -> setting -> value
ROLES = ("encoder", "quantizer", "recommender")  # in the order in which they run


@dataclass(frozen=True)
class System:
    """A named combination and its presets.

    Attributes:
        title: as the papers print it, also the name under which printed rows are found.
        stages: role -> "module:Class", in the order in which they run.
        paper, quick: settings of each stage; `quick` only where it differs from `paper`.
        variants: name -> settings that replace those of the preset. "default" replaces nothing.
            Beside the stages' roles, "embed" may hold `checkpoint`: which of the encoder's
            snapshots, 1 the first, gives the vectors; and `centred`: the quantizer is given the
            vectors minus their mean. "codes" may hold `collisions`, a rule of
            `SemanticIds.resolve` for items that share an ID. A stage with a `class` of its own
            takes the place of the preset's, in both profiles, with these settings alone.
        printed: dataset -> what its paper prints for that dataset alone.
        vectors: a line on what its vectors are, where that is not the paper's choice.
        no_text: `datasets` without text, and the encoder that they get: its `class`, `paper` and
            `quick` settings, and `vectors`.
        seeded: whether the seed changes anything (not for counting methods).
        cut: what every run of it leaves out of its paper; "ROLE: ..." only if that stage runs.
    """

    title: str
    stages: Mapping[str, str]
    paper: Settings
    quick: Settings = field(default_factory=dict)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    printed: Mapping[str, Settings] = field(default_factory=dict)
    vectors: str = ""
    no_text: Mapping[str, Any] = field(default_factory=lambda: {"datasets": ()})
    seeded: bool = True
    cut: tuple[str, ...] = ()


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
    cut: tuple[str, ...]
    checkpoint: int | None = None
    centred: bool = False
    collisions: str = "extra_digit"


def _merged(below: dict, above: dict) -> dict:
    """Two tables in one; where both have a value, `above` wins."""
    both = {k: _merged(below[k], v) for k, v in above.items() if isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def _resolved(value, shared: dict):
    """A value of the file in Python: `like` filled in, a list as a tuple, "null" as None."""
    if isinstance(value, list):
        return tuple(_resolved(v, shared) for v in value)
    if not isinstance(value, dict):
        return None if value == "null" else value
    own = {key: _resolved(v, shared) for key, v in value.items() if key != "like"}
    base: dict = {}
    for name in value.get("like", "").split():
        base = _merged(base, _resolved(shared[name], shared))
    return _merged(base, own)


def _system(about: dict) -> System:
    """A system of its table in the file."""
    stages = {role: about.pop(role) for role in ROLES if role in about}
    return System(
        stages={role: stage["class"] for role, stage in stages.items()},
        paper={role: stage.get("paper", {}) for role, stage in stages.items()},
        quick={role: stage["quick"] for role, stage in stages.items() if "quick" in stage},
        **about,
    )


_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_TABLES = _resolved({**_FILE, "shared": {}}, _FILE["shared"])
SYSTEMS: dict[str, System] = {name: _system(about) for name, about in _TABLES["systems"].items()}
FLOORS = tuple(name for name, system in SYSTEMS.items() if not system.seeded)
#: Systems that differ in their quantizer alone; how variants begin that trace a curve; branchings.
TOKENIZERS, SWEEPS, BRANCHING = (_TABLES[key] for key in ("tokenizers", "sweeps", "branching"))


def branching(dataset: str, num_items: int) -> tuple:
    """Choose a tree's branching: the table's, else b1 : b2 about 4 : 5 with b1 * b2 about n/14.

    2 at least, since a level with one code says nothing.
    """
    if dataset in BRANCHING:
        return *BRANCHING[dataset], "auto"
    prefixes = max(num_items / 14, 1)
    first = max(round((0.8 * prefixes) ** 0.5), 2)
    return first, max(round(prefixes / first), 2), "auto"


def title(name: str) -> str:
    """Return the printed name of a system; any other name is returned as it is."""
    return SYSTEMS[name].title if name in SYSTEMS else name


def system_printed_as(printed: str) -> str | None:
    """Return the system that the papers print under this name, or None."""
    return next((name for name, system in SYSTEMS.items() if system.title == printed), None)


def plan(
    name: str,
    data,
    profile: str = "quick",
    variant: str = "default",
    overrides: Settings | None = None,
    until: str | None = None,
) -> Plan:
    """Fix every setting of a run, and say what it cuts.

    Args:
        data: the `Interactions`; its name, size and fields decide a few settings.
        profile: "quick" or "paper".
        variant: "default" or one of the system's.
        overrides: role -> setting -> value, on top of everything.
        until: the last role that runs; `cut` is silent about those after it.

    Raises:
        InputError: an unknown system, profile, variant or role.
    """
    if name not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise InputError(f"unknown system {name!r}{meant(name, SYSTEMS)}; there are {known}")
    system, overrides = SYSTEMS[name], of_python(dict(overrides or {}))
    if profile not in ("quick", "paper"):
        raise InputError(f"profile is {profile!r}, but must be 'quick' or 'paper'")
    if variant != "default" and variant not in system.variants:
        known = ["default", *system.variants]
        close = meant(variant, known)
        raise InputError(f"{name} has no variant {variant!r}{close}; it has {', '.join(known)}")
    for role in overrides.keys() - system.stages.keys():
        known = ", ".join(system.stages)
        close = meant(role, system.stages)
        raise InputError(f"{name} has no stage {role!r} to change{close}; it has {known}")
    stages, changed, chosen = [], [], system.variants.get(variant, {})
    for role in system.stages:
        place, paper, quick = _presets(system, role, data)
        varied = dict(chosen.get(role, {}))
        if "class" in varied:
            changed.append(
                f"{role} {_named(varied['class'])} (paper {_named(system.stages[role])})"
            )
            place, paper, quick = varied.pop("class"), {}, {}
        printed = {**paper, **varied}
        smaller = quick if profile == "quick" else {}
        settings = {**printed, **smaller, **varied, **overrides.get(role, {})}
        for key, value in settings.items():
            of_the_quick = profile == "quick" and key == "patience_steps"  # it never runs so long
            silent = key == "snapshot_epochs" or of_the_quick
            if not silent and (key not in printed or printed[key] != value):
                paper = f" (paper {printed[key]})" if key in printed else ""
                changed.append(f"{role} {key} {value}{paper}")
        if "steps" in settings:
            for key in ("steps", "batch_size"):
                if not whole().holds(settings[key]):
                    raise InputError(f"{key} is {settings[key]!r}, but {whole().words}")
            batches = -(-data.num_items // settings["batch_size"])
            settings = {"epochs": -(-settings.pop("steps") // batches), **settings}
        stages.append(Stage(role, place, settings))
    roles = list(system.stages)
    later = roles[roles.index(until) + 1 :] if until in roles else []
    changed = [text for text in changed if text.split()[0] not in later]
    read = [s.settings.get(key, ()) for s in stages for key in ("field_names", "attributes")]
    cut = [text for text in system.cut if text.split(":")[0] not in later]
    bare = data.name in system.no_text["datasets"] or "class" in chosen.get("encoder", {})
    cut += _data_cuts(system, data, bare, any(names != () for names in read))
    if changed:
        cut.append("settings: " + ", ".join(changed))
    more = {**chosen.get("embed", {}), **chosen.get("codes", {})}
    return Plan(name, variant, data.name, profile, tuple(stages), tuple(cut), **more)


def _named(place: str) -> str:
    return place.split(":")[1]


def _presets(system: System, role: str, data) -> tuple[str, Mapping, Mapping]:
    """Class, paper and quick settings of a stage, with what the data decide."""
    if role == "encoder" and data.name in system.no_text["datasets"]:
        other = system.no_text
        return other["class"], other["paper"], other.get("quick", {})
    paper = {**system.paper[role], **system.printed.get(data.name, {}).get(role, {})}
    if "branching" in paper:
        paper["branching"] = branching(data.name, data.num_items)
    return system.stages[role], paper, system.quick.get(role, {})


def _data_cuts(system: System, data, bare: bool, reads_fields: bool) -> list[str]:
    """What the dataset itself changes against ReSID's (Amazon-2023, five complete fields)."""
    if not system.seeded:
        return []
    if system.vectors:
        return [system.no_text["vectors"] if bare else system.vectors]
    cuts = []
    if data.name in _TABLES["amazon_2014"]:
        cuts.append("data: Amazon-2014, and ReSID's settings were printed for Amazon-2023")
    if reads_fields:
        names = ", ".join(["item", *data.fields])
        cuts.append(f"fields: {names} (ReSID: item, store, category levels 1 to 3)")
        shares = {name: (values < 0).mean() for name, values in data.fields.items()}
        missing = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
        if missing:
            cuts.append(f"items without a value are kept: {missing} (ReSID drops them)")
    return cuts
