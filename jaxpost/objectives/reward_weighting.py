"""Weights of a reward's terms that move while training: by how their gradients agree, or by the Pareto front that is reached.

Shapes: B prompts, G samples a prompt, N = B*G rows, T tokens, K terms of a reward, C points of a Pareto buffer.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages, policy_formula
from jaxpost.objectives.base import Batch, View, masked
from jaxpost.objectives.group_credit import TermNormalised
from jaxpost.objectives.policy_gradient import PolicyGradient

CELLS = 4096  # of the grid that a buffer's points span, at most


@dataclasses.dataclass(frozen=True)
class GradientWeighted(TermNormalised):
    """Every term of the reward has a policy gradient of its own, and weighs more the more the others point along it.

      I_k = sum_j <g_k, g_j>,  g_k = grad L_k min(1, gradient_clip / |grad L_k|),  j = k included
      w_k <- w_k exp(weight_rate I_k / weight_temperature) / sum_j w_j exp(weight_rate I_j / weight_temperature)
      gradient of a step = sum_k w_k grad L_k

    L_k is the loss with the advantage of term k alone, a KL term in each. Weights of the reward stay factors of the advantages.
    Of two terms the one with the longer gradient (up to gradient_clip) gains weight: the inner product is common to both.

    Source: arXiv:2509.11452, gradient-based weights, from the released code. Differs from the paper in: gradients of all
    parameters instead of layers 10 to 25. Reconstructed: the step takes the weights that its own gradients have moved.
    """

    whiten: str = "none"
    start: tuple[float, ...] = (0.5, 0.5)  # w of the first batch, one a term
    weight_rate: float = 1e-6
    weight_temperature: float = 1e-5
    gradient_clip: float = 1.0  # norm of a term's gradient in I, at most

    def __post_init__(self):
        super().__post_init__()
        self.choose(whiten=("none",))
        self.require(len(self.start) > 1 and min(self.start) > 0 and abs(sum(self.start) - 1) < 1e-6,
                     f"start={self.start} must be a weight above 0 for each of two or more terms, with sum 1")
        for field in ("weight_temperature", "gradient_clip"):
            self.require(getattr(self, field) > 0, f"{field}={getattr(self, field)} must be greater than 0")
        self.require(self.weight_rate >= 0, f"weight_rate={self.weight_rate} is negative; 0 keeps the weights")
        if self.weight_rate == 0:
            self.unread("with weight_rate=0, which keeps the weights", "weight_temperature", "gradient_clip")

    @property
    def terms(self) -> tuple[str, ...]:
        """A loss a term of the reward."""
        return tuple(f"term_{k}" for k in range(len(self.start)))

    @property
    def reward_terms(self) -> int:
        """As `Objective.reward_terms`."""
        return len(self.start)

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        return ["gradient of a step = sum_k w_k grad L_k",
                "w_k <- w_k exp(weight_rate I_k / weight_temperature), divided by their sum",
                "I_k = sum_j <g_k, g_j>,  g_k = grad L_k min(1, gradient_clip / |grad L_k|)",
                *policy_formula.lines(self, "L_k")]

    def centred_formula(self) -> str:
        """As `PolicyGradient.centred_formula`."""
        return "c_k (r_k - mean_group(r_k)) / (std_group(r_k, ddof) + eps) of the reward's term r_k, its weight c_k"

    def init(self) -> dict:
        """w, as logarithms."""
        return {"log_weight_K": jnp.log(jnp.asarray(self.start, jnp.float32))}

    def compare(self, batch: Batch, score_N: jax.Array, group: int) -> Batch:
        """As `PolicyGradient.compare`, with the advantage of every term beside their sum."""
        batch = super().compare(batch, score_N, group)
        A_BxGxK = self.apart(batch, score_N.reshape(-1, group))
        return batch._replace(term_advantage_NxK=A_BxGxK.reshape(-1, A_BxGxK.shape[2]))

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`, with sum_K and count_K of the terms."""
        view, batch = masked(view, batch)
        A_NxK = batch.term_advantage_NxK if batch.weight_N is None else batch.term_advantage_NxK * batch.weight_N[:, None]

        def one(A_N):
            own = batch._replace(advantage_NxT=jnp.where(batch.mask_NxT > 0, A_N[:, None], 0.0))
            x_NxT, aux = self.token_loss(view, own, kl_coef)
            return *self.aggregate(x_NxT, own), aux

        sum_K, count_K, aux = jax.vmap(one, in_axes=1)(A_NxK)
        aux = jax.tree.map(lambda x_K: x_K.sum(axis=0), aux)
        weight_K = jax.nn.softmax(state["log_weight_K"])
        return sum_K, count_K, aux | {f"weight_{name}": (w, jnp.ones_like(w)) for name, w in zip(self.terms, weight_K)}

    def mix(self, state: dict, gram_KxK: jax.Array, batch: Batch) -> tuple[jax.Array, dict]:
        """(w moved by the terms' influence, its state)."""
        norm_K = jnp.sqrt(jnp.diagonal(gram_KxK))
        shrunk_K = self.gradient_clip / jnp.maximum(norm_K, self.gradient_clip)
        influence_K = (gram_KxK * shrunk_K[:, None] * shrunk_K[None]).sum(axis=1)
        log_K = state["log_weight_K"] + self.weight_rate / self.weight_temperature * influence_K
        log_K = jax.nn.log_softmax(log_K).astype(state["log_weight_K"].dtype)
        return jnp.exp(log_K), {"log_weight_K": log_K}


