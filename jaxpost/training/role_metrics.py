"""Mean log-probability and entropy of completion tokens, role by role. Shapes: N rows, T tokens."""

import jax

from jaxpost import roles
from jaxpost.objectives import Batch
from jaxpost.objectives.base import mean_over


def measure(logp_NxT: jax.Array, entropy_NxT: jax.Array | None, rows: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{metric: (sum, count)} over the counted tokens of each role; nothing where the rows carry no roles.

      logp_<role>     log-probability of the token, nats
      entropy_<role>  entropy of the policy at the token, nats

    A role that no token has counts 0 tokens, and its mean is absent. The entropy may be None where the rows carry no roles.
    """
    if rows.role_NxT is None:
        return {}
    metrics = {}
    for code, name in enumerate(roles.ROLES):
        mask_NxT = rows.mask_NxT * (rows.role_NxT == code)
        metrics |= {f"logp_{name}": mean_over(logp_NxT, mask_NxT), f"entropy_{name}": mean_over(entropy_NxT, mask_NxT)}
    return metrics
