"""Credit for the turns of an episode: each action answers for the rewards that come after it.

Shapes: B prompts, G episodes a prompt, N = B*G rows, T tokens, U turns. `Batch.turn_NxT` says which action a token belongs to.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages
from jaxpost.objectives.base import Batch, View
from jaxpost.objectives.policy_gradient import PolicyGradient

COMPARED = ("group", "turn")


def returns(reward_NxU: jax.Array, gamma: float) -> jax.Array:
    """return_NxU: R_u = r_u + gamma R_(u+1), a discount a turn."""
    def back(later_N, reward_N):
        now_N = reward_N + gamma * later_N
        return now_N, now_N

    return jax.lax.scan(back, jnp.zeros_like(reward_NxU[:, 0]), reward_NxU.T, reverse=True)[1].T


def at_random_turns(reward_NxU: jax.Array, live_NxU: jax.Array, seed_N: jax.Array) -> jax.Array:
    """The rewards of each row in a random order of its live turns; all orders are equally likely."""
    def one(reward_U, live_U, seed):
        word_U = jax.random.uniform(jax.random.key(seed), live_U.shape)
        drawn_U = jnp.argsort(jnp.where(live_U, word_U, 2.0))  # live turns first, in a random order
        place_U = jnp.argsort(~live_U, stable=True)  # live turns first, in their own
        return jnp.zeros_like(reward_U).at[place_U].set(jnp.where(live_U, reward_U, 0.0)[drawn_U])

    return jax.vmap(one)(reward_NxU, live_NxU, seed_N)


@dataclasses.dataclass(frozen=True)
class TurnCredit(PolicyGradient):
    """A policy gradient whose unit of credit is the turn.

      R_u = r_u + turn_discount R_(u+1)     r_u the reward of turn u; what a score has beyond their sum is in the last turn
      A_u = (R_u - mean) / (std + eps)     over all turns of the group's rows (compared="group"), or over its rows at turn u

    With `shuffled`, a control, a row's rewards fall to its turns at random: their sum is kept, their place is not.

    With a reward at the end alone, R_u = turn_discount^(last - u) R: early turns of the shorter of two successes have more.
    With ratio="sequence" the ratio is exp(mean over the turn's tokens of l - o), and aggregation="sequence" takes the mean over
    turns of means over their tokens: every turn is a sample of its own. With a `multiple` m, the last turns of a batch of C are
    left out so that floor(C / m) m remain (adaptive down-sampling to a multiple of the data-parallel size).

    Source: EAPO of IterResearch, arXiv:2511.07327, read in an excerpt. Reconstructed: the discount 0.995 (recalled), which
    turns are left out. Differs from the paper in: a turn sees all turns before it, where theirs sees a summary.
    """

    turn_discount: float = 0.995
    compared: str = "group"  # COMPARED
    multiple: int = 1
    shuffled: bool = False  # control: rewards at random turns of their row
    baseline: str = "mean"

    def __post_init__(self):
        super().__post_init__()
        self.choose(compared=COMPARED, baseline=("mean", "none"), scale=("none", "group"), ratio=("none", "token", "sequence"),
                    aggregation=("token", "sequence"), credit_unit=("row",))
        self.require(self.multiple >= 1, f"multiple={self.multiple} must be at least 1 (1: no turn is left out)")
        self.require(0 <= self.turn_discount <= 1, f"turn_discount={self.turn_discount} must lie in [0, 1], e.g. 0.995")
        self.unread("where turns are compared", "rejected", "informative_only")
        if self.ratio == "sequence":
            self.unread("with a ratio of a turn (choose ratio='token')", "log_ratio_clamp")

    @property
    def counts_rows(self) -> bool:
        """As `Objective.counts_rows`: a mean over turns has none without a token."""
        return self.aggregation != "sequence" and super().counts_rows

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"turns"} | ({"seed"} if self.shuffled else set())

    @property
    def refuses_replay(self) -> str:
        """As `Objective.refuses_replay`."""
        return "whose rewards of turns the buffer does not keep"

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`."""
        moved = ["r_u of the row's turns in a random order"] if self.shuffled else []
        return [f"A = {self.compared_formula()}", "R_u = r_u + turn_discount R_(u+1)", *moved]

    def compared_formula(self) -> str:
        """What `compare_turns` makes of the return of a token's turn."""
        over = {"group": "all turns of the group's rows", "turn": "the group's rows at turn u"}[self.compared]
        centre = {"mean": "R_u - mean", "none": "R_u"}[self.baseline]
        scaled = f"({centre}) / (std + eps)" if self.scale == "group" else centre
        return f"{scaled} of the token's turn u, over {over}"

    def compare_turns(self, return_KxM: jax.Array) -> jax.Array:
        """advantage_KxM of K sets of returns that are compared with each other, NaN where there is no turn."""
        return advantages.advantage(return_KxM, baseline=self.baseline, scale=self.scale, ddof=self.ddof, eps=self.eps,
                                    lone=self.lone_reward)

    def compare(self, batch: Batch, score_N: jax.Array, group: int) -> Batch:
        """As `PolicyGradient.compare`, turn by turn."""
        U = batch.turn_reward_NxU.shape[1]
        there_NxTxU = (batch.turn_NxT[..., None] == jnp.arange(U)[None, None]) & (batch.mask_NxT > 0)[..., None]
        live_NxU = there_NxTxU.any(axis=1)
        last_N = U - 1 - jnp.argmax(live_NxU[:, ::-1], axis=1)
        reward_NxU = jnp.where(live_NxU, batch.turn_reward_NxU, 0.0)
        rest_N = score_N - reward_NxU.sum(axis=1)
        reward_NxU = reward_NxU + rest_N[:, None] * (jnp.arange(U)[None] == last_N[:, None])
        reward_NxU = at_random_turns(reward_NxU, live_NxU, batch.seed_N) if self.shuffled else reward_NxU
        return_NxU = returns(reward_NxU, self.turn_discount)
        known_BxGxU = jnp.where(live_NxU, return_NxU, jnp.nan).reshape(-1, group, U)
        compared = {"group": known_BxGxU.reshape(-1, group * U),
                    "turn": known_BxGxU.swapaxes(1, 2).reshape(-1, group)}[self.compared]
        A = self.compare_turns(compared)
        A_NxU = (A.reshape(-1, group, U) if self.compared == "group" else A.reshape(-1, U, group).swapaxes(1, 2)).reshape(-1, U)
        order_NxU = jnp.cumsum(live_NxU.reshape(-1)).reshape(live_NxU.shape)
        kept_NxU = live_NxU & (order_NxU <= live_NxU.sum() // self.multiple * self.multiple)
        return batch._replace(advantage_NxT=jnp.where(there_NxTxU, A_NxU[:, None], 0.0).sum(axis=2),
                              mask_NxT=batch.mask_NxT * (there_NxTxU & kept_NxU[:, None]).any(axis=2))

    def importance(self, view: View, batch: Batch) -> jax.Array:
        """As `PolicyGradient.importance`, of a turn for ratio="sequence"."""
        if self.ratio != "sequence":
            return super().importance(view, batch)
        share_NxTxT = self._same(batch) / self._tokens(batch)[..., None]
        log_ratio = jnp.where(batch.mask_NxT > 0, view.logp_NxT - self.old(batch), 0.0)
        return jnp.exp(jnp.clip(jnp.einsum("nst,nt->ns", share_NxTxT, log_ratio), -80.0, 80.0))

    def aggregate(self, x_NxT: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """As `Objective.aggregate`; with aggregation="sequence" the mean over turns of means over their tokens."""
        if self.aggregation != "sequence":
            return super().aggregate(x_NxT, batch)
        share_NxT = jnp.where(batch.mask_NxT > 0, batch.mask_NxT / self._tokens(batch), 0.0)
        return jnp.where(share_NxT > 0, x_NxT * share_NxT, 0.0).sum(), share_NxT.sum()

    def _same(self, batch: Batch) -> jax.Array:
        """1 where two counted tokens are of one turn, [N, T, T]."""
        counted_NxT = batch.mask_NxT > 0
        same = batch.turn_NxT[:, :, None] == batch.turn_NxT[:, None]
        return (same & counted_NxT[:, :, None] & counted_NxT[:, None]).astype(batch.mask_NxT.dtype)

    def _tokens(self, batch: Batch) -> jax.Array:
        """Counted tokens of each token's turn, at least 1."""
        return jnp.maximum(self._same(batch).sum(axis=2), 1.0)


ROWS = (
    TurnCredit("turn_grpo", "rl", "jaxpost (GRPO, arXiv:2402.03300, with returns of turns)", "groups", turn_discount=1.0,
               compared="turn", scale="group", ratio="token", clip_low=0.2, clip_high=0.2),
    TurnCredit("eapo", "rl", "arXiv:2511.07327 (reconstructed)", "groups", scale="group", ratio="sequence", clip_low=3e-4,
               clip_high=4e-4, aggregation="sequence"),
)
