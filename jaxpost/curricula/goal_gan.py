"""GoalGAN: task knobs from a small generator that is trained to make tasks of intermediate success.

Shapes: B items, D knobs, N tasks that are kept, Z numbers of noise.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Feedback, Plan, Weights
from jaxpost.curricula.knobbed import Knobbed


def network(key: jax.Array, sizes: tuple[int, ...]) -> list:
    """Weights and biases of a perceptron."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [(jax.random.normal(k, (a, b)) * jnp.sqrt(2 / a), jnp.zeros(b)) for k, a, b in zip(keys, sizes, sizes[1:])]


def apply(layers: list, x_NxI: jax.Array) -> jax.Array:
    """[N, O]: relu between layers, none behind the last."""
    for weight, bias in layers[:-1]:
        x_NxI = jax.nn.relu(x_NxI @ weight + bias[None])
    return x_NxI @ layers[-1][0] + layers[-1][1][None]


def discriminator_loss(discriminator: list, real_NxD: jax.Array, good_N: jax.Array, made_NxD: jax.Array) -> jax.Array:
    """Least squares with labels: mean( y (D(g) - 1)^2 + (1 - y) (D(g) + 1)^2 ) + mean( (D(G(z)) + 1)^2 ), y in {0, 1}."""
    on_real_N, on_made_N = apply(discriminator, real_NxD)[:, 0], apply(discriminator, made_NxD)[:, 0]
    labelled = (good_N * (on_real_N - 1) ** 2 + (1 - good_N) * (on_real_N + 1) ** 2).mean()
    return labelled + ((on_made_N + 1) ** 2).mean()


@dataclasses.dataclass(frozen=True)
class GoalGan(Knobbed):
    """A share `old` of the items has knobs of tasks that were good, the rest those of the generator and noise.

      good: low <= mean success <= high

    Every `every` tasks generator and discriminator take `iterations` gradient steps in turn on the last `kept` tasks with their
    labels: the discriminator minimises `discriminator_loss`, the generator mean( D(G(z))^2 ). Before that, and where none was
    good, items are uniform.

    Raises:
      ValueError: no knobs, an empty range, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1705.06366"
    differs: ClassVar[str] = "after the benchmark TeachMyAgent, whose labels are of two rollouts; small networks with plain " \
        "gradient steps; networks go on from where they were"
    reconstructed: ClassVar[str] = "loss recalled; sizes and steps of the networks"

    low: float = 0.25
    high: float = 0.75
    old: float = 0.2
    noise: float = 0.01
    every: int = 100  # tasks
    kept: int = 200
    width: int = 32
    latent: int = 4  # Z
    iterations: int = 200
    rate: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        if not (0 <= self.low <= self.high <= 1 and 0 <= self.old <= 1 and self.noise >= 0 and 1 <= self.every <= self.kept
                and min(self.width, self.latent, self.iterations) >= 1 and self.rate > 0):
            raise ValueError(f"low={self.low}, high={self.high}, old={self.old}, noise={self.noise}, every={self.every}, "
                             f"kept={self.kept}: expected 0 <= low <= high <= 1, a share, and 1 <= every <= kept")

    def init(self, key: jax.Array) -> dict:
        """No tasks, random networks."""
        D, word_key, make_key, judge_key = len(self.knobs), *jax.random.split(key, 3)
        return {"task_NxD": jnp.zeros((self.kept, D)), "good_N": jnp.zeros(self.kept), "count": jnp.int32(0),
                "generator": network(make_key, (self.latent, self.width, D)), "trained": jnp.bool_(False),
                "discriminator": network(judge_key, (D, self.width, 1)), "word": jax.random.bits(word_key, (), "uint32")}

    def made(self, generator: list, key: jax.Array, count: int) -> jax.Array:
        """[count, D] in the unit cube."""
        return jax.nn.sigmoid(apply(generator, jax.random.normal(key, (count, self.latent))))

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Knobs of every item."""
        del context
        B, D = plan.index_B.shape[0], len(self.knobs)
        decide_key, old_key, make_key, noise_key, uniform_key = jax.random.split(key, 5)
        old_B = jax.random.categorical(old_key, jnp.log(state["good_N"]), shape=(B,))
        made_BxD = self.made(state["generator"], make_key, B) + self.noise * jax.random.normal(noise_key, (B, D))
        takes_old_Bx1 = (jax.random.uniform(decide_key, (B,)) < self.old)[:, None]
        unit_BxD = jnp.where(takes_old_Bx1, state["task_NxD"][old_B], made_BxD)
        ready = state["trained"] & state["good_N"].any()
        unit_BxD = jnp.where(ready, unit_BxD, jax.random.uniform(uniform_key, (B, D)))
        return state, self.write(plan, self.whole(jnp.clip(unit_BxD, 0.0, 1.0)))

    def trained(self, state: dict, key: jax.Array) -> tuple[list, list]:
        """(generator, discriminator) after their steps; tasks that are not there yet are left out by their count."""
        place_N = jnp.arange(self.kept) % jnp.maximum(jnp.minimum(state["count"], self.kept), 1)
        real_NxD, good_N = state["task_NxD"][place_N], state["good_N"][place_N]

        def descend(parts, slope):
            return jax.tree.map(lambda x, g: x - self.rate * jnp.clip(g, -1.0, 1.0), parts, slope)

        def step(i, both):
            generator, discriminator = both
            fake = jax.random.fold_in(key, i)
            made_NxD = self.made(generator, fake, self.kept)
            discriminator = descend(discriminator, jax.grad(discriminator_loss)(discriminator, real_NxD, good_N, made_NxD))
            fools = jax.grad(lambda g: (apply(discriminator, self.made(g, fake, self.kept)) ** 2).mean())
            return descend(generator, fools(generator)), discriminator

        return jax.lax.fori_loop(0, self.iterations, step, (state["generator"], state["discriminator"]))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Tasks with their labels, and training where it is due."""
        success_B = feedback.mean(feedback.reward_BxG)
        good_B = ((success_B >= self.low) & (success_B <= self.high)).astype(jnp.float32)
        before, count = state["count"], state["count"] + success_B.shape[0]
        slot_B = (before + jnp.arange(success_B.shape[0])) % self.kept
        state = state | {"task_NxD": state["task_NxD"].at[slot_B].set(self.middle(feedback.plan)), "count": count,
                         "good_N": state["good_N"].at[slot_B].set(good_B)}
        due = count // self.every > before // self.every
        key = jax.random.fold_in(jax.random.key(state["word"]), count)
        generator, discriminator = jax.lax.cond(due, lambda: self.trained(state, key),
                                                lambda: (state["generator"], state["discriminator"]))
        return state | {"generator": generator, "discriminator": discriminator, "trained": state["trained"] | due}, weights
