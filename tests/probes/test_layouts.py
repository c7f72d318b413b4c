"""Weight probes on one device and on several: the same parameters give the same values."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import sharding
from jaxpost.probes import weights


def test_members_spread_over_devices_read_the_same_values():
    panel = weights.Panel(ks=(4,), alphas=(0.5,), null_draws=1, null_norms=(1e-3, 1e-1))
    rng = np.random.default_rng(0)
    base = {f"layers/{i}/q": jnp.asarray(rng.normal(size=(24, 16)), jnp.bfloat16).astype(jnp.float32) for i in range(2)}
    tuned_S = {n: jnp.stack([w + s * 1e-3 * jnp.asarray(rng.normal(size=w.shape), jnp.float32) for s in range(1, 5)])
               for n, w in base.items()}
    references = weights.prepare(panel, base, jax.random.key(0))

    def program(mesh):
        return jax.jit(sharding.map_members(lambda w, refs: weights.measure(panel, refs, w), mesh))

    one = program(None)(tuned_S, references)
    four = program(sharding.make_mesh({"ensemble": 4}, jax.devices()[:4]))(tuned_S, references)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, four)
