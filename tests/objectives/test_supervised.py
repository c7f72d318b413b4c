"""Supervised losses against float64 numpy and closed-form gradients in the logits; selections, anchors, what is refused.

Shapes: N rows, T tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import Batch, View
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def through_logits(objective, view, batch, **options):
    """(loss, gradient in the logits, aux) when the log-probabilities are those of the logits."""
    def loss(logits_NxTxV):
        logp_NxTxV = jax.nn.log_softmax(logits_NxTxV)
        logp_NxT = jnp.take_along_axis(logp_NxTxV, batch.completion_NxT[..., None], -1)[..., 0]
        s, count, aux = objective.loss(View(logp_NxT, logits_NxTxV, view.reference_NxTxV), batch, {}, **options)
        return s / count, aux

    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(view.logits_NxTxV)
    return float(value), np.asarray(gradient), aux


def distributions(view, batch):
    """(log pi, log ref, one-hot targets, mask) as float64 numpy arrays."""
    def log_softmax(x):
        x = np.asarray(x)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    return (log_softmax(view.logits_NxTxV), log_softmax(view.reference_NxTxV),
            np.eye(given.V)[np.asarray(batch.completion_NxT)], np.asarray(batch.mask_NxT))


def expected(view, batch, kind, anchor, coef):
    """(loss, gradient in the logits): -w l + coef KL as a token mean, w stopped; d(-l) = pi - onehot, and the KLs' slopes."""
    lp, lq, target, m = distributions(view, batch)
    pi, ref = np.exp(lp), np.exp(lq)
    logp = (lp * target).sum(-1)
    p = np.exp(logp)
    w = {"none": np.ones_like(p), "probability": p, "p(1-p)": p * (1 - p)}[kind]
    x, g = -w * logp, w[..., None] * (pi - target)
    if anchor == "forward":
        x, g = x + coef * (ref * (lq - lp)).sum(-1), g + coef * (pi - ref)
    if anchor == "reverse":
        kl = (pi * (lp - lq)).sum(-1)
        x, g = x + coef * kl, g + coef * pi * (lp - lq - kl[..., None])
    return (x * m).sum() / m.sum(), g * m[..., None] / m.sum()


CASES = [("cross_entropy", {}, "none", "none", 0.0), ("dft", {}, "probability", "none", 0.0),
         ("asft", {}, "probability", "forward", 0.05), ("asft", {"anchor_coef": 0.7}, "probability", "forward", 0.7),
         ("asft", {"anchor": "reverse", "anchor_coef": 0.3}, "probability", "reverse", 0.3),
         ("sft_kl", {}, "none", "forward", 0.05),
         ("dft", {"token_weight": "p(1-p)"}, "p(1-p)", "none", 0.0)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name, parts, kind, anchor, coef", CASES)
def test_value_and_gradient_against_closed_forms(name, parts, kind, anchor, coef, seed):
    view, batch = given.rows(seed)
    objective = given.recipe(name, **parts)
    value, gradient, aux = through_logits(objective, view, given.prepared(objective, batch))
    x, g = expected(view, batch, kind, anchor, coef)
    assert value == pytest.approx(x, rel=1e-12)
    np.testing.assert_allclose(gradient, g, rtol=0, atol=1e-12 * np.abs(g).max())
    assert ("anchor" in aux) == (anchor != "none") and ("nll" in aux) == (name != "cross_entropy")


@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_label_smoothing_is_cross_entropy_with_a_softened_target(eps):
    view, batch = given.rows(2)
    objective = given.recipe("sft_label_smoothing", label_smoothing=eps)
    value, gradient, aux = through_logits(objective, view, given.prepared(objective, batch))
    lp, _, target, m = distributions(view, batch)
    soft = (1 - eps) * target + eps / given.V
    assert value == pytest.approx((-(soft * lp).sum(-1) * m).sum() / m.sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, (np.exp(lp) - soft) * m[..., None] / m.sum(), atol=1e-14)
    plain = through_logits(given.recipe("cross_entropy"), view, batch)[0]
    assert float(aux["nll"][0] / aux["nll"][1]) == pytest.approx(plain, rel=1e-12)
    with pytest.raises(ValueError, match="label_smoothing=1.0 must lie in"):
        objectives.get("cross_entropy", label_smoothing=1.0)


def test_golden_dft():
    """-sg(exp l) l on six toy tokens, from decimal arithmetic: value, and norm of the gradient p / count in l."""
    logp = jnp.array([[-0.5, -1.0, -0.2, -2.0], [-0.7, -0.1, 0.0, 0.0]])
    batch = Batch(None, None, jnp.array([[1.0, 1, 1, 1], [1, 1, 0, 0]]))
    value, norm = given.value_and_norm(objectives.get("dft"), View(logp), batch)
    assert value == pytest.approx(0.257275823762, abs=5e-13) and norm == pytest.approx(0.250398467245, abs=5e-13)


def test_the_weight_of_dft_has_no_gradient():
    """The slope in l is -p, that of the differentiated weight would be -p (1 + l): finite differences with p held."""
    objective, view, batch = given.ready("dft")
    _, count, grads = given.differentiated(objective, view, batch)
    p = np.exp(np.asarray(view.logp_NxT)) * np.asarray(batch.mask_NxT)
    np.testing.assert_allclose(grads.logp_NxT, -p, atol=1e-15)
    assert count == np.asarray(batch.mask_NxT).sum()


def test_the_anchor_vanishes_at_the_reference_and_the_step_may_set_its_weight():
    view, batch = given.rows(3)
    same = view._replace(reference_NxTxV=view.logits_NxTxV)
    for anchor in ("forward", "reverse"):
        objective = objectives.get("asft", anchor=anchor, anchor_coef=1.0)
        plain = through_logits(objectives.get("dft"), view, batch)
        at = through_logits(objective, same, batch)
        assert at[0] == pytest.approx(plain[0], rel=1e-12)
        np.testing.assert_allclose(at[1], plain[1], atol=1e-15)
        np.testing.assert_array_equal(through_logits(objective, view, batch, kl_coef=0.0)[1], plain[1])
        given_by_the_step = through_logits(objective, view, batch, kl_coef=0.4)
        own = through_logits(objectives.get("asft", anchor=anchor, anchor_coef=0.4), view, batch)
        np.testing.assert_allclose(given_by_the_step[1], own[1], rtol=0, atol=1e-15)


def test_the_reference_has_no_gradient():
    objective, view, batch = given.ready("asft")
    _, _, grads = given.differentiated(objective, view, batch)
    assert np.any(grads.logits_NxTxV) and not np.any(grads.reference_NxTxV)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "sequence_sum"])
