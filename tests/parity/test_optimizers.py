"""Optimizer steps against torch.optim in float64, with the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.training import optimizers

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")

pytestmark = pytest.mark.parity

RATE = 3e-3
LIMIT = {None: 1e-12, 1.0: 1e-6}  # of the movement; where it clips torch divides by norm + 1e-6, optax by the norm
SHAPES = {"a": (7, 5), "b": (3,)}


def gradients(steps=20):
    """Gradients of very different sizes a step, as float64 numpy."""
    rng = np.random.default_rng(0)
    return [{n: (10.0 ** rng.uniform(-4, 1) * rng.normal(size=s)) for n, s in SHAPES.items()}
            for _ in range(steps)]


def ours(start, name, **options):
    """Float64 end of the run: the arithmetic is compared, not float32 rounding."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _ours(start, name, **options))


def _ours(start, name, **options):
    transform = optimizers.make(name, **options)
    params = jax.tree.map(jnp.asarray, start)
    state = transform.init(params)
    for grads in gradients():
        direction, state = transform.update(jax.tree.map(jnp.asarray, grads), state, params)
        params, _ = optimizers.apply_direction(params, direction, RATE)
    return params


def theirs(start, make, clip_norm=None):
    params = {n: torch.nn.Parameter(torch.tensor(x)) for n, x in start.items()}
    optimizer = make(params.values())
    for grads in gradients():
        for name, p in params.items():
            p.grad = torch.tensor(grads[name])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip_norm)
        optimizer.step()
    return {n: p.detach().numpy() for n, p in params.items()}


@pytest.fixture
def start():
    rng = np.random.default_rng(1)
    return {n: rng.normal(size=s) for n, s in SHAPES.items()}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_adamw(hf, start, decay, clip_norm):
    got = ours(start, "adamw", b1=0.9, b2=0.98, eps=1e-8, weight_decay=decay, clip_norm=clip_norm or 1e9)
    expected = theirs(start, lambda p: torch.optim.AdamW(p, lr=RATE, betas=(0.9, 0.98), eps=1e-8, weight_decay=decay),
                      clip_norm)
    moved = [jax.tree.map(lambda x, x0: np.asarray(x) - x0, end, start) for end in (got, expected)]
    hf.agree(hf.normwise(*moved), LIMIT[clip_norm])


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_sgd_with_momentum(hf, start, clip_norm):
    got = ours(start, "sgd", momentum=0.9, clip_norm=clip_norm or 1e9)
    expected = theirs(start, lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9), clip_norm)
    moved = [jax.tree.map(lambda x, x0: np.asarray(x) - x0, end, start) for end in (got, expected)]
    hf.agree(hf.normwise(*moved), LIMIT[clip_norm])
