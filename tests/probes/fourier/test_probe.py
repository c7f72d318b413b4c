"""The Fourier probe: planted models, frozen keys, nulls, honest statuses, and the whole way through a run's measurement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.probes import base, fourier, schedules
from jaxpost.probes.fourier import basis as fourier_basis
from jaxpost.probes.fourier import rows as fourier_rows
from tests.probes.fourier.test_basis import SUM, F, P, noise, planted
from tests.probes.trajectories import as_rows, ids, one

TRAIN = np.random.default_rng(0).random((P, P)) < 0.6
PROBLEMS = fourier.Problems(SUM, TRAIN)
ROWS = {"arm": "a", "conditional_on": None}
RULE = fourier.Rule(sets=6)


def probe(problems=PROBLEMS, rule=RULE):
    def read(params, inputs):
        return fourier.Reading(params["logits"], params["embed"], params["head"])

    return fourier.Fourier(read, problems, rule, schedules.At((0, 1)))


def params(logits, embed=None, head=None):
    table = noise(20, (P, 4)) if embed is None else embed
    return {"logits": np.asarray(logits, np.float32), "embed": np.asarray(table, np.float32),
            "head": np.asarray(noise(21, (P, 4)) if head is None else head, np.float32)}


def measured(*given):
    """Values of the probe, leading axis the given parameters."""
    run = jax.jit(lambda p: jax.lax.map(lambda q: probe().measure(base.Context({base.PARAMS: q}), {}, None)[1], p))
    return jax.device_get(run(jax.tree.map(lambda *x: jnp.stack(x), *given)))


def across(*steps, problems=PROBLEMS, rule=RULE):
    """Rows of a trajectory; each step is a tuple of logits, one a seed."""
    made = probe(problems, rule)
    series = {step: made.arrays(measured(*map(params, logits_S))) for step, logits_S in enumerate(steps)}
    return as_rows(made.across(series, seeds=list(range(len(steps[0]))), row_ids=ids, **ROWS))


def weight_rows(*given):
    made = probe()
    return as_rows(made.finalize(measured(*given), {}, step=3, seeds=list(range(len(given))), row_ids=ids, **ROWS))


def nll(logits, answer):
    """Independent: numpy, log of a plain softmax."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return -np.log(np.take_along_axis(shifted, answer[..., None], -1)[..., 0] / shifted.sum(-1))


def test_a_planted_circuit_is_all_restricted_loss_and_nothing_is_left_without_it():
    rows = across((noise(1),), (planted(keys=(1, 3)),))
    answer = SUM
    want = nll(planted(keys=(1, 3)), answer).mean()
    assert one(rows, "fourier.restricted_loss", role="seed", step=1)["value"] == pytest.approx(want, rel=1e-5)
    excluded = one(rows, "fourier.excluded_loss", role="seed", step=1, k=None)
    assert excluded["value"] == pytest.approx(np.log(P), rel=1e-5) and excluded["split"] == "train"
    assert one(rows, "fourier.logit_share", role="seed", step=1)["value"] == pytest.approx(1.0, rel=1e-6)
    assert one(rows, "fourier.key_count", role="seed")["value"] == 2
    shares = {row["k"]: row["value"] for row in rows if row["metric"] == "fourier.frequency_share"}
    np.testing.assert_allclose([shares[k] for k in range(1, F + 1)], [0.5, 0, 0.5, 0, 0], atol=1e-6)


def test_single_keys_are_taken_out_one_at_a_time_in_order_of_their_share():
    logits = planted(keys=(2,), amplitude=3.0) + planted(keys=(4,), amplitude=1.0)
    rows = across((noise(1),), (logits,))
    for rank, left in ((1, planted(keys=(4,), amplitude=1.0)), (2, planted(keys=(2,), amplitude=3.0))):
        row = one(rows, "fourier.excluded_loss", role="seed", step=1, k=rank)
        assert row["value"] == pytest.approx(nll(left, SUM)[TRAIN].mean(), rel=1e-5)
        assert row["params"].endswith("which=single")


def test_keys_are_those_of_the_last_step_at_every_step():
    rows = across((planted(keys=(5,)),), (planted(keys=(2,)),))
    assert one(rows, "fourier.logit_share", role="seed", step=0)["value"] == pytest.approx(0, abs=1e-6)
    assert one(rows, "fourier.logit_share", role="seed", step=1)["value"] == pytest.approx(1, rel=1e-6)
    assert one(rows, "fourier.restricted_loss", role="seed", step=0)["value"] == pytest.approx(np.log(P), rel=1e-5)


def test_nulls_are_other_sets_and_the_untrained_model():
    start, end = noise(1), planted(keys=(1, 3)) + 0.3 * noise(2)
    rows = across((start,), (end,))
    row = one(rows, "fourier.restricted_loss", role="seed", step=1)
    part = {keys: fourier_basis.components(fourier_basis.sum_coefficients(end.astype(np.float32)), keys, P)
            for keys in fourier_rows.other_sets((1, 3), F, 6)}
    values = [nll(x[SUM] + end.mean((0, 1)), SUM).mean() for x in part.values()]
    assert row["null_kind"] == "random_frequencies" and row["null_value"] == pytest.approx(np.mean(values), rel=1e-5)
    assert (row["null_lo"], row["null_hi"]) == pytest.approx((min(values), max(values)), rel=1e-5)
    assert row["value"] < row["null_lo"]
    null = one(rows, "fourier.restricted_loss", role="null", step=1)
    first = one(rows, "fourier.restricted_loss", role="seed", step=0)
    assert null["null_kind"] == "untrained" and null["value"] == pytest.approx(first["value"])


