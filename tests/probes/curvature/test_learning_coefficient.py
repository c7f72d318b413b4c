"""Learning coefficients of losses whose law is known: regular, w^(2k), w1^2 w2^2; refusals of chains that have not mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxpost import probes, records
from jaxpost.probes.curvature import learning_coefficient as llc
from jaxpost.probes.gradients import sums as gradient_sums

ROWS = {"x": np.zeros((4, 1), np.float32)}  # losses that do not read them
EXACT = {"batch": 4, "microbatch": 4}


def measured(loss, params, rows=ROWS, key=1, **settings):
    """(rows by metric, values) of one policy."""
    probe = llc.LearningCoefficient(loss, **EXACT | settings)
    ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: rows})
    values = jax.jit(lambda ctx, key: probe.measure(ctx, probe.init(ctx, key), key)[1])(ctx, jax.random.key(key))
    columns = probe.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), {}, infos=gradient_sums.inventory(params),
                             arm="a", step=3, seeds=(0,), conditional_on="base", row_ids=records.row_ids)
    return {r["metric"]: r for r in records.measurement_table(columns).to_pylist()}, values


def held(found, wanted):
    """The value, within twice its interval and the error of its step."""
    row = found["learning_coefficient.local"]
    assert row["status"] == "ok" and found["learning_coefficient.r_hat"]["value"] < 1.05
    half = (row["ci_hi"] - row["ci_lo"]) / 2
    assert abs(row["value"] - wanted) < 2 * half + row["num_err"], (row["value"], wanted, half, row["num_err"])
    assert half < 0.15 * wanted and row["num_err"] < 0.15 * wanted
    return row


def test_a_regression_has_half_its_parameters_with_and_without_noise_of_batches():
    """L = mean (y - x w)^2 / 2 at its least squares: E = sum nb h / (nb h + g) / 2 over the eigenvalues h of x'x / n."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5)).astype(np.float32)
    y = (x @ rng.normal(size=5) + 0.1 * rng.normal(size=64)).astype(np.float32)
    params = {"w": np.linalg.lstsq(x, y, rcond=None)[0].astype(np.float32)}
    h, nb = np.linalg.eigvalsh(x.T @ x / 64), 64 / np.log(64)

    def loss(params, row):
        return (row["y"] - row["x"] @ params["w"]) ** 2 / 2

    for batch, localisation in ((64, 1e-3), (16, 5.0)):
        found, values = measured(loss, params, {"x": x, "y": y}, batch=batch, microbatch=32, step=0.01, burn_in=100, draws=250,
                                 thin=8, localisation=localisation)
        row = held(found, (nb * h / (nb * h + localisation)).sum() / 2)
        assert row["null_kind"] == "regular" and row["null_value"] == 2.5 and values["inverse_temperature"] == pytest.approx(nb)
        assert row["params"] == f"batch={batch};localisation={localisation:g};n_beta={nb:.6g};step=0.01"
        assert 0 < row["noise_floor"] < row["value"] and row["n_units"] > 100 and row["unit"] == "effective draw"


def test_a_power_of_2k_has_one_over_2k_a_direction_at_every_temperature():
    """E [w U'(w)] = 1 in every direction, so E nb w^(2k) = 1 / (2k) exactly; curved directions would have 1/2."""
    found, _ = measured(lambda params, row: (params["w"] ** jnp.asarray([4, 4, 6])).sum(), {"w": np.zeros(3, np.float32)},
                        step=1e-3, localisation=0.0, inverse_temperature=50.0, burn_in=2000, draws=500, thin=20)
    assert held(found, 1 / 4 + 1 / 4 + 1 / 6)["null_value"] == 3 / 2


def test_a_crossing_of_valleys_has_its_closed_form():
    """exp(-nb w1^2 w2^2 - g |w|^2 / 2): Z = nb^-1/2 e^z K0(z), z = g^2 / (8 nb), so E = 1/2 + z (1 - K1(z) / K0(z)): 1/2 in
    the limit, with a logarithm in front of it because the valleys cross; P/2 is 1."""
    g, nb = 10.0, 1000.0
    z = g**2 / (8 * nb)
    found, _ = measured(lambda params, row: params["w"][0] ** 2 * params["w"][1] ** 2, {"w": np.zeros(2, np.float32)},
                        step=1e-3, localisation=g, inverse_temperature=nb, burn_in=1000, draws=500, thin=40)
    held(found, 0.5 + z * (1 - scipy.special.k1e(z) / scipy.special.k0e(z)))


def test_chains_that_fall_from_afar_give_no_number():
    found, _ = measured(lambda params, row: 100 * (params["w"] ** 2).sum(), {"w": np.ones(2, np.float32)}, step=1e-5,
                        localisation=0.0, burn_in=0, draws=100, thin=1)
    row = found["learning_coefficient.local"]
    assert row["status"] == "absent" and "chains disagree: R-hat" in row["status_reason"]
    assert [row[name] for name in ("value", "ci_lo", "ci_hi", "num_err")] == [None] * 4
    assert found["learning_coefficient.r_hat"]["value"] > 1.05


@pytest.mark.parametrize(("spoil", "status", "reason"), [
    (lambda x: x, "ok", None),
    (lambda x: x + 3 * np.arange(4)[:, None], "absent", "chains disagree: R-hat"),
    (lambda x: x[:, np.arange(400) // 40 * 40], "absent", "draws, fewer than 100"),
    (lambda x: np.where(x > 2.5, np.inf, x), "nan", "a chain left the finite numbers: lower step=0.0003"),
    (lambda x: 0 * x, "absent", "R-hat nan"),
    (lambda x: 1e-4 * (x - x.mean()), "unresolved", "not above what rounding"),
])
def test_a_number_leaves_only_chains_that_agree_and_are_worth_enough(spoil, status, reason):
    x = np.random.default_rng(0).exponential(size=(4, 400))
    probe = llc.LearningCoefficient(jnp.sum, draws=400, most_r_hat=1.5 if reason and "fewer" in reason else 1.05)
    values = {"excess_CxN": spoil(x), "gradient2_CxN": np.ones((4, 400)), "inverse_temperature": 10.0, "stored": 1e-3}
    columns = probe.finalize({name: np.asarray(v)[None] for name, v in values.items()}, {},
                             infos=gradient_sums.inventory({"w": np.zeros(2)}), arm="a", step=3, seeds=(0,),
                             conditional_on="base", row_ids=records.row_ids)
    (row,) = [r for r in records.measurement_table(columns).to_pylist() if r["metric"] == "learning_coefficient.local"]
    assert row["status"] == status and (reason or "") in (row["status_reason"] or "")
    assert (row["value"] is None) == (status in ("absent", "nan"))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="chains >= 2"):
        llc.LearningCoefficient(jnp.sum, chains=1)
    with pytest.raises(ValueError, match="step > 0"):
        llc.LearningCoefficient(jnp.sum, step=0.0)
    ctx = probes.Context({probes.PARAMS: {"w": np.zeros(2, np.float32)}, probes.PROBE_BATCH: {"x": np.zeros((2, 1))}})
    with pytest.raises(ValueError, match="three rows or more; the probe batch has 2"):
        llc.LearningCoefficient(lambda params, row: params["w"].sum()).init(ctx, jax.random.key(0))
