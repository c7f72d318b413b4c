"""What a clip does to a policy loss. Shapes: N rows, T tokens; r is the importance ratio, A the advantage, l log pi."""

import jax
import jax.numpy as jnp

FORMULAS = {  # rule -> loss of a token, as docs/objectives.md writes it
    "surrogate": "-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)",
    "weight": "-sg(clip(r, 1 - clip_low, 1 + clip_high)) A l",
    "capped_weight": "-sg(min(r, clip_cap)) A l",
}
RULES = tuple(FORMULAS)


def written(rule: str, low: float | None, high: float | None, cap: float | None, ratio_cap: float | None) -> str:
    """The formula of a rule with the bounds that are there; arguments as in `clipped`."""
    bounds = {(False, False): "r", (False, True): "min(r, 1 + clip_high)", (True, False): "max(r, 1 - clip_low)",
              (True, True): "clip(r, 1 - clip_low, 1 + clip_high)"}
    bounded = "min(r, clip_cap)" if cap is not None else bounds[low is not None, high is not None]
    free = "r" if ratio_cap is None else "min(r, ratio_cap)"
    if rule != "surrogate":
        return f"-sg({bounded}) A l"
    return f"-{free} A" if bounded == free else f"-min({free} A, {bounded} A)"


def within(x: jax.Array, low: jax.Array | float, high: jax.Array | float) -> jax.Array:
    """x held in [low, high]: slope 1 inside and at the bounds, 0 beyond, as torch.clamp; `jnp.clip` has 1/2 at a bound."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x)).astype(x.dtype)


def clipped(ratio_NxT: jax.Array, logp_NxT: jax.Array, advantage_NxT: jax.Array, *, rule: str = "surrogate",
            low: float | None = None, high: float | None = None, cap: float | None = None, dual: float | None = None,
            ratio_cap: float | None = None) -> tuple[jax.Array, jax.Array]:
    """(per-token loss, which tokens the clip holds).

      surrogate      -min(r A, clip(r, 1-low, 1+high) A); held tokens have no gradient, one at a bound is not held
                     PPO, arXiv:1707.06347 (low = high); DAPO, arXiv:2503.14476 (low < high)
      weight         -sg(clip(r, 1-low, 1+high)) A l; every token keeps its gradient (CISPO, arXiv:2506.13585, as verl)
      capped_weight  -sg(min(r, cap)) A l; no lower bound (CISPO as TRL, whose `epsilon_high` is the cap itself: its default
                     0.2 shrinks every on-policy weight to 0.2). The bound is `cap`, or 1+high

    Args:
      ratio_NxT, logp_NxT, advantage_NxT: r, l, A.
      rule: one of RULES.
      low, high: distances of the bounds from 1; None is no bound.
      cap: of rule "capped_weight".
      dual: c > 1; for A < 0 the surrogate loss is min(loss, -c A), without gradient beyond (arXiv:1912.09729).
      ratio_cap: r := min(r, ratio_cap) in the unclipped branch, for any sign of A (TRL's `delta`).

    Raises:
      ValueError: unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"clip {rule!r} is unknown; choose one of {', '.join(RULES)}")
    lower = -jnp.inf if low is None else 1.0 - low
    upper = jnp.inf if high is None else 1.0 + high
    if rule != "surrogate":
        limit = upper if cap is None else cap
        bounded = jnp.clip(ratio_NxT, lower, upper) if rule == "weight" else jnp.minimum(ratio_NxT, limit)
        return -jax.lax.stop_gradient(bounded) * advantage_NxT * logp_NxT, bounded != ratio_NxT
    open_NxT = ratio_NxT if ratio_cap is None else within(ratio_NxT, -jnp.inf, ratio_cap)
    free, bounded = open_NxT * advantage_NxT, within(ratio_NxT, lower, upper) * advantage_NxT
    closed = bounded < free
    x_NxT, held = -jnp.where(closed, bounded, free), closed | (open_NxT < ratio_NxT)
    if dual is not None:
        beyond = (advantage_NxT < 0) & (x_NxT > -dual * advantage_NxT)
        x_NxT, held = jnp.where(beyond, -dual * advantage_NxT, x_NxT), held | beyond
    return x_NxT, held
