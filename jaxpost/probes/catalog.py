"""Every probe of the package in one table: what it tells, how to read it, how it misleads; and how a user adds one.

    catalog.get("weight", ks=(16, 8))                     a probe, with settings
    catalog.get("gradient", subject=Subject(loss=...))    one that measures something of the caller's
    catalog.register("mine", MyProbe, tells=..., ...)     a user's own, from then on like any other
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxpost.lookup import nearest
from jaxpost.probes import base, fourier, policy, policy_samples, routing, schedules, toy, weights
from jaxpost.probes.curvature import gate_probe, spectrum
from jaxpost.probes.gradients import chunks as gradient_chunks
from jaxpost.probes.gradients import coherence
from jaxpost.probes.gradients import gram as gradient_gram
from jaxpost.probes.policy import fisher, forgetting_fit, interpolation, kl_leash
from jaxpost.probes.policy import table_fit as fit
from jaxpost.probes.trends import rows as trend_rows
from jaxpost.probes.updates import (
    consensus,
    drift,
    ever_changed,
    fixed_spectrum,
    half_ulp,
    mask_pairs,
    predictability,
    rank_one,
    stripes,
    tails,
)
from jaxpost.probes.updates import distances as forgetting
from jaxpost.probes.weights.panel import Panel


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
    tables: tuple[fit.Table, ...] | None = None  # every problem of the splits of a task that lists them
    addition: fourier.Addition | None = None  # every a + b of modular addition, and how a policy answers it
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
    by_name: bool = False  # dear, or of some models or tasks only: no preset holds it
    schedule: schedules.Schedule | None = None  # of a user's own; None: the run's measured steps
    where: str = ""
    lane: str = ""
    needs: frozenset[base.Need] = frozenset()
    metrics: tuple[str, ...] = ()
    read: str = ""  # of a user's own; the package's statistics are explained in `guide`
    misleads: str = ""


CATALOG: dict[str, Entry] = {}
TOY = Subject(loss=toy.loss, predict=toy.predict, solved=toy.solved, targets=toy.TARGETS, route=toy.route,
              top=2, suite=toy.Suite(), guesses=(("id", 0.0),), tables=toy.TABLES, addition=toy.ADDITION)


def entry(name: str) -> Entry:
    """Look a row up. Raises: ValueError that names the nearest id."""
    if name not in CATALOG:
        raise ValueError(f"probe {name!r} is not known{nearest(name, CATALOG)}")
    return CATALOG[name]


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
        raise ValueError(f"{name!r} is not chosen but {row.where}")
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
    found = {p.name for p in taken if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return found if len(found) == len(taken) else found | {"schedule", "lane"}


def example(row: Entry) -> base.Probe | Entry:
    """Something with the row's lane, needs and metrics: the probe itself on a toy, or the row where it has none."""
    if row.make is None:
        return row
    return row.make(**{field: getattr(TOY, field) for field in row.takes}, **_optional(row, TOY))


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
    if name in CATALOG:
        raise ValueError(f"probe {name!r} is registered twice")
    row = Entry(name, tells, make, takes, schedule=schedule, read=read, misleads=misleads)
    _check(row)
    CATALOG[name] = row


def _check(row: Entry) -> None:
    """Refuse a probe that breaks the contract. Raises: ValueError."""
    found = example(row)
    wanted = ("id", "version", "definition", "metrics", "needs", "lane", "schedule", "cost", "init", "measure", "finalize")
    if missing := [member for member in wanted if not hasattr(found, member)]:
        raise ValueError(f"probe {row.id!r} lacks {', '.join(missing)}; a probe has {', '.join(wanted)}")
    if found.id != row.id:
        raise ValueError(f"probe {found.id!r} is registered as {row.id!r}; the two must be one")
    if found.lane not in base.LANES:
        raise ValueError(f"probe {row.id!r}: lane {found.lane!r} is none of {base.LANES}")
    for metric in found.metrics:
        try:
            base.metric(metric)
        except KeyError as error:
            raise ValueError(f"probe {row.id!r}: {error.args[0]}; register it with probes.register") from None


def _weight(ks: tuple[int, ...] = Panel.ks, alphas: tuple[float, ...] = Panel.alphas, spectra: str = "exact",
            rank_draws: int = Panel.rank_draws, **settings: Any) -> weights.WeightGeometry:
    return weights.WeightGeometry(Panel(ks=ks, alphas=alphas, spectra=spectra, rank_draws=rank_draws), **settings)


def _fourier(addition: fourier.Addition, reach: float = fourier.Rule.reach, cap: int = fourier.Rule.cap,
             sets: int = fourier.Rule.sets, **settings: Any) -> fourier.Fourier:
    return fourier.Fourier(addition.read, addition.problems, fourier.Rule(reach, cap, sets), inputs=addition.inputs, **settings)


