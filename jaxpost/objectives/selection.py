"""Which rows and tokens carry the policy loss: chosen from advantages, entropies and covariances before the update.

Shapes: N rows, T completion tokens. A choice couples the whole batch, so it is made in `prepare` from what was known
before the first update, and enters the loss as data: a mask (D3S, whose count shrinks with it) or `Batch.share_NxT`.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxpost.objectives import token_weights
from jaxpost.objectives.base import Batch, View
from jaxpost.objectives.policy_gradient import PolicyGradient

COVARIANCES = ("clip", "kl")
GUARD_LOGPS = ("old", "current")


def largest_variance(value_N: jax.Array, present_N: jax.Array, count: jax.Array | int) -> jax.Array:
    """1.0 on the `count` present values whose variance is the largest of all subsets of that size, else 0.

    Such a subset is the i smallest and the count - i largest values for some i (PODS, arXiv:2504.13818), so N + 1
    candidates are compared. Ties go to the smallest i.
    """
    N = value_N.shape[0]
    order = jnp.argsort(jnp.where(present_N, value_N, jnp.inf))
    total = present_N.sum()
    count = jnp.minimum(count, total)
    centre = jnp.where(present_N, value_N, 0.0).sum() / jnp.maximum(total, 1)
    x_N = jnp.where(jnp.arange(N) < total, value_N[order] - centre, 0.0)  # centred: else squares cancel far from 0
    sums, squares = (jnp.concatenate([jnp.zeros(1, x_N.dtype), jnp.cumsum(v)]) for v in (x_N, x_N * x_N))
    i = jnp.arange(N + 1)
    above = jnp.clip(total - (count - i), 0, N)  # the large ones start at this rank

    def subset(c):
        return c[i] + c[total] - c[above]

    mean = subset(sums) / jnp.maximum(count, 1)
    variance = jnp.where(i <= count, subset(squares) / jnp.maximum(count, 1) - mean**2, -jnp.inf)
    best = jnp.argmax(variance)
    rank_N = jnp.zeros(N, jnp.int32).at[order].set(jnp.arange(N, dtype=jnp.int32))
    selected = (rank_N < best) | ((rank_N >= above[best]) & (rank_N < total))
    return (selected & present_N).astype(value_N.dtype)


def top_tokens(score_NxT: jax.Array, mask_NxT: jax.Array, share: jax.Array | float) -> jax.Array:
    """1.0 on the ceil(share * counted) counted tokens with the largest score, else 0; ties in row-major order."""
    score = jnp.where(mask_NxT > 0, score_NxT, -jnp.inf).reshape(-1)
    rank = jnp.zeros(score.size, jnp.int32).at[jnp.argsort(-score, stable=True)].set(jnp.arange(score.size, dtype=jnp.int32))
    keep = jnp.ceil(share * (mask_NxT > 0).sum() - 1e-6)
    return ((rank < keep).reshape(mask_NxT.shape) & (mask_NxT > 0)).astype(score_NxT.dtype)


def covariance(logp_NxT: jax.Array, advantage_NxT: jax.Array, mask_NxT: jax.Array) -> jax.Array:
    """(l - mean l)(A - mean A) of each counted token, means over counted tokens; 0 off-mask."""
    keep = mask_NxT > 0
    n = jnp.maximum(keep.sum(), 1)
    centred = [jnp.where(keep, x, 0.0) - jnp.where(keep, x, 0.0).sum() / n for x in (logp_NxT, advantage_NxT)]
    return jnp.where(keep, centred[0] * centred[1], 0.0)


@dataclasses.dataclass(frozen=True)
class DownSampled(PolicyGradient):
    """Train on the rows that spread advantages most and on their most decisive tokens (D3S, arXiv:2509.22115).

      rows    the keep_rows * N rows with the largest variance of A, advantages not normalised again
      tokens  of those, the keep_tokens share with the largest |A| H, H the entropy before the update

    Both shares move linearly from 1 to their values over `horizon` batches (0: at once). Rows and tokens that are not chosen
    have advantage 0 and leave the loss' count. The schedule's end points are options: the paper's were read in an excerpt only.
    """

    keep_rows: float = 0.5
    keep_tokens: float = 0.2
    horizon: int = 0

    def __post_init__(self):
        super().__post_init__()
        for field in ("keep_rows", "keep_tokens"):
            value = getattr(self, field)
            self.require(0 < value <= 1, f"{field}={value} must lie in (0, 1], e.g. 0.5")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"entropy"}

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`."""
        return [*super().advantage_formula(), "rows: the keep_rows share of them whose A have the largest variance",
                "tokens: of these rows' the keep_tokens share with the largest |A| H, H before the update; others do not count",
                *(["both shares move linearly from 1 to these values over horizon batches"] if self.horizon else [])]

    def init(self) -> dict:
        """The number of batches so far, if the shares have a schedule."""
        return {"batches": jnp.zeros((), jnp.int32)} if self.horizon else {}

    def observe(self, state: dict, batch: Batch) -> dict:
        """Count the batch."""
        return jax.tree.map(lambda x: x + 1, state)

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`, then the mask keeps only what was chosen."""
        batch = super().prepare(batch, group, kl_coef, state)
        along = jnp.minimum(state["batches"] / self.horizon, 1.0) if self.horizon and state else 1.0
        filled_N = batch.mask_NxT.sum(axis=1) > 0
        count = jnp.ceil((1 - along * (1 - self.keep_rows)) * filled_N.sum() - 1e-6).astype(jnp.int32)
        rows_N = largest_variance(batch.advantage_NxT[:, 0], filled_N, count)
        mask_NxT = batch.mask_NxT * rows_N[:, None]
        decisive = jnp.abs(batch.advantage_NxT) * jnp.where(mask_NxT > 0, batch.entropy_NxT, 0.0)
        tokens_NxT = top_tokens(decisive, mask_NxT, 1 - along * (1 - self.keep_tokens))
        return batch.leave_out(filled_N * (1 - rows_N))._replace(mask_NxT=mask_NxT * tokens_NxT)


@dataclasses.dataclass(frozen=True)
class CovarianceGuard(PolicyGradient):
    """Hold back the tokens that drive entropy down: those where log-probability and advantage covary (arXiv:2505.22617).

      clip  a random `guard_share` of tokens, taken among those with covariance in (guard_low, guard_high), has no gradient
      kl    the `guard_share` with the largest covariance pays guard_coef |l - o|

    Differs from the paper in: with guard_logp="old" covariances are of o, the log-probabilities before the first update that
    the ratio divides by, and so are the same for every later update and microbatch; "current" takes those of the policy at
    each update, over the rows of the update, and leaves out of "clip" what the ratio's clip holds already (verl). The two are
    the same at the first update on rows sampled from the policy itself. At least one token is chosen, as in the official code.
    """

    guard: str = "clip"  # COVARIANCES
    guard_share: float = 2e-4
    guard_low: float = 1.0  # of guard "clip"
    guard_high: float = 5.0
    guard_coef: float = 1.0  # of guard "kl"
    guard_logp: str = "old"  # GUARD_LOGPS: whose log-probabilities covary

    def __post_init__(self):
        super().__post_init__()
        self.choose(guard=COVARIANCES, guard_logp=GUARD_LOGPS)
        self.require(0 < self.guard_share <= 1, f"guard_share={self.guard_share} must lie in (0, 1], e.g. 2e-4")
        self.unread(f"with guard={self.guard!r}", *(("guard_coef",) if self.guard == "clip" else ("guard_low", "guard_high")))
        self.require(self.guard_low < self.guard_high, f"guard_low={self.guard_low} is not below guard_high={self.guard_high}")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | ({"seed"} if self.guard == "clip" else set())

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        x, *where = super().surrogate_formula()
        lp = "o" if self.guard_logp == "old" else "l"
        covariance = f"c = ({lp} - mean_tokens({lp})) (A - mean_tokens(A)), without gradient"
        if self.guard == "kl":
            return [f"{x} + (guard_coef |l - o| on guarded tokens)", *where,
                    "guarded: the guard_share of counted tokens with the largest c, at least one", covariance]
        free = " and not held by the clip" if self.guard_logp == "current" else ""
        return [f"(0 on guarded tokens, else {x})", *where,
                "guarded: a guard_share of counted tokens, at least one, drawn among those with",
                f"   guard_low < c < guard_high{free}",
                covariance]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`; `share_NxT` is 1 on the tokens that are guarded."""
        batch = self.recalibrated(super().prepare(batch, group, kl_coef, state), group, state)
        if self.guard_logp == "current":
            return batch
        return batch._replace(share_NxT=self.guarded(self.old(batch), batch, batch.mask_NxT))

    def recalibrated(self, batch: Batch, group: int, state: dict | None) -> Batch:
        """The batch whose advantages the guard sees. Here: as it is."""
        del group, state
        return batch

    @property
    def couples_update(self) -> bool:
        """Whether the loss of an update is not a sum over its microbatches."""
        return self.guard_logp == "current"

    def guarded(self, logp_NxT: jax.Array, batch: Batch, among_NxT: jax.Array) -> jax.Array:
        """1.0 on the tokens that are guarded, chosen from those of `among_NxT`."""
        score = covariance(logp_NxT, batch.advantage_NxT, batch.mask_NxT)
        if self.guard == "clip":
            among_NxT = among_NxT * ((score > self.guard_low) & (score < self.guard_high))
            score = _uniform(batch)
        count = jnp.maximum(jnp.floor(self.guard_share * batch.mask_NxT.sum()), 1.0)
        return top_tokens(score, among_NxT, count / jnp.maximum(among_NxT.sum(), 1.0))

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, which tokens the clip or the guard holds)."""
        x_NxT, held = super().surrogate(view, batch)
        if self.guard_logp == "current":
            free = batch.mask_NxT * (1 - held) if self.guard == "clip" else batch.mask_NxT
            guarded = self.guarded(jax.lax.stop_gradient(view.logp_NxT), batch, free) > 0
        else:
            guarded = batch.share_NxT > 0
        if self.guard == "clip":
            return jnp.where(guarded, 0.0, x_NxT), held | guarded
        distance = jnp.abs(view.logp_NxT - self.old(batch))
        return x_NxT + jnp.where(guarded, self.guard_coef * distance, 0.0), held


