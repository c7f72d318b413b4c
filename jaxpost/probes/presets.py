"""Three sets of probes by price: `economy`, `standard`, `full`, each with its settings, cadence and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpost.lookup import nearest
from jaxpost.probes import base, catalog, schedules


@dataclass(frozen=True)
class Preset:
    """Probes with settings; `budget` is a share of the training time (None: no limit), `every` the default cadence."""

    name: str
    tells: str
    listed: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]  # (id, settings); empty: every probe that any model has
    budget: float | None
    every: int  # steps between measurements

    @property
    def members(self) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]:
        """(id, settings) of its probes."""
        return self.listed or tuple((row.id, ()) for row in catalog.rows() if row.make and row.room and not row.by_name)


_SMALL = (("ks", (16,)), ("alphas", (0.5,)))
_ECONOMY = (("loss_tokens", ()), ("weight", (("spectra", "none"), *_SMALL)))
# without draws of blind updates, which would double the price of a measurement: ranks then have no null
_STANDARD = (("loss_tokens", ()), ("weight", (("spectra", "top"), ("rank_draws", 0), *_SMALL)), ("weight.stripes", ()),
             ("distance", ()))

PRESETS = {preset.name: preset for preset in (
    Preset("economy", "element-wise statistics of the weights, and what the train step has anyway", _ECONOMY, 0.03, 100),
    Preset("standard", "and the leading subspaces of every matrix, stripes, L1 and spectral norms", _STANDARD, 0.10, 150),
    Preset("full", "every probe that any model has: exact spectra, policy, gradients, trajectories", (), None, 100),
)}


def cheaper(name: str) -> str | None:
    """The next lower preset, or None."""
    names = list(PRESETS)
    place = names.index(name)
    return names[place - 1] if place else None


def get(names: Sequence[str], subject: catalog.Subject = catalog.NOTHING, schedule: schedules.Schedule | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[base.Probe, ...]:
    """The probes of presets and single ids, each once, in order; a later setting of one id replaces an earlier one.

    Args:
      names: presets and ids of the catalogue.
      subject: what they may measure.
      schedule: when they are due (a user's own with a schedule keeps it); None: every `Preset.every` steps, single ids
        at their class's own.
      settings: id -> settings that win over the preset's.

    Raises:
      ValueError: an unknown name (the nearest is named), nothing named, or what `catalog.get` refuses.
    """
    if not names:
        raise ValueError(f"no probe is named{nearest('', (*PRESETS, *catalog.CATALOG))}")
    settings_of: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in PRESETS and name not in catalog.CATALOG:
            raise ValueError(f"probe or preset {name!r} is not known{nearest(name, (*PRESETS, *catalog.CATALOG))}")
        preset = PRESETS.get(name)
        for member, given in preset.members if preset else ((name, ()),):
            cadence = {"schedule": schedules.Every(preset.every, preset.every)} if preset else {}
            settings_of[member] = cadence | dict(given)
    for member, given in (settings or {}).items():
        if member in settings_of:
            settings_of[member] |= given
    if schedule is not None:
        for member in settings_of:
            settings_of[member]["schedule"] = catalog.entry(member).schedule or schedule
    return tuple(catalog.get(member, subject=subject, **given) for member, given in settings_of.items())


def budget(names: Sequence[str]) -> float | None:
    """The smallest budget of the presets among `names`, None where there is none."""
    budgets = [PRESETS[name].budget for name in names if name in PRESETS and PRESETS[name].budget is not None]
    return min(budgets, default=None)
