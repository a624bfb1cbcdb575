"""All named systems, by name and by what the papers print."""

from __future__ import annotations

from semid_lib.systems import acerec, floors, resid, sequential, tiger, tokenizers
from semid_lib.systems.system import System

#: Name -> system. Only the files of `systems/` know the papers' names for combinations.
SYSTEMS: dict[str, System] = {
    **resid.SYSTEMS,
    **tiger.SYSTEMS,
    **sequential.SYSTEMS,
    **tokenizers.SYSTEMS,
    **acerec.SYSTEMS,
    **floors.SYSTEMS,
}
FLOORS = tuple(name for name, system in SYSTEMS.items() if not system.seeded)
TOKENIZERS = tokenizers.TOKENIZERS
#: The curves that variants are points of (`Variant.sweep`).
SWEEPS = tuple(
    dict.fromkeys(
        variant.sweep
        for system in SYSTEMS.values()
        for variant in system.variants.values()
        if variant.sweep is not None
    )
)


def title(name: str) -> str:
    """Return the printed name of a system; any other name is returned as it is."""
    return SYSTEMS[name].title if name in SYSTEMS else name


def system_printed_as(printed: str) -> str | None:
    """Return the system that the papers print under this name, or None."""
    return next((name for name, system in SYSTEMS.items() if system.title == printed), None)


def sweep_of(system: str, variant: str) -> str | None:
    """Return which of `SWEEPS` a variant is a point of; None for others and for unknown names."""
    known = SYSTEMS[system].variants if system in SYSTEMS else {}
    return known[variant].sweep if variant in known else None
