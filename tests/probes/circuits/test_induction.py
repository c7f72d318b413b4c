"""Induction scores of a decoder against loops in float64, of planted heads, and the honesty of their rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, records
from jaxpost.probes import base, circuits
from jaxpost.probes.circuits import induction
from tests.models import float64

MODEL = models.TransformerConfig(vocab=23, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=24)
N, R = 8, 5


def decoder(params, tokens_NxT):
    return models.residual_stream(MODEL, params, tokens_NxT, valid_BxS=jnp.ones(tokens_NxT.shape, bool),
                                  scores=True).score_LxBxHxTxT


def planted(params, tokens_NxT):
    """One layer of two heads: one looks up what followed its token, one attends a fixed number of positions back."""
    del params
    T = tokens_NxT.shape[1]
    followed_NxTxT = jnp.pad(tokens_NxT[:, :, None] == tokens_NxT[:, None, :-1], ((0, 0), (0, 0), (1, 0)))
    back_TxT = jnp.arange(T)[:, None] - jnp.arange(T)[None] == R - 1
    wanted = jnp.stack([followed_NxTxT, jnp.broadcast_to(back_TxT, followed_NxTxT.shape)], axis=1)
    seen_TxT = jnp.tril(jnp.ones((T, T), bool))
    return jnp.where(seen_TxT, 40.0 * wanted, -1e30)[None]


def probe_of(score, before=(), between=(), **settings):
    heads = circuits.Heads(score, tuple(range(3, 20)), 2 * MODEL.width + MODEL.head_dim, before, between)
    return circuits.Induction(heads, **{"sequences": N, "half": R, "draws": 3, **settings})


@functools.cache
def measured(score, before=(), between=()):
    """(probe, parameters, state, values); weights are large, so that attention is uneven."""
    probe, params = probe_of(score, before, between), jax.tree.map(lambda x: 3 * x, models.init(MODEL, jax.random.key(0)))
    ctx = base.Context({base.PARAMS: params})
    state = probe.init(ctx, jax.random.key(1))
    return probe, params, state, jax.tree.map(np.asarray, jax.jit(probe.measure)(ctx, state, None)[1])


def rows(probe, values, seeds=1):
    stacked = {name: np.stack([x] * seeds) for name, x in values.items()}
    found = probe.finalize(stacked, {}, arm="arm", step=3, seeds=[*range(seeds)], conditional_on=None, row_ids=records.row_ids)
    return records.measurement_table(found).to_pylist()


def looked_up(pattern_TxT, tokens, before, between):
    """The score of one head on one sequence, by looking every token of the second half up in the first one's neighbours."""
    start, found = len(before) + R + len(between), []
    for t in range(start, start + R - 1):
        follower = tokens[t + 1]  # of the second half, and so of the first one too
        found.append(pattern_TxT[t, [s for s in range(len(before), len(before) + R) if tokens[s] == follower][0]])
    return np.mean(found)