def test_a_selection_is_a_smaller_mask(aggregation):
    """Selected tokens alone, a row without any as an empty row; neither the weights' size nor NaN off the mask matters."""
    view, batch = given.rows(1)
    weight = np.asarray(batch.token_weight_NxT).copy()
    weight[2] = 0
    objective = objectives.get("selective_sft", aggregation=aggregation)
    chosen = np.asarray(batch.mask_NxT) * weight
    assert 0 < chosen.sum() < np.asarray(batch.mask_NxT).sum()
    hidden = np.where(np.asarray(batch.mask_NxT) > 0, 2.5 * weight, np.nan)
    ready = given.prepared(objective, batch._replace(token_weight_NxT=jnp.asarray(hidden)))
    s, count, grads = given.differentiated(objective, view, ready)
    plain = objectives.get("cross_entropy", aggregation=aggregation)
    s0, count0, grads0 = given.differentiated(plain, view, batch._replace(mask_NxT=jnp.asarray(chosen)))
    assert (s, count) == (s0, count0)
    np.testing.assert_array_equal(grads.logp_NxT, grads0.logp_NxT)
    assert np.isfinite(grads.logp_NxT).all()


def test_a_scale_multiplies_and_every_token_counts():
    view, batch = given.rows(1)
    weight = np.random.default_rng(0).uniform(0.0, 3.0, batch.mask_NxT.shape)
    m, logp = np.asarray(batch.mask_NxT), np.asarray(view.logp_NxT)
    batch = batch._replace(token_weight_NxT=jnp.asarray(weight))
    objective = objectives.get("weighted_sft")
    s, count, grads = given.differentiated(objective, view, given.prepared(objective, batch))
    assert count == m.sum() and s == pytest.approx(-(weight * logp * m).sum(), rel=1e-12)
    np.testing.assert_allclose(grads.logp_NxT, -weight * m, rtol=1e-14)


def test_a_scale_leaves_the_anchor_alone_and_joins_dft():
    view, batch = given.rows(2)
    objective = objectives.get("asft", data_weight="scale")
    value = through_logits(objective, view, given.prepared(objective, batch))[0]
    lp, lq, target, m = distributions(view, batch)
    logp = (lp * target).sum(-1)
    x = -np.asarray(batch.token_weight_NxT) * np.exp(logp) * logp + 0.05 * (np.exp(lq) * (lq - lp)).sum(-1)
    assert value == pytest.approx((x * m).sum() / m.sum(), rel=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("dft", {"token_weight": "p"}, "choose one of none, probability, p\\(1-p\\)"),
    ("asft", {"anchor": "both"}, "choose one of none, forward, reverse"),
    ("asft", {"anchor": "none"}, "has no effect with anchor='none'"),
    ("asft", {"anchor_coef": -0.1}, "is negative"),
    ("weighted_sft", {"data_weight": "mask"}, "choose one of none, select, scale"),
])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_what_the_rows_need():
    needs = {name: set(objectives.RECIPES[name].needs) for name in ("cross_entropy", "dft", "asft", "sft_kl", "selective_sft")}
    anchored = {"logits", "reference_logits"}
    assert needs == {"cross_entropy": set(), "dft": set(), "asft": anchored, "sft_kl": anchored,
                     "selective_sft": {"token_weight"}}
    assert objectives.get("asft").needs_reference and not objectives.get("dft").needs_reference
