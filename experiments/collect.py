"""One bundle of many runs: `python -m experiments.collect results/sweeps/rlvr_sparsity [DIRECTORY ...] [--out=DIRECTORY]`.

Finished runs of one experiment are read, below the given directories. Runs that differ in seeds or bases only are further
replicates of the same arms; where they differ in anything else, an arm's name takes the settings that differ, as in
`rlvr @ train.steps=50`. Estimates and their intervals are then taken anew over all seeds (and bases), the claims of a study are
judged anew under every setting, and the report draws how statistics respond to a numeric setting.

Exit codes: 0 done, 2 nothing to collect or runs that do not go together.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from ml_collections import ConfigDict

from experiments import study
from experiments.harness import claims as claim_rules
from experiments.harness import config as configs
from experiments.harness.claims.checking import FIELDS
from experiments.harness.command import Parser, refuse
from experiments.harness.errors import UserError
from jaxpost import records
from jaxpost.records import BundleError, settings, storage

REPLICATES = ("seeds.first", "seeds.count", "seeds.base", "seeds.bases")  # keys that only add replicates
_ROLES = ("seed", "null")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: where it is, what its manifest says, and the settings in which it differs from the others."""

    path: Path
    manifest: Mapping
    settings: tuple[tuple[str, str], ...] = ()


def runs(directories: Sequence[Path]) -> list[Run]:
    """The finished runs in or below the directories, with what differs between them.

    Raises:
      UserError: no finished run, a comparison, or runs of different experiments.
    """
    by_id = {}
    for directory in directories:
        for path in sorted({directory, *(file.parent for file in directory.rglob("manifest.json"))}):
            if (path / "manifest.json").is_file():
                manifest = storage.read_manifest(path / "manifest.json")
                if manifest["status"] == "complete" and manifest.get("kind") == "compare":
                    raise UserError(f"{path} is a comparison of checkpoints and has no seeds; name directories of runs, or "
                                    "give its checkpoints to one python -m jaxpost.compare")
                if manifest["status"] == "complete" and "collected" not in manifest:
                    by_id[manifest["bundle_id"]] = Run(path, manifest)
    if not by_id:
        raise UserError(f"no finished run in or below {', '.join(map(str, directories))}; a run is finished when its "
                        "manifest.json says complete")
    made = list(by_id.values())
    kinds = {run.manifest["config"].get("experiment") for run in made}
    if len(kinds) > 1:
        raise UserError(f"runs of different experiments ({', '.join(sorted(map(str, kinds)))}) do not go into one bundle; name "
                        "the directories of one")
    leaves = [configs.leaves(run.manifest["config"]) for run in made]
    keys = [key for key in dict.fromkeys(key for one in leaves for key in one)
            if not _replicate(key) and len({str(one.get(key)) for one in leaves}) > 1]
    return [dataclasses.replace(run, settings=tuple((key, str(one.get(key))) for key in keys))
            for run, one in zip(made, leaves, strict=True)]


def _replicate(key: str) -> bool:
    """Whether a key cannot change what a seed of an arm gives."""
    return key in REPLICATES or any(key == out or key.startswith(f"{out}.") for out in configs.EXCLUDED)


def renamed(run: Run) -> pa.Table:
    """Seeds' rows of a run and their nulls, without identities; arms but the base are named by the run's settings."""
    table = records.read_measurements(run.path)
    seeds, nulls = (records.select(table, role=role) for role in _ROLES)
    own = _with_arms(seeds, run)
    new = dict(zip(seeds["row_id"].to_pylist(), records.row_ids({n: own[n] for n in own.column_names}), strict=True))
    nulls = nulls.filter(pc.is_in(nulls["of"], pa.array(list(new), pa.string())))
    of = pa.array([new[parent] for parent in nulls["of"].to_pylist()], pa.string())
    nulls = _with_arms(nulls, run)
    return pa.concat_tables([own, nulls.set_column(nulls.schema.get_field_index("of"), "of", of)])


