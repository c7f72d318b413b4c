"""Lens and tracing of a decoder against float64 numpy, their invariants, and a stream whose carrier is planted.

Legend: N prompts, T positions, V vocabulary, J states, C kinds of replaced token.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, records
from jaxpost.probes import base, catalog, circuits
from jaxpost.probes.circuits import lens, swaps
from tests.models import float64

MODEL = models.TransformerConfig(vocab=23, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=24)
RNG = np.random.default_rng(1)
N, T, V = 12, 3, 23
TOKENS = RNG.integers(0, V, (N, T)).astype(np.int32)
OTHER = np.where(np.arange(T) == np.asarray([0, 1])[:, None, None], RNG.integers(0, V, (2, N, T)), TOKENS).astype(np.int32)
TARGET = RNG.integers(0, V, (2, N)).astype(np.int32)
EDGE = 1e-5  # of float64 logits: what is closer is not decided


def run(params, tokens, edit):
    found = models.residual_stream(MODEL, params, tokens, valid_BxS=jnp.ones(tokens.shape, bool), first=T - 1, edit=edit)
    return found.state_JxBxTxD, found.logits_BxTxV[:, 0]


def read(params, state):
    return models.logit_lens(MODEL, params, state)


def asked(replaced=("a", "b")):
    inputs = circuits.Inputs(TOKENS, TARGET, OTHER)
    return circuits.Asked("train", ("a", "b", "c"), (("middle", 1), ("end", 2)), replaced, inputs)


PROBE = circuits.Circuits(circuits.Circuit(run, read, (asked(),)), draws=3)
MEASURE = jax.jit(PROBE.measure)


@functools.cache
def measured(own=True):
    """(params, values) of a decoder with large weights, so that swaps matter; not `own`: the other prompts are the same."""
    params = jax.tree.map(lambda x: 3 * x, models.init(MODEL, jax.random.key(0)))
    ctx = base.Context({base.PARAMS: params})
    state = PROBE.init(ctx, None)
    state = state if own else {"train": state["train"] | {"other_CxNxT": np.stack([TOKENS] * 2)}}
    return params, named(MEASURE(ctx, state, jax.random.key(2))[1])


def named(values):
    return {name.removeprefix("train/"): np.asarray(x) for name, x in values.items()}


def rows(probe, values, seeds=1):
    stacked = {f"train/{name}": np.stack([x] * seeds) for name, x in values.items()}
    found = probe.finalize(stacked, {}, arm="arm", step=3, seeds=[*range(seeds)], conditional_on=None, row_ids=records.row_ids)
    return records.measurement_table(found).to_pylist()


def test_ranks_are_those_of_float64():
    params, values = measured()
    wide, decided = float64.wide(params), 0
    for k, position in enumerate((1, 2)):
        for n in range(N):
            for j, state in enumerate(float64.run(MODEL, wide, TOKENS[n])[0][:, position]):
                logits = float64.lens(MODEL, wide, state)
                above = logits - logits[TARGET[k, n]]
                if np.abs(np.delete(above, TARGET[k, n])).min() > EDGE:
                    decided += 1
                    assert values["reciprocal"][k, j, n] == pytest.approx(1 / (1 + (above > 0).sum()), rel=1e-6)
    assert decided > 0.9 * 2 * N * 3


def test_swapped_answers_are_those_of_float64():
    params, values = measured()
    wide, decided = float64.wide(params), 0
    for c in range(2):
        for n in range(N):
            own, other = (float64.run(MODEL, wide, tokens) for tokens in (TOKENS[n], OTHER[c, n]))
            for j in range(3):
                for p in range(T):
                    logits = float64.run(MODEL, wide, TOKENS[n], (j, p, other[0][j, p]))[1][-1]
                    ends = [own[1][-1], other[1][-1], logits]
                    if min(np.diff(np.sort(x)[-2:])[0] for x in ends) > 1e-4:
                        decided += 1
                        first, second, swapped = (x.argmax() for x in ends)
                        assert values["changed"][c, j, p, n] == (swapped != first)
                        assert values["transferred"][c, j, p, n] == (swapped == second != first)
    assert decided > 0.9 * 2 * N * 9 and 0.05 < values["changed"].mean() < 0.95


def test_what_must_hold_of_every_stream():
    """The last state at the last position is the answer; its other positions are never read, nor are states before a swap."""
    _, values = measured()
    differ_CxN = values["differ"]
    np.testing.assert_array_equal(values["transferred"][:, -1, -1], differ_CxN)
    assert not values["changed"][:, -1, :-1].any() and not values["noise_changed"][:, :, -1, :-1].any()
    np.testing.assert_array_equal(values["transferred"][0, 0, 0], differ_CxN[0])  # the replaced token itself, in the embedding
    assert not values["changed"][0, 0, 1:].any() and not values["changed"][1, :, 0].any()  # states that do not differ


def test_a_state_swapped_with_itself_changes_nothing():
    _, values = measured(own=False)
    assert not any(values[name].any() for name in ("changed", "transferred", "differ", "noise_changed", "noise_transferred"))
    found = [row for row in rows(PROBE, values) if row["metric"] == "circuit.tracing.transferred"]
    assert {row["status"] for row in found} == {"degenerate"} and all(row["value"] is None for row in found)


def test_the_rounding_of_logits_is_bounded_and_of_equal_ones_no_rank_is_known():
    params, _ = measured()
    logits = jax.jit(lambda params: run(params, jnp.asarray(TOKENS), None)[1])(params)
    wide = float64.wide(params)
    exact = np.stack([float64.run(MODEL, wide, tokens)[1][-1] for tokens in TOKENS])
    error = np.abs(np.asarray(logits, np.float64) - exact).max(axis=1)
    assert (error <= lens.tolerance(logits[None], MODEL.width)[0]).mean() > 0.9 and error.max() < 1e-4
    tied = lens.ranks(jnp.ones((1, 4, V)), jnp.zeros(4, jnp.int32), 16, 2)
    np.testing.assert_allclose(tied.error, 1 - 1 / V, rtol=1e-6)  # all logits equal: any rank


def test_a_shuffled_unembedding_ranks_at_random():
    """Permuting the columns of a head gives the closed form on average, as an unrelated target does."""
    head_DxV, state_NxD = RNG.normal(size=(16, V)), RNG.normal(size=(400, 16))
    token_N = state_NxD.argmax(axis=1) % V
    drawn = []
    for _ in range(200):
        logits_NxV = state_NxD @ head_DxV[:, RNG.permutation(V)]
        drawn.append((1 / (1 + (logits_NxV > logits_NxV[np.arange(400), token_N][:, None]).sum(axis=1))).mean())
    assert abs(np.mean(drawn) - lens.random_rank(V)) < 4 * np.std(drawn) / 200**0.5 < 0.02
    logits = jnp.asarray(RNG.normal(size=(1, 400, V)), jnp.float32)
    found = jax.jit(lens.ranks, static_argnums=(2, 3))(logits, jnp.arange(400) % V, 16, 64)
    np.testing.assert_allclose(found.others.mean(), lens.random_rank(V), rtol=0.02)
    assert np.isnan(lens.ranks(logits[:, :1], jnp.arange(1), 16, 2).others).all()  # one prompt: there is no other


def planted(params, tokens, edit):
    """A stream of two layers: position 1 takes over what position 0 says, and position 2 what position 1 then says."""
    x, states = jax.nn.one_hot(tokens, V) * params, []
    for j in range(3):
        if j:
            x = x.at[:, j].set(x[:, j - 1])
        x = x if edit is None else edit(x, j)
        states.append(x)
    return jnp.stack(states), x[:, -1]


def test_a_planted_carrier_is_found_where_it_is():
    tokens = np.stack([np.arange(N), np.arange(N) + 1, np.arange(N) + 2], axis=1).astype(np.int32)
    other = tokens.copy()
    other[:, 0] += 5
    inputs = circuits.Inputs(tokens, np.stack([tokens[:, 0]] * 3), other[None])
    probe = circuits.Circuits(circuits.Circuit(planted, lambda params, state: state, (
        circuits.Asked("train", ("a", "b", "c"), (("said", 0), ("said", 1), ("said", 2)), ("a",), inputs),)))
    ctx = base.Context({base.PARAMS: jnp.float32(4)})
    values = named(jax.jit(probe.measure)(ctx, probe.init(ctx, None), jax.random.key(0))[1])
    found = rows(probe, values, seeds=2)
    value = {(r["metric"].rpartition(".")[2], r["params"].split(";")[0][-1], r["layer"]): r for r in found
             if r["role"] == "seed"}
    carriers = {("a", 0), ("b", 1), ("c", 2)}
    for p, name in enumerate("abc"):
        for j in range(3):
            row = value["transferred", name, j]
            assert row["value"] == row["ci_lo"] == row["ci_hi"] == float((name, j) in carriers), (name, j)
            assert row["n_units"] == N and row["status"] == "ok" and row["noise_floor"] == 0
            if row["value"]:
                assert row["null_hi"] < 1
            read_row = value["reciprocal_rank", name, j]
            assert (read_row["value"] == 1) == (j >= p) and (read_row["null_hi"] < 1 or j < p)


def test_rows_say_what_cannot_be_measured():
    _, values = measured()
    broken = rows(PROBE, values | {"largest": np.float32(np.nan)})
    assert {row["status"] for row in broken if row["role"] == "seed"} == {"nan"}
    assert {row["metric"] for row in broken} == set(PROBE.metrics)


def test_errors_name_what_was_found():
    with pytest.raises(ValueError, match=r"other_CxNxT has shape \(2, 12, 3\); expected \(1, 12, 3\)"):
        asked(replaced=("a",))
    with pytest.raises(ValueError, match="split 'id' is none of those that are asked: train"):
        circuits.Circuits(circuits.Circuit(run, read, (asked(),)), traced=("id",))
    with pytest.raises(ValueError, match="draws=1; a null band needs 2"):
        circuits.Circuits(circuits.Circuit(run, read, (asked(),)), draws=1)
    with pytest.raises(ValueError, match="'circuits' needs 'circuit', which this experiment does not have"):
        catalog.get("circuits")


def test_noise_is_as_long_as_the_difference():
    own, other = RNG.normal(size=(2, N, 16))
    found = swaps.noise_like(jnp.asarray(own, jnp.float32), jnp.asarray(other, jnp.float32), jax.random.key(0)) - own
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(other - own, axis=1), rtol=1e-5)
