"""What stands out: beyond a band that counts how many were looked at; a layer never beyond the bands of its own matrices."""

import numpy as np
import pytest
import scipy.stats

from jaxpost.records import measurement_table
from jaxpost.records.headlines.pairs import pair_headline
from jaxpost.records.headlines.standing_out import candidates, standing_out, standing_table
from jaxpost.records.tabulating.bands import excess, needed, place

ROW = {"metric": "weight.sparsity.bf16", "arm": "tuned", "role": "estimate", "unit": "pair", "n_units": 1, "dtype": "bf16",
       "null_kind": "law_range"}


def rows(values, **more):
    """Matrices q of layers 0, 1, ...: value, with null 0.5 and band [0.4, 0.7]."""
    each = [ROW | {"granularity": "tensor", "tensor": f"layers/{i}/q", "layer": i, "module_kind": "q", "value": x,
                   "null_value": 0.5, "null_lo": 0.4, "null_hi": 0.7} | more for i, x in enumerate(values)]
    each.append(ROW | {"granularity": "kind", "module_kind": "q", "value": float(np.mean(values)), "null_value": 0.5,
                       "null_lo": 0.49, "null_hi": 0.51} | more)
    return measurement_table({name: [row.get(name) for row in each] for name in set().union(*each)})


def test_half_widths_are_those_of_the_side_on_which_the_value_lies():
    band = {"null_value": 0.5, "null_lo": 0.4, "null_hi": 0.7}
    assert excess(band | {"value": 0.9}) == pytest.approx(2) and excess(band | {"value": 0.2}) == pytest.approx(-3)
    assert place(band | {"value": 0.69}) == "inside its null band" and place(band | {"value": 0.39}) == "below its null band"
    exact = {"null_value": 1.0, "null_lo": 1.0, "null_hi": 1.0}
    assert excess(exact | {"value": 1.0}) == 0 and excess(exact | {"value": 0.9}) == -np.inf
    assert np.isnan(excess(band | {"value": None})) and place(band | {"value": 1.0, "null_hi": None}) == "no null"


@pytest.mark.parametrize("metric, law", [("weight.sparsity.bf16", scipy.stats.norm()),
                                         ("weight.rotation.mean_sin2", scipy.stats.t(3))])
def test_five_percent_in_all_comparisons_together(metric, law):
    half = law.isf(0.025)
    assert needed(metric, 1) == pytest.approx(1) and 2 * law.sf(half * needed(metric, 40)) == pytest.approx(0.05 / 40)
    rng = np.random.default_rng(0)
    blind = law.rvs(size=(4000, 40), random_state=rng) / half
    assert np.mean((np.abs(blind) > needed(metric, 40)).any(1)) == pytest.approx(0.05, abs=0.012)


def test_the_layer_that_was_moved_stands_out_and_no_other():
    found, tests = standing_out(rows([0.5, 0.55, 0.05, 0.45]), "tuned")
    assert tests == 9 and [one.where for one in found] == ["module q", "layer 2", "layer 2 q"]  # q: 0.3875 of 0.49 to 0.51
    assert found[1].excess == pytest.approx(-4.5) and found[1].value == 0.05
    assert len(standing_table(rows([0.5, 0.55, 0.05, 0.45])).body) == 3
    inside = rows([0.45, 0.55, 0.5, 0.5])
    assert standing_out(inside, "tuned") == ([], 9) and "nothing: all 9" in "".join(pair_headline(inside))


def test_a_layer_is_the_mean_of_its_matrices_with_the_mean_of_their_bands():
    table = rows([0.1, 0.9])
    moved = table.set_column(table.schema.get_field_index("layer"), table.schema.field("layer"),
                             [[None if x is None else 0 for x in table["layer"].to_pylist()]])
    assert [one.where for one in candidates(moved, "tuned")] == ["module q"]  # one layer is the whole model
    two = candidates(table, "tuned")
    assert [one.where for one in two] == ["module q", "layer 0", "layer 1", "layer 0 q", "layer 1 q"]
    assert len(two[1].row_ids) == 1


def test_what_lies_below_its_rounding_floor_says_nothing():
    assert not candidates(rows([0.05, 0.05], metric="weight.rotation.mean_sin2", side="left", k=16, noise_floor=0.06), "tuned")