def test_other_sets_are_all_or_drawn_never_the_keys_and_never_twice():
    every = fourier_rows.other_sets((2, 4), 5, 99)
    assert len(every) == 9 and (2, 4) not in every
    drawn = fourier_rows.other_sets((1, 2, 3), 14, 20)
    assert len(set(drawn)) == 20 and (1, 2, 3) not in drawn and drawn == fourier_rows.other_sets((1, 2, 3), 14, 20)
    assert all(len(set(keys)) == 3 and 1 <= min(keys) and max(keys) <= 14 for keys in drawn)
    assert fourier_rows.other_sets(range(1, 6), 5, 4) == []


def test_measures_do_not_see_what_a_softmax_does_not():
    end = planted(keys=(1, 3)) + 0.3 * noise(2)
    plain, moved = across((noise(1),), (end,)), across((noise(1),), (end + 5 * noise(3, (P, P, 1)),))
    for a, b in zip(plain, moved, strict=True):
        assert a["metric"] == b["metric"] and a["value"] == pytest.approx(b["value"], rel=1e-4, abs=1e-6)


def test_answers_without_a_rule_are_scored_as_they_are():
    answer = np.random.default_rng(5).integers(0, P, (P, P))
    logits = planted(keys=(1, 3))
    rows = across((noise(1),), (logits,), problems=fourier.Problems(answer, TRAIN))
    value = one(rows, "fourier.restricted_loss", role="seed", step=1)["value"]
    assert value == pytest.approx(nll(logits, answer).mean(), rel=1e-5) and value > np.log(P)


def test_broken_flat_and_unequal_seeds_have_rows_with_a_status():
    broken = planted().copy()
    broken[0, 0, 0] = np.nan
    flat = np.broadcast_to(0.1 * np.arange(P), (P, P, P))  # answers that do not read the problem
    rows = across((noise(1),) * 4, (planted(keys=(1, 3)), broken, flat, planted(keys=(2,))))
    found = {seed: one(rows, "fourier.restricted_loss", role="seed", step=1, seed=seed) for seed in range(4)}
    assert [found[s]["status"] for s in range(4)] == ["ok", "nan", "degenerate", "ok"]
    assert "not finite" in found[1]["status_reason"] and "no key frequency" in found[2]["status_reason"]
    second = {s: one(rows, "fourier.excluded_loss", role="seed", step=1, k=2, seed=s) for s in range(4)}
    assert [second[s]["status"] for s in range(4)] == ["ok", "nan", "degenerate", "absent"]
    assert "this seed has 1 key" in second[3]["status_reason"]
    assert one(rows, "fourier.key_count", seed=3)["value"] == 1


def test_gini_reads_sparse_tables_as_sparse_against_a_gaussian_null():
    wave = np.cos(2 * np.pi * 2 * np.arange(P) / P)[:, None] * np.ones(4)
    rows = weight_rows(params(planted(), embed=wave, head=np.zeros((P, 4))), params(planted(), embed=np.full((P, 4), np.nan)))
    sparse = one(rows, "fourier.gini", tensor="embed", seed=0)
    assert sparse["value"] == pytest.approx(1 - 1 / (F + 1), abs=1e-5) and sparse["value"] > sparse["null_hi"]
    blind = one(rows, "fourier.gini", tensor="head", seed=1)
    assert blind["null_lo"] * 0.5 < blind["value"] < 2 * blind["null_hi"] and blind["null_kind"] == "gaussian"
    assert one(rows, "fourier.gini", tensor="head", seed=0)["status"] == "degenerate"
    assert one(rows, "fourier.gini", tensor="embed", seed=1)["status"] == "nan"
    made = params(planted(), embed=wave, head=np.zeros((P, 4)))
    squares = one(rows, "fourier.sum_squares", seed=0)
    assert squares["value"] == pytest.approx(sum((x.astype(np.float64) ** 2).sum() for x in made.values()), rel=1e-5)
    assert one(rows, "fourier.sum_squares", seed=1)["status"] == "nan"


def test_floors_bound_what_rounding_of_logits_does():
    end = (planted(keys=(1, 3), amplitude=50.0) + noise(2)).astype(np.float32)
    flip = np.random.default_rng(7).choice([-1.0, 1.0], end.shape) * 0.5
    rounded = end.astype(np.float64) + flip * np.spacing(np.abs(end))
    part = [fourier_basis.components(fourier_basis.sum_coefficients(x.astype(np.float64)), (1, 3), P) for x in (end, rounded)]
    losses = [fourier_basis.excluded_loss(x[TRAIN].astype(np.float64), SUM[TRAIN], SUM[TRAIN], y)
              for x, y in zip((end, rounded), part, strict=True)]
    row = one(across((noise(1),), (end,)), "fourier.excluded_loss", role="seed", step=1, k=None)
    assert 0 < abs(losses[0] - losses[1]) < row["noise_floor"] < 1e-4


def test_the_contract_and_refusals():
    made = probe()
    assert isinstance(made, base.Probe) and set(made.metrics) <= set(base.METRICS) and made.schedule(1)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params(planted()))
    assert made.cost(base.Context({base.PARAMS: shapes})).streamed > 0
    hash(made)
    with pytest.raises(ValueError, match="odd modulus"):
        fourier.Problems(np.zeros((4, 4), int), np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="at least one training problem"):
        fourier.Problems(SUM, np.zeros((P, P), bool))
    with pytest.raises(ValueError, match="reach must be in"):
        fourier.Rule(reach=0.0)
