"""Schedules are pure, enumerable and say what they refuse; needs merge by full equality."""

import pytest

from jaxpost.probes import METRICS, base, schedules
from jaxpost.probes.schedules import At, Every, LogSpaced, Union


def test_every_and_at_and_union():
    assert schedules.steps(Every(10, 5), 30) == (5, 15, 25)
    assert schedules.steps(At((3, 40)), 30) == (3,)
    assert schedules.steps(Union((Every(20), At((3,)))), 40) == (0, 3, 20, 40)


def test_log_spaced_grid():
    assert schedules.steps(LogSpaced(2), 1000) == (1, 3, 10, 32, 100, 316, 1000)
    assert schedules.steps(LogSpaced(1, first=5), 600) == (5, 50, 500)


@pytest.mark.parametrize("multiple", [1, 5, 8])
@pytest.mark.parametrize("per_decade", [1, 4, 30])
def test_log_spaced_enumerates_its_own_formula(per_decade, multiple):
    grid = {-(-round(10 ** (i / per_decade)) // multiple) * multiple for i in range(4 * per_decade)}
    assert schedules.steps(LogSpaced(per_decade, multiple=multiple), 700) == tuple(sorted(g for g in grid if g <= 700))


@pytest.mark.parametrize("make", [lambda: Every(0), lambda: At((-1,)), lambda: LogSpaced(0), lambda: Every(2, -1)])
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()


def test_needs_are_merged_by_full_equality():
    a, b = base.Need("batch", (("id", "x"),)), base.Need("batch", (("id", "y"),))
    assert len({a, b, base.Need("batch", (("id", "x"),))}) == 2


def test_context_gives_what_was_declared_and_names_it_otherwise():
    need = base.Need("weights", (("checkpoint", "base"),))
    ctx = base.Context({need: 1})
    assert ctx[need] == 1
    with pytest.raises(KeyError, match="asked for gradients but was given weights"):
        ctx[base.Need("gradients")]


def test_metrics_registry():
    assert all(name == metric.id for name, metric in METRICS.items())
    with pytest.raises(ValueError, match="did you mean 'weight.jaccard'"):
        base.metric("weight.jacard")
    with pytest.raises(ValueError, match="registered twice"):
        base.register(METRICS["weight.jaccard"])
    with pytest.raises(ValueError, match="pooling 'guess'"):
        base.register(base.Metric("x", "", "", "", "", "guess", ""))
