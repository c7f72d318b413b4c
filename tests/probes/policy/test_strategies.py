"""Statistics of in-context strategies against plain optimisation and loops, on planted mixtures and on urns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxpost import models, records, tasks, training
from jaxpost.probes import base, catalog, toy
from jaxpost.probes.policy import in_context, strategies

RNG = np.random.default_rng(0)
N, C = 40, 5
M, G = (RNG.dirichlet(np.full(C, a), (1, N)) for a in (0.7, 4.0))
NONE = np.zeros((1, N))
METRICS = [metric.id for metric in in_context.METRICS]


def beyond(share):
    """M pushed away from G: the nearest mixture has weight 1, also without any one prompt."""
    h = np.maximum(M + share * (M - G), 1e-3)
    return h / h.sum(-1, keepdims=True)


@pytest.mark.parametrize("h", [RNG.dirichlet(np.ones(C), (1, N)) * 0.5 + 0.3 * M + 0.2 * G, beyond(0.5), beyond(0.02)],
                         ids=["between", "beyond", "at the end"])
def test_the_weight_is_that_of_a_plain_search_and_what_it_leaves_is_the_divergence(h):
    found, left = strategies.weight(h, M, G, NONE)

    def kl(w, kept=slice(None)):
        return np.mean([np.sum(p * np.log(p / (w * m + (1 - w) * g))) for p, m, g in zip(h[0][kept], M[0][kept], G[0][kept])])

    best = scipy.optimize.minimize_scalar(kl, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(found.interval.value, best.x, atol=1e-6)
    np.testing.assert_allclose(left.interval.value, best.fun, rtol=1e-6)
    without = [scipy.optimize.minimize_scalar(kl, args=(np.arange(N) != n,), bounds=(0, 1), method="bounded",
                                              options={"xatol": 1e-9}).x for n in range(N)]
    spread = np.sqrt((N - 1) * np.var(without))  # delete-one jackknife
    np.testing.assert_allclose((found.interval.hi - found.interval.value) / 2.02269, spread, rtol=0.1, atol=1e-6)


def test_two_predictors_that_are_one_have_no_weight_and_one_divergence():
    h, both = np.random.default_rng(0).dirichlet(np.ones(3), (2, 1, 6))
    weight, left = strategies.weight(h, both, both, np.zeros((1, 6)))
    assert np.isnan(weight.interval.value[0])
    assert left.interval.value[0] == pytest.approx((h * np.log(h / both)).sum(-1).mean(), rel=1e-12)


def test_the_relative_distance_is_the_definition_and_its_interval_the_delete_one_jackknife():
    h = RNG.dirichlet(np.ones(C), (1, N))

    def plain(kept):
        def d(p, q):
            return np.mean([np.sum(a * np.log(a / b)) + np.sum(b * np.log(b / a)) for a, b in zip(p[0][kept], q[0][kept])])

        return (np.clip((d(h, G) - d(h, M)) / d(G, M), -1, 1) + 1) / 2

    found = strategies.relative_distance(h, M, G, NONE).interval
    np.testing.assert_allclose(found.value, plain(np.arange(N)), rtol=1e-12)
    without = [plain(np.arange(N) != n) for n in range(N)]
    np.testing.assert_allclose((found.hi - found.value) / 2.02269, np.sqrt((N - 1) * np.var(without)), rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_planted_mixtures_are_found(share):
    h = share * M + (1 - share) * G
    distance, (weight, left) = strategies.relative_distance(h, M, G, NONE), strategies.weight(h, M, G, NONE)
    np.testing.assert_allclose(weight.interval.value, share, atol=1e-9)
    np.testing.assert_allclose(left.interval.value, 0, atol=1e-12)
    assert abs(distance.interval.value[0] - share) < (1e-12 if share in (0, 1) else 0.3)


def test_rounded_logits_move_nothing_further_than_the_errors():
    logits, size = np.log(0.4 * M + 0.4 * G + 0.2 / C), np.full((1, N), 1e-4)
    moved = logits + 1e-4 * np.random.default_rng(1).choice([-1, 1], logits.shape)
    h, off = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (logits, moved))
    for one, other in zip((strategies.relative_distance(h, M, G, size), *strategies.weight(h, M, G, size)),
                          (strategies.relative_distance(off, M, G, size), *strategies.weight(off, M, G, size)), strict=True):
        assert 0 < abs(one.interval.value - other.interval.value) <= one.error < 0.01


@pytest.fixture(scope="module")
def urns():
    """(probe, values of a suite on urns with three colours and two fixed urns; prompts and logits of fresh urns)."""
    task = tasks.get("urns", colours=3, urns=2, length=8)
    model = models.TransformerConfig(vocab=task.vocab_size, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ff=8)
    suite = training.Suite(model, tuple((split, task, split) for split in ("id", "ood/fresh")), 16, "id")
    probe, params = catalog.get("strategies", subject=catalog.Subject(suite=suite)), models.init(model, jax.random.key(0))

    def read(params):
        shown = tasks.examples(task, "ood/fresh", jnp.arange(16))
        logits = models.token_logits(model, params, shown.prompt_NxP, shown.answer_NxT[:, :1], task.pad)[:, 0]
        return probe.measure(base.Context({base.PARAMS: params}), {}, None)[1], shown.prompt_NxP, logits

    return probe, *jax.tree.map(np.asarray, jax.jit(read)(params))


def test_predictors_of_urns_are_those_of_float64(urns):
    _, values, prompts, logits = urns
    known = np.asarray(tasks.urns.fixed(2, 3), np.float64) / 2**16
    for n, prompt in enumerate(prompts):
        count = np.asarray([(prompt == tasks.vocab.LETTER + c).sum() for c in range(3)])
        likelihood = np.prod(known**count, axis=1)
        np.testing.assert_allclose(values["ood/fresh/memorising_NxC"][n], likelihood @ known / likelihood.sum(), atol=1e-6)
        np.testing.assert_allclose(values["ood/fresh/generalising_NxC"][n], (count + 1) / (8 + 3), atol=1e-6)
        own = np.exp(np.asarray(logits[n, tasks.vocab.LETTER:tasks.vocab.LETTER + 3], np.float64))
        np.testing.assert_allclose(np.exp(values["ood/fresh/logp_NxC"][n]), own / own.sum(), atol=1e-6)


def rows(probe, values):
    stacked = {name: np.asarray(x)[None] for name, x in values.items()}
    found = probe.finalize(stacked, {}, arm="arm", step=1, seeds=[0], conditional_on=None, row_ids=records.row_ids)
    return {(row["metric"], row["split"]): row for row in records.measurement_table(found).to_pylist()}


def test_rows_have_nulls_of_other_prompts_and_an_infinite_distance_is_none(urns):
    probe, values, *_ = urns
    found = rows(probe, values | {"id/logp_NxC": jnp.log(values["id/memorising_NxC"])})
    assert set(found) == {(metric, split) for metric in METRICS for split in ("id", "ood/fresh")}
    read = found["strategy.memorising_weight", "id"]
    assert read["value"] == pytest.approx(1, abs=1e-5) and read["null_kind"] == "other_prompts" and read["n_units"] == 16
    assert found["strategy.unexplained", "id"]["null_value"] > 1e-4 > found["strategy.unexplained", "id"]["value"]
    alone = rows(probe, {name: x[:1] for name, x in values.items()})["strategy.unexplained", "id"]  # there is no other prompt
    assert alone["status"] == "ok" and alone["null_kind"] is alone["null_value"] is None
    broken = rows(probe, values | {"id/logp_NxC": jnp.full((16, 3), jnp.nan)})
    assert {row["status"] for (_, split), row in broken.items() if split == "id"} == {"nan"}


def test_what_has_no_predictors_is_refused():
    suite = training.Suite(None, (("id", tasks.get("addition", digits=1), "id"),), 4, "id")
    with pytest.raises(ValueError, match="needs a task with two Bayes predictors, such as 'urns'"):
        catalog.get("strategies", subject=catalog.Subject(suite=suite))
    with pytest.raises(ValueError, match="draws=1; a null band needs 2"):
        in_context.InContext(toy.Suite(), draws=1)
