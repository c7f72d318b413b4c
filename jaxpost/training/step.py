"""The one train step: gradients of a prepared batch, exactly accumulated, one optimizer update, inline probes.

Shapes: N rows, M microbatches, T completion tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from jaxpost import models, sharding
from jaxpost.objectives import Batch, Objective, View, kl
from jaxpost.probes.gradients import inline
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.updates import ever_changed
from jaxpost.training import optimizers, passes, role_metrics, router_losses
from jaxpost.training.state import Scalars, TrainState

_WHOLE = frozenset({"logits", "reference_logits", "collision", "mixed_inputs"})  # needs that read a vocabulary at once


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """Static choices of a step; hashable, so that equal specs share one compiled program."""

    model: models.TransformerConfig
    objective: Objective
    optimizer: tuple  # sorted (name, value) pairs of optimizers.make
    group: int = 1  # G, samples a prompt
    microbatches: int = 1  # M, divides the rows of an update
    minibatches: int = 1  # a batch is split into as many updates
    epochs: int = 1  # passes over a batch
    temperature: float = 1.0  # of the policy that is trained: logits / temperature
    top_k: int = 0  # rollouts are drawn from the k most probable tokens; 0: all. The policy that is trained is not truncated
    top_p: float = 1.0  # and from the fewest most probable ones that sum to so much
    storage_dtype: str = "float32"  # of master parameters
    reference_refresh: int = 0  # every so many batches the current parameters become the reference; 0: it is frozen
    pad: int = 0  # token id that left-pads prompts
    balance_coef: float = 0.0  # weight of the routers' load balance beside the objective; 0 is off
    router_z_coef: float = 0.0  # weight of the routers' z-loss beside the objective; 0 is off

    def __post_init__(self):
        for field in ("group", "microbatches", "minibatches", "epochs"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be greater than 0; a small one, such as 1e-4, is greedy")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"top_k={self.top_k} and top_p={self.top_p}: the first is a number of tokens or 0 (all), the "
                             "second lies in (0, 1]")
        if whole := sorted(self.objective.needs & _WHOLE) if self.model.in_parts else []:
            raise ValueError(f"objective {self.objective.name!r} needs {whole[0]} of the whole vocabulary, and the model has "
                             f"logprob_chunk={self.model.logprob_chunk} of {self.model.vocab} entries; set it to 0")
        if self.reference_refresh < 0:
            raise ValueError(f"reference_refresh={self.reference_refresh} is negative; 0 keeps the reference frozen")
        self._check_router()

    @property
    def _router_losses(self) -> list[str]:
        return [name for name in ("balance_coef", "router_z_coef") if getattr(self, name)]

    def _check_router(self) -> None:
        for name in self._router_losses:
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; 0 switches it off")
            if not self.model.experts:
                raise ValueError(f"{name}={getattr(self, name)} with a dense model, which has no router; set it to 0")
            if len(self.objective.terms) > 1:
                raise ValueError(f"{name}={getattr(self, name)} with objective {self.objective.name!r}, whose terms are "
                                 "weighed by their own gradients; set it to 0")
        coupled = [*self._router_losses, *(["model.capacity"] if self.model.capacity else []),
                   *([f"objective {self.objective.name!r}"] if self.objective.couples_update else [])]
        if coupled and self.microbatches > 1:
            raise ValueError(f"microbatches={self.microbatches} with {coupled[0]}, which couples all rows of an update; "
                             "nearest valid: microbatches=1")

    @property
    def truncation(self) -> dict:
        """Of the sampler: arguments of `models.sample`."""
        return {"top_k": self.top_k, "top_p": self.top_p}

    @property
    def truncates(self) -> bool:
        """Whether rollouts come from another distribution than the policy that is trained."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def updates(self) -> int:
        """Optimizer steps on one batch."""
        return self.minibatches * self.epochs

    def check_rows(self, rows: int) -> None:
        """Refuse a batch that does not fall into equal updates of whole groups (or pairs), or these into microbatches.

        Raises:
          ValueError: names the field and its nearest valid value.
        """
        whole, unit = {"groups": ("groups", self.group), "pairs": ("pairs", 2), "rows": ("rows", 1)}[self.objective.batch]
        _require_divisor("minibatches", self.minibatches, rows // unit, f"{whole} of a batch")
        pairs = 2 if self.objective.batch == "pairs" else 1
        _require_divisor("microbatches", self.microbatches, rows // self.minibatches // pairs,
                         f"{'pairs' if pairs == 2 else 'rows'} of an update")

    def transform(self) -> optax.GradientTransformation:
        """The optimizer."""
        return optimizers.make(**dict(self.optimizer))


def _require_divisor(field: str, parts: int, count: int, what: str) -> None:
    if count % parts:
        near = min((p for p in range(1, count + 1) if count % p == 0), key=lambda p: abs(p - parts))
        raise ValueError(f"{field}={parts} does not divide the {count} {what}; nearest valid: {near}")


@functools.partial(jax.jit, static_argnums=0)
def create(spec: StepSpec, params: dict, curriculum_state: dict, trainable=None) -> TrainState:
    """A fresh state; masters are stored in `spec.storage_dtype`, moments in float32.

    With `trainable` (`masking.Mask`, `adapters.LowRank`) only that is trained, and the masters start as it says.

    A model with a value head starts it at zero where the parameters have none: a base is pretrained without. A reference
    that is refreshed starts as the parameters.
    """
    if spec.model.value_head and "value" not in params:
        params = {**params, "value": jnp.zeros((spec.model.width, 1))}
    stored = jax.tree.map(lambda x: x.astype(spec.storage_dtype), params)
    stored = stored if trainable is None else trainable.start(stored)
    moments = optimizers.wide(stored) if trainable is None else trainable.moments(stored)
    return TrainState(jnp.zeros((), jnp.int32), stored, spec.transform().init(moments), spec.objective.init(),
                      curriculum_state, stored if spec.reference_refresh else None, ever_changed.start(stored), trainable)


def view(spec: StepSpec, params: dict, batch: Batch, reference: dict | None = None) -> View:
    """What the parameters say about the rows at the spec's temperature: the parts that the objective needs.

    Raises:
      ValueError: the objective needs a reference policy's logits, or a value head, and there is none.
    """
    out = output(spec, params, batch)
    seen = view_of(spec, out, statistics(spec, params, out, batch, entropy=True), batch, reference)
    return seen._replace(**passes.further(spec, params, out, batch))


def view_of(spec: StepSpec, out: models.Output, token_statistics: models.TokenStatistics, batch: Batch,
            reference: dict | None = None) -> View:
    """`view` of a forward pass that was made, and of its statistics."""
    needs, logits_NxTxV, value_NxT = spec.objective.needs, out.logits, out.taps.get("value")
    far_NxTxV = output(spec, given(spec, reference), batch).logits if "reference_logits" in needs else None
    if "value" in needs and value_NxT is None:
        raise ValueError(f"objective {spec.objective.name!r} needs a value head, and the model or its parameters have none; "
                         "set value_head=True on the model and start from training.create")
    return View(token_statistics.logp_NxT, logits_NxTxV if "logits" in needs else None, far_NxTxV,
                value_NxT if "value" in needs else None, token_statistics.entropy_NxT if "policy_entropy" in needs else None)


def given(spec: StepSpec, reference: dict | None) -> dict:
    """The reference policy's parameters. Raises: ValueError when there are none."""
    if reference is None:
        raise ValueError(f"objective {spec.objective.name!r} needs a reference policy, and none was passed; where "
                         "`source.needs_reference` is true, pass its parameters (a base) to the step or segment")
    return reference


def token_logp(spec: StepSpec, params: dict, batch: Batch, reader: models.Reader = models.PLAIN) -> jax.Array:
    """Float32 log-probability of every completion token at the spec's temperature, logp_NxT; reader as in models.apply."""
    return statistics(spec, params, output(spec, params, batch, reader), batch).logp_NxT


def output(spec: StepSpec, params: dict, batch: Batch, reader: models.Reader = models.PLAIN) -> models.Output:
    """The forward pass at the state of every completion token, logits at the spec's temperature.

    Of a model whose vocabulary is read in parts there are no logits, but states; a reader of its own sees the head read once,
    and gets logits.
    """
    whole = not spec.model.in_parts or reader is not models.PLAIN
    out = models.teacher_forced(spec.model, params, batch.prompt_NxP, batch.completion_NxT, spec.pad, reader=reader,
                                mask_NxT=batch.room_NxT, logits=whole, segment_NxS=batch.segment_NxS)
    return out._replace(logits=out.logits / spec.temperature) if whole else out


def statistics(spec: StepSpec, params: dict, out: models.Output, batch: Batch, entropy: bool = False) -> models.TokenStatistics:
    """Log-probability and, if wanted, entropy of the policy at every completion token, of a forward pass that was made."""
    if out.logits is None:
        return models.token_statistics(spec.model, params, out.taps["hidden"], batch.completion_NxT,
                                       temperature=spec.temperature, entropy=entropy)
    return models.TokenStatistics(passes.picked(out.logits, batch.completion_NxT), kl.entropy(out.logits) if entropy else None)


def train_step(spec: StepSpec, state: TrainState, batch: Batch, scalars: Scalars,
               reference: dict | None = None) -> tuple[TrainState, dict]:
    """Train on one batch, `spec.updates` optimizer steps; returns the new state and metrics.

    The batch is prepared whole; each update takes its own rows of it, in order, and every epoch all of them again.
    Metrics are (sum, count) pairs or, if they are totals, scalars.

    Raises:
      ValueError: rows that do not fit the objective, or do not fall into equal updates and microbatches.
    """
    objective = spec.objective
    spec.check_rows(batch.mask_NxT.shape[0])
    batch = objective.prepare(sharding.constrain(batch, ("batch",)), spec.group, scalars.kl_coef, state.objective_state)
    if batch.weight_N is not None:
        batch = batch._replace(advantage_NxT=batch.advantage_NxT * batch.weight_N[:, None])

    def one(state, rows):
        return update(spec, state, objective.balance(rows), scalars, reference)

    if spec.updates == 1:
        state, metrics = one(state, batch)
    else:
        parts = _split(batch, spec.minibatches)
        turns = jnp.arange(spec.updates) % spec.minibatches
        state, each = jax.lax.scan(lambda s, i: one(s, jax.tree.map(lambda x: x[i], parts)), state, turns)
        metrics = jax.tree.map(lambda x: x.sum(axis=0), each)
    if batch.advantage_NxT is not None:
        metrics["effective_rows"] = effective_rows(batch)  # here, since every epoch has all rows again
    return state._replace(step=state.step + 1, objective_state=objective.observe(state.objective_state, batch)), metrics


def update(spec: StepSpec, state: TrainState, batch: Batch, scalars: Scalars,
           reference: dict | None) -> tuple[TrainState, dict]:
    """One optimizer step on balanced rows: gradients accumulated over microbatches, then applied.

    The routers' losses are in the gradient and beside the loss: `loss` is the objective's alone.
    """
    several = len(spec.objective.terms) > 1
    mean_advantage = _mean_advantage(batch)

    def loss(params, rows):
        out = output(spec, params, rows)
        entropy = "policy_entropy" in spec.objective.needs or rows.role_NxT is not None
        token_statistics = statistics(spec, params, out, rows, entropy)
        seen = view_of(spec, out, token_statistics, rows, reference)._replace(**passes.further(spec, params, out, rows))
        total, count, aux = spec.objective.loss(seen, rows, state.objective_state, scalars.kl_coef)
        if rows.behaviour_NxT is not None:
            sampled = rows.sampled_NxT if rows.age_N is None else rows.sampled_NxT * (rows.age_N == 0)[:, None]
            gap = jnp.abs(seen.logp_NxT - rows.behaviour_NxT) * sampled
            aux["sampler_gap"] = (gap.sum(), sampled.sum())
            if rows.advantage_NxT is not None:
                aux["advantage_covariance"] = advantage_covariance(seen.logp_NxT, rows, mean_advantage)
        aux |= role_metrics.measure(token_statistics.logp_NxT, token_statistics.entropy_NxT, rows)
        if not spec.model.experts:
            return total, (total, count, aux)
        counts_NxS = models.real_tokens(rows.prompt_NxP, rows.room_NxT, spec.pad)
        losses, routed = router_losses.measure(spec.model.experts_per_token, out.router, counts_NxS)
        penalty = spec.balance_coef * losses["router_balance"] + spec.router_z_coef * losses["router_z"]
        return total + penalty * jnp.maximum(count, 1.0), (total, count, aux | routed)

    def differentiate(rows):
        if several:
            _, pull, (total, count, aux) = jax.vjp(lambda params: loss(params, rows), state.params, has_aux=True)
            grads = jax.vmap(lambda one: pull(one)[0])(jnp.eye(len(total), dtype=total.dtype))
        else:
            (_, (total, count, aux)), grads = jax.value_and_grad(loss, has_aux=True)(state.params, rows)
        return optimizers.wide(grads), total, count, aux

    rows_MxN = _split(batch, spec.microbatches)
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(differentiate, jax.tree.map(lambda x: x[0], rows_MxN)))
    watched = spec.microbatches > 1 and not several  # several terms have no gradient before their weights are known

    def accumulate(carry, rows):
        gradients = differentiate(rows)
        return jax.tree.map(jnp.add, carry, gradients), gradient_sums.dots(gradients[0], gradients[0]) if watched else None

    (grads, total, count, aux), square_MxT = jax.lax.scan(accumulate, zero, rows_MxN)
    examples = batch.mask_NxT.shape[0] // (2 if spec.objective.batch == "pairs" else 1)
    probed = inline.chunk_sums(grads, square_MxT, examples) if watched else {}
    if several:
        grads, total, objective_state = _mixed(spec.objective, state.objective_state, grads, total, count, batch)
        state, count = state._replace(objective_state=objective_state), jnp.ones_like(total)
    else:
        grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), grads)
    params, updates, opt_state, trainable = optimizers.advance(spec.transform(), state.trainable, state.params, grads,
                                                               state.opt_state, scalars.learning_rate)
    changes = ever_changed.changes(state.params, params)
    probed |= inline.measure(grads, updates, ever_changed.how_many(changes))
    metrics = {"loss": (total, count), "loss_tokens": batch.mask_NxT.sum(), **aux,
               **{name: (value, jnp.ones_like(value)) for name, value in probed.items()}}
    seen = ever_changed.mark(state.probe_state, changes)
    return state._replace(params=params, opt_state=opt_state, probe_state=seen, trainable=trainable), metrics


