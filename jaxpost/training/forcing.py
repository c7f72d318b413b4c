"""What the answers of a rollout hold that the policy does not draw: beginnings of demonstrations, hints, interruptions.

A rule fills one buffer of forced tokens (`models.sample`) and says what role they have. Tokens of a demonstration are in the
batch's `demonstration_NxT` and the objective decides what is learned from them; those of any other role are context, masked
out of the loss. Rules are hashable, so equal ones share a program.

Shapes: N sampled rows, S of them a prompt (adjacent), T completion tokens.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost import roles, tasks
from jaxpost.models import DRAW
from jaxpost.tasks import Task

DRAWS = ("uniform", "binomial", "fixed")


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Answers begin with a part of the demonstration of their prompt, the same for the prefixed rows of a prompt.

      forced tokens = floor(share * (n - 1)), n the demonstration's tokens with its end token, which is never forced

      share  uniform   U[p(t), high]
             binomial  Binomial(slices, p(t)) / slices
             fixed     p(t)

      p(t) = end + (start - end) (1 + cos(pi min(t / steps, 1))) / 2 at batch t; share 0 from batch `steps` on if `stops`

    With `another`, a control, answers begin with the demonstration of the next prompt of the batch instead: as long a help, and
    no information about the problem, unless a small pool holds it twice.

    Sources: uniform, Prefix-RFT, arXiv:2507.01679; binomial, UFT, arXiv:2505.16984.
    """

    draw: str = "fixed"  # DRAWS
    start: float = 0.5  # p of the first batch
    end: float = 0.5
    steps: int = 1  # batches from start to end
    high: float = 0.95  # of draw "uniform"
    slices: int = 5  # of draw "binomial"
    stops: bool = False  # no prefix after `steps`
    rows: int | None = None  # how many rows a prompt, the first ones, which a curriculum of fewer rollouts keeps; None: all
    role: str = "prefix"  # or "hint": the tokens are context and not demonstrated
    another: bool = False  # of the next prompt's demonstration

    def __post_init__(self):
        if self.draw not in DRAWS:
            raise ValueError(f"prefix draw {self.draw!r} is unknown; choose one of {', '.join(DRAWS)}")
        if self.role not in ("prefix", "hint"):
            raise ValueError(f"prefix role {self.role!r} is unknown; choose one of prefix, hint")
        if not all(0 <= x <= 1 for x in (self.start, self.end, self.high)) or self.steps < 1 or self.slices < 1:
            raise ValueError(f"prefix start={self.start}, end={self.end}, high={self.high} must lie in [0, 1], and "
                             f"steps={self.steps}, slices={self.slices} be at least 1")
        for field, draw in (("high", "uniform"), ("slices", "binomial")):
            usual = type(self).__dataclass_fields__[field].default
            if self.draw != draw and getattr(self, field) != usual:
                raise ValueError(f"prefix {field}={getattr(self, field)} has no effect with draw={self.draw!r}; leave it "
                                 f"{usual}, or choose draw={draw!r}")

    @property
    def demonstrates(self) -> bool:
        """Whether the forced tokens are a demonstration's to learn from."""
        return self.role == "prefix"

    def check(self, task: Task, sampled: int) -> None:
        """Refuse what does not fit. Raises: ValueError."""
        del task
        if self.rows is not None and not 1 <= self.rows <= sampled:
            raise ValueError(f"rows={self.rows} of a prompt begin with a prefix, and {sampled} are sampled; valid: 1 to "
                             f"{sampled}")

    def chance(self, step: jax.Array | int) -> jax.Array:
        """p(t)."""
        along = jnp.minimum(step / self.steps, 1.0)
        p = self.end + 0.5 * (self.start - self.end) * (1 + jnp.cos(jnp.pi * along))
        return jnp.where(step >= self.steps, 0.0, p) if self.stops else p

    def tokens(self, task: Task, problems_N, key: jax.Array, step: jax.Array | int, sampled: int,
               share: jax.Array | None = None) -> jax.Array:
        """forced_NxT: tokens, or DRAW.

        Args:
          share: of a curriculum in place of `draw`, [B] or, of each row, [B, S].
        """
        problems_B = jax.tree.map(lambda x: x[::sampled], problems_N)
        if self.another:
            problems_B = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), problems_B)
        B = jax.tree.leaves(problems_B)[0].shape[0]
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(B))
        shown_BxT = jax.vmap(task.oracle)(problems_B, keys_B)
        length_B = tasks.through(shown_BxT, task.ends).sum(axis=1)
        share = self._share(jax.random.fold_in(key, B), step, B) if share is None else share
        share_BxS = share if share.ndim == 2 else share[:, None]
        count_BxSx1 = jnp.floor(share_BxS * (length_B - 1)[:, None] + 1e-6)[..., None]
        begins_1xSx1 = (jnp.arange(sampled) < (sampled if self.rows is None else self.rows))[None, :, None]
        within_BxSxT = (jnp.arange(shown_BxT.shape[1])[None, None] < count_BxSx1) & begins_1xSx1
        return jnp.where(within_BxSxT, shown_BxT[:, None], DRAW).astype(jnp.int32).reshape(B * sampled, -1)

    def _share(self, key, step, count):
        p = self.chance(step)
        if self.draw == "uniform":
            share = p + (jnp.maximum(self.high, p) - p) * jax.random.uniform(key, (count,))
            return jnp.where(step >= self.steps, 0.0, share) if self.stops else share
        if self.draw == "binomial":
            return (jax.random.uniform(key, (count, self.slices)) < p).mean(axis=1)
        return jnp.full((count,), p)


