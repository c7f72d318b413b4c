"""What a step says of its advantages: their covariance with log-probabilities in numpy float64, and how many rows have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import training
from jaxpost.probes import policy
from jaxpost.training import step as step_module


def by_hand(run, state):
    rows, _, _ = run.batch(run.member, state, run.params)
    batch = run.spec.objective.balance(run.spec.objective.prepare(rows, run.spec.group, 0.0, {}))
    logp = np.asarray(run.logp(state.params, batch), np.float64)
    counted = np.asarray(batch.mask_NxT) > 0
    return np.cov(logp[counted], np.asarray(batch.advantage_NxT, np.float64)[counted], bias=True)[0, 1]


@pytest.mark.parametrize(("objective", "microbatches"), [
    ("grpo", 4), *(pytest.param(*x, marks=pytest.mark.slow) for x in (("grpo", 1), ("reinforce_pp_baseline", 2)))])
def test_it_is_the_population_covariance_of_what_the_loss_used(make, objective, microbatches):
    run = make(objective, microbatches=microbatches)
    metrics = run.step(run.member, run.state, run.params)[1]
    total, count = metrics["advantage_covariance"]
    assert float(total / count) == pytest.approx(by_hand(run, run.state), rel=2e-5, abs=2e-7)
    rows, _, _ = run.batch(run.member, run.state, run.params)
    differ_B = np.ptp(np.asarray(rows.reward_N).reshape(-1, run.spec.group), axis=1) > 0
    assert float(metrics["effective_rows"]) == run.spec.group * differ_B.sum() > 0


def rows_of(logp, advantage, mask, shown=None):
    return training.step.Batch(None, None, jnp.asarray(mask, jnp.float32), advantage_NxT=jnp.asarray(advantage, jnp.float32),
                               demonstration_NxT=None if shown is None else jnp.asarray(shown, jnp.float32))


def value(logp, rows, parts=1):
    mean = step_module._mean_advantage(rows)
    found = []
    for i in range(parts):
        part = jax.tree.map(lambda x, i=i: x[i::parts], rows)
        found.append(step_module.advantage_covariance(jnp.asarray(logp[i::parts], jnp.float32), part, mean))
    total, count = map(sum, zip(*found, strict=True))
    return float(total / count)


def test_padding_and_parts_change_nothing_and_demonstrations_do_not_count():
    rng = np.random.default_rng(0)
    logp, advantage = rng.normal(size=(8, 5)) - 4, rng.normal(size=(8, 1)) * np.ones((8, 5)) + 3
    mask = rng.random((8, 5)) < 0.7
    kept = mask.copy()
    kept[:3] = False
    shown = np.zeros((8, 5))
    shown[:3] = 1
    wanted = np.cov(logp[mask], advantage[mask], bias=True)[0, 1]
    assert value(logp, rows_of(logp, advantage, mask)) == pytest.approx(wanted, abs=2e-6)
    assert value(logp, rows_of(logp, advantage, mask), parts=4) == pytest.approx(wanted, abs=2e-6)
    assert value(logp, rows_of(logp, advantage + 100, mask)) == pytest.approx(wanted, abs=5e-5)
    broken = np.where(mask, logp, np.nan)
    assert value(broken, rows_of(broken, np.where(mask, advantage, np.nan), mask)) == pytest.approx(wanted, abs=2e-6)
    assert value(logp, rows_of(logp, advantage, mask, shown)) == pytest.approx(
        np.cov(logp[kept], advantage[kept], bias=True)[0, 1], abs=2e-6)
    assert value(logp, rows_of(logp, np.full((8, 5), 0.5), mask)) == 0.0


def test_rows_without_an_advantage_a_counted_token_or_a_sample_are_not_effective():
    advantage = np.asarray([[1, 1, 0], [0, 0, 0], [2, 0, 0], [np.nan, 3, 0], [1, 1, 1], [-1, -1, -1]])
    mask = np.asarray([[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    shown = np.asarray([[0], [0], [0], [0], [1], [0]]) * np.ones((6, 3))
    assert float(step_module.effective_rows(rows_of(None, advantage, mask, shown))) == 3  # the first, fourth and last
    of_terms = rows_of(None, 0 * advantage, mask)._replace(
        term_advantage_NxK=jnp.asarray([[1.0, -1.0], [0, 0], [0, 2], [0, 0], [0, 0], [0, 0]]))
    assert float(step_module.effective_rows(of_terms)) == 2
    assert float(step_module.effective_rows(of_terms._replace(weight_N=jnp.asarray([0.0, 1, 1, 1, 1, 1])))) == 1
    found = policy.EffectiveRows().finalize({"effective_rows": np.asarray([[1.0, 3.0], [4.0, 4.0]])}, {}, arm="a", step=3,
                                            seeds=[1, 2], conditional_on="d")
    assert found["value"] == [2.0, 4.0] and set(found["metric"]) == {"policy.effective_rows"} and found["seed"] == [1, 2]
    assert policy.EffectiveRows().finalize({}, {}, arm="a", step=3, seeds=[1], conditional_on="d") == {"metric": []}


def rows(history):
    table = policy.AdvantageCovariance().finalize(history, {}, arm="a", step=3, seeds=[1, 2], conditional_on="d",
                                                  row_ids=lambda columns: [str(i) for i in range(len(columns["metric"]))])
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def test_rows_are_means_over_steps_and_say_what_is_missing():
    found = rows({"advantage_covariance": np.asarray([[0.1, 0.2, 0.6], [np.nan, 0.4, np.nan]])})
    assert found[0]["value"] == pytest.approx(0.3) and (found[0]["unit"], found[0]["n_units"]) == ("step", 3)
    half = 4.302652729911275 * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert found[0]["ci_hi"] == pytest.approx(0.3 + half)
    assert (found[0]["null_kind"], found[0]["null_value"]) == ("independence", 0)
    assert found[1]["value"] == 0.4 and found[1]["n_units"] == 1 and "no interval" in found[1]["status_reason"]
    for row in rows({"advantage_covariance": np.asarray([[0.1, np.inf], [-np.inf, np.nan]])}):
        assert row["status"] == "nan" and row["status_reason"] == "the covariance of a step is not finite"
    for row in rows({"loss": np.zeros((2, 3))}):
        assert row["status"] == "absent" and "no advantages" in row["status_reason"]
