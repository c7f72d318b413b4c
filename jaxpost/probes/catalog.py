"""Every probe of the package, how to read it and how it misleads, as their own files say; and how a user adds one.

    catalog.get("weight", ks=(16, 8))                     a probe, with settings
    catalog.get("gradient", subject=Subject(loss=...))    one that measures something of the caller's
    catalog.register("mine", MyProbe, tells=..., ...)     a user's own, from then on like any other

A file of the package ends with `catalog.add(__name__, Entry(...), Statistic(...))`: its row, and what its metrics say.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpost import lookup
from jaxpost.lookup import nearest
from jaxpost.probes import base, schedules

if TYPE_CHECKING:  # the rooms themselves import this file
    from jaxpost.probes import circuits, fourier, routing
    from jaxpost.probes.policy import table_fit

# In the order of the page.
ROOMS = ("weights", "updates", "gradients", "curvature", "kernels", "policy", "routing", "fourier", "circuits", "trends")


@dataclass(frozen=True)
class Subject:
    """What an experiment lets probes measure beyond its parameters. None is what it does not have."""

    loss: Callable[[Any, Any], Any] | None = None  # (params, example of the probe batch) -> sum over its target tokens
    rows: Callable[[Any, Any, Any], Any] | None = None  # (params, examples, reader) -> the same loss of every example
    predict: Callable[[Any, Any], Any] | None = None  # (params, example) -> fisher.Predictions
    solved: Callable[[Any, Any], Any] | None = None  # (params, example) -> 1 if the policy's own best tokens solve it, else 0
    targets: tuple[str, ...] | None = None  # fields of an example that are its label
    route: routing.Route | None = None  # (params, examples) -> routing.Routed, of a Mixture of Experts
    top: int | None = None  # experts a token of that mixture
    tables: tuple[table_fit.Table, ...] | None = None  # every problem of the splits of a task that lists them
    addition: fourier.Addition | None = None  # every a + b of modular addition, and how a policy answers it
    circuit: circuits.Circuit | None = None  # how the residual stream is read and changed, and what is asked of it
    heads: circuits.Heads | None = None  # how attention is read, and the sequences that its induction heads are asked with
    suite: Any = None  # fixed problems: measure(params, base, key) -> dict of scalars
    guesses: tuple[tuple[str, float], ...] | None = None  # (label, baseline) of the suite's splits


NOTHING = Subject()


@dataclass(frozen=True)
class Entry:
    """One row of the catalogue. A row without `make` is always measured, or measured by another program: `where` says it."""

    id: str
    tells: str  # in one line
    make: Callable[..., base.Probe] | None = None
    takes: tuple[str, ...] = ()  # fields of Subject, which are arguments of `make`
    optional: tuple[str, ...] = ()  # further ones, where the subject has them
    by_name: bool = False  # costs much, or is of some models or tasks only: no preset holds it
    schedule: schedules.Schedule | None = None  # of a user's own; None: the run's measured steps
    where: str = ""
    lane: str = ""
    needs: frozenset[base.Need] = frozenset()
    metrics: tuple[str, ...] = ()
    read: str = ""  # of a user's own; the package's statistics have a `Statistic` each
    misleads: str = ""
    room: str = ""  # folder of the package; "": a user's own


@dataclass(frozen=True, eq=False)
class Statistic:
    """Metrics that are read together. `prefixes` of metric ids: the longest that fits owns a metric."""

    name: str  # also of its example figure, docs/figures/probes/<name>.png
    title: str
    prefixes: tuple[str, ...]
    read: str
    misleads: str
    shows: str  # what the figure shows
    extremes: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)  # metric or prefix -> (high, low) means
    room: str = ""


CATALOG: dict[str, Entry] = {}
_STATISTICS: dict[str, Statistic] = {}


def add(module: str, *items: Entry | Statistic) -> None:
    """Rows and statistics of a file of the package. Args: module: its `__name__`. Raises: ValueError: a name is taken."""
    for item in items:
        table, key = (CATALOG, item.id) if isinstance(item, Entry) else (_STATISTICS, item.name)
        lookup.register("probe", key, dataclasses.replace(item, room=module.split(".")[2]), table)


def rows() -> list[Entry]:
    """Every row by room, in the order of registration; a user's own are last."""
    return sorted(CATALOG.values(), key=lambda row: _place(row.room))


def statistics() -> list[Statistic]:
    """Every statistic by room, in the order of registration."""
    return sorted(_STATISTICS.values(), key=lambda statistic: _place(statistic.room))