_ROWS = (
    Entry("weight", "where and how far the weights moved: sparsity, spectrum, rotation, overlaps, energies, ranks", _weight),
    Entry("weight.stripes", "whether some rows or columns change more often than a blind update's would", stripes.Stripes),
    Entry("weight.consensus", "which entries how many of the runs change", consensus.Consensus),
    Entry("weight.rank_one", "how much of the update is one direction, and whether that direction stays", rank_one.RankOne),
    Entry("weight.fixed_spectrum", "how much of the update leaves matrices with the base's singular values",
          fixed_spectrum.FixedSpectrum),
    Entry("tails", "power law of the spectrum's tail and Marchenko-Pastur law of its bulk (exploratory)", tails.SpectrumTails),
    Entry("ever_changed", "which entries training changed and brought back", ever_changed.EverChanged),
    Entry("gate.ulp", "how far updates lie from what bf16 can see", half_ulp.HalfULP),
    Entry("gate.leash", "how the KL that was spent compares with the update's length in the Fisher metric", kl_leash.KLLeash,
          ("predict",)),
    Entry("gate.curvature", "whether the base's principal directions are the curved ones, and whether the update avoids them",
          gate_probe.GateCurvature, ("predict",)),
    Entry("curvature", "leading eigenvalues, sharpness by layer and under Adam, traces and density of the Hessian or GGN",
          spectrum.CurvatureSpectrum, ("predict",), by_name=True),
    Entry("weight.drift", "how the distance grows with training time: logarithm, power, random walk", drift.Drift),
    Entry("distance", "L1 and spectral norm of the update, against its Frobenius norm alone", forgetting.WeightDistances),
    Entry("fisher", "the update's length in the base's diagonal Fisher", fisher.FisherDistance, ("predict",)),
    Entry("interpolation", "what lies on the straight line from the base to the policy: loss, barrier, success",
          interpolation.Interpolation, ("loss",), ("solved", "predict")),
    Entry("gradient", "how much the gradients of single examples agree, and how noisy they are", coherence.GradientCoherence,
          ("loss",), ("rows", "targets")),
    Entry("gradient_gram", "in how many directions a few examples' gradients pull, and how alike they are",
          gradient_gram.GradientGram, ("loss",)),
    Entry("gradient_chunks", "coherence and noise of the accumulation chunks of training steps, at no cost (microbatches > 1)",
          gradient_chunks.GradientChunks),
    Entry("policy", "what the policy does: success, KL to the base, entropy", policy.PolicyStatistics, ("suite", "guesses")),
    Entry("routing", "which experts samples take, how alike their pathways are, how the load lies (Mixture of Experts)",
          routing.Routing, ("route",), ("top",), by_name=True),
    Entry("samples", "how many prompts one of k samples solves (pass@k), and how varied the words of a text are (EAD)",
          policy_samples.PolicySamples, ("suite", "guesses")),
    Entry("advantage_covariance", "whether the loss raises tokens that are likely already: log-probability against advantage",
          policy.AdvantageCovariance),
    Entry("loss_tokens", "how many tokens entered the loss: equal work between arms", policy.LossTokens),
    Entry("fit", "how well the policy fits every problem of a split: exact loss and accuracy", fit.TableFit, ("tables",),
          by_name=True),
    Entry("fourier", "how much of modular addition the logits know as waves of a + b, before the test loss shows it", _fourier,
          ("addition",), by_name=True),
    Entry("jaccard", "whether runs from one base change the same entries", lane="sidecar",
          where="measured from the final weights of all seeds when the arms are finished",
          needs=frozenset({base.WEIGHTS0, base.WEIGHTS}), metrics=("weight.jaccard",)),
    Entry("mask_pairs", "whether a run from a transformed base changes the same entries", lane="sidecar",
          where="measured between paired arms by the experiment that transforms the base (mask_pairs)",
          needs=frozenset({base.WEIGHTS0, base.WEIGHTS}), metrics=tuple(mask_pairs.METRICS)),
    Entry("forgetting", "which distance predicts what was forgotten, over runs", lane="offline",
          where="fitted to the rows of all arms when they are finished (rlvr_sparsity, rlvr_masks)",
          metrics=tuple(metric.id for metric in forgetting_fit.FITS)),
    Entry("linearity", "whether the leading direction of the update follows an outcome", lane="offline",
          where="fitted to the arrays of weight.rank_one and an outcome (predictability.linearity_rows)",
          metrics=(predictability.LINEARITY.id,)),
    Entry("trend", "whether two trajectories of a run move together beyond what training time explains", lane="offline",
          where="taken of the rows of finished arms (grokking_pathways)", metrics=tuple(m.id for m in trend_rows.METRICS)),
    Entry("conflict", "whether two losses pull the same parameters in one direction", lane="sidecar",
          where="a function of two losses on one batch (gradient_conflict)",
          needs=frozenset({base.PARAMS, base.PROBE_BATCH}),
          metrics=tuple(name for name in base.METRICS if name.startswith("gradient.conflict."))),
    Entry("inline", "norms, descent cosine and bf16 visibility of single steps", lane="inline",
          where="part of every train step; its values are in events.jsonl", needs=frozenset({base.HISTORY})),
)
CATALOG |= {row.id: row for row in _ROWS}
