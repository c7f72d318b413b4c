"""The page of a bundle: one HTML file without network, with claims first and what is absent last."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from jaxpost.plain_text import visible
from jaxpost.records import completions, digests, storage
from jaxpost.records.attachments import attached, with_papers
from jaxpost.records.citation import bibtex
from jaxpost.records.contents import digest_files, read_measurements, read_metrics
from jaxpost.records.drawing.figures import Rendered, write_figures
from jaxpost.records.drawing.style import arm_styles
from jaxpost.records.rows import select
from jaxpost.records.storage import BundleError
from jaxpost.records.tabulating.cells import Table, format_number
from jaxpost.records.tabulating.latex import tex_figure, tex_table
from jaxpost.records.tabulating.tables import write_tables
from jaxpost.records.tabulating.variants import arm_order, claim_numbers, of_pairs

_TEMPLATE = Path(__file__).parent / "report.html.j2"
_MEASURED = ("measurements", "metrics", "costs", "tensors", "completions", "events", "arrays/")  # files that drawing only reads


def _shown_claims(table: pa.Table, claims: Sequence[Mapping]) -> list[dict]:
    """Texts of the claims with the numbers and verdicts of their rows."""
    by_claim, entries = claim_numbers(table), []
    for claim in claims:
        rows = by_claim[claim["id"]]
        estimate = rows["estimate"]
        quantities = ("threshold", "equivalence_margin", "p", "p_holm")
        numbers = {name: rows[name]["value"] if name in rows else None for name in quantities}
        numbers |= {"estimate": estimate["value"], "lo": estimate["ci_lo"], "hi": estimate["ci_hi"]}
        words = {"verdict": estimate["status_reason"], "facts": _facts(numbers, estimate["n_units"], estimate["unit"])}
        entries.append({**claim, **numbers, **words, "drawing": interval_drawing(numbers)})
    return entries


def _facts(numbers: Mapping[str, float | None], n_units: int | None, unit: str) -> list[str]:
    """What stands under an estimate: replicates, p value, and that there is no interval."""
    facts = [f"{n_units} {unit}{'' if n_units == 1 else 's'}"] if n_units else []
    if numbers["p_holm"] is not None:
        facts.append(f"p = {numbers['p_holm']:.3g} (Holm)")
    elif numbers["p"] is not None:
        facts.append(f"p = {numbers['p']:.3g}")
    return facts + (["no interval"] if numbers["lo"] is None else [])


def interval_drawing(numbers: Mapping[str, float | None], width: int = 250, height: int = 46) -> Markup:
    """Inline SVG of an estimate: interval, zero (solid), threshold (dashed), equivalence margin (shaded)."""
    estimate, lo, hi = numbers["estimate"], numbers["lo"], numbers["hi"]
    threshold, margin = numbers["threshold"], numbers["equivalence_margin"] or 0.0
    if estimate is None:
        return Markup("")
    marks = [0.0, margin, -margin, *(x for x in (estimate, lo, hi, threshold) if x is not None)]
    low, high = min(marks), max(marks)
    span = (high - low) or 1.0
    y = 16

    def x(value: float) -> float:
        return round(24 + (value - low) / span * (width - 48), 1)

    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="estimate {format_number(estimate)}">'
    ]
    if margin:
        parts.append(
            f'<rect class="margin" x="{x(-margin)}" y="4" width="{round(x(margin) - x(-margin), 1)}" height="24"/>'
        )
    parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="4" y2="28"/><text x="{x(0)}" y="41">0</text>')
    if threshold:
        parts.append(f'<line class="threshold" x1="{x(threshold)}" x2="{x(threshold)}" y1="4" y2="28"/>')
        if abs(x(threshold) - x(0)) > 24:
            parts.append(f'<text x="{x(threshold)}" y="41">{threshold:g}</text>')
    if lo is not None and hi is not None:
        parts.append(f'<line class="interval" x1="{x(lo)}" x2="{x(hi)}" y1="{y}" y2="{y}"/>')
    parts.append(f'<circle cx="{x(estimate)}" cy="{y}" r="4.5"/></svg>')
    return Markup("".join(parts))


def caveat(table: pa.Table) -> str:
    """What the intervals of this bundle do not cover, in one sentence."""
    bases = sorted(filter(None, table["conditional_on"].unique().to_pylist()))
    if not bases:
        return (
            "Every run starts from an initialisation of its own, no base: the intervals are over what a seed draws and cover "
            "no other data, model or setting."
        )
    short = [base.removeprefix("sha256:")[:12] for base in bases]
    if of_pairs(table):
        return (
            f"One pair is one unit (n_units = 1): base {short[0]}, no number here has an interval, and none says what another "
            "run would show. Nulls are what a blind update of the same size and density would show in the same matrices."
        )
    if len(bases) == 1:
        return (
            f"Everything here is conditional on one base checkpoint ({short[0]}): the intervals are over seeds of "
            "post-training and do not cover another base."
        )
    over = len(select(table, role="estimate", unit="base"))
    return f"{len(bases)} base checkpoints were used ({', '.join(short)}). " + (
        f"{over} estimates are over bases; the others are conditional on theirs."
        if over
        else "Every estimate is conditional on its own base."
    )


def _odd_rows(table: pa.Table) -> list[dict]:
    """Counts of estimates by metric, status and reason, where the status is not ok or something was left out."""
    rows = select(table, role="estimate")
    plain = pc.and_(
        pc.equal(rows["status"], "ok"),
        pc.or_(pc.is_null(rows["status_reason"]), pc.fill_null(pc.starts_with(rows["status_reason"], "one "), False)),
    )
    counts = (
        rows.filter(pc.invert(plain)).group_by(["metric", "status", "status_reason"]).aggregate([([], "count_all")])
    )
    return sorted(
        counts.to_pylist(), key=lambda row: (-row["count_all"], row["metric"], row["status"], row["status_reason"])
    )


def _costs(path: Path) -> list[dict]:
    costs = (
        select(pq.read_table(path / "costs.parquet"), quantity="wall_s").group_by("phase").aggregate([("value", "sum")])
    )
    return sorted(
        ({"phase": row["phase"], "minutes": row["value_sum"] / 60} for row in costs.to_pylist()),
        key=lambda row: -row["minutes"],
    )


def _shown_figure(path: Path, rendered: Rendered, bundle_id: str) -> dict:
    image = base64.b64encode((path / "figures" / f"{rendered.name}.png").read_bytes()).decode()
    return {**vars(rendered), "image": image, "tex": tex_figure(rendered.name, rendered.caption, bundle_id)}


def _overview(table: pa.Table) -> dict:
    seeds = select(table, role="estimate", unit="pair") if of_pairs(table) else select(table, role="seed")
    seeds = seeds.filter(pc.fill_null(pc.not_equal(seeds["arm"], "base"), False))
    return {
        "arms": arm_order(seeds["arm"].unique().to_pylist()),
        "n_seeds": len(seeds["seed"].unique()),
        "steps": sorted(filter(lambda step: step is not None, seeds["step"].unique().to_pylist())),
        "n_rows": len(table),
    }


def _shown(value: object) -> object:
    """Text without what would act on the page instead of being read; markup stays markup."""
    return type(value)(visible(value, lines=True)) if isinstance(value, str) else value


def render_html(
    path: Path, manifest: Mapping, table: pa.Table, tables: Sequence[Table], figures: Sequence[Rendered]
) -> str:
    """The report of a merged bundle as one HTML text; needs the figures and CITATION.bib on disk."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_shown
    )
    environment.filters |= {
        "number": format_number,
        "short": "{:.3g}".format,
        "tex": lambda built: tex_table(built, manifest["bundle_id"]),
        "papers": with_papers,
    }
    overview = _overview(table)
    styles = arm_styles(["base", *overview["arms"]])
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        attached=lambda name, label: attached(path / name, label),
        manifest=manifest,
        short_id=manifest["bundle_id"][:12],
        overview=overview,
        colours={arm: style["color"] for arm, style in styles.items()},
        claims=_shown_claims(table, manifest.get("claim_results", [])),
        caveat=caveat(table),
        pairs=of_pairs(table),
        first=[built for built in tables if built.name == "headline"],
        shown=[built for built in tables if built.name not in ("claims", "headline")],
        tables=tables,
        figures=[_shown_figure(path, item, manifest["bundle_id"]) for item in figures if item.reason is None],
        absent=[item for item in figures if item.reason is not None],
        odd_rows=_odd_rows(table),
        answers=completions.shown(kept) if (kept := completions.read(path)) is not None and len(kept) else [],
        costs=_costs(path),
        metrics=read_metrics(path).to_pylist(),
        bib=(path / "CITATION.bib").read_text(encoding="utf-8"),
        config=storage.json_text(manifest["config"]),
        session=manifest["sessions"][-1],
        changes=[change for session in manifest["sessions"] for change in session.get("changes", [])],
    )


