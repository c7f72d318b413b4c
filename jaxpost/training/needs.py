"""What objectives need of a batch beyond its rows: which source gives it, and the numbers that any source can give.

Shapes: N rows, T completion tokens. A source makes the rows; what the policies say about them is the same for every
source and is filled here, before the first update on the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpost import curricula, models, sharding
from jaxpost.lookup import nearest
from jaxpost.objectives import NEEDS, Batch, Objective, kl, token_weights
from jaxpost.objectives.policy_gradient import PolicyGradient
from jaxpost.tasks import Task
from jaxpost.training.state import Member, TrainState, stream
from jaxpost.training.step import StepSpec, given, output, statistics, token_logp

_EVERY_SOURCE = frozenset({"policy_entropy", "logits", "reference_logits", "reference", "proximal", "value", "entropy",
                           "collision", "prompt", "mixed_inputs", "seed", "token_weight"})
GIVES = {
    "Demonstrations": _EVERY_SOURCE | {"outside"},
    "Preferences": _EVERY_SOURCE | {"label", "outside", "tie"},
    "Rollouts": _EVERY_SOURCE | {"truncated", "demonstrations", "prefixes", "outside", "terms", "replay",
                                 "hints", "guides", "turns"},
}

CURRICULUM_GIVES = {  # beside what depends on the objective: "advantage", "entropy", "scale" and "kl_scale"; and `options`
    "Demonstrations": frozenset({"loss", "length", "logits"}),
    "Preferences": frozenset(),
    "Rollouts": frozenset({"reward", "length", "rollouts", "prompt_state"}),
}


def require_curriculum(source: str, curriculum: curricula.Curriculum, objective: Objective | None, tasks: tuple[Task, ...],
                       *, options: frozenset[str] = frozenset(), oversample: int = 1) -> None:
    """Refuse a curriculum that needs what the run does not give, before anything is traced.

    Args:
      source: a key of CURRICULUM_GIVES.
      options: what the source gives as it is set: "length_reward", "length_limit", "hints".
      oversample: of the rollouts; advantages are known of the groups alone that are trained on.

    Raises:
      ValueError: names the need, and what would give it; or knobs that the task does not have.
    """
    gives = set(CURRICULUM_GIVES[source])
    advantages = source == "Rollouts" and isinstance(objective, PolicyGradient)
    gives |= {"scale"} if advantages or source == "Demonstrations" else set()
    gives |= {"kl_scale"} if advantages and objective.kl_place == "loss" else set()
    gives |= {"advantage", "entropy"} if advantages and oversample == 1 else set()
    gives |= options
    for need in sorted(curriculum.needs - gives):
        if need not in curricula.NEEDS:
            raise ValueError(f"the curriculum needs {need!r}, which no source gives{nearest(need, curricula.NEEDS)}")
        why = f" with oversample={oversample}; set it to 1" if need in ("advantage", "entropy") and oversample > 1 else ""
        givers = [name for name, given in CURRICULUM_GIVES.items() if need in given and name != source]
        raise ValueError(f"the curriculum needs {curricula.NEEDS[need]}, and {source} does not give it{why}"
                         + (f" ({', '.join(givers)} does)" if givers else ""))
    if (curriculum.needs or curriculum.knobs or curriculum.probes) and len(tasks) > 1:
        raise ValueError(f"a curriculum that learns chooses among the problems of one task, and the mixture has {len(tasks)}")
    for name, _, high in curriculum.knobs:
        splits = [split for split in tasks[0].splits.values() if isinstance(split, dict)]
        if not splits or name not in splits[0]:
            raise ValueError(f"the curriculum sets the knob {name!r}, which task {tasks[0].name!r} does not have"
                             f"{nearest(name, sorted(splits[0]) if splits else ())}")
        if high > (most := max(int(split[name]) for split in splits)):
            raise ValueError(f"the curriculum sets the knob {name!r} up to {high}, and the splits of task {tasks[0].name!r} go "
                             f"to {most}; nearest valid: {most}")


def planned_problems(task: Task, plan: curricula.Plan, repeats: int = 1) -> tuple[jax.Array, dict | None]:
    """(index_N, knobs_N or None) of a plan's problems, each `repeats` times: arguments of `tasks.problems`."""
    index_N = jnp.repeat(plan.index_B, repeats)
    split = task.splits.get("train")
    own = {name: x_B for name, x_B in plan.knobs.items() if isinstance(split, dict) and name in split}
    if not own:
        return index_N, None
    every = {name: jnp.broadcast_to(jnp.asarray(x), index_N.shape) for name, x in split.items()}
    return index_N, every | {name: jnp.repeat(x_B, repeats).astype(every[name].dtype) for name, x_B in own.items()}


