"""The law of posterior odds: planted laws are found again, and its rows say what foretells the last steps."""

import dataclasses
import lzma
import math

import numpy as np
import pytest

from jaxpost import records, tasks
from jaxpost.probes import toy
from jaxpost.probes.policy import in_context, posterior_odds

RNG = np.random.default_rng(0)
N, C = 40, 4
M, G = (RNG.dirichlet(np.full(C, a), N) for a in (0.8, 4.0))
STEPS = np.round(np.geomspace(1, 4000, 12))
BITS, LOSSES, THETA = (3000.0, 400.0), (1.2, 1.5), (0.6, 0.25, 0.05)


def plain_weight(step):
    """The posterior of the memorising strategy, in the words of the law: prior 2^-K^beta, evidence e^-(gamma N^(1-alpha) L)."""
    alpha, beta, gamma = THETA
    score = [2.0 ** -(bits**beta) * math.exp(-gamma * step ** (1 - alpha) * loss) for bits, loss in zip(BITS, LOSSES)]
    return score[0] / sum(score)


def policies():
    return np.stack([w * M + (1 - w) * G for w in map(plain_weight, STEPS)])


def test_a_planted_law_is_found_and_foretells_steps_that_were_not_fitted():
    found = posterior_odds.fit(policies(), M, G, STEPS, BITS, LOSSES)
    np.testing.assert_allclose(found[:3], THETA, rtol=0.02)
    assert found.held_out < 1e-8 < 1e-4 < found.constant and max(found.spread) < 0.01


def test_a_policy_that_never_moves_is_foretold_by_a_constant_as_well():
    found = posterior_odds.fit(np.stack([0.3 * M + 0.7 * G] * 12), M, G, STEPS, BITS, LOSSES)
    assert found.held_out < 1e-6 and found.constant < 1e-9
    assert posterior_odds.fit(policies()[:5], M, G, STEPS[:5], BITS, LOSSES) is None


def test_steps_count_from_where_a_policy_is_near_a_mixture():
    assert posterior_odds.settled(np.asarray([1.0, 0.9, 0.25, 0.5, 0.05, 0.0])) == 4
    assert posterior_odds.settled(np.zeros(3)) == 0


def test_rows_of_a_training_are_those_of_the_fit_and_short_ones_have_none():
    @dataclasses.dataclass(frozen=True)
    class Suite(toy.Suite):
        def strategy_bits(self):
            return BITS

    probe = in_context.InContext(Suite())
    series = {int(step): {"id/logp_NxC": np.log(h)[None], "id/memorising_NxC": M[None], "id/generalising_NxC": G[None],
                          "id/rounding_N": np.zeros((1, N))} for step, h in zip(STEPS, policies(), strict=True)}
    losses = [float(-(M * np.log(p)).sum(1).mean()) for p in (M, G)]
    wanted = posterior_odds.fit(np.exp(np.log(policies())), M, G, STEPS, BITS, losses)

    def rows(series):
        found = probe.across(series, infos=None, arm="arm", seeds=[5], conditional_on=None, row_ids=records.row_ids)
        return {row["metric"].rpartition(".")[2]: row for row in records.measurement_table(found).to_pylist()}

    found = rows(series)
    for name in ("alpha", "beta", "gamma", "held_out"):
        assert found[name]["value"] == pytest.approx(getattr(wanted, name), rel=1e-9) and found[name]["step"] == 4000
    assert found["held_out"]["null_value"] == pytest.approx(wanted.constant, rel=1e-6)
    short = rows({step: arrays for step, arrays in series.items() if step < 20})
    assert {row["status"] for row in short.values()} == {"absent"}
    assert "fewer than 6 measured steps" in short["alpha"]["status_reason"]


def test_losses_are_those_on_the_first_split_of_the_suite():
    class Suite(toy.Suite):
        strategic = ("id", "another")  # the first of them is not the first by name

        def strategy_bits(self):
            return BITS

    half, none = {"another": slice(N // 2, N), "id": slice(N // 2)}, np.zeros(N)  # in the order that a compiled program gives
    series = {int(step): {f"{label}/{name}": x[None, rows] for label, rows in half.items() for name, x in (
        ("logp_NxC", np.log(h)), ("memorising_NxC", M), ("generalising_NxC", G), ("rounding_N", none))}
        for step, h in zip(STEPS, policies(), strict=True)}
    found = in_context.InContext(Suite()).across(series, infos=None, arm="arm", seeds=[5], conditional_on=None,
                                                 row_ids=records.row_ids)
    losses = [float(-(M[:N // 2] * np.log(p[:N // 2])).sum(1).mean()) for p in (M, G)]
    wanted = posterior_odds.fit(np.exp(np.log(policies())), M, G, STEPS, BITS, losses)
    assert records.measurement_table(found).to_pylist()[0]["value"] == pytest.approx(wanted.alpha, rel=1e-9)


def test_more_urns_take_more_bits_to_describe():
    few, many = (tasks.urns.description_bits(count, 6) for count in (4, 64))
    assert few[1] == many[1] < few[0] < many[0]
    table = np.asarray(tasks.urns.fixed(64, 6), "<u4").tobytes()
    assert many[0] <= 8 * len(lzma.compress(table)) + few[0]
