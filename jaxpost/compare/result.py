"""What `compare` gives back: rows, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from jaxpost.compare.errors import CompareError
from jaxpost.lookup import nearest
from jaxpost.plain_text import visible
from jaxpost.records.headlines.pairs import pair_headline
from jaxpost.records.rows import select
from jaxpost.records.tabulating.variants import summarised

if TYPE_CHECKING:
    import pandas

COLUMNS = ("arm", "granularity", "module_kind", "layer", "tensor", "side", "k", "params", "dtype", "value", "null_value",
           "null_lo", "null_hi", "noise_floor", "status", "status_reason")


@dataclass(frozen=True)
class Comparison:
    """A comparison in memory.

    Attributes:
      rows: measurement rows, as in `measurements.parquet`.
      flags: what a reader must be told before any number.
      coverage: how many tensors were compared, and which were left out, with the reason.
    """

    rows: pa.Table
    flags: Sequence[str]
    coverage: Mapping

    def headline(self) -> str:
        """Five lines: what is unchanged, the update's size, spectrum, what stands out beyond its null, what was left out."""
        notes = (f"note: {visible(flag)}" for flag in self.flags)
        return "\n".join([*pair_headline(summarised(self.rows), self.coverage), *notes])

    def table(self, metric: str, **wanted: object) -> pa.Table:
        """One metric with its null and floor: whole model, module kinds and single matrices, every reading.

        Args:
          metric: for example "weight.sparsity.bf16".
          wanted: further conditions on columns: granularity="tensor", dtype="bf16", side="left", ...

        Raises:
          CompareError: nothing of that name was measured; the nearest that was. ValueError: no such column.
        """
        if metric not in (known := self.rows["metric"].unique().to_pylist()):
            raise CompareError(f"no rows of {metric!r}{nearest(metric, known)}")
        return select(self.rows, metric=metric, role="estimate", **wanted).select(COLUMNS)

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a data frame. Raises: CompareError where pandas is not installed."""
        try:
            return self.rows.to_pandas()
        except ImportError as error:
            raise CompareError(f"{error}: pip install pandas") from error

    def __str__(self) -> str:
        return self.headline()