def _with_arms(table: pa.Table, run: Run) -> pa.Table:
    names = [arm if arm in (None, "base") else settings.named(arm, dict(run.settings)) for arm in table["arm"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("arm"), "arm", pa.array(names, pa.string()))
    return table.drop_columns(["row_id"])


def judged(members: Sequence[Run]) -> list[dict]:
    """Results of a study's claims under every setting, from the rows of all runs with it; none for other experiments."""
    results = []
    for own in dict.fromkeys(run.settings for run in members):
        group = [run for run in members if run.settings == own]
        manifest = group[0].manifest
        if manifest["config"].get("experiment") != configs.STUDY or not manifest["claims"]:
            continue
        setup = study.setup_of(ConfigDict(manifest["config"]), [_tuples(claim) for claim in manifest["claims"]])
        rows = records.measurement_table(_once([_plain(run) for run in group]))
        for result in claim_rules.judge(setup.claims, rows, setup.last, setup.gate):
            arms = tuple(settings.named(arm, dict(own)) for arm in result["arms"])
            under = ", ".join(f"{key} {value}" for key, value in own)  # an id holds no '='
            results.append({**result, "id": f"{result['id']}{settings.MARK if own else ''}{under}", "arms": arms})
    return results


def _plain(run: Run) -> pa.Table:
    return renamed(dataclasses.replace(run, settings=()))


def _tuples(claim: Mapping) -> dict:
    """A claim as its config states it: a manifest has lists for tuples."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in claim.items()}


def _once(tables: Sequence[pa.Table]) -> dict:
    """Columns of several tables, a row that is in several of them (the base's) taken once."""
    table = pa.concat_tables(tables)
    ids = records.row_ids({name: table[name] for name in table.column_names})
    first = dict(reversed([(row, i) for i, row in enumerate(ids)]))
    table = table.take(pa.array(sorted(first.values()), pa.int64()))
    return {name: table[name] for name in table.column_names}


def collect(directories: Sequence[Path], out: Path) -> str:
    """Write the bundle of all runs; returns its id.

    Raises:
      UserError: as `runs`, or the directory holds something else.
    """
    members = runs(directories)
    stated = {"collected": [{"bundle_id": run.manifest["bundle_id"], "settings": dict(run.settings)} for run in members],
              "experiment": members[0].manifest["config"].get("experiment")}
    rows = _once([renamed(run) for run in members])
    title = members[0].manifest.get("title", "")
    results = judged(members)
    claims = [{name: result[name] for name in result if name in FIELDS} for result in results]
    with records.Bundle.open(out, stated, records.config_hash(stated), claims, title=f"{title}: {len(members)} runs",
                             question=members[0].manifest.get("question", "")) as bundle:
        if bundle.state == "finished":
            return bundle.manifest["bundle_id"]
        bundle.write_rows("collected", rows)
        bases = {base for run in members for base in run.manifest.get("bases", {}).values()}
        seeds = records.select(bundle.read_rows(), role="seed")["seed"].unique()
        return records.finish(bundle, metrics=_metrics(members), claims=results, papers=_papers(members),
                              extra={"n_seeds": len(seeds), "collected": stated["collected"]},
                              hierarchical=len(bases) > 1 and not members[0].settings)


def _metrics(members: Sequence[Run]) -> dict[str, dict]:
    """Definitions of all metrics of the runs."""
    return {row["metric"]: row for run in members for row in records.read_metrics(run.path).to_pylist()}


def _papers(members: Sequence[Run]) -> list[Mapping]:
    return list({paper["key"]: paper for run in members for paper in run.manifest.get("papers", ())}.values())


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m experiments.collect", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument("--out", type=Path, help="of the bundle; default: <first DIRECTORY>/collected")
    try:
        options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
        out = options.out or options.directories[0] / "collected"
        bundle_id = collect(options.directories, out)
    except (UserError, BundleError) as error:
        return refuse(error)
    print(f"bundle {bundle_id[:12]}: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