def left_out(batch: Batch, rows_N: jax.Array) -> Batch:
    """The batch with rows out of the loss: masked, and counted nowhere."""
    return batch.leave_out(rows_N)._replace(mask_NxT=batch.mask_NxT * ~rows_N[:, None])


def probed(batch: Batch, train: jax.Array) -> Batch:
    """The batch of a plan: all rows are out of the loss if it does not train."""
    return left_out(batch, jnp.broadcast_to(~jnp.asarray(train), batch.mask_NxT.shape[:1]))


def trained_rows(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(rows in the loss, rows)."""
    absent_N = jnp.zeros(batch.mask_NxT.shape[0]) if batch.absent_N is None else batch.absent_N
    return (1 - absent_N).sum(), jnp.asarray(absent_N.size, jnp.float32)


def source_of(objective: Objective) -> str:
    """The name of the source of the objective's kind of batch: a key of GIVES."""
    if objective.batch == "groups":
        return "Rollouts"
    return "Preferences" if objective.batch == "pairs" or "label" in objective.needs else "Demonstrations"


def require(source: str, spec: StepSpec, *tasks: Task) -> None:
    """Refuse an objective that the source cannot feed, before anything is traced.

    Args:
      source: a key of GIVES.
      tasks: that the source draws from.

    Raises:
      ValueError: another kind of batch, a need that the source does not give, token weights of roles that no task has, or a
        model without the value head.
    """
    objective, right = spec.objective, source_of(spec.objective)
    if source != right:
        what = "unpaired rows with labels" if objective.batch == "rows" and right == "Preferences" else objective.batch
        raise ValueError(f"objective {objective.name!r} trains on {what}, which {right} makes and {source} does not; "
                         "take training.source, which chooses")
    for need in sorted(objective.needs - GIVES[source]):
        givers = [name for name, gives in GIVES.items() if need in gives]
        raise ValueError(f"objective {objective.name!r} needs {NEEDS[need]}, and {source} does not give it "
                         f"({', '.join(givers) or 'no source'} does); a batch of your own data can carry it, through "
                         "training.train_step")
    if closed := [task.name for task in tasks if task.episodes is not None and source != "Rollouts"]:
        raise ValueError(f"objective {objective.name!r} trains on demonstrations, and task {closed[0]!r} is a closed loop, "
                         "which has none; take an objective that samples alone, e.g. 'grpo'")
    if "token_weight" in objective.needs:
        _require_roles(objective, tasks)
    if spec.reference_refresh and not _reads_reference(objective):
        raise ValueError(f"reference_refresh={spec.reference_refresh} with objective {objective.name!r}, which reads no "
                         "reference policy; set it to 0")
    if "value" in objective.needs and not spec.model.value_head:
        raise ValueError(f"objective {objective.name!r} needs {NEEDS['value']}, and the model has value_head=False; "
                         "set value_head=True on the model")


def _require_roles(objective: Objective, tasks: tuple[Task, ...]) -> None:
    wanted = [name for name, weight in objective.role_weights if weight]
    present = {name for task in tasks for name in task.roles}
    if not wanted:
        raise ValueError(f"objective {objective.name!r} needs {NEEDS['token_weight']}, and role_weights is empty; give it, "
                         f"e.g. {{{sorted(present)[0]!r}: 1.0}}, or pass a batch of your own data through training.train_step")
    if not present & set(wanted):
        raise ValueError(f"objective {objective.name!r} weighs tokens of the roles {', '.join(wanted)}, and the answers of "
                         f"task {tasks[0].name!r} have none: their roles are {', '.join(sorted(present))}; set role_weights, "
                         "or a style of the task that has them")


def roles_of(task: Task, completion_NxT: jax.Array) -> jax.Array | None:
    """role_NxT of completions, sampled or demonstrated; None where all of a task's tokens are the answer."""
    return None if task.role is None else jax.vmap(task.role)(completion_NxT)


def _reads_reference(objective: Objective) -> bool:
    source = source_of(objective)  # preferences sample from it, and demonstrations may be likely or not under it
    return objective.needs_reference or source == "Preferences" or source == "Demonstrations" and "outside" in objective.needs


def reference_argument(spec: StepSpec) -> bool:
    """Whether a reference policy's parameters must be passed: something reads them, and the state does not keep its own."""
    return _reads_reference(spec.objective) and not spec.reference_refresh


def fill(spec: StepSpec, batch: Batch, member: Member, state: TrainState, reference: dict | None,
         also: frozenset[str] = frozenset()) -> Batch:
    """Fill what the objective needs and any source can give, under the parameters before the first update.

      reference_NxT               log-probabilities under the reference policy
      proximal_NxT                ... under the trainer's own parameters, also where rollouts are truncated (top_k, top_p)
      value_NxT, entropy_NxT      the critic's value of each token's state, and the policy's entropy there in nats
      collision_NxT               the policy's probability there of drawing the same token twice
      prompt_mask_NxQ             the prompt's tokens but padding and the first
      seed_N                      a fresh random word a row and step, the same on every mesh
      token_weight_NxT            of the tokens' roles, where the batch has none of its own
      outside_N                   of demonstrations, the mean log-probability of the row's counted tokens under the reference
                                  policy, where the batch has none of its own
      real_NxT                    of a mixture of experts, the mask before the objective takes tokens out of it, where the
                                  batch has none of its own

    Args:
      also: needs of others than the objective.

    Raises:
      ValueError: no reference policy was passed, or rows that do not fall into equal updates and microbatches.
    """
    spec.check_rows(batch.mask_NxT.shape[0])
    needs = spec.objective.needs | also
    if spec.truncates and batch.behaviour_NxT is not None:  # a ratio to the sampler would be the mass that was kept, not 1
        needs |= {"proximal"}
    if spec.model.experts and batch.real_NxT is None:
        batch = batch._replace(real_NxT=batch.mask_NxT)

    def filled(rows):
        fields = {}
        if "outside" in needs and rows.outside_N is None and source_of(spec.objective) == "Demonstrations":
            fields["outside_N"] = mean_logp(spec, given(spec, reference), rows)
        if "reference" in needs:
            fields["reference_NxT"] = token_logp(spec, given(spec, reference), rows)
        if needs & {"proximal", "value", "entropy", "collision"}:
            out = output(spec, state.params, rows)
            own = statistics(spec, state.params, out, rows, entropy="entropy" in needs)
            fields |= {field: x for need, field, x in (("proximal", "proximal_NxT", own.logp_NxT),
                                                       ("value", "value_NxT", out.taps.get("value")),
                                                       ("entropy", "entropy_NxT", own.entropy_NxT)) if need in needs}
            if "collision" in needs:
                fields["collision_NxT"] = kl.collision(out.logits)
        return fields

    fields = _by_microbatches(filled, batch, spec.microbatches)
    if "prompt" in needs:
        fields["prompt_mask_NxQ"] = models.prompt_tokens(batch.prompt_NxP, spec.pad).astype(batch.mask_NxT.dtype)
    if "seed" in needs:
        fields["seed_N"] = jax.random.bits(stream(member.seed, "rows", state.step), batch.mask_NxT.shape[:1], "uint32")
    if "token_weight" in needs and batch.token_weight_NxT is None:
        role_NxT = jnp.zeros(batch.mask_NxT.shape, jnp.int32) if batch.role_NxT is None else batch.role_NxT
        fields["token_weight_NxT"] = token_weights.of_roles(role_NxT, spec.objective.role_weights)
    return batch._replace(**fields)


def mean_logp(spec: StepSpec, params: dict, batch: Batch) -> jax.Array:
    """Mean log-probability of each row's counted tokens, [N]; 0 of a row without one."""
    logp_NxT = jnp.where(batch.mask_NxT > 0, token_logp(spec, params, batch), 0.0)
    return logp_NxT.sum(axis=1) / jnp.maximum(batch.mask_NxT.sum(axis=1), 1.0)


def _by_microbatches(fill_rows: Callable[[Batch], dict], batch: Batch, parts: int) -> dict:
    """What is said of all rows, as many at a time as a gradient takes: logits of a whole batch may not fit."""
    if parts == 1:
        return fill_rows(batch)
    rows_MxN = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    by_microbatch = jax.lax.map(lambda rows: fill_rows(sharding.constrain(rows, ("batch",))), rows_MxN)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_microbatch)
