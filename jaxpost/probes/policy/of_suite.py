"""What probes share that sample a suite's problems: price, no state, and values by split and field.

A suite answers for several splits at once; a value's name is `<label of the split>/<field>`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from jaxpost.probes import base, price
from jaxpost.probes.policy import example_rows


class OfSuite:
    """A probe without a state; `_measured(params, key)` samples its suite."""

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself: sampling depends on the tasks."""
        return price.traced(self._measured, ctx[base.PARAMS], jax.random.key(0))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): `<label>/<field>` of every split."""
        return state, self._measured(ctx[base.PARAMS], key)


class OfRecords(OfSuite):
    """A probe whose suite gives one record of a split, a NamedTuple of arrays; `_add(table, label, record)` makes its rows."""

    record: ClassVar[type]

    def finalize(self, values: Mapping[str, Any], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]], **meta: Any) -> dict[str, np.ndarray]:
        """Rows of every split; values have a leading axis over seeds."""
        del state, meta
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        for label, fields in by_label(values).items():
            self._add(table, label, self.record(**{field: x.astype(np.float64) for field, x in fields.items()}))
        return table.columns(row_ids)


def flat(records: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`<label>/<field>` of {label: record}; `by_label` has them together again."""
    return {f"{label}/{field}": x for label, record in records.items() for field, x in record._asdict().items()}


def by_label(values: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{label: {field: value}}, in the order of the values."""
    fields = {}
    for name, value in values.items():
        label, _, field = name.rpartition("/")
        fields.setdefault(label, {})[field] = np.asarray(value)
    return fields
