"""The catalogue: every row keeps the contract, is explained, and an unknown word names the nearest."""

import dataclasses

import jax
import pytest

from jaxpost import probes
from jaxpost.probes import catalog, presets, schedules, toy

from . import tiny_probe

ROWS = catalog.rows()
MADE = [row for row in ROWS if row.make is not None]


def ids(rows):
    return [row.id for row in rows]


@pytest.mark.parametrize("row", MADE, ids=ids(MADE))
def test_every_probe_keeps_the_contract(row):
    catalog._check(row)
    probe = catalog.example(row)
    assert isinstance(probe, probes.Probe)
    hash(probe)  # a static argument of its program
    assert probe.metrics and len(set(probe.metrics)) == len(probe.metrics)
    assert dataclasses.replace(probe, schedule=schedules.At((3,))).schedule(3)


@pytest.mark.parametrize("row", MADE, ids=ids(MADE))
def test_every_price_is_counted_from_shapes_alone(row):
    probe = catalog.example(row)
    given = toy.shapes() | {probes.HISTORY: {"loss_tokens": jax.ShapeDtypeStruct((3,), "float32")}}
    cost = probe.cost(probes.Context({need: given[need] for need in probe.needs}))
    total = cost.products + cost.factorisations + cost.streamed
    assert total > 0 or probe.lane == "inline"
    assert min(cost.products, cost.factorisations, cost.streamed, cost.held) >= 0


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_every_row_says_what_it_tells_and_where_it_is_measured(row):
    assert row.tells and "\n" not in row.tells
    found = catalog.example(row)
    assert found.lane in probes.base.LANES
    assert (row.make is None) == bool(row.where)


def test_every_metric_is_explained_and_every_statistic_has_metrics():
    own = {tiny_probe.MEAN.id, tiny_probe.CLIMB.id}
    unexplained = [name for name in probes.METRICS if catalog.statistic_of(name) is None and name not in own]
    assert not unexplained
    for statistic in catalog.statistics():
        assert catalog.metrics_of(statistic), statistic.name


def test_every_metric_belongs_to_one_row_and_every_metric_of_the_package_to_some():
    owned = [metric for row in ROWS if row.id != "gradient_chunks" for metric in catalog.example(row).metrics]
    assert len(set(owned)) == len(owned)
    chunks, examples = (set(catalog.example(catalog.entry(name)).metrics) for name in ("gradient_chunks", "gradient"))
    assert chunks < examples  # one statistic, of other gradients
    own = {tiny_probe.MEAN.id, tiny_probe.CLIMB.id}
    assert set(probes.METRICS) - own == {*owned, "gate.leash.clip_bound"}  # that one where the clip is known


def test_unknown_words_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'weight'"):
        catalog.get("wieght")
    with pytest.raises(ValueError, match="did you mean 'alphas'"):
        catalog.get("weight", alpha=(0.5,))
    with pytest.raises(ValueError, match="'gradient' needs 'loss', which this experiment does not have"):
        catalog.get("gradient")
    with pytest.raises(ValueError, match="cannot be chosen: it is part of every train step"):
        catalog.get("inline")
    with pytest.raises(ValueError, match="did you mean 'economy'"):
        presets.get(("econmy",))


def test_presets_are_ordered_by_what_they_read():
    have = {name: {p.id for p in presets.get((name,), toy.SUBJECT)} for name in presets.PRESETS}
    assert have["economy"] <= have["standard"] <= have["full"]
    levels = {name: next(p for p in presets.get((name,), toy.SUBJECT) if p.id == "weight").panel.spectra for name in have}
    assert levels == {"economy": "none", "standard": "top", "full": "exact"}
    assert presets.cheaper("economy") is None and presets.cheaper("full") == "standard"
    assert presets.budget(("full", "standard")) == 0.10 and presets.budget(("weight",)) is None


def test_settings_win_over_a_presets_own_and_a_schedule_replaces_its_cadence():
    (probe,) = (p for p in presets.get(("economy",), schedule=schedules.At((7,)), settings={"weight": {"ks": (4,)}})
                if p.id == "weight")
    assert probe.panel.ks == (4,) and probe.panel.spectra == "none" and probe.schedule(7) and not probe.schedule(100)
    (default,) = (p for p in presets.get(("economy",)) if p.id == "weight")
    assert default.schedule(presets.PRESETS["economy"].every)


@pytest.fixture
def own(monkeypatch):
    tiny_probe.register()
    monkeypatch.setattr(catalog, "CATALOG", dict(catalog.CATALOG))


def test_a_users_probe_is_registered_with_its_schedule(own):
    catalog.register("mine", tiny_probe.MeanAbs, tells="mean change", schedule=schedules.Every(5))
    (found,) = presets.get(("mine",), schedule=schedules.At((1, 2)), settings={"mine": {"scale": 2.0}})
    assert found.scale == 2.0 and found.schedule(5) and not found.schedule(1)
    with pytest.raises(ValueError, match="registered twice"):
        catalog.register("mine", tiny_probe.MeanAbs, tells="again")


def test_a_probe_that_breaks_the_contract_is_refused(own):
    @dataclasses.dataclass(frozen=True)
    class Half:
        id: str = "half"

    with pytest.raises(ValueError, match="'half' lacks version, definition, metrics"):
        catalog.register("half", Half, tells="nothing")
    with pytest.raises(ValueError, match="'mine' is registered as 'yours'"):
        catalog.register("yours", tiny_probe.MeanAbs, tells="x")
    with pytest.raises(ValueError, match="did you mean 'mine.climb'"):
        catalog.register("mine", lambda: tiny_probe.MeanAbs(metrics=("mine.climbs",)), tells="x")
    with pytest.raises(ValueError, match="lane 'inlne'"):
        catalog.register("mine", lambda: tiny_probe.MeanAbs(lane="inlne"), tells="x")