@pytest.mark.parametrize("before, between", [((), ()), ((1,), (2, 0))])
def test_scores_and_null_draws_are_those_of_float64(before, between):
    probe, params, state, values = measured(decoder, before, between)
    wide, tokens_DxNxT = float64.wide(params), np.asarray(state["tokens_DxNxT"])
    pattern = np.asarray([float64.patterns(MODEL, wide, tokens) for tokens in tokens_DxNxT[0]])
    for n in range(N):
        for layer in range(2):
            for h in range(2):
                exact = looked_up(pattern[n, layer, h], tokens_DxNxT[0, n], before, between)
                assert abs(values["score"][layer, h, n] - exact) < 1e-5
    query, target = probe.heads.places(R)  # those of the sequence with its repetition: what the null keeps
    drawn = np.asarray([[float64.patterns(MODEL, wide, tokens)[:, :, query, target].mean(-1) for tokens in tokens_NxT]
                        for tokens_NxT in tokens_DxNxT[1:]])
    np.testing.assert_allclose(values["drawn"][..., 0], drawn[:, :N // 2].mean(1), atol=1e-5)
    np.testing.assert_allclose(values["drawn"][..., 1], drawn[:, N // 2:].mean(1), atol=1e-5)


def test_the_error_bounds_what_rounded_scores_do():
    probe, params, state, _ = measured(decoder)
    score = decoder(params, state["tokens_DxNxT"][0])
    terms, places = probe.heads.terms, probe.heads.places(R)
    size = (terms + 4) * 2.0**-24 * np.abs(np.where(np.asarray(score) > -1e29, score, 0)).max(-1, keepdims=True)
    off = np.asarray(score, np.float64) + np.random.default_rng(0).uniform(-1, 1, score.shape) * size
    pattern = np.exp(off - off.max(-1, keepdims=True))
    moved = (pattern / pattern.sum(-1, keepdims=True))[..., places[0], places[1]].mean(-1)
    found = induction.attended(score, places, terms)
    gap = np.abs(np.moveaxis(moved, 1, 2) - np.asarray(found.score, np.float64)).mean(-1)
    assert (gap <= found.error).all() and (np.asarray(found.error) < 1e-4).all()


def test_sequences_are_said_twice_and_the_null_keeps_tokens_and_places():
    tokens_DxNxT = np.asarray(probe_of(planted, (1,), (2,)).init(None, jax.random.key(1))["tokens_DxNxT"])
    first, second = tokens_DxNxT[..., 1:R + 1], tokens_DxNxT[..., R + 2:]
    np.testing.assert_array_equal(first[0], second[0])
    assert (tokens_DxNxT[..., 0] == 1).all() and (tokens_DxNxT[..., R + 1] == 2).all()
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert all(len(set(half)) == R for half in second[0]) and (first[1:] != second[1:]).any()
    assert probe_of(planted).heads.uniform(R) == pytest.approx(np.mean([1 / t for t in range(R + 1, 2 * R)]))


def test_a_planted_head_is_found_and_one_that_counts_positions_is_no_more_than_its_null():
    probe, _, _, values = measured(planted)
    found = {(r["metric"].rpartition(".")[2], r["params"]): r for r in rows(probe, values, seeds=2) if r["seed"] == 1}
    lookup, back, best = found["score", "head=0"], found["score", "head=1"], found["strongest", None]
    assert lookup["value"] == pytest.approx(1) and lookup["null_hi"] < 0.6 and lookup["n_units"] == N
    assert back["value"] == pytest.approx(1) and back["null_value"] == pytest.approx(1)
    assert lookup["granularity"] == "layer" and lookup["layer"] == 0 and best["granularity"] == "global"
    assert best["n_units"] == N // 2 and best["null_value"] == pytest.approx(1)  # of the draws: the one that counts positions
    assert all(r["status"] == "ok" and 0 < r["noise_floor"] < 0.2 and r["ci_lo"] <= r["value"] <= r["ci_hi"]
               for r in found.values())


def test_the_strongest_head_is_chosen_on_other_sequences_than_it_is_read_on():
    score = np.zeros((1, 2, 4), np.float32)
    score[0, 0], score[0, 1] = [0.9, 0.9, 0.1, 0.3], [0.1, 0.1, 1.0, 1.0]
    drawn = np.broadcast_to(np.asarray([[0.8, 0.1], [0.2, 0.6]], np.float32), (3, 1, 2, 2))
    best = rows(probe_of(planted, sequences=4), {"score": score, "error": np.ones((1, 2), np.float32), "drawn": drawn})[-1]
    assert best["value"] == pytest.approx(0.2) and best["n_units"] == 2 and best["null_value"] == pytest.approx(0.1)


def test_rows_and_errors_say_what_cannot_be_measured():
    probe, _, _, values = measured(planted)
    broken = rows(probe, values | {"score": np.full_like(values["score"], np.nan)})
    assert {row["status"] for row in broken} == {"nan"} and {row["metric"] for row in broken} == set(probe.metrics)
    with pytest.raises(ValueError, match="half=18; expected 3 to 17, the number of tokens"):
        probe_of(planted, half=18)
    with pytest.raises(ValueError, match="sequences=2, draws=3; expected at least 4 and 2"):
        probe_of(planted, sequences=2)