def effective_rows(batch: Batch) -> jax.Array:
    """How many sampled rows of a step have a token in the loss whose advantage is not 0; the others have no gradient of it.

    Of several reward terms, which are weighed anew at every update, a row has one where one term has.

    Source: arXiv:2509.25849 (the share of such rows is its effective-gradient ratio).
    """
    has = batch.advantage_NxT != 0
    if batch.term_advantage_NxK is not None:
        of_terms_N = jnp.any(batch.term_advantage_NxK != 0, axis=1)
        has = (of_terms_N if batch.weight_N is None else of_terms_N & (batch.weight_N != 0))[:, None]
    return jnp.any((batch.sampled_NxT > 0) & has, axis=1).sum(dtype=jnp.float32)


def advantage_covariance(logp_NxT: jax.Array, rows: Batch, mean: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of l (A - mean A) over sampled tokens under the mask: the population covariance of l and A.

    With the mean over the whole update, the sums of its parts add up, and E[l (A - mean A)] = E[l A] - E[l] E[A] without the
    cancellation. Demonstrated tokens do not count.

    Args:
      logp_NxT: l, before the update; rows: with A as the loss uses it; mean: of A over the sampled tokens of all rows.

    Source: arXiv:2505.22617.
    """
    counted = rows.sampled_NxT > 0
    return jnp.where(counted, logp_NxT * (rows.advantage_NxT - mean), 0.0).sum(), counted.sum(dtype=logp_NxT.dtype)


def _mean_advantage(batch: Batch) -> jax.Array | None:
    if batch.advantage_NxT is None:
        return None
    counted, count = batch.sampled_NxT > 0, jnp.maximum((batch.sampled_NxT > 0).sum(), 1)
    first = jnp.where(counted, batch.advantage_NxT, 0.0).sum() / count
    return first + jnp.where(counted, batch.advantage_NxT - first, 0.0).sum() / count  # what the first sum rounded away


def _mixed(objective: Objective, objective_state: dict, grads_K: dict, total_K: jax.Array, count_K: jax.Array, batch: Batch):
    """(gradients, loss, objective state) of several terms, each a mean, with the weights that the objective gives them."""
    def scaled(x_K, by_K):
        return x_K * by_K.reshape(-1, *(1,) * (x_K.ndim - 1)).astype(x_K.dtype)

    share_K = 1 / jnp.maximum(count_K, 1.0)
    grads_K = jax.tree.map(lambda g: scaled(g, share_K), grads_K)
    flat = [g.reshape(len(g), -1) for g in jax.tree.leaves(grads_K)]
    weight_K, objective_state = objective.mix(objective_state, sum(g @ g.T for g in flat), batch)
    grads = jax.tree.map(lambda g: scaled(g, weight_K).sum(axis=0), grads_K)
    return grads, (weight_K * total_K * share_K).sum(), objective_state


def _split(batch: Batch, parts: int) -> Batch:
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