def _place(room: str) -> int:
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def statistic_of(metric: str) -> Statistic | None:
    """The statistic that explains a metric; None for a user's own."""
    matching = [(len(prefix), statistic) for statistic in _STATISTICS.values() for prefix in statistic.prefixes
                if _begins(metric, prefix)]
    return max(matching, key=lambda pair: pair[0])[1] if matching else None


def metrics_of(statistic: Statistic) -> list[base.Metric]:
    """The registered metrics that a statistic explains, in order of registration."""
    return [metric for name, metric in base.METRICS.items() if statistic_of(name) is statistic]


def extremes_of(metric: str) -> tuple[str, str] | None:
    """(reads high when, reads low when) of a metric id; None for one that is read in another way: against a parameter, a
    profile, the same row of another arm.
    """
    matching = {prefix: words for statistic in _STATISTICS.values() for prefix, words in statistic.extremes.items()
                if _begins(metric, prefix)}
    return matching[max(matching, key=len)] if matching else None


def _begins(metric: str, prefix: str) -> bool:
    return metric == prefix or metric.startswith((f"{prefix}.", f"{prefix}_"))


def entry(name: str) -> Entry:
    """Look a row up. Raises: ValueError that names the nearest id."""
    return lookup.find("probe", name, CATALOG)


def get(name: str, *, subject: Subject = NOTHING, **settings: Any) -> base.Probe:
    """A probe by id.

    Args:
      subject: what it may measure.
      settings: fields of the probe that differ from their defaults.

    Raises:
      ValueError: an unknown id or setting (the nearest is named), a value out of range, something that the probe measures
        and the subject does not have, or a row that is no probe of its own.
    """
    row = entry(name)
    if row.make is None:
        raise ValueError(f"{name!r} cannot be chosen: it is {row.where}")
    given = {field: getattr(subject, field) for field in row.takes}
    if absent := [field for field, value in given.items() if value is None]:
        raise ValueError(f"probe {name!r} needs {absent[0]!r}, which this experiment does not have")
    given |= _optional(row, subject)
    known = _settings(row) - set(given)
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(f"probe {name!r} has no setting {unknown[0]!r}{nearest(unknown[0], known)}")
    if row.schedule is not None:
        settings = {"schedule": row.schedule, **settings}
    return row.make(**given, **settings)


def _optional(row: Entry, subject: Subject) -> dict[str, Any]:
    return {field: value for field in row.optional if (value := getattr(subject, field)) is not None}


def _settings(row: Entry) -> set[str]:
    """Names that `make` takes; those of its probe's class where it hands settings on."""
    taken = inspect.signature(row.make).parameters.values()
    names = {p.name for p in taken if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return names if len(names) == len(taken) else names | {"schedule", "lane"}


def example(row: Entry) -> base.Probe | Entry:
    """Something with the row's lane, needs and metrics: the probe itself on a toy, or the row where it has none."""
    if row.make is None:
        return row
    from jaxpost.probes import toy  # which is made of the rooms

    return row.make(**{field: getattr(toy.SUBJECT, field) for field in row.takes}, **_optional(row, toy.SUBJECT))


def register(name: str, make: Callable[..., base.Probe], *, tells: str, read: str = "", misleads: str = "",
             takes: tuple[str, ...] = (), schedule: schedules.Schedule | None = None) -> None:
    """Add a user's own probe. Its metrics are registered by `base.register` beside its class.

    Args:
      name: id of the row and of the probe that `make` gives.
      make: class or function of (fields of Subject named in `takes`, settings...).
      tells, read, misleads: what it tells, in one line; how to read it; how it misleads.
      schedule: when it is due; None: at the run's own measured steps.

    Raises:
      ValueError: the id is taken, or the probe breaks the contract (what is missing is named).
    """
    row = Entry(name, tells, make, takes, schedule=schedule, read=read, misleads=misleads)
    _check(row)
    lookup.register("probe", name, row, CATALOG)


def _check(row: Entry) -> None:
    """Refuse a probe that breaks the contract. Raises: ValueError."""
    probe = example(row)
    wanted = ("id", "version", "definition", "metrics", "needs", "lane", "schedule", "cost", "init", "measure", "finalize")
    if missing := [member for member in wanted if not hasattr(probe, member)]:
        raise ValueError(f"probe {row.id!r} lacks {', '.join(missing)}; a probe has {', '.join(wanted)}")
    if probe.id != row.id:
        raise ValueError(f"probe {probe.id!r} is registered as {row.id!r}; the two must be one")
    if probe.lane not in base.LANES:
        raise ValueError(f"probe {row.id!r}: lane {probe.lane!r} is none of {base.LANES}")
    for metric in probe.metrics:
        try:
            base.metric(metric)
        except ValueError as error:
            raise ValueError(f"probe {row.id!r}: {error}; register it with probes.register") from None
