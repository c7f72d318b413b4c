"""What the tests of the two gates share: weights that bf16 holds, and rows of a probe without a run."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import records
from jaxpost.probes.weights import visibility


def on_grid(w):
    return np.asarray(visibility.bf16_values(visibility.bf16_codes(jnp.asarray(w, jnp.float32))))


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "seed": 0} | wanted
    found = [r for r in rows if r["metric"] == f"gate.{metric}" and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


def rows_of(probe, *values, **more):
    columns = probe.finalize(jax.tree.map(lambda *x: np.stack(x), *values), {}, arm="a", step=3, seeds=range(len(values)),
                             conditional_on="base", row_ids=records.row_ids, **more)
    return records.measurement_table(columns).to_pylist()
