"""The end of a run: estimates, claim rows, merge, tables, figures, report, seal; repeatable after a crash."""

import math
from collections.abc import Mapping, Sequence

from jaxpost.records import storage
from jaxpost.records.bundle import Bundle
from jaxpost.records.report import render
from jaxpost.records.storage import BundleError
from jaxpost.records.summary import summarise
from jaxpost.records.tabulating.tables import claim_rows


def _checked_claims(bundle: Bundle, claims: Sequence[Mapping]) -> list[dict]:
    """Claim results, marked as registered or exploratory.

    Raises:
        BundleError: a registered claim has no result, or its statement differs from the one made before the run.
    """
    stated = {claim["id"]: claim for claim in bundle.manifest["claims"]}
    results = {claim["id"]: storage.plain(dict(claim)) for claim in claims}
    if missing := sorted(set(stated) - set(results)):
        raise BundleError(f"claims {missing} were stated before the run and have no result")
    for name, claim in stated.items():
        for key, value in claim.items():
            if key in results[name] and results[name][key] != value:
                raise BundleError(
                    f"claim {name!r}: {key} was {value!r} before the run and is {results[name][key]!r} now"
                )
    return [
        {**stated.get(name, {}), **_finite(result), "registered": name in stated} for name, result in results.items()
    ]


def _finite(claim: Mapping) -> dict:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in claim.items()
    }


def finish(
    bundle: Bundle,
    *,
    metrics: Mapping[str, object],
    claims: Sequence[Mapping] = (),
    tensors: object = None,
    papers: Sequence[Mapping] = (),
    extra: Mapping | None = None,
    hierarchical: bool = False,
) -> str:
    """Turn the shards of a run into a finished bundle: estimates, claim rows, merge, tables, figures, report, seal.

    May be repeated after a crash at any point; on a finished bundle it returns at once.

    Args:
        bundle: an open bundle whose arms have written their rows.
        metrics: metric id -> definition (`probes.METRICS` and the experiment's own).
        claims: results of the claims stated at `Bundle.open` (id, statement, metric, contrast, arms, direction,
            threshold, equivalence_margin, p, p_holm, estimate, ci_lo, ci_hi, n_units, verdict, note); a claim that was
            not stated is shown as exploratory.
        tensors: columns of `schema.TENSORS`.
        papers: mappings with key, title, author, year and eprint, doi or url, for CITATION.bib.
        extra: further manifest entries.
        hierarchical: estimates over bases as well (`summary.summarise`).

    Returns:
        The bundle id.

    Raises:
        BundleError: claims that differ from those stated, an undefined metric, or a file system that refuses.
    """
    if bundle.manifest["status"] == "complete":
        return bundle.manifest["bundle_id"]
    results = _checked_claims(bundle, claims)
    rows = bundle.read_rows(exclude=("summary", "claims"))
    bundle.write_rows("summary", summarise(rows, hierarchical=hierarchical))
    bases = list(filter(None, rows["conditional_on"].unique().to_pylist()))
    bundle.write_rows("claims", claim_rows(results, bases[0] if len(bases) == 1 else None))
    bundle_id = bundle.merge(
        metrics, tensors=tensors, extra={**(extra or {}), "claim_results": results, "papers": list(papers)}
    )
    render(bundle.path, bundle.manifest)
    bundle.seal()
    return bundle_id
