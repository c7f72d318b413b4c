"""AUC of two answers: scipy's Mann-Whitney, the spread over draws, statuses, and a suite with replaced features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpost import models, probes, records, tasks, training
from jaxpost.probes.policy import two_answers


def test_auc_is_mann_whitneys_u_with_ties_and_its_errors_are_the_spread_over_draws():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2, 40), rng.random(40) < 0.4  # half of all pairs are tied
    u = scipy.stats.mannwhitneyu(x[y], x[~y]).statistic
    value, _, blind = two_answers.auc(x, y)
    assert value == pytest.approx(u / (y.sum() * (~y).sum()), abs=1e-14)
    shuffled = [two_answers.auc(x, rng.permutation(y))[0] for _ in range(2000)]
    assert abs(blind / np.std(shuffled) - 1) < 0.06
    label = np.arange(120) < 50
    for shift in (0.0, 1.0):  # P(N(shift, 1) > N(0, 1)) = Phi(shift / sqrt 2)
        found = np.asarray([two_answers.auc(rng.normal(size=120) + shift * label, label) for _ in range(400)])
        assert abs(found[:, 0].mean() - scipy.stats.norm.cdf(shift / 2**0.5)) < 0.01
        assert abs(found[:, 1].mean() / found[:, 0].std() - 1) < 0.12
        assert abs(found[0, 2] / found[:, 0].std() - 1) < 0.12 or shift
    with pytest.raises(ValueError, match="found 0 positive and 3 negative"):
        two_answers.auc(np.ones(3), np.zeros(3))


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """A suite that says what it is told."""

    said: dict

    def first_answers(self, params):
        return {label: (jnp.asarray(logits), jnp.asarray(answers)) for label, (logits, answers) in self.said.items()}


def rows_of(suite, params):
    probe = two_answers.AnswerAUC(suite)
    values = jax.jit(lambda p: probe.measure(probes.Context({probes.PARAMS: p}), {}, None)[1])(params)
    columns = probe.finalize({name: np.asarray(x)[None] for name, x in values.items()}, {}, arm="a", step=1, seeds=(0,),
                             conditional_on=None, row_ids=records.row_ids)
    return {r["split"]: r for r in records.measurement_table(columns).to_pylist()}, values


def test_a_split_has_its_value_null_and_status():
    answers = np.arange(60) % 2 * 2 + 1  # tokens 1 and 3
    margin = np.random.default_rng(1).normal(size=60) + (answers == 3)
    logits = np.zeros((60, 5), np.float32)
    logits[:, 3] = margin
    found, _ = rows_of(Fixed({"id": (logits, answers), "three": (logits, np.arange(60) % 3), "one": (logits, np.ones(60, int)),
                              "broken": (np.where(logits > 2, np.nan, logits), answers)}), {})
    row = found["id"]
    assert row["value"] == pytest.approx(two_answers.auc(margin, answers == 3)[0])
    assert row["ci_lo"] < row["value"] < row["ci_hi"]
    assert row["null_value"] == 0.5 and row["null_lo"] == pytest.approx(0.5 - 1.96 * (61 / 12 / 900) ** 0.5)
    assert row["n_units"] == 60 and row["unit"] == "prompt" and 0 <= row["num_err"] < 0.01
    assert found["three"]["status"] == found["one"]["status"] == "absent" and found["three"]["value"] is None
    assert found["broken"]["status"] == "nan"


def test_a_suite_reads_the_token_before_the_answer_and_a_replaced_feature_is_not_ranked():
    """A policy that reads the simple coordinate alone has an AUC of about 1/2 where that one is another problem's."""
    task, split = tasks.get("slabs"), "ood/simple_random"
    model = models.TransformerConfig(vocab=task.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
    params = models.init(model, jax.random.key(0))
    logits_NxV, answer_N = training.Suite(model, ((split, task, split),), 128, split).first_answers(params)[split]
    shown = jax.jit(lambda index_N: tasks.examples(task, split, index_N))(jnp.arange(128))
    whole_NxTxV = models.token_logits(model, params, shown.prompt_NxP, shown.answer_NxT, task.pad)
    np.testing.assert_allclose(logits_NxV, whole_NxTxV[:, 0], atol=1e-5)
    label_N = np.asarray(answer_N) == tasks.vocab.TOKEN["Y"]
    level_N = np.asarray(shown.prompt_NxP)[:, 1] - tasks.vocab.ID  # of the simple coordinate, which is the label in split id
    value, _, blind = two_answers.auc(level_N, label_N)
    assert two_answers.auc(label_N, label_N)[0] == 1 and np.isnan(two_answers.auc(label_N, label_N)[1])  # no certainty
    assert abs(value - 0.5) < 1.96 * blind < 0.12
