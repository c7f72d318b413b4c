"""What a mirror implements, and how rows are named in it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jaxpost.records.tabulating.variants import variant_label

SHOWN = ("global", "body", "policy", "experiment")  # granularities of rows that are curves; single matrices stay in the bundle


class Sink(Protocol):
    """One mirror: a run for every arm and seed, and one for the whole."""

    name: str  # in what is said of it

    def scalars(self, arm: str, seed: int, step: int, values: Mapping[str, float]) -> None:
        """Values of one optimizer step."""

    def table(self, arm: str, seed: int, step: int, name: str, header: Sequence[str], lines: Sequence[Sequence]) -> None:
        """A table at a step."""

    def ended(self, arm: str, seed: int) -> None:
        """An arm's seed has reached its last step."""

    def published(self, bundle: Path, manifest: Mapping) -> None:
        """The bundle is sealed: its claims have verdicts, its report lies there."""

    def close(self, failed: bool) -> None:
        """The process ends; what is open is closed. After an error it is not called."""


def probe_scalars(columns: Mapping[str, Sequence]) -> Iterator[tuple[int, str, float]]:
    """(seed, "probe/<metric>/<variant>", value) of the rows over a whole model, and their nulls as ".../null".

    Args:
      columns: of a measurement (`records.Bundle.write_rows`), [N] each or one value.
    """
    n = len(columns["metric"])
    whole = {name: x if not isinstance(x, str) and hasattr(x, "__len__") else [x] * n for name, x in columns.items()}
    names = "metric", "role", "granularity", "seed", "value", "null_value", "side", "k", "params", "dtype", "split"
    for i in range(n):
        row = {name: whole[name][i] if name in whole else None for name in names}
        if row["role"] != "seed" or row["granularity"] not in SHOWN:
            continue
        row["side"] = row["side"] or "none"
        variant = ", ".join(filter(None, (row["split"], variant_label(row))))
        key = f"probe/{row['metric']}" + (f"/{variant}" if variant else "")
        for name, value in ((key, row["value"]), (f"{key}/null", row["null_value"])):
            if value is not None and value == value:
                yield int(row["seed"]), name, float(value)
