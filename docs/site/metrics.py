"""The table of metrics: what each number of a bundle means, from `jaxpost.probes.METRICS`."""

from jaxpost import probes
from jaxpost.pages import cell, entry, linked
from jaxpost.probes.catalog import statistic_of

_HEAD = """# Metrics

Generated from `jaxpost.probes.METRICS` when the site is built. Every row of a bundle names one of these; `metrics.parquet` in
the bundle has the same definitions. The link behind a definition leads to the section of [probes](probes.md) that says how to
read the number and how it misleads. Null, noise floor and pooling are words of the [glossary](glossary.md).
"""


def _row(metric: probes.Metric) -> str:
    statistic = statistic_of(metric.id)
    more = f" ([{statistic.title}](probes.md{entry(statistic.title).partition('](')[2]}" if statistic else ""
    return (f"| `{metric.id}` | {cell(metric.definition)}{more}{')' if statistic else ''} | {cell(metric.unit)} | "
            f"{cell(metric.null)} | {metric.pooling} | {linked(cell(metric.paper))} |")


def markdown() -> str:
    """The page: a section for each first word of the ids."""
    rooms: dict[str, list[probes.Metric]] = {}
    for metric in probes.METRICS.values():
        rooms.setdefault(metric.id.partition(".")[0], []).append(metric)
    lines = [_HEAD, "Sections: " + ", ".join(f"{entry(name)} ({len(rooms[name])})" for name in sorted(rooms)) + ".", ""]
    for name in sorted(rooms):
        lines += [f"## {name}", "", "| metric | definition | unit | null | pooling | paper |", "|---|---|---|---|---|---|",
                  *map(_row, rooms[name]), ""]
    return "\n".join(lines)
