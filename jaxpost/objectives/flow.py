"""Generative flow networks: a policy that samples completions in proportion to a reward instead of maximising it.

Shapes: B prompts, G samples a prompt, N = B*G rows, T completion tokens, S states of a row, V vocabulary.

The states of a completion are its prefixes: a tree, so that the backward policy is 1. A row with n counted tokens has the
states 0 (the prompt) to n (the whole completion); at the optimum the flow F of a state is the sum of the rewards below it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over

FLOW_FORMULAS = {  # flows -> log F_i of the states
    "group": "log F_0 = mean_group(log R - sum_t o), o before the update;  log F_n = log R",
    "critic": "log F_i = value head at token i;  log F_n = log R",
    "termination": "log F_i = log R_i - log pi(end_token | i), i = 0 to n - 1",
}
LEVEL_FORMULAS = {  # level -> loss of a row's pieces
    "trajectory": "e_0n^2",
    "detailed": "e_ij^2 of j = i + 1",
    "subtrajectory": "e_ij^2 of all i < j, weighted by lam^(j-i-1)",
}
REWARD_FORMULAS = {
    "log": "log R = reward / reward_temperature",
    "plain": "log R = log(max(reward, reward_floor)) / reward_temperature",
    "reference": "log R_i = (sum_{t<i} f_t + log ref(end_token | i)) / reward_temperature",
}
FLOWS, LEVELS, REWARDS = tuple(FLOW_FORMULAS), tuple(LEVEL_FORMULAS), tuple(REWARD_FORMULAS)


@dataclasses.dataclass(frozen=True)
class FlowBalance(Objective):
    """Squared imbalance of flow along pieces of a completion, *reconstructed*.

      e_ij = log F_i + sum_{i<=t<j} log pi(token t) - log F_j,   0 <= i < j <= n,   F_n = R for a whole completion

      level  trajectory     e_0n^2                          trajectory balance, arXiv:2201.13259
             detailed       e_ij^2 of j = i + 1             detailed balance, arXiv:2111.09266
             subtrajectory  lam^(j-i-1) e_ij^2 of all i < j  arXiv:2209.12782; lam -> 0 is "detailed"

      flows  group        log F_0 = log Z = mean over the group's rows of log R - log pi(row) under the parameters before the
                          update, no gradient (the log-partition variance of arXiv:2302.05446); trajectories only
             critic       log F_i = the value head at token i, learned with the policy: log Z is its value at token 0
             termination  F_i = R_i / pi(end | i): every prefix may end and has a reward R_i (arXiv:2310.04363, "modified");
                          the states are 0 to n - 1, since the last token only ends the row

      log R  log        reward / reward_temperature
             plain      log(max(reward, reward_floor)) / reward_temperature
             reference  of prefix i: the reference's log-probability of its tokens and then the end, / reward_temperature;
                        `Batch.reward_N` is not read

    The loss is the mean over pieces, weighted by their lam^(j-i-1) (aggregation "token", as in the official code of
    arXiv:2310.04363), the mean over rows of their own such means ("sequence"), or of their own such sums ("sequence_sum"). A
    row without a reward, or without a piece, does not count; with aggregation_empty="counted" and flows="group" a row without
    a token is the trajectory from the prompt to its end, e = log Z - log R.

    The stopped log Z of "group" gives the gradient of the group's variance of log R - log pi exactly, because the deviations
    from a mean sum to 0, as long as the parameters are those before the update; with several updates a batch it stays behind.

    *Reconstructed*: the losses of GFlowVLM and the learned flows are the generic ones; "termination" follows the official code,
    without its minimum length and its vocabulary masks. Uncounted tokens between counted ones belong to the environment.
    """

    level: str = "trajectory"  # LEVELS
    flows: str = "group"  # FLOWS
    reward: str = "log"  # REWARDS
    reward_temperature: float = 1.0  # log R is divided by it
    reward_floor: float = 1e-4  # of reward "plain"
    lam: float = 1.0  # of level "subtrajectory"
    end_token: int | None = None  # of flows "termination"

    def __post_init__(self):
        super().__post_init__()
        self.choose(batch=("groups",), aggregation=("token", "sequence", "sequence_sum"), level=LEVELS, flows=FLOWS,
                    reward=REWARDS)
        self.require(self.flows != "group" or self.level == "trajectory",
                     f"flows='group' with level={self.level!r}: a group's mean estimates log Z, not the flow of a prefix; "
                     "choose flows='critic' or 'termination', or level='trajectory'")
        self.require((self.flows == "termination") == (self.reward == "reference"),
                     f"flows={self.flows!r} with reward={self.reward!r}: only 'reference' gives every prefix the reward that "
                     "'termination' needs, and the others take 'log' or 'plain'")
        token = self.end_token
        self.require(token is None if self.flows != "termination" else isinstance(token, int) and token >= 0,
                     f"end_token={token} with flows={self.flows!r}: 'termination' needs the id of the end token, the others "
                     "take None")
        if self.level != "subtrajectory":
            self.unread(f"with level={self.level!r}", "lam")
        if self.level == "trajectory":
            self.unread("with level='trajectory', one piece a row", "aggregation")
        if self.reward != "plain":
            self.unread(f"with reward={self.reward!r}", "reward_floor")
        self.require(self.aggregation_empty == "default" or self.flows == "group",
                     f"aggregation_empty={self.aggregation_empty!r} with flows={self.flows!r}: only with flows='group' does a "
                     "row without a token have a piece, from the prompt to its end")
        self.require(0 < self.lam <= 1, f"lam={self.lam} must lie in (0, 1]; for 0 take level='detailed'")
        for name in ("reward_temperature", "reward_floor"):
            self.require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be greater than 0")

    @property
    def counts_rows(self) -> bool:
        """As `Objective.counts_rows`: a trajectory is a piece of its own."""
        return True

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"group": {"proximal"}, "critic": {"value"},
                          "termination": {"logits", "reference_logits"}}[self.flows])

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        piece = LEVEL_FORMULAS[self.level]
        if self.flows == "termination" and self.level == "trajectory":
            piece = "e_ij^2 of i = 0, j = n - 1"
        mean = "mean over rows of" if self.level == "trajectory" else {
            "token": "mean over all pieces of", "sequence": "mean over rows of the mean over their pieces of",
            "sequence_sum": "mean over rows of the sum over their pieces of"}[self.aggregation]
        return [f"loss = {mean} {piece}", "e_ij = log F_i + sum_{i<=t<j} l_t - log F_j", FLOW_FORMULAS[self.flows],
                REWARD_FORMULAS[self.reward]]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """Fill `outside_N`: log R of each row, less log Z with flows="group"; NaN where it is not known.

        Raises:
          ValueError: a field that `needs` names is missing, or flows="group" with one row a prompt.
        """
        del kl_coef, state
        batch = self.check(batch, group)
        if self.flows == "termination":
            return batch
        self.require(batch.reward_N is not None, "needs Batch.reward_N, and the batch has none")
        reward_N = jnp.maximum(batch.reward_N, self.reward_floor) if self.reward == "plain" else batch.reward_N
        log_reward_N = (jnp.log(reward_N) if self.reward == "plain" else reward_N) / self.reward_temperature
        if self.aggregation_empty != "counted":
            log_reward_N = jnp.where((batch.mask_NxT > 0).any(axis=1), log_reward_N, jnp.nan)
        if self.flows == "group":
            self.require(group > 1, "flows='group' needs at least 2 rows a prompt: the mean of one row is the row")
            log_reward_N = log_reward_N - self._log_partition(log_reward_N, batch, group)
        return batch._replace(outside_N=jax.lax.stop_gradient(log_reward_N))

    def _log_partition(self, log_reward_N, batch, group):
        logp_N = jnp.where(batch.mask_NxT > 0, batch.proximal_NxT, 0.0).sum(axis=1)
        excess_BxG = (log_reward_N - logp_N).reshape(-1, group)
        known_BxG = ~jnp.isnan(excess_BxG)
        mean_B = jnp.where(known_BxG, excess_BxG, 0.0).sum(axis=1) / jnp.maximum(known_BxG.sum(axis=1), 1)
        return jnp.repeat(mean_B, group)

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is the weight of the pieces ("token") or the number of rows with one (others).

        Memory grows as N T^2 unless flows="group". aux: `imbalance`, the mean over rows of e^2 of the
        longest piece.

        Raises:
          ValueError: an end token that is not in the vocabulary.
        """
        del state, kl_coef
        view, batch = masked(view, batch)
        states = self._terminating if self.flows == "termination" else self._whole
        height_NxS, index_NxS, valid_NxS = states(view, batch)  # height: sum_{t<i} log pi - log F_i, so that e_ij = h_j - h_i
        square_NxSxS = (height_NxS[:, None, :] - height_NxS[:, :, None]) ** 2
        length_NxSxS = index_NxS[:, None, :] - index_NxS[:, :, None]
        later_NxSxS = length_NxSxS > 0
        if self.flows == "group":  # two states, whether there are tokens between them or not
            later_NxSxS = jnp.broadcast_to(jnp.array([[[False, True], [False, False]]]), length_NxSxS.shape)
        pair_NxSxS = valid_NxS[:, None, :] & valid_NxS[:, :, None] & later_NxSxS
        longest_N = jnp.where(pair_NxSxS, length_NxSxS, 0).max(axis=(1, 2))
        row_NxSxS = pair_NxSxS & (length_NxSxS == longest_N[:, None, None])
        weight_NxSxS = self._weights(pair_NxSxS, row_NxSxS, length_NxSxS).astype(height_NxS.dtype)
        total_N, weight_N = (square_NxSxS * weight_NxSxS).sum(axis=(1, 2)), weight_NxSxS.sum(axis=(1, 2))
        aux = {"imbalance": mean_over(square_NxSxS, row_NxSxS.astype(height_NxS.dtype))}
        if self.aggregation == "token":
            return total_N.sum(), weight_N.sum(), aux
        some_N = weight_N > 0
        if self.aggregation == "sequence_sum":
            return total_N.sum(), some_N.sum().astype(total_N.dtype), aux
        return jnp.where(some_N, total_N / jnp.where(some_N, weight_N, 1.0), 0.0).sum(), some_N.sum().astype(total_N.dtype), aux

    def _weights(self, pair, row, length):
        if self.level == "trajectory":
            return row
        if self.level == "detailed":
            return pair & (length == 1)
        return jnp.where(pair, self.lam ** jnp.maximum(length - 1, 0), 0.0)

    def _whole(self, view, batch):
        """States 0 to n of known rows, the last at index T; with flows="group" only these two, S = 2."""
        counted_NxT = batch.mask_NxT > 0
        known_Nx1 = ~jnp.isnan(batch.outside_N)[:, None]
        end_Nx1 = jnp.where(known_Nx1, batch.outside_N[:, None], 0.0)
        reached_NxS, index_NxS = _before(view.logp_NxT), _before(counted_NxT.astype(jnp.int32))
        if self.flows == "group":
            ends = jnp.array([0, -1])
            return reached_NxS[:, ends] - _after_zero(end_Nx1), index_NxS[:, ends], jnp.tile(known_Nx1, (1, 2))
        valid_NxS = jnp.concatenate([counted_NxT, jnp.ones_like(known_Nx1)], axis=1) & known_Nx1
        return reached_NxS - jnp.concatenate([view.value_NxT, end_Nx1], axis=1), index_NxS, valid_NxS

    def _terminating(self, view, batch):
        """States 0 to n - 1, S = T, each with the flow R / pi(end)."""
        vocabulary = view.logits_NxTxV.shape[-1]
        self.require(self.end_token < vocabulary,
                     f"end_token={self.end_token} is not in the vocabulary; choose one of 0 to {vocabulary - 1}")
        logp_NxTxV, reference_NxTxV = (jax.nn.log_softmax(x) for x in (view.logits_NxTxV, view.reference_NxTxV))
        token_NxTx1 = batch.completion_NxT[..., None]
        counted_NxT = batch.mask_NxT > 0
        told_NxT = jnp.where(counted_NxT, jnp.take_along_axis(reference_NxTxV, token_NxTx1, -1)[..., 0], 0.0)
        log_reward_NxT = (_before(told_NxT)[:, :-1] + reference_NxTxV[..., self.end_token]) / self.reward_temperature
        flow_NxT = jax.lax.stop_gradient(log_reward_NxT) - logp_NxTxV[..., self.end_token]
        height_NxT = _before(view.logp_NxT)[:, :-1] - flow_NxT
        return height_NxT, _before(counted_NxT.astype(jnp.int32))[:, :-1], counted_NxT


def _after_zero(x):
    return jnp.pad(x, ((0, 0), (1, 0)))


def _before(x_NxT):
    """Sums of what comes before each of the states 0 to T, x_NxS."""
    return _after_zero(jnp.cumsum(x_NxT, axis=1))


ROWS = (
    FlowBalance("trajectory_balance", "rl", "arXiv:2201.13259, log Z as in arXiv:2302.05446", "groups"),
    FlowBalance("subtrajectory_balance", "rl", "arXiv:2209.12782", "groups", level="subtrajectory", flows="critic", lam=0.9),
    FlowBalance("subtrajectory_balance_sum", "rl", "arXiv:2209.12782", "groups", level="subtrajectory", flows="critic", lam=0.9,
                aggregation="sequence_sum"),
    FlowBalance("modified_subtrajectory_balance", "rl", "arXiv:2310.04363", "groups", level="subtrajectory",
                flows="termination", reward="reference", end_token=2),
    FlowBalance("modified_detailed_balance", "rl", "arXiv:2310.04363", "groups", level="detailed", flows="termination",
                reward="reference", end_token=2),
)
