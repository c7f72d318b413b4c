"""Segments of steps as one compiled program, for one run or for an ensemble of them.

The trip count is an argument, so any split of a run into segments executes the same program: checkpoints, measurements
and kills fall between segments and cannot change a bit of the trajectory.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import models, processes, sharding
from jaxpost.objectives import Batch
from jaxpost.probes.updates import ever_changed
from jaxpost.training import metrics
from jaxpost.training.state import Member, TrainState
from jaxpost.training.step import StepSpec, train_step


class NonFiniteLoss(ArithmeticError):
    """A member's loss became NaN or infinite; `.step` is the first such step, `.member` its position."""

    def __init__(self, step: int, member: int):
        self.step, self.member = step, member
        super().__init__(f"loss is not finite at step {step} of member {member}")


def one_step(source, spec: StepSpec, member: Member, state: TrainState, reference: dict | None):
    """Make the step's batch from `source` (Demonstrations, Preferences or Rollouts) and train on it.

    Args:
      reference: frozen parameters of the reference policy, where `source.needs_reference`; one that the spec refreshes is
        in the state instead.
    """
    reference = reference_of(spec, state, reference)
    batch, seen, curriculum_state = source.batch(member, state, reference)
    return learn(spec, member, state, reference, batch, seen, curriculum_state, probes=source.curriculum.probes)


def reference_of(spec: StepSpec, state: TrainState, reference: dict | None) -> dict | None:
    """The reference policy of a step: the one that the state keeps, where the spec refreshes it, or the argument."""
    return state.reference if spec.reference_refresh else reference


def learn(spec: StepSpec, member: Member, state: TrainState, reference: dict | None, batch: Batch, seen: dict,
          curriculum_state: dict, *, probes: bool = False) -> tuple[TrainState, dict]:
    """Train on a batch that is made, and take over what making it found: (state, metrics).

    Args:
      probes: whether a batch may have no row in the loss; then all but the step stays as it is, optimizer moments included.
    """
    before = state
    state, measured = train_step(spec, state, batch, member.scalars, reference)
    if probes:
        trains = (batch.absent_N < 1).any()
        state = jax.tree.map(lambda new, old: jnp.where(trains, new, old), state, before)._replace(step=state.step)
    if spec.reference_refresh:
        due = state.step % spec.reference_refresh == 0
        state = state._replace(reference=jax.tree.map(lambda new, old: jnp.where(due, new, old), state.params, reference))
    return state._replace(curriculum_state=curriculum_state), {**measured, **seen}


@functools.cache
def segment_program(source, spec: StepSpec, capacity: int, mesh=None):
    """jit of (states_S, members_S, steps, reference) -> (states_S, history_SxC) with `steps` <= capacity C an argument.

    The history holds each step's metrics; entries from `steps` on are zero. States are donated. Rows that the source reads
    at every step (it has `table` and `given`) are an argument that the program passes by itself.
    """
    def run(entry, steps, reference, rows):
        state, member = entry
        fed = source if rows is None else source.given(rows)
        shapes = jax.eval_shape(lambda s: one_step(fed, spec, member, s, reference)[1], state)
        history = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

        def body(i, carry):
            state, history = carry
            state, measured = one_step(fed, spec, member, state, reference)
            state = sharding.constrain_parameters(state, models.parameter_table(spec.model))
            return state, jax.tree.map(lambda h, x: h.at[i].set(x), history, measured)

        return jax.lax.fori_loop(0, steps, body, (state, history))

    mapped = sharding.map_members(run, mesh)
    program = jax.jit(lambda states, members, steps, reference, rows=None: mapped((states, members), steps, reference, rows),
                      donate_argnums=0)
    return _Fed(program, source.table()) if hasattr(source, "given") else program


@dataclasses.dataclass(frozen=True)
class _Fed:
    """A program whose last argument is the rows that its source trains on at every step, lowered and compiled alike.

    Rows that were constants of the program would be folded through masks and embeddings while it compiles.
    """

    program: Any
    rows: Batch

    def __call__(self, *arguments):
        return self.program(*arguments, self.rows)

    def lower(self, *arguments):
        """As `jax.jit(...).lower`."""
        return _Fed(self.program.lower(*arguments, self.rows), self.rows)

    def compile(self, *options):
        """As `jax.jit(...).lower(...).compile`."""
        return _Fed(self.program.compile(*options), self.rows)


def run_segment(program, states: TrainState, members: Member, steps: int, reference: dict | None):
    """Run a segment and read its metrics. States without probe state (of an older checkpoint) start it here.

    Returns:
      (states_S, {metric: float64 array [S, steps, ...]}).

    Raises:
      NonFiniteLoss: the incoming states are gone (donated); the last checkpoint is the last good state.
    """
    first = int(processes.whole(states.step)[0])
    if states.probe_state is None:
        states = states._replace(probe_state=jax.vmap(ever_changed.start)(states.params, np.array(states.step)))
    states, history = program(states, members, steps, reference)
    values = {name: x[:, :steps] for name, x in metrics.compute(processes.whole(history)).items()}
    bad = np.argwhere(~np.isfinite(values["grad_norm"]))
    if len(bad):
        member, step = bad[np.argmin(bad[:, 1])]
        raise NonFiniteLoss(first + int(step) + 1, int(member))
    return states, values


def stack(trees: list):
    """Members of an ensemble on a new leading axis, as host arrays (no program is compiled for it)."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(jnp.asarray(v)) for v in x]), *trees)