def _uniform(batch):
    """A number in [0, 1) a token, from the row's random word and the position: no layout or padding changes it."""
    def one(word, t):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(word), t))

    positions = jnp.arange(batch.mask_NxT.shape[1])
    return jax.vmap(lambda word: jax.vmap(lambda t: one(word, t))(positions))(batch.seed_N)


@dataclasses.dataclass(frozen=True)
class Planned(PolicyGradient):
    """Advantages of planning tokens are raised: A + gain |A| where `Batch.token_weight_NxT` is 1 (HICRA, arXiv:2509.03646)."""

    planning_gain: float = 0.2  # read in third-party ports, not in the paper
    role_weights: tuple | Mapping = (("plan", 1.0),)  # ((role, weight), ...) that make the tokens' weights

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "role_weights", token_weights.pairs(self.role_weights))

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"token_weight"}

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`."""
        return [*super().advantage_formula(), "A <- A + planning_gain Batch.token_weight_NxT |A|"]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`, then the planning tokens."""
        batch = super().prepare(batch, group, kl_coef, state)
        gain_NxT = self.planning_gain * jnp.where(batch.mask_NxT > 0, batch.token_weight_NxT, 0.0)
        return batch._replace(advantage_NxT=batch.advantage_NxT + gain_NxT * jnp.abs(batch.advantage_NxT))


_GRPO = {"baseline": "mean", "scale": "group", "ratio": "token", "clip_low": 0.2}
ROWS = (
    DownSampled("d3s", "rl", "arXiv:2509.22115", "groups", **_GRPO, clip_high=0.2, aggregation="sequence"),
    CovarianceGuard("clip_cov", "rl", "arXiv:2505.22617", "groups", **_GRPO, clip_high=0.2),
    CovarianceGuard("kl_cov", "rl", "arXiv:2505.22617", "groups", guard="kl", baseline="mean", scale="group", ratio="token"),
    Planned("hicra", "rl", "arXiv:2509.03646", "groups", baseline="mean", ratio="token", clip_low=0.2, clip_high=0.2,
            aggregation="constant", aggregation_length=1024),
)