@dataclasses.dataclass(frozen=True)
class Interrupt:
    """Words are put into every answer that has not ended at a position: its budget runs out, and the policy goes on."""

    at: int  # tokens before the words
    words: tuple[int, ...]  # token ids
    role: ClassVar[str] = "interrupt"
    demonstrates: ClassVar[bool] = False

    def check(self, task: Task, sampled: int) -> None:
        """Refuse what does not fit. Raises: ValueError."""
        del sampled
        last, most = self.at + len(self.words), task.completion_len
        if self.at < 0 or not self.words or last > most:
            raise ValueError(f"an interruption of {len(self.words)} tokens at {self.at} ends at {last}, and answers of task "
                             f"{task.name!r} have {most} tokens; nearest valid: at={max(most - len(self.words), 0)}")
        ends = task.ends if isinstance(task.ends, tuple) else (task.ends,)
        if wrong := [word for word in self.words if not 0 <= word < task.vocab_size or word in ends]:
            raise ValueError(f"words={self.words} of an interruption hold {wrong[0]}; expected token ids of task "
                             f"{task.name!r}, 0 to {task.vocab_size - 1}, that end no answer, as "
                             f"{', '.join(map(str, ends))} would")

    def tokens(self, task: Task, problems_N, key: jax.Array, step: jax.Array | int, sampled: int) -> jax.Array:
        """forced_NxT: tokens, or DRAW."""
        del key, step, sampled
        N = jax.tree.leaves(problems_N)[0].shape[0]
        row_T = jnp.full((task.completion_len,), DRAW, jnp.int32)
        row_T = row_T.at[self.at:self.at + len(self.words)].set(jnp.asarray(self.words, jnp.int32))
        return jnp.broadcast_to(row_T, (N, task.completion_len))


# Guidance that a row of the table names -> the rule. What its paper leaves open is said there.
GUIDANCE = {
    "prefix_rft": Prefix("uniform", start=0.95, end=0.05, steps=500, rows=1),
    "uft": Prefix("binomial", start=0.95, end=0.05, steps=300, stops=True),
}


def role_codes(role_NxT: jax.Array | None, forced_NxT: jax.Array, role: str) -> jax.Array:
    """role_NxT with the forced tokens' own role."""
    base_NxT = jnp.full(forced_NxT.shape, roles.ANSWER, jnp.int32) if role_NxT is None else role_NxT
    return jnp.where(forced_NxT > 0, roles.code(role), base_NxT)
