"""Intervals and null bands stay inside the domain of their metric.

A confidence interval for a mean that is known to lie in a set keeps its coverage when it is intersected with the set: what is
cut off holds no possible value. Contrasts and claims are differences and are left as they are.
"""

import math
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.records.schema import MEASUREMENTS

ROLES = ("seed", "estimate", "null")
_TEXT = re.compile(r"[\[(]\s*(-?[\d.]+|-inf),\s*(-?[\d.]+|inf)\s*[\])]")


def ends(domain: str | None) -> tuple[float, float]:
    """The two ends of a domain such as "[0, 1]" or "[0, inf)"; the real line for None, "" and what begins with "open:".

    Raises:
        ValueError: it is written otherwise, or empty.

    >>> ends("[0, inf)")
    (0.0, inf)
    """
    if not domain or domain.startswith("open:"):
        return -math.inf, math.inf
    match = _TEXT.fullmatch(domain.strip())
    low, high = map(float, match.groups()) if match else (math.nan, math.nan)
    if not low < high:
        raise ValueError(f"domain {domain!r} is not two ends such as '[0, 1]' or '[0, inf)', the lower first")
    return low, high


def within(table: pa.Table, metrics: Mapping[str, object]) -> pa.Table:
    """The rows with ci_lo, ci_hi, null_lo and null_hi cut at the ends of the domains of their metrics.

    Never beyond the value (or the null) itself: one that rounding puts outside keeps an interval that holds it.

    Args:
        table: measurement rows [N].
        metrics: metric id -> mapping or object with `domain`, as `ends` reads it; where there is none nothing is cut.
    """
    domains = {name: ends(getattr(metric, "domain", None) if not isinstance(metric, Mapping) else metric.get("domain"))
               for name, metric in metrics.items()}
    coded = table["metric"].combine_chunks().dictionary_encode()
    known = [domains.get(name, (-math.inf, math.inf)) for name in coded.dictionary.to_pylist()]
    if not any(map(np.isfinite, (end for pair in known for end in pair))):
        return table
    low, high = np.asarray(known)[coded.indices.to_numpy()].T
    cut = pc.is_in(table["role"], pa.array(ROLES)).to_numpy()
    for middle, names in (("value", ("ci_lo", "ci_hi")), ("null_value", ("null_lo", "null_hi"))):
        at = table[middle].to_numpy().astype(float)
        least, most = np.fmin(low, at), np.fmax(high, at)
        for name in names:
            x = table[name].to_numpy().astype(float)
            x = np.where(cut, np.clip(x, least, most), x)
            column = pa.array(x, pa.float64(), mask=np.isnan(x))
            table = table.set_column(table.schema.get_field_index(name), MEASUREMENTS.field(name), column)
    return table
