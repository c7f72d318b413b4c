"""Predicted cost: counts against hand-made formulas, prices against rates, budgets and schedules before the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import probes
from jaxpost.probes import price, schedules, tracing

from . import tiny_probe

RATES = (price.Rates(1e9, 1e8, 1e9, 0.0),) * 2


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_products_are_counted_through_scans_vmaps_and_gradients():
    def loss(w, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=7)[0].sum()

    forward = tracing.traced(loss, shape(5, 5), shape(3, 5))
    assert forward.products == 7 * 2 * 3 * 5 * 5
    both = tracing.traced(jax.grad(loss), shape(5, 5), shape(3, 5))
    assert both.products == 3 * forward.products  # two products backward for one forward
    batched = tracing.traced(jax.vmap(loss, (None, 0)), shape(5, 5), shape(4, 3, 5))
    assert batched.products == 4 * forward.products


@pytest.mark.parametrize(("m", "n", "vectors", "expected"), [
    (6, 4, True, 6 * 6 * 16 + 20 * 64), (4, 6, True, 6 * 6 * 16 + 20 * 64), (6, 4, False, 2 * 6 * 16 + 2 * 64)])
def test_an_svd_is_counted_by_its_shape(m, n, vectors, expected):
    def decompose(a):
        return jnp.linalg.svd(a, full_matrices=False, compute_uv=vectors)

    assert tracing.traced(decompose, shape(m, n)).factorisations == expected
    assert tracing.traced(lambda a: jax.lax.map(decompose, a), shape(3, m, n)).factorisations == 3 * expected


def test_a_branch_costs_its_most_expensive_and_a_while_one_turn():
    def branch(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a, a)

    assert tracing.traced(branch, shape(4, 4)).products == 2 * 2 * 4**3
    assert tracing.traced(lambda a, n: jax.lax.fori_loop(0, n, lambda i, x: x @ x, a), shape(4, 4),
                          shape(dtype="int32")).products == 2 * 4**3


def test_memory_is_that_of_what_lives_at_once():
    def chain(a):
        for _ in range(10):
            a = jnp.sin(a)
        return a

    assert tracing.traced(chain, shape(100)).held <= 2 * 400  # one result and the one before it
    assert tracing.traced(lambda a: sum([jnp.sin(a + i) for i in range(10)]), shape(100)).held >= 400


def test_costs_add_and_the_peak_is_the_largest():
    total = probes.Cost(1.0, 2.0, 3.0, 10.0) + probes.Cost(1.0, 1.0, 1.0, 4.0)
    assert total == probes.Cost(2.0, 3.0, 4.0, 10.0)


def test_seconds_follow_the_rates_and_lie_between_the_measured_sizes():
    small, large = price.Rates(1e9, 1e8, 1e9, 1e-3), price.Rates(4e9, 4e8, 1e9, 1e-3)
    cost = probes.Cost(products=1e9, factorisations=1e8, streamed=1e9)
    assert price.seconds(cost, 1, (small, large)) == pytest.approx(3.001)
    assert price.seconds(cost, 10_000, (small, large)) == pytest.approx(0.25 + 0.25 + 1.001)
    middle = np.sqrt(price.SIZES[0] * price.SIZES[1])
    assert price.seconds(cost, middle, (small, large)) == pytest.approx(0.5 + 0.5 + 1.001)


def test_rates_of_this_machine_are_positive_and_measured_once():
    found = price.rates()
    assert found is price.rates()
    assert all(x > 0 for rate in found for x in (rate.products, rate.factorisations, rate.streamed, rate.call))


@pytest.fixture
def probe():
    tiny_probe.register()
    return tiny_probe.MeanAbs(schedule=schedules.Every(10, 10))


GIVEN = {probes.WEIGHTS0: {"a": shape(500, 250)}, probes.WEIGHTS: {"a": shape(500, 250)}}


def test_a_price_is_seconds_times_measurements_over_the_training_time(probe):
    (line,) = price.priced([probe], GIVEN, total=100, step_seconds=0.01, measured=RATES)
    assert line.measurements == 10 and line.seconds == pytest.approx(1e-3)
    assert line.share == pytest.approx(10 * 1e-3 / 1.0)
    assert line.needs == ("weights/base", "weights/current")


def test_a_schedule_that_never_fires_is_refused(probe):
    with pytest.raises(ValueError, match=r"'mine': its schedule Every\(period=10, offset=10\) never fires in the 9 steps"):
        price.priced([probe], GIVEN, total=9, step_seconds=0.01, measured=RATES)
    late = tiny_probe.MeanAbs(schedule=schedules.At((0,)))
    with pytest.raises(ValueError, match="never fires"):  # step 0 is before the run
        price.require_due(late, 100)


def line(name, share, times=10):
    return price.Priced(name, "sidecar", (), probes.Cost(), 0.1, times, share)


def test_over_budget_names_the_most_expensive_and_what_would_fit():
    lines = [line("cheap", 0.01), line("dear", 0.08)]
    price.check_budget(lines, 0.09)
    price.check_budget(lines, None)
    with pytest.raises(ValueError) as error:
        price.check_budget(lines, 0.05, "economy")
    text = str(error.value)
    assert "would take 9.0% of the training time, the budget is 5.0%" in text
    assert "the most expensive is 'dear' with 8.0%" in text and "5 times instead of 10" in text and "preset 'economy'" in text
    fitting = [line("cheap", 0.01), line("dear", 0.08 * 5 / 10, 5)]
    price.check_budget(fitting, 0.05)  # what was promised to fit, fits
    with pytest.raises(ValueError, match="leave it out and more, or raise"):  # the cheap one alone is over it
        price.check_budget([line("cheap", 0.06), line("dear", 0.08)], 0.05)
    with pytest.raises(ValueError, match="leave it out, or raise"):
        price.check_budget([line("cheap", 0.04), line("dear", 0.08, times=1)], 0.05)
