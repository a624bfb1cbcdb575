"""What a named system is: the presets of its stages, and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semid_lib.systems.cuts import Cut

Settings = Mapping[str, Mapping[str, Any]]  # role -> setting -> value
ROLES = ("encoder", "quantizer", "recommender")  # in the order in which they run


@dataclass(frozen=True)
class Preset:
    """A stage's class and its settings.

    Attributes:
        place: "module:Class".
        paper: the printed settings, or the recommended reading where the paper is silent.
        quick: of the quick profile, only where they differ.
    """

    place: str
    paper: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)

    def updated(self, paper: Mapping | None = None, quick: Mapping | None = None) -> Preset:
        """The same class with some settings replaced or added."""
        both = {"paper": {**self.paper, **(paper or {})}, "quick": {**self.quick, **(quick or {})}}
        return replace(self, **both)


@dataclass(frozen=True)
class Variant:
    """How a run differs from its system's preset, in both profiles.

    Attributes:
        settings: role -> settings that replace those of the preset.
        stages: role -> "module:Class" that takes the place of the preset's, with `settings` alone.
        checkpoint: which of the encoder's snapshots, 1 the first, gives the vectors.
        centred: the quantizer is given the vectors minus their mean.
        collisions: a rule of `SemanticIds.resolve` for items that share an ID.
        sweep: name of the curve that it is a point of; such variants stand in no table of systems.
    """

    settings: Settings = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    checkpoint: int | None = None
    centred: bool = False
    collisions: str = "extra_digit"
    sweep: str | None = None


@dataclass(frozen=True)
class NoText:
    """The encoder that `datasets` without text get, and what its vectors are."""

    datasets: tuple[str, ...]
    encoder: Preset
    vectors: str


@dataclass(frozen=True)
class System:
    """A named combination, its presets and its variants.

    Attributes:
        title: as the papers print it, also the name under which printed rows are found.
        recommender, quantizer, encoder: the stages that it has.
        variants: name -> `Variant`. "default" is the preset itself.
        printed: dataset -> what its paper prints for that dataset alone.
        vectors: a line on what its vectors are, where that is not the paper's choice.
        no_text: what stands in for the encoder on datasets without text.
        seeded: whether the seed changes anything (not for counting methods).
        cut: what every run of it leaves out of its paper, that of a stage only if the stage runs.
    """

    title: str
    recommender: Preset
    quantizer: Preset | None = None
    encoder: Preset | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    printed: Mapping[str, Settings] = field(default_factory=dict)
    vectors: str = ""
    no_text: NoText | None = None
    seeded: bool = True
    cut: tuple[Cut, ...] = ()

    @property
    def presets(self) -> dict[str, Preset]:
        """Role -> preset of the stages that it has, in the order in which they run."""
        every = {role: getattr(self, role) for role in ROLES}
        return {role: preset for role, preset in every.items() if preset is not None}

    @property
    def stages(self) -> dict[str, str]:
        """Role -> "module:Class", in the order in which they run."""
        return {role: preset.place for role, preset in self.presets.items()}

    @property
    def paper(self) -> dict[str, Mapping[str, Any]]:
        """Role -> settings of the paper profile."""
        return {role: preset.paper for role, preset in self.presets.items()}

    @property
    def quick(self) -> dict[str, Mapping[str, Any]]:
        """Role -> settings of the quick profile that differ, of stages that have some."""
        return {role: preset.quick for role, preset in self.presets.items() if preset.quick}


def together(*several: Settings) -> dict[str, dict[str, Any]]:
    """Settings of several sources in one, role by role; where two have a value, the later wins."""
    merged: dict[str, dict[str, Any]] = {}
    for settings in several:
        for role, values in settings.items():
            merged[role] = {**merged.get(role, {}), **values}
    return merged


def sweep(name: str, points: Mapping[str, Settings]) -> dict[str, Variant]:
    """Variants that are the points of one curve, name -> settings."""
    return {point: Variant(settings, sweep=name) for point, settings in points.items()}
