"""The objective contract: what a batch carries, what the policy says about it, and what every objective answers.

Shapes: B prompts, G rows a prompt, N = B*G rows, P prompt and T completion tokens, V vocabulary.

The life of a batch: `prepare` once, over everything that was drawn together (advantages couple the rows of a group);
`balance` once for the rows of one optimizer step (terms with counts of their own are put on one); `loss` on any subset
of those rows, so that a step may accumulate (sum, count) over microbatches and devices and change nothing.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.objectives import aggregation

BATCHES = ("rows", "pairs", "groups")


class Batch(NamedTuple):
    """One step's rows. A field that the objective does not need is None.

    rows    independent demonstrations
    pairs   rows 2i and 2i+1 are the preferred and the other completion of one prompt
    groups  G adjacent rows answer one prompt
    """

    prompt_NxP: jax.Array | None
    completion_NxT: jax.Array | None
    mask_NxT: jax.Array  # 1 on counted tokens
    reward_N: jax.Array | None = None  # NaN: missing; takes no part in its group, advantage 0
    behaviour_NxT: jax.Array | None = None  # log-probability under the distribution that was sampled from
    reference_NxT: jax.Array | None = None  # ... under the reference
    proximal_NxT: jax.Array | None = None  # ... under the trainer's own parameters before the first update on the batch
    value_NxT: jax.Array | None = None  # the critic's value of each token's state, before the first update
    entropy_NxT: jax.Array | None = None  # of the policy at each token, before the first update, nats
    collision_NxT: jax.Array | None = None  # sum over the vocabulary of the policy's squared probabilities, as entropy_NxT
    demonstration_NxT: jax.Array | None = None  # 1 on tokens that a demonstrator wrote, 0 on sampled ones
    truncated_N: jax.Array | None = None  # 1 on rows that were cut before their end token
    label_N: jax.Array | None = None  # unpaired preferences: 1 desirable, 0 undesirable
    tie_N: jax.Array | None = None  # 1 on both rows of a pair whose answers are equally good
    outside_N: jax.Array | None = None  # a constant of the row from elsewhere, see the objective that needs it
    term_NxK: jax.Array | None = None  # values of the terms of a composed reward; NaN: this row has no such term
    term_weight_NxK: jax.Array | None = None  # and their weights at this step
    term_advantage_NxK: jax.Array | None = None  # filled by prepare: of each term alone
    token_weight_NxT: jax.Array | None = None  # from the data, or of the roles: selective masks, planning tokens
    prompt_mask_NxQ: jax.Array | None = None  # 1 on the prompt's tokens but its first, Q = P - 1 of them
    role_NxT: jax.Array | None = None  # int32, what each token is for (jaxpost.roles); None: all are the answer
    seed_N: jax.Array | None = None  # uint32, a fresh random word a row, for objectives that sample
    advantage_NxT: jax.Array | None = None  # filled by prepare
    return_NxT: jax.Array | None = None  # filled by prepare: the critic's target
    share_NxT: jax.Array | None = None  # filled by prepare or balance: weight of a token's term
    total_N: jax.Array | None = None  # filled by balance: a number of the optimizer step, such as its rows or sampled tokens
    weight_N: jax.Array | None = None  # of a curriculum: multiplies the row's advantages once they are known
    kl_weight_N: jax.Array | None = None  # of a curriculum: multiplies the row's KL term in the loss
    age_N: jax.Array | None = None  # how many batches ago a row was sampled; 0 for a fresh one
    turn_NxT: jax.Array | None = None  # int32, which action of an episode a token is of; -1: none
    turn_reward_NxU: jax.Array | None = None  # reward of each turn of an episode
    absent_N: jax.Array | None = None  # 1 on rows that are not of the loss: they never count, not even as empty ones
    real_NxT: jax.Array | None = None  # 1 through the last token of a row, counted or context; None: on counted ones

    segment_NxS: jax.Array | None = None  # int32 of prompt and completion, packed rows: a token sees its own; 0 is padding

    @property
    def sampled_NxT(self) -> jax.Array:
        """1 on counted tokens that no demonstrator wrote; off the mask 0, whatever stands there."""
        if self.demonstration_NxT is None:
            return self.mask_NxT
        return jnp.where(self.mask_NxT > 0, self.mask_NxT * (1 - self.demonstration_NxT), 0.0)

    @property
    def room_NxT(self) -> jax.Array:
        """1 on tokens that take room in an expert of bounded capacity: the real ones of rows in the loss."""
        real_NxT = self.mask_NxT if self.real_NxT is None else self.real_NxT
        return real_NxT if self.absent_N is None else real_NxT * (1 - self.absent_N)[:, None]

    def where(self, index) -> "Batch":
        """The rows at `index` (a slice or an index array)."""
        return jax.tree.map(lambda x: x[index], self)

    def leave_out(self, rows_N: jax.Array) -> "Batch":
        """The batch with more rows absent."""
        rows_N = rows_N.astype(self.mask_NxT.dtype)
        return self._replace(absent_N=rows_N if self.absent_N is None else jnp.maximum(self.absent_N, rows_N))


class View(NamedTuple):
    """What the current parameters say about the rows. All but `logp_NxT` are there when the objective needs them."""

    logp_NxT: jax.Array  # float32 log-probability of the completion tokens
    logits_NxTxV: jax.Array | None = None  # of the distribution each token was drawn from (temperature applied)
    reference_NxTxV: jax.Array | None = None  # the reference's logits, constant
    value_NxT: jax.Array | None = None  # the critic's value of each token's state
    entropy_NxT: jax.Array | None = None  # of the current policy at each token, nats
    prompt_logp_NxQ: jax.Array | None = None  # float32 log-probability of the prompt's tokens but its first
    mixed_logp_NxT: jax.Array | None = None  # as logp_NxT, where the policy reads its own guesses mixed into the completion


# What an objective may need beyond the rows themselves -> who provides it.
NEEDS = {
    "reference": "Batch.reference_NxT: log-probabilities under a reference policy",
    "proximal": "Batch.proximal_NxT: the trainer's own log-probabilities before the first update",
    "entropy": "Batch.entropy_NxT: entropies of the policy before the first update",
    "collision": "Batch.collision_NxT: sums of the policy's squared probabilities before the first update",
    "terms": "Batch.term_NxK and Batch.term_weight_NxK: terms of a composed reward, with their weights",
    "value": "Batch.value_NxT and View.value_NxT: a value head",
    "policy_entropy": "View.entropy_NxT: entropies of the current policy",
    "logits": "View.logits_NxTxV",
    "reference_logits": "View.reference_NxTxV: logits of a reference policy",
    "demonstrations": "Batch.demonstration_NxT: demonstrated rows or tokens in each group",
    "prefixes": "Batch.demonstration_NxT: rows that begin with a demonstration and go on as the policy does",
    "hints": "Batch.role_NxT: of groups that were drawn again with hints, which are context and masked",
    "guides": "Batch.behaviour_NxT: of answers drawn again with the solution in sight, as likely as they then were",
    "replay": "Batch.age_N: rows of earlier batches beside the fresh ones",
    "turns": "Batch.turn_NxT and Batch.turn_reward_NxU: the actions of an episode with their rewards; an answer is one turn",
    "truncated": "Batch.truncated_N",
    "prompt": "Batch.prompt_mask_NxQ and View.prompt_logp_NxQ: log-probabilities of the prompt's own tokens",
    "mixed_inputs": "View.mixed_logp_NxT: of a policy that reads its own guesses, the objective's `mixture` of them",
    "label": "Batch.label_N",
    "tie": "Batch.tie_N: which pairs have two answers equally good",
    "outside": "Batch.outside_N: a number a row from elsewhere (the greedy answer's reward, a mismatched pair's log-ratio)",
    "token_weight": "Batch.token_weight_NxT: of the tokens' roles by the objective's role_weights, or the data's own",
    "seed": "Batch.seed_N",
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A frozen choice of parts. Every field but the first four is an override of `objectives.get`.

    A row without a counted token is empty. It has nothing to learn from, and by default it counts nowhere: in no mean over
    rows, pairs or pieces, and in no whitening; its reward is one of its group's. "constant" divides by all rows, by definition.
    aggregation_empty="counted" counts it in all of these, as TRL does.
    """

    name: str
    family: str  # sft | preference | rl | hybrid
    paper: str
    batch: str  # BATCHES
    aggregation: str = "token"  # aggregation.MODES
    aggregation_length: int | None = None  # of the modes that divide by a constant
    aggregation_empty: str = "default"  # aggregation.EMPTY: whether rows (or pairs with a row) without a token count

    def __post_init__(self):
        self.choose(batch=BATCHES, aggregation=aggregation.MODES, aggregation_empty=aggregation.EMPTY)
        self.require(self.aggregation.startswith("constant") == (self.aggregation_length is not None),
                     f"aggregation_length={self.aggregation_length} with aggregation={self.aggregation!r}: the constant modes "
                     "need a length, e.g. the largest completion; the others take None")
        self.require(self.aggregation_length is None or self.aggregation_length > 0,
                     f"aggregation_length={self.aggregation_length} must be greater than 0, e.g. the largest completion")
        if not self.counts_rows:
            self.unread(f"with aggregation={self.aggregation!r}, which does not count rows", "aggregation_empty")

    def choose(self, **valid: Sequence) -> None:
        """Refuse a field whose value is not one of the valid ones. Raises: ValueError."""
        for field, values in valid.items():
            if (value := getattr(self, field)) not in values:
                raise ValueError(f"objective {self.name!r}: {field}={value!r} is unknown; "
                                 f"choose one of {', '.join(map(str, values))}")

    def unread(self, why: str, *fields: str) -> None:
        """Refuse fields that are not at their defaults although nothing would read them. Raises: ValueError."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for field in fields:
            value = getattr(self, field)
            self.require(value == defaults[field], f"{field}={value!r} has no effect {why}; leave it {defaults[field]!r}")

    def require(self, holds: bool, message: str) -> None:
        """Refuse parts that contradict each other or a number out of range. Raises: ValueError."""
        if not holds:
            raise ValueError(f"objective {self.name!r}: {message}")

    def check(self, batch: Batch, group: int = 1) -> Batch:
        """The rows as `widened`; refuse those that do not fit: shapes while a step is traced, values where they are concrete.

        Raises:
          ValueError: the rows are not a multiple of `group` (of two for pairs), a field that `needs` names is absent,
            log-probabilities above 0, or infinite rewards (NaN is a missing one).
        """
        if not jnp.issubdtype(batch.mask_NxT.dtype, jnp.floating):
            raise ValueError(f"objective {self.name!r}: Batch.mask_NxT has dtype {batch.mask_NxT.dtype}; a mask is floating "
                             "point, 1 on counted tokens: use mask.astype(float32)")
        rows, unit = batch.mask_NxT.shape[0], 2 if self.batch == "pairs" else group
        if rows % unit:
            raise ValueError(f"objective {self.name!r}: {rows} rows are not a whole number of "
                             f"{'pairs' if self.batch == 'pairs' else f'groups of {group}'}; "
                             f"nearest valid: {max(rows // unit, 1) * unit} rows")
        for need in sorted(self.needs):
            for place in NEEDS[need].partition(":")[0].split(" and "):
                if place.startswith("Batch.") and getattr(batch, place.removeprefix("Batch.")) is None:
                    words = NEEDS[need] if place in NEEDS[need].split(" and ")[0] else place
                    raise ValueError(f"objective {self.name!r} needs {words}, and the batch has none")
        for field in ("behaviour_NxT", "reference_NxT", "proximal_NxT"):
            _refuse_probabilities(self.name, f"Batch.{field}", getattr(batch, field), batch.mask_NxT)
        if _concrete(batch.reward_N) and np.isinf(np.asarray(batch.reward_N)).any():
            raise ValueError(f"objective {self.name!r}: Batch.reward_N has infinite entries; a reward is finite, or NaN "
                             "where it is missing")
        return widened(batch)

    def formula(self) -> list[str]:
        """Its loss and what the loss reads, a line each, numbers by the names of its fields: what docs/objectives.md shows.

        Here: the lines of the class's documentation that say what the loss is.
        """
        return [line.strip() for line in (inspect.getdoc(type(self)) or "").splitlines() if "loss =" in line]

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset()

    @property
    def needs_reference(self) -> bool:
        """Whether a run needs the parameters of a reference policy."""
        return bool(self.needs & {"reference", "reference_logits"})

    @property
    def reward_terms(self) -> int | None:
        """How many terms the reward must be composed of; None: as many as it has."""
        return None

    @property
    def couples_update(self) -> bool:
        """Whether the loss of an update is not a sum over its microbatches, so that it cannot be accumulated."""
        return False

    @property
    def refuses_replay(self) -> str:
        """Why the loss would be wrong on rows of earlier policies, a relative clause; empty where it is not."""
        return ""

    @property
    def counts_rows(self) -> bool:
        """Whether `aggregation_empty` decides anything: something is a mean over rows, or over pairs of them."""
        return self.aggregation not in ("token", "constant_total")

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses whose gradients are wanted apart; with K > 1 of them `loss` returns sum_K and count_K."""
        return ("loss",)

    def mix(self, state: dict, gram_KxK: jax.Array, batch: Batch) -> tuple[jax.Array, dict]:
        """(weight_K of the gradients of K > 1 terms, new state), from their inner products over all parameters."""
        raise NotImplementedError

    def init(self) -> dict:
        """The objective's own state; most keep none."""
        return {}

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """Fill what couples the rows drawn together. Here: nothing.

        Args:
          batch: rows; those of a group, or of a pair, are adjacent.
          group: G, rows a prompt.
          kl_coef: weight of a KL reward penalty; default the objective's own.
          state: of `init`.
        """
        del group, kl_coef, state
        return batch

    def balance(self, batch: Batch) -> Batch:
        """Put terms that have counts of their own on the count of the rows of one optimizer step."""
        if self.aggregation == "constant_total":
            rows = batch.mask_NxT.shape[0]
            return batch._replace(total_N=jnp.full((rows,), rows, jnp.float32))
        return batch

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """(sum, count, aux) of prepared rows, or of any subset that keeps pairs whole; the loss is sum / count.

        Args:
          view: what the current parameters say about the rows.
          batch: prepared rows.
          state: of `init`.
          kl_coef: weight of a KL loss term; default the objective's own.

        Returns:
          sum, count: float scalars; aux: dict of (sum, count) pairs for logging.
        """
        raise NotImplementedError

    def observe(self, state: dict, batch: Batch) -> dict:
        """The objective's state after a step on the prepared batch."""
        del batch
        return state

    def aggregate(self, x_NxT: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(sum, count) of a per-token array over the batch's mask, in the objective's own mode."""
        rows = None if batch.total_N is None else batch.total_N[0]
        return aggregation.aggregate(x_NxT, batch.mask_NxT, self.aggregation, self.aggregation_length, rows,
                                     self.aggregation_empty, batch.absent_N)


def _concrete(x) -> bool:
    return x is not None and not isinstance(x, jax.core.Tracer)


def _refuse_probabilities(name: str, field: str, x_NxT, mask_NxT) -> None:
    """Refuse concrete per-token values above 0: they cannot be log-probabilities. Raises: ValueError."""
    if not (_concrete(x_NxT) and _concrete(mask_NxT)):
        return
    largest = np.max(np.where(np.asarray(mask_NxT) > 0, np.asarray(x_NxT, np.float64), -np.inf), initial=-np.inf)
    if largest > 1e-3:
        raise ValueError(f"objective {name!r}: {field} holds {largest:.3g}, above 0: log-probabilities are due, and these look "
                         "like probabilities; pass their logarithm")


def widened(part):
    """A view or batch whose floating-point numbers are float32 at least: a loss, a count of tokens and a statistic of rewards
    are sums, which bfloat16 rounds from 256 on. Gradients come back in the dtype of the array that was given. A part with
    none that is narrower is returned as it is."""
    def narrow(x):
        return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4

    if not any(map(narrow, jax.tree.leaves(part))):
        return part
    return jax.tree.map(lambda x: x.astype(jnp.float32) if narrow(x) else x, part)


def masked(view: View, batch: Batch) -> tuple[View, Batch]:
    """The same, `widened`, with every per-token number off the mask set to 0, so that nothing there can reach a gradient.

    Raises:
      ValueError: `view.logp_NxT` is concrete and above 0 somewhere.
    """
    _refuse_probabilities("loss", "View.logp_NxT", view.logp_NxT, batch.mask_NxT)
    view, batch = widened(view), widened(batch)
    keep_NxT = batch.mask_NxT > 0

    def clean(name, x):
        if "_NxT" not in name or x is None or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.where(keep_NxT.reshape(keep_NxT.shape + (1,) * (x.ndim - 2)), x, 0.0)

    return tuple(type(part)(*(clean(name, x) for name, x in part._asdict().items())) for part in (view, batch))


def mean_over(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The (sum, count) pair of a masked mean, for `aux`; a masked entry may be anything, even NaN."""
    return jnp.where(mask > 0, x * mask, 0.0).sum(), mask.sum()
