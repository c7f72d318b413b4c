"""From a config to an open bundle, and from its rows to the report: claim the directory, resume it, add seeds to it, or say
that it is finished; judge the claims, seal, publish.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import pyarrow as pa
from ml_collections import ConfigDict
from rich.console import Console

from experiments.harness import ensemble, follower
from experiments.harness.config import EXCLUDED, PLACE
from experiments.harness.session import Session, StopSignals
from jaxpost import processes, records
from jaxpost.records.headlines.studies import claim_lines


@dataclasses.dataclass(frozen=True)
class Stated:
    """What a run says of itself before it begins."""

    title: str
    question: str
    claims: Sequence[dict]
    arms: Sequence[str]
    seeds: Sequence[int]
    bases: int = 1


@contextlib.contextmanager
def opened(config: ConfigDict, stated: Stated, workdir: Path, name: str, signals: StopSignals,
           unchanged: Callable[[], None] = lambda: None) -> Iterator[tuple[records.Bundle, Session] | None]:
    """(bundle, session) of a run that has something left to do; None, said in one line, when it is finished.

    Args:
      config: the run's; its hash leaves out `config.EXCLUDED`.
      unchanged: called before the report of a finished run is taken away to add seeds; raises where the run cannot go on.

    Raises:
      UserError, BundleError: seeds that cannot be added, another config or other claims in the directory.
    """
    text = config.to_dict()
    devices = {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind, "count": jax.device_count(),
               "processes": jax.process_count(), "mesh": text.get("mesh", {})}

    def claim() -> records.Bundle | follower.Follower:
        return follower.opened(workdir, lambda: records.Bundle.open(
            workdir, text, records.config_hash(text, EXCLUDED), stated.claims, config_exclude=EXCLUDED, config_place=PLACE,
            title=stated.title, question=stated.question, devices=devices))

    bundle = claim()
    done = bundle.manifest["n_seeds"] if bundle.state == "finished" else 0
    if done >= len(stated.seeds):
        if processes.first():
            print(f"{workdir} is finished ({done} seeds, bundle {bundle.manifest['bundle_id'][:12]}) and is not overwritten: "
                  f"report {workdir / 'report.html'}")
        yield None
        return
    with bundle, Session(signals, config, name, workdir) as session:
        for index, arm in itertools.product(range(stated.bases), stated.arms):
            ensemble.require(workdir / f"base-{index}" / "arms", arm, stated.seeds, stated.seeds[:done], config.mesh.ensemble)
        if done:
            session.say(f"adding seeds: {done} are finished, {len(stated.seeds)} are asked for")
            unchanged()
            processes.agreed(lambda: records.reopen(bundle), follower.ERRORS)
            bundle = claim()
        session.say(f"{bundle.state} run in {workdir}")
        yield bundle, session


def seed_by_seed(arm: str, seeds: Sequence[int], steps: int, rows_of: Callable[[int], dict], bundle: records.Bundle,
                 session: Session) -> None:
    """The rows of every seed of an arm that has none yet; a seed of an arm is the unit of resuming.

    Args:
      steps: the last step, for what is said. rows_of: seed -> columns of all its measurements.
    """
    began = time.monotonic()
    for seed in seeds:
        shard = f"{arm}-seed-{seed}"
        if not bundle.has_rows(shard):
            bundle.write_rows(shard, rows_of(seed))
            session.boundary(f"{arm}, seed {seed} is finished")
    bundle.cost("arm", arm=arm, wall_s=time.monotonic() - began)
    session.say(f"{arm}: {len(seeds)} seeds, {steps} steps, {time.monotonic() - began:.1f} s")


def publish(stated: Stated, bundle: records.Bundle, session: Session, judge: Callable[[pa.Table], list[dict]], *,
            metrics: Mapping, papers: Sequence[str] = (), show: Callable[[Console, list[dict]], None] | None = None,
            **more: object) -> None:
    """Judge the claims on all rows, seal the bundle with its report, and print both.

    Args:
      judge: rows of all seeds -> results of the claims.
      metrics: definitions of everything in the rows; papers: arXiv numbers. more: of `records.finish`.
      show: prints the results; None: claim by claim.
    """
    more |= {"metrics": metrics, "papers": records.papers.entries(papers)}
    processes.agreed(lambda: _sealed(stated, bundle, session, judge, show or _print_claims, **more), follower.ERRORS)


def _sealed(stated, bundle, session, judge, show, **more) -> None:
    session.phase("report", 1)
    began = time.monotonic()
    results = judge(bundle.read_rows())
    extra = {"n_seeds": len(stated.seeds), **more.pop("extra", {})}
    bundle_id = records.finish(bundle, claims=results, extra=extra, **more)
    session.say(f"report written in {time.monotonic() - began:.0f} s")
    show(session.console, results)
    session.telemetry.published(bundle.path, bundle.manifest)
    session.say(f"bundle {bundle_id[:12]}: {bundle.path / 'report.html'}")


def _print_claims(console: Console, results: list[dict]) -> None:
    for line in claim_lines(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
