"""Weight probes on one device and on several: the same parameters give the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import sharding
from jaxpost.probes import weights
from jaxpost.probes.weights.panel import LEVELS


@pytest.mark.parametrize("level", [
    level if level == "exact" else pytest.param(level, marks=pytest.mark.slow) for level in LEVELS])
def test_members_spread_over_devices_read_the_same_values(level):
    panel = weights.Panel(ks=(2,), alphas=(0.5,), null_draws=1, null_norms=(1e-3, 1e-1), spectra=level)
    rng = np.random.default_rng(0)
    base = {f"layers/{i}/q": jnp.asarray(rng.normal(size=(80, 64)), jnp.bfloat16).astype(jnp.float32) for i in range(1)}
    tuned_S = {n: jnp.stack([w + s * 1e-3 * jnp.asarray(rng.normal(size=w.shape), jnp.float32) for s in range(1, 9)])
               for n, w in base.items()}
    references = weights.prepare(panel, base, jax.random.key(0))

    def program(mesh):
        return jax.jit(sharding.map_members(lambda w, refs: weights.measure(panel, refs, w), mesh))

    one = program(None)(tuned_S, references)
    eight = program(sharding.make_mesh({"ensemble": 8}, jax.devices()[:8]))(tuned_S, references)
    for name, value in one.items():
        if f"{name}_error" in one:
            assert (np.abs(value - eight[name]) <= one[f"{name}_error"] + eight[f"{name}_error"]).all(), name
        else:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), value, eight[name])
