"""What probes share that sample a suite's problems: price, no state, and values by split and field.

A suite answers for several splits at once; a value's name is `<label of the split>/<field>`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxpost.probes import base, price


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


def by_label(values: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{label: {field: value}}, in the order of the values."""
    fields = {}
    for name, value in values.items():
        label, _, field = name.rpartition("/")
        fields.setdefault(label, {})[field] = np.asarray(value)
    return fields
