"""Log-probabilities and entropies a part of the vocabulary at a time: those of whole logits, without an array of them."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, sharding, training
from jaxpost.training import needs

ROWS, T, V, D = 4, 6, 61, 8  # 61 entries divide into no equal parts
MODEL = models.TransformerConfig(vocab=V, width=D, layers=1, heads=2, kv_heads=1, head_dim=4, ff=8, compute_dtype="float64")


def oracle(hidden, table, target, temperature):
    """(logp, entropy, gradient of sum(a logp + b entropy) in hidden and table) in float64 numpy, from whole logits."""
    z = hidden @ table.T / temperature
    logp = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    p, one = np.exp(logp), np.eye(V)[target]
    H = -(p * logp).sum(-1)
    return (logp * one).sum(-1), H, (one - p) / temperature, -p * (logp + H[..., None]) / temperature


@pytest.mark.parametrize("tied", (True, False))
@pytest.mark.parametrize("chunk", (1, 7, 40))
def test_values_and_gradients_are_those_of_whole_logits(tied, chunk):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        hidden, table, (a, b) = rng.normal(size=(ROWS, T, D)), 3 * rng.normal(size=(V, D)), rng.normal(size=(2, ROWS, T))
        target = rng.integers(0, V, (ROWS, T))
        target[0, :2] = 0, V - 1
        config = dataclasses.replace(MODEL, tied=tied, logprob_chunk=chunk)

        def total(h, w):
            found = models.token_statistics(config, {"embed": w} if tied else {"head": w.T}, h, jnp.asarray(target),
                                            temperature=0.7, entropy=True)
            return (a * found.logp_NxT + b * found.entropy_NxT).sum(), found

        (_, found), grads = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(jnp.asarray(hidden), jnp.asarray(table))
        logp, H, dlogp, dH = oracle(hidden, table, target, 0.7)
        dz = a[..., None] * dlogp + b[..., None] * dH
        for got, wanted in ((found.logp_NxT, logp), (found.entropy_NxT, H), (grads[0], dz @ table),
                            (grads[1], np.einsum("ntv,ntd->vd", dz, hidden))):
            np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)


def test_large_logits_neither_overflow_nor_cancel():
    table = np.zeros((V, D), np.float32)
    table[:, 0] = np.linspace(-3e4, 3e4, V)
    config = dataclasses.replace(MODEL, tied=True, logprob_chunk=9, compute_dtype="float32")
    found = models.token_statistics(config, {"embed": jnp.asarray(table)}, jnp.ones((1, 2, D), jnp.float32),
                                    jnp.asarray([[V - 1, 0]]), entropy=True)
    np.testing.assert_array_equal(found.logp_NxT, [[0.0, -6e4]])
    np.testing.assert_array_equal(found.entropy_NxT, [[0.0, 0.0]])


def run_of(objective, chunk=0, **parts):
    """(spec, state, batch) of six rows of five tokens, with all that the objective needs, some of it masked."""
    model = models.TransformerConfig(vocab=509, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16, logprob_chunk=chunk)
    spec = training.StepSpec(model, objectives.get(objective, **parts), (("name", "adamw"),), group=2, microbatches=2)
    state = training.create(spec, models.init(model, jax.random.key(0)), {})
    rng = np.random.default_rng(2)
    logp = [jnp.asarray(rng.uniform(-7, -5, (6, 5)), jnp.float32) for _ in range(2)]
    tokens = [jnp.asarray(rng.integers(1, 509, (6, length)), jnp.int32) for length in (3, 5)]
    batch = objectives.Batch(*tokens, jnp.asarray(np.arange(5) < rng.integers(1, 6, (6, 1)), jnp.float32),
                             reward_N=jnp.asarray([1.0, 0.0] * 3), behaviour_NxT=logp[0], reference_NxT=logp[1],
                             role_NxT=jnp.asarray(rng.integers(0, 2, (6, 5)), jnp.int32))
    return spec, state, batch


def program_of(spec, state, batch):
    scalars = training.Scalars(1e-3, None, False)
    return jax.jit(lambda s: training.train_step(spec, s, batch, scalars), donate_argnums=0).lower(state)


def wide_logits(text: str, tokens: int) -> list[str]:
    """Shapes of a compiled program's float arrays that have an entry for each token and each of 509 words."""
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\bf(?:32|64)\[([\d,]+)\]", text)}
    return [shape for shape in sorted(shapes) if math.prod(shape) == 509 * tokens]


