"""The figure of coherence by layers: which panels there are, what is in them, and why it may be missing."""

import matplotlib
import numpy as np
import pyarrow as pa
import pytest

from jaxpost import records
from jaxpost.records.drawing import layers
from jaxpost.records.drawing.curves import Missing
from jaxpost.records.drawing.style import RC


def table(arms=("clusters-real", "clusters-random", "addition-real"), depth=None, params="chunk=1", permuted=True):
    """Estimates over two seeds: whole model and layers at steps 0, 1, 10; value = 2 + layer + step / 10."""
    depth = depth or {"clusters": 3, "addition": 2}
    seeds = []
    for arm in arms:
        scopes = [("global", None), *(("layer", i) for i in range(depth[arm.partition("-")[0]]))]
        for step in (0, 1, 10):
            for granularity, layer in scopes:
                for seed in (0, 1):
                    value = 2 + (layer or 0) + step / 10 + 0.1 * seed
                    seeds.append({"metric": layers.COHERENCE, "arm": arm, "role": "seed", "step": step, "seed": seed,
                                  "granularity": granularity, "layer": layer, "params": params, "dtype": "fp32",
                                  "value": value, "null_kind": "orthogonal", "null_value": 1.0})
    rows = {name: [r[name] for r in seeds] for name in seeds[0]}
    if permuted:
        ids = records.row_ids(rows)
        nulls = [{**r, "role": "null", "of": i, "value": 1.5, "null_kind": "label_permuted", "null_lo": 1.2, "null_hi": 1.8}
                 for r, i in zip(seeds, ids, strict=True)]
        rows = {name: [r.get(name) for r in seeds + nulls] for name in nulls[0]}
    return records.summarise(records.measurement_table(rows))


def drawn(rows):
    with matplotlib.rc_context(RC):
        found = layers.coherence_layers(rows, {})
        return found, [axis for axis in found.figure.axes if axis.axison]


def test_every_problem_has_its_layers_and_every_arm_its_curve_and_null():
    found, axes = drawn(table())
    assert [axis.get_title(loc="left") for axis in axes] == [
        "addition, whole model", "addition, layer 0", "addition, layer 1",
        "clusters, whole model", "clusters, layer 0", "clusters, layer 1", "clusters, layer 2"]
    last = axes[-1]
    curves = [line for line in last.get_lines() if len(line.get_xdata()) == 3]
    values = sorted(tuple(np.round(line.get_ydata(), 9)) for line in curves)
    assert values == [(1.5, 1.5, 1.5)] * 2 + [(4.05, 4.15, 5.05)] * 2
    assert last.get_ylim()[0] == 0 and last.get_ylim()[1] > 5.05
    assert "2 seeds" in found.caption and "permuted" in found.caption
    assert {len(rows) for rows in found.rows} == {2 * 4 * 3 + 3 * 3}


def test_matched_points_are_no_curve():
    """Rows of a point that no run passed through have no step, and a name that sorts before the measured ones."""
    rows = table()
    matched = table(params="among=all;at=matched_norm;chunk=1", permuted=False)
    matched = matched.set_column(matched.schema.get_field_index("step"), matched.schema.field("step"),
                                 [pa.nulls(len(matched), matched.schema.field("step").type)])
    found, _ = drawn(pa.concat_tables([rows, matched]))
    assert [set(x["step"].to_pylist()) for x in found.rows] == [{0, 1, 10}] * 2
    assert [len(x) for x in found.rows] == [len(x) for x in drawn(rows)[0].rows]


def test_a_deep_model_shows_some_layers_and_says_so():
    found, axes = drawn(table(arms=("deep-real",), depth={"deep": 12}))
    assert len(axes) == 6 and axes[-1].get_title(loc="left") == "deep, layer 11"
    assert "7 further layers" in found.caption


def test_without_nulls_it_is_drawn_and_without_layers_it_is_not():
    assert len(drawn(table(permuted=False))[1]) == 7
    with pytest.raises(Missing, match="of no layer"):
        layers.coherence_layers(table(depth={"clusters": 0, "addition": 0}), {})
    with pytest.raises(Missing, match="over single examples"):
        layers.coherence_layers(table(params="chunk=8"), {})