def render(path: Path, manifest: Mapping) -> None:
    """Write tables, figures, CITATION.bib and report.html of a merged bundle, from what is in it."""
    table = read_measurements(path)
    tables = write_tables(path / "tables", table, manifest)
    figures = write_figures(path, table, manifest["bundle_id"])
    storage.write_text(path / "CITATION.bib", bibtex(manifest, read_metrics(path)["paper"].to_pylist()))
    storage.write_text(path / "report.html", render_html(path, manifest, table, tables, figures))


def rerender(path: str | Path) -> None:
    """Draw figures, tables and report of a finished bundle again and renew their digests; rows and bundle id stay.

    Raises:
        BundleError: the bundle is not finished, or what was measured is not what was sealed.
    """
    path = Path(path)
    manifest = storage.read_manifest(path / "manifest.json")
    if manifest["status"] != "complete":
        raise BundleError(
            f"{path} is not finished (status {manifest['status']!r}): run the experiment again to complete it"
        )
    on_disk = digest_files(path)
    for name, expected in manifest["files"].items():
        if name.startswith(_MEASURED) and on_disk.get(name) != expected:
            what = "not what was sealed" if name in on_disk else "missing"
            raise BundleError(f"{path / name} is {what}: take it from a copy; nothing was drawn")
    render(path, manifest)
    for folder in (path, path / "arrays"):
        digests.forget(folder)
    storage.write_manifest(path / "manifest.json", manifest | {"files": digest_files(path)})