def hypervolume(point_CxK: jax.Array, reference_K: jax.Array) -> jax.Array:
    """Volume of what lies above the reference point and below at least one of the points, exactly.

    The points cut space into C^K cells, each wholly below a point or not; memory grows as C^(K+1).
    """
    above_CxK = jnp.maximum(point_CxK, reference_K[None])
    below, volume = jnp.ones(len(above_CxK), bool), jnp.ones(())
    for k in range(above_CxK.shape[1]):
        edge_C, thin = jnp.sort(above_CxK[:, k]), (1,) * k
        reaches_CxC = above_CxK[:, k, None] >= edge_C[None]
        below = below[..., None] & reaches_CxC.reshape(len(edge_C), *thin, -1)
        volume = volume[..., None] * jnp.diff(edge_C, prepend=reference_K[k]).reshape(*thin, -1)
    return jnp.where(below.any(axis=0), volume, 0.0).sum()


def with_point(front_CxK: jax.Array, point_K: jax.Array, reference_K: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the front of C points with a further one, how much hypervolume that one adds).

    Of the C + 1 points the one leaves without which least is lost: a place that is still free (at the reference) or a dominated
    point first, since nothing is lost with it.
    """
    every = jnp.concatenate([front_CxK, point_K[None]])
    whole, places = hypervolume(every, reference_K), jnp.arange(len(every))
    without = jax.vmap(lambda c: hypervolume(jnp.where((places == c)[:, None], reference_K[None], every), reference_K))(places)
    kept = jnp.argsort(places == jnp.argmax(without), stable=True)[:-1]
    return every[kept], whole - without[-1]


@dataclasses.dataclass(frozen=True)
class HypervolumeWeighted(PolicyGradient):
    """The reward counts more after a batch whose performance has enlarged the Pareto front of the reward's terms.

      R = m sum_k c_k r_k       m = clip(1/2 + 3/2 tanh(dHV), 1/2, 2) of the batch before, 1 at the first
      dHV = hypervolume(front and v) - hypervolume(front) above `reference_point`,  v_k = mean over the batch's rows of r_k

    A front holds at most `capacity` points. A factor of all rewards alone cancels under a standard deviation, but for eps and
    a KL term: the row's advantage is not scaled.

    Source: arXiv:2509.11452, hypervolume-guided weights, from the released code. Differs from the paper in: performance is that
    of the training batch, not of validation. Reconstructed: m of the first batch, what leaves a full front.
    """

    reference_point: tuple[float, ...] = (0.0, 0.0)  # one a term; what lies below it adds nothing
    capacity: int = 32  # C

    def __post_init__(self):
        super().__post_init__()
        K = len(self.reference_point)
        self.choose(baseline=advantages.BASELINES)
        self.require(K > 1 and all(map(math.isfinite, self.reference_point)),
                     f"reference_point={self.reference_point} must have a finite number for each of two or more terms")
        most = int(CELLS ** (1 / K) + 1e-9)
        self.require(isinstance(self.capacity, int) and 1 <= self.capacity <= most,
                     f"capacity={self.capacity} with {K} terms must be a whole number from 1 to {most}")
        self.require(self.kl_place != "reward", "kl_place='reward' would be scaled with the reward; put the KL in the loss")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"terms"}

    @property
    def reward_terms(self) -> int:
        """As `Objective.reward_terms`."""
        return len(self.reference_point)

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`."""
        return [*super().advantage_formula(), "R <- m R before its group is compared",
                "m = clip(1/2 + 3/2 tanh(dHV), 1/2, 2) of the batch before, 1 at the first",
                "dHV = what the means of the reward's terms over a batch add to the hypervolume above reference_point",
                "      of a front of at most so many points (capacity)"]

    def init(self) -> dict:
        """A front of free places, and the factor m."""
        reference_K = jnp.asarray(self.reference_point, jnp.float32)
        return {"front_CxK": jnp.tile(reference_K, (self.capacity, 1)), "factor": jnp.ones((), jnp.float32)}

    def score(self, batch: Batch, kl_coef: jax.Array | float, state: dict | None) -> jax.Array:
        """As `PolicyGradient.score`, times m."""
        factor = (self.init() if state is None else state)["factor"]
        return factor.astype(batch.reward_N.dtype) * super().score(batch, kl_coef, state)

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`."""
        total, count, aux = super().loss(view, batch, state, kl_coef)
        return total, count, aux | {"reward_factor": (state["factor"], jnp.ones_like(state["factor"]))}

    def observe(self, state: dict, batch: Batch) -> dict:
        """The front with the batch's performance, and the factor of the next one; as they are without a row in the loss."""
        counts_Nx1 = ((batch.mask_NxT > 0).any(axis=1) & ~jnp.isnan(batch.reward_N))[:, None]
        there = counts_Nx1 & ~jnp.isnan(batch.term_NxK)
        reference_K = jnp.asarray(self.reference_point, state["front_CxK"].dtype)
        mean_K = jnp.where(there, batch.term_NxK, 0.0).sum(axis=0) / jnp.maximum(there.sum(axis=0), 1)
        point_K = jnp.where(there.any(axis=0), mean_K, reference_K).astype(reference_K.dtype)
        front_CxK, gain = with_point(state["front_CxK"], point_K, reference_K)
        moved = {"front_CxK": front_CxK, "factor": jnp.clip(0.5 + 1.5 * jnp.tanh(gain), 0.5, 2.0)}
        return jax.tree.map(lambda new, old: jnp.where(counts_Nx1.any(), new, old).astype(old.dtype), moved, state)


_RATIO = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "aggregation": "sequence"}
ROWS = (
    GradientWeighted("gradient_weighted_rewards", "rl", "arXiv:2509.11452", "groups", **_RATIO),
    HypervolumeWeighted("hypervolume_rewards", "rl", "arXiv:2509.11452", "groups", baseline="mean", **_RATIO),
)
