"""KTO against a float64 transcription row by row; the reference point is the whole batch's and constant; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from tests.objectives import given

LENGTHS = (6, 2, 3, 5, 0, 4, 1, 6)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def ready(name="kto", shift=0.7, **parts):
    """A batch whose mean outside log-ratio is around `shift`, prepared."""
    objective = objectives.get(name, **parts)
    view, batch = given.rows(1, lengths=LENGTHS)
    return objective, view, batch._replace(outside_N=batch.outside_N + shift), np.asarray(LENGTHS) > 0


def transcribed(view, batch, z, beta=0.1, good=1.0, bad=1.0):
    """(loss, gradient) from the formula and its derivative."""
    mask, loss, grad, rows = np.asarray(batch.mask_NxT), 0.0, np.zeros(batch.mask_NxT.shape), 0
    for i, n in enumerate(LENGTHS):
        if n:
            h = (np.asarray(view.logp_NxT)[i, :n] - np.asarray(batch.reference_NxT)[i, :n]).sum()
            sign, weight = (1, good) if batch.label_N[i] == 1 else (-1, bad)
            p = 1 / (1 + np.exp(-beta * sign * (h - z)))
            loss, rows = loss + weight * (1 - p), rows + 1
            grad[i] = -weight * beta * sign * p * (1 - p) * mask[i]
    return loss / rows, grad / rows


@pytest.mark.parametrize("name, shift, parts", [
    ("kto", 0.7, {}), ("kto", -3.0, {}), ("kto", 0.7, {"beta": 0.5, "desirable_weight": 1.33, "undesirable_weight": 0.5}),
    ("apo_zero_unpaired", 0.7, {})])
def test_loss_and_gradient(name, shift, parts):
    objective, view, batch, full = ready(name, shift, **parts)
    outside = np.asarray(batch.outside_N)[full]
    z = 0.0 if name != "kto" else max(0.0, outside.mean())
    assert (z == 0) == (name != "kto" or shift < 0)
    prepared = objective.prepare(batch)
    total, count, grads = given.differentiated(objective, view, prepared)
    expected, slope = transcribed(view, batch, z, parts.get("beta", 0.1), parts.get("desirable_weight", 1.0),
                                  parts.get("undesirable_weight", 1.0))
    assert count == 7
    assert total / count == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(grads.logp_NxT / count, slope, rtol=1e-12, atol=1e-16)
    aux = objective.loss(view, prepared, {})[2]
    np.testing.assert_allclose(aux["reference_point"], (7 * z, 7), rtol=1e-12)
    assert float(aux["desirable"][1]) + float(aux["undesirable"][1]) == 7


def test_the_reference_point_is_the_whole_batchs_and_constant():
    objective, view, batch, _ = ready()
    prepared = objective.prepare(batch)
    assert len(set(np.asarray(prepared.outside_N))) == 1
    np.testing.assert_allclose(objective.prepare(prepared).outside_N, prepared.outside_N, rtol=1e-15)
    slope = jax.grad(lambda x: objective.loss(view, objective.prepare(batch._replace(outside_N=x)), {})[0])(batch.outside_N)
    assert not np.any(slope)


def test_an_unknown_mismatched_pair_is_left_out():
    objective, _, batch, full = ready()
    gone = batch._replace(outside_N=batch.outside_N.at[0].set(jnp.nan))
    expected = np.asarray(batch.outside_N)[full][1:].mean()
    assert float(objective.prepare(gone).outside_N[3]) == pytest.approx(max(0.0, expected), rel=1e-12)
    none = batch._replace(outside_N=jnp.full_like(batch.outside_N, jnp.nan))
    assert float(objective.prepare(none).outside_N[0]) == 0.0


@pytest.mark.parametrize("parts, message", [
    ({"aggregation": "sequence"}, "a mean over rows; leave 'token'"),
    ({"beta": -1.0}, "must be greater than 0"),
    ({"desirable_weight": -1.0}, "desirable_weight=-1.0 is negative"),
    ({"reference_point": "mean"}, "choose one of mismatched, zero"),
])
def test_refusals(parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get("kto", **parts)


def test_only_a_mismatched_reference_point_needs_mismatched_pairs():
    _, _, batch, _ = ready()
    bare = batch._replace(outside_N=None)
    objectives.get("kto", reference_point="zero").prepare(bare)
    with pytest.raises(ValueError, match="needs Batch.outside_N"):
        objectives.get("kto").prepare(bare)


def test_an_empty_row_counts_where_asked():
    """Its log-ratio is 0; TRL's mean, and its reference point, are over all rows."""
    full = given.rows(lengths=[3, 0, 2, 4, 0, 1, 5, 2])
    found = {}
    for rule in ("default", "counted"):
        objective = objectives.get("kto", aggregation_empty=rule)
        view, batch = given.needed(objective, *full)
        batch = batch._replace(outside_N=jnp.abs(batch.outside_N))
        total, count, _ = objective.loss(view, objective.prepare(batch), {})
        found[rule] = float(total), float(count)
    z = np.asarray(batch.outside_N).mean()
    h = np.where(np.asarray(batch.mask_NxT) > 0, np.asarray(view.logp_NxT - batch.reference_NxT), 0.0).sum(1)
    sign = np.where(np.asarray(batch.label_N) > 0, 1.0, -1.0)
    assert found["counted"] == (pytest.approx((1 / (1 + np.exp(0.1 * sign * (h - z)))).sum(), rel=1e-12), 8)
    assert found["default"][1] == 6