def test_a_step_agrees_with_the_plain_one_and_holds_no_logits():
    """GRPO's loss with an entropy bonus, a KL penalty and roles of tokens, over two microbatches."""
    found = {}
    for chunk in (0, 64):
        spec, state, batch = run_of("raft_pp", chunk)
        before = jax.tree.map(np.asarray, state)
        compiled = program_of(spec, state, batch).compile()
        assert compiled.memory_analysis().alias_size_in_bytes >= 12 * models.count_parameters(spec.model), "donated"
        found[chunk] = *compiled(state), compiled.as_text()
    assert wide_logits(found[0][2], 3 * 5), "the plain step has them: else this test would see nothing"
    assert wide_logits(found[64][2], 3 * 5) == []
    (plain, told, _), (parted, seen, _) = found[0], found[64]
    assert set(told) == set(seen) and {"entropy", "kl", "entropy_answer"} <= set(told)
    for name in told:
        for got, wanted in zip(*map(jax.tree.leaves, (seen[name], told[name]))):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    change = [jax.tree.map(lambda x, y: x - y, s.opt_state, before.opt_state) for s in (parted, plain)]
    away = jax.tree.map(lambda x, y: float(jnp.linalg.norm(x - y) / jnp.maximum(jnp.linalg.norm(y), 1e-20)), *change)
    assert max(jax.tree.leaves(away)) < 1e-5


def test_what_fills_a_batch_agrees_with_the_plain_numbers():
    """The entropy before the update, at a temperature."""
    found = []
    for chunk in (0, 64):
        spec, state, batch = run_of("d3s", chunk)
        spec = dataclasses.replace(spec, temperature=0.6)
        filled = jax.jit(lambda b, s=spec, state=state: needs.fill(s, b, None, state, state.params))(batch)
        found.append(filled.entropy_NxT)
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_rematerialisation_changes_no_gradient_and_keeps_less():
    """The whole layer computed again holds least, all but its products more, nothing most; float64, so that equal is equal."""
    model = dataclasses.replace(MODEL, layers=6, ff=32)
    tokens, found, held = jnp.arange(4 * 96).reshape(4, 96) % V, {}, {}
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype("float64"), models.init(model, jax.random.key(0)))
        for remat in models.REMAT:
            config = dataclasses.replace(model, remat=remat, tied=False)
            loss = jax.jit(jax.grad(lambda p, c=config: models.apply(c, p, tokens, valid_BxS=tokens >= 0, logits=False).taps[
                "hidden"].var())).lower(params).compile()
            found[remat], held[remat] = loss(params), loss.memory_analysis().temp_size_in_bytes
        for remat in ("layer", "dots"):
            for got, wanted in zip(*map(jax.tree.leaves, (found[remat], found["none"]))):
                np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)
    assert held["layer"] < held["dots"] < held["none"], held


@pytest.mark.parametrize("size", (64, 96, 61))
def test_parts_of_a_vocabulary_that_is_split_over_devices(size):
    """Every shard gives its own entries to each part, so that none is sent elsewhere to be read."""
    config = dataclasses.replace(MODEL, vocab=size, tied=True, logprob_chunk=16, compute_dtype="float32")
    rng = np.random.default_rng(1)
    hidden, table = rng.normal(size=(4, 3, D)).astype(np.float32), rng.normal(size=(size, D)).astype(np.float32)
    target = rng.integers(0, size, (4, 3))

    def read(h, w):
        found = models.token_statistics(config, {"embed": w}, h, jnp.asarray(target), entropy=True)
        return found.logp_NxT.sum() + found.entropy_NxT.sum()

    alone = jax.value_and_grad(read, (0, 1))(hidden, table)
    mesh = sharding.make_mesh({"data": 2, "tensor": 4})
    with sharding.on_mesh(mesh):
        split = jax.jit(jax.value_and_grad(read, (0, 1)))
        places = [jax.sharding.NamedSharding(mesh, sharding.partition(axes, x.shape, mesh))
                  for axes, x in ((("batch", None, None), hidden), (("vocab", "embed"), table))]
        given = [jax.device_put(x, place) for x, place in zip((hidden, table), places)]
        text = split.lower(*given).compile().as_text()
        found = split(*given)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, alone)
    if size % 4 == 0:
        gathered = [line for line in text.splitlines() if re.search(r"= \S+ all-gather", line)]
        assert not gathered, gathered


def test_what_needs_whole_logits_says_so():
    with pytest.raises(ValueError, match="'asft' needs logits of the whole vocabulary.*logprob_chunk=64.*set it to 0"):
        run_of("asft", chunk=64)
    with pytest.raises(ValueError, match="logprob_chunk=-1 is negative"):
        dataclasses.replace(MODEL, logprob_chunk=-1)
    with pytest.raises(ValueError, match="remat='layers' is not known; did you mean 'layer'"):
        dataclasses.replace(MODEL, remat="layers")


def test_a_vocabulary_within_one_part_is_read_whole():
    """So that the setting may be on for models of any size: the program is the plain one, letter for letter."""
    assert len({program_of(*run_of("raft_pp", chunk)).as_text() for chunk in (0, 509)}) == 1
