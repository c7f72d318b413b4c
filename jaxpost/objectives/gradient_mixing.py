"""SFT and RL in one step with weights that come from their gradients. Shapes: N rows, T completion tokens, K terms.

The step differentiates each term on its own, hands their inner products to `mix`, and applies the weighted sum.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation, policy_formula
from jaxpost.objectives.base import Batch, View, masked, mean_over
from jaxpost.objectives.hybrid import LEFT_OUT, parts, wholly_demonstrated
from jaxpost.objectives.policy_gradient import PolicyGradient


def one_step_hypergradient(losses: Sequence[Callable], utility: Callable, params, weight_K: jax.Array,
                           rate: float) -> jax.Array:
    """d utility(theta') / d weight_k after one gradient step theta' = theta - rate sum_k weight_k grad loss_k(theta).

      = -rate <grad utility(theta'), grad loss_k(theta)>

    Args:
      losses: K functions of the parameters.
      utility: a function of the parameters that is to rise.
      params: theta, any pytree.
      weight_K: the weights of the step.
      rate: of the step.
    """
    grads = [jax.grad(loss)(params) for loss in losses]
    moved = jax.tree.map(lambda x, *g: x - rate * sum(w * y for w, y in zip(weight_K, g, strict=True)), params, *grads)
    up = jax.tree.leaves(jax.grad(utility)(moved))
    return jnp.stack([-rate * sum(jnp.vdot(a, b) for a, b in zip(up, jax.tree.leaves(g), strict=True)) for g in grads])


@dataclasses.dataclass(frozen=True)
class GradientMixed(PolicyGradient):
    """Two terms, each a mean over its own tokens: the policy gradient of sampled rows and the likelihood of demonstrated ones.

    What the weights are is a subclass's choice. Group statistics leave demonstrations out; `aggregation` is that of both terms.
    """

    def __post_init__(self):
        super().__post_init__()
        self.choose(aggregation=("token", "sequence", "sequence_sum"))

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"demonstrations"}

    @property
    def terms(self) -> tuple[str, ...]:
        """The two losses."""
        return ("rl", "sft")

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        return ["gradient of a step = (1 - mu) grad L_RL + mu grad L_SFT", *self.weight_formula(),
                f"L_SFT = {aggregation.FORMULAS[self.aggregation]} [ -l ] of demonstrated tokens",
                *policy_formula.lines(self, "L_RL", " of sampled tokens"), LEFT_OUT]

    def weight_formula(self) -> list[str]:
        """What mu is."""
        return []

    def score(self, batch: Batch, kl_coef: jax.Array | float, state: dict | None) -> jax.Array:
        """As `PolicyGradient.score`; a wholly demonstrated row takes no part in its group."""
        return jnp.where(wholly_demonstrated(batch), jnp.nan, super().score(batch, kl_coef, state))

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`, with sum_K and count_K of the terms."""
        del state
        absent = [batch.leave_out(rows_N).absent_N
                  for rows_N in (wholly_demonstrated(batch), ~(batch.demonstration_NxT > 0).any(axis=1))]
        view, batch = masked(view, batch)
        sampled, demonstrated = parts(batch)
        x_NxT, aux = self.token_loss(view, batch, kl_coef)
        pairs = [aggregation.aggregate(x, mask, self.aggregation, empty=self.aggregation_empty, absent_N=absent_N)
                 for x, mask, absent_N in zip((x_NxT, -view.logp_NxT), (sampled, demonstrated), absent)]
        aux["sft"] = mean_over(-view.logp_NxT, demonstrated)
        sums, counts = (jnp.stack(x) for x in zip(*pairs, strict=True))
        return sums, counts, aux


@dataclasses.dataclass(frozen=True)
class MetaWeighted(GradientMixed):
    """L = (1 - mu) L_RL + mu L_SFT where mu climbs the one-step hypergradient of a utility (AMFT, arXiv:2508.06944).

      mu <- clip(mu + meta_rate dU/dmu + entropy_rate (target_entropy - H), low, high)  every `every` batches

    U = -L_RL or -L_SFT, by `utility`; dU/dmu = <grad L_U, grad L_SFT - grad L_RL>, the one-step hypergradient an inner rate
    in the limit of a small one. H is the mean entropy of sampled tokens before the update.

    Differs from the paper in: the official code adds the derivative of a validation *loss*, which climbs that loss; here U is
    what rises. U is taken on the batch itself, without a validation batch.
    """

    utility: str = "rl"  # whose loss is to fall: rl or sft
    start: float = 0.5  # mu of the first batch
    low: float = 0.05
    high: float = 0.95
    meta_rate: float = 1e-4
    entropy_rate: float = 5e-4  # of target_entropy
    target_entropy: float | None = None  # nats; None: no entropy term
    every: int = 20  # batches

    def __post_init__(self):
        super().__post_init__()
        self.choose(utility=("rl", "sft"))
        self.require(0 <= self.low <= self.start <= self.high <= 1,
                     f"low={self.low}, start={self.start}, high={self.high} must be in this order within [0, 1]")
        self.require(self.every >= 1, f"every={self.every} must be at least 1")
        if self.target_entropy is None:
            self.unread("without a target_entropy", "entropy_rate")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | (set() if self.target_entropy is None else {"entropy"})

    def weight_formula(self) -> list[str]:
        """As `GradientMixed.weight_formula`."""
        utility = "L_" + self.utility.upper()
        toward = "" if self.target_entropy is None else " + entropy_rate (target_entropy - H)"
        return ["mu = start, then every so many batches (every)",
                f"mu <- clip(mu + meta_rate <grad {utility}, grad L_SFT - grad L_RL>{toward}, low, high)"]

    def init(self) -> dict:
        """mu and the number of batches so far."""
        return {"mu": jnp.asarray(self.start, jnp.float32), "batches": jnp.zeros((), jnp.int32)}

    def observe(self, state: dict, batch: Batch) -> dict:
        """Count the batch."""
        return state | {"batches": state["batches"] + 1}

    def mix(self, state: dict, gram_KxK: jax.Array, batch: Batch) -> tuple[jax.Array, dict]:
        """(1 - mu, mu), and mu moved if it is its turn."""
        u = self.terms.index(self.utility)
        change = self.meta_rate * (gram_KxK[u, 1] - gram_KxK[u, 0])
        if self.target_entropy is not None:
            total, count = mean_over(batch.entropy_NxT, parts(batch)[0])
            change = change + self.entropy_rate * (self.target_entropy - total / jnp.maximum(count, 1.0))
        mu = state["mu"]
        turn = (state["batches"] + 1) % self.every == 0
        moved = jnp.where(turn, jnp.clip(mu + change, self.low, self.high), mu).astype(mu.dtype)
        return jnp.stack([1 - mu, mu]), state | {"mu": moved}


@dataclasses.dataclass(frozen=True)
class StepAdaptive(GradientMixed):
    """Each batch takes an SFT step or an RL step, SFT with probability p (SASR, arXiv:2505.13026), *reconstructed* from memory.

      p = |grad L_SFT| / (|grad L_SFT| + balance |grad L_SFT at the first batch|)

    The published rule could not be read; the reference norm is that of the first batch here, of the end of a warm-up there.
    """

    balance_norm: float = 1.0  # weight of the first batch's norm

    def __post_init__(self):
        super().__post_init__()
        self.require(self.balance_norm > 0, f"balance_norm={self.balance_norm} must be greater than 0, e.g. 1")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"seed"}

    def weight_formula(self) -> list[str]:
        """As `GradientMixed.weight_formula`."""
        return ["mu = 1 with probability |grad L_SFT| / (|grad L_SFT| + balance_norm |grad L_SFT of the first batch|), else 0"]

    def init(self) -> dict:
        """The SFT gradient's norm at the first batch; 0 before it."""
        return {"first_norm": jnp.zeros((), jnp.float32)}

    def mix(self, state: dict, gram_KxK: jax.Array, batch: Batch) -> tuple[jax.Array, dict]:
        """(0, 1) or (1, 0), drawn with the batch's first random word."""
        norm = jnp.sqrt(gram_KxK[1, 1])
        first = jnp.where(state["first_norm"] > 0, state["first_norm"], norm).astype(jnp.float32)
        p = norm / jnp.maximum(norm + self.balance_norm * first, jnp.finfo(jnp.float32).tiny)
        supervised = (jax.random.uniform(jax.random.key(batch.seed_N[0])) < p).astype(gram_KxK.dtype)
        return jnp.stack([1 - supervised, supervised]), {"first_norm": first}


_GRPO = {"baseline": "mean", "scale": "group", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
ROWS = (
    MetaWeighted("amft", "hybrid", "arXiv:2508.06944", "groups", **_GRPO),
    StepAdaptive("sasr", "hybrid", "arXiv:2505.13026 (reconstructed)", "groups", **_GRPO),
)
