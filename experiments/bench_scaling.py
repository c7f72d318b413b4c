"""How cost grows with size: exponents of measured seconds in the counted operations, one axis at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import benchmark
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.session import StopSignals
from jaxpost import linalg, models, objectives, training

TITLE = "How cost grows with size"
QUESTION = "Do the seconds of a step, of sampling and of a spectral probe grow with size as their operations do?"


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Time every axis at its sizes, print the exponents, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    benchmark.require_least(config, turns=1)
    for axis, sizes in config.sizes.items():
        if len(set(sizes)) < 2:
            raise UserError(f"sizes.{axis}={tuple(sizes)}: an exponent needs two sizes at least")
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        targets = [exponent(bundle, axis, sizes, config) for axis, sizes in config.sizes.items()]
        benchmark.publish(bundle, session, TITLE, targets)


def exponent(bundle, axis: str, sizes: Sequence[int], config: ConfigDict) -> benchmark.Target:
    """Slope of log seconds in log operations over the sizes of one axis, a slope for every turn."""
    calls, work = zip(*(AXES[axis](config, size) for size in sizes), strict=True)
    for call in calls:
        jax.block_until_ready(call())  # compiles
    seconds = np.asarray([[benchmark.seconds(call) for call in calls] for _ in range(config.turns)])
    x = np.log(work) - np.mean(np.log(work))
    slopes = (np.log(seconds) * x).sum(axis=1) / (x * x).sum()
    for size, flops, wall_s in zip(sizes, work, np.median(seconds, axis=0), strict=True):
        bundle.cost(f"bench.{axis}.{size}", wall_s=wall_s, flops=flops)
    spent = ", ".join(f"{size}: {1e3 * wall_s:.3g} ms" for size, wall_s in zip(sizes, np.median(seconds, axis=0), strict=True))
    return benchmark.target(axis, "0.9 to 1.1", slopes, abs(np.median(slopes) - 1) <= 0.1, spent)


def _train(config: ConfigDict, members: int = 1, rows: int | None = None, tokens: int | None = None, **model: int
           ) -> tuple[Callable, float]:
    """A supervised step, of several members at once, and its operations."""
    c = models.TransformerConfig(**{**config.model, **model})
    rows, tokens = rows or config.rows, tokens or config.tokens
    spec = training.StepSpec(c, objectives.get("cross_entropy"), (("name", "adamw"),), pad=-1)
    token = jax.random.randint(jax.random.key(1), (rows, tokens + 1), 0, c.vocab)
    batch = objectives.Batch(token[:, :1], token[:, 1:], jnp.ones((rows, tokens)))
    state = training.create(spec, models.init(c, jax.random.key(0)), {})
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (members, *x.shape)), state)
    scalars = training.Scalars(jnp.float32(1e-3))
    step = jax.jit(lambda states: jax.lax.map(lambda state: training.train_step(spec, state, batch, scalars), states))
    return lambda: step(states), members * benchmark.training_operations(c, rows, tokens)


def _sample(config: ConfigDict, rows: int) -> tuple[Callable, float]:
    """Sampling as many answers, and its operations."""
    c = models.TransformerConfig(**config.model)
    params, prompt = models.init(c, jax.random.key(0)), jnp.ones((rows, 16), jnp.int32)
    sample = jax.jit(lambda key: models.sample(c, params, prompt, key, length=config.tokens, eos=benchmark.NEVER))
    return lambda: sample(jax.random.key(0)), benchmark.operations(c, rows, 16, config.tokens)


def _matrices(config: ConfigDict, count: int) -> tuple[Callable, float]:
    """Singular values of as many matrices of the model's width; the unit of work is a matrix."""
    a = jax.random.normal(jax.random.key(0), (count, config.model.width, config.model.width))
    program = jax.jit(lambda a: jax.lax.map(linalg.singular_values, a))
    return lambda: program(a), float(count)


AXES: dict[str, Callable[[ConfigDict, int], tuple[Callable, float]]] = {
    "layers": lambda config, size: _train(config, layers=size),
    "width": lambda config, size: _train(config, width=size, ff=3 * size, heads=size // config.model.head_dim,
                                         kv_heads=size // config.model.head_dim),
    "sequence": lambda config, size: _train(config, tokens=size),
    "rows": lambda config, size: _train(config, rows=size),
    "ensemble": lambda config, size: _train(config, members=size),
    "group": _sample,
    "matrices": _matrices,
}
