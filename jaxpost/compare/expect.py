"""Does a comparison reproduce published figures? One line a figure: pass or fail, found, expected, tolerance.

A file of expectations is {"base", "tuned", "level", "source", "figures": [...]}, a figure
  {"name", "metric", "where": {column: value}, "expected", "tolerance", "relative": bool, "scale", "confidence", "source"}
and passes if |scale * value - expected| <= tolerance (times expected, if relative). "confidence" says how well the published
number is known: "read" in the source, "excerpt", "recalled" or "planted".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from jaxpost.compare.errors import CompareError
from jaxpost.records.rows import select

CONFIDENCE = ("read", "excerpt", "recalled", "planted")
_NEEDED = {"name", "metric", "expected", "tolerance", "confidence"}
_KNOWN = _NEEDED | {"where", "relative", "scale", "source"}
_NUMBERS = ("expected", "tolerance", "scale")
DEFAULTS = {"role": "estimate", "params": None}


def read(path: str | Path) -> dict:
    """A file of expectations. Raises: CompareError naming the figure that is wrong; OSError."""
    try:
        document = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise CompareError(f"{path}: not JSON ({str(error)[:80]})") from error
    if not isinstance(document, dict) or not isinstance(document.get("figures"), list) or not document["figures"]:
        raise CompareError(f"{path}: expected an object with a list of figures")
    for i, figure in enumerate(document["figures"]):
        if not isinstance(figure, dict) or not _NEEDED <= set(figure) <= _KNOWN:
            raise CompareError(f"{path}: figure {i} needs {', '.join(sorted(_NEEDED))} and may have "
                               f"{', '.join(sorted(_KNOWN - _NEEDED))}; found {str(figure)[:100]}")
        if figure["confidence"] not in CONFIDENCE:
            raise CompareError(f"{path}: figure {figure['name']!r}: confidence is one of {', '.join(CONFIDENCE)}")
        if wrong := [key for key in _NUMBERS if not _finite(figure.get(key, 0))]:
            raise CompareError(f"{path}: figure {figure['name']!r}: {wrong[0]} is {figure[wrong[0]]!r}, expected a number")
        if not isinstance(figure.get("where", {}), dict):
            raise CompareError(f"{path}: figure {figure['name']!r}: where is {figure['where']!r}, expected columns and values")
        if "metric" in figure.get("where", {}):
            raise CompareError(f"{path}: figure {figure['name']!r}: where names a metric; expected it beside where, once")
        if not isinstance(figure["metric"], str):
            raise CompareError(f"{path}: figure {figure['name']!r}: metric is {figure['metric']!r}, expected its name")
    return document


def _finite(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= sys.float_info.max


def check(table: pa.Table, expected: Mapping) -> tuple[list[str], bool]:
    """(one line a figure, whether all pass). A figure that was not measured fails and says so."""
    lines, passed = [], True
    for figure in expected["figures"]:
        good, text = _figure(table, figure)
        passed &= good
        lines.append(f"{'pass' if good else 'FAIL'}  {figure['name']}: {text} [{figure['confidence']}]")
    return lines, passed


def _figure(table: pa.Table, figure: Mapping) -> tuple[bool, str]:
    try:
        rows = select(table, metric=figure["metric"], **(DEFAULTS | dict(figure.get("where", {})))).to_pylist()
    except ValueError as error:
        return False, str(error)
    rows = [row for row in rows if row["value"] is not None]
    arms = {row["arm"] for row in rows}
    if len(rows) != 1:
        what = f"{len(arms)} tuned checkpoints have it, name one in where" if len(arms) > 1 else f"{len(rows)} rows match"
        return False, f"not measured ({what})" if not rows else what
    value = rows[0]["value"] * figure.get("scale", 1.0)
    bound = figure["tolerance"] * (abs(figure["expected"]) if figure.get("relative") else 1.0)
    off = abs(value - figure["expected"])
    return off <= bound, f"found {value:.6g}, published {figure['expected']:.6g}, off by {off:.2g} (allowed {bound:.2g})"
