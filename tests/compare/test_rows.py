"""Rows that are made from kept spectra, and the spectral rows beside those of the probe itself."""

import numpy as np
import pytest

from jaxpost import records
from jaxpost.compare import compare, comparison, gram, rows
from jaxpost.compare.pairing import Pair
from jaxpost.probes.updates import tail_fits, tails
from jaxpost.records.rows import select
from tests.compare import checkpoints
from tests.compare.test_elementwise import probe_rows

CONSTANT = {"arm": "tuned", "step": None, "conditional_on": "sha256:0"}


def test_tails_are_fits_of_the_kept_spectra():
    rng = np.random.default_rng(0)
    pairs = [Pair("layers/0/q", "q", 0, (80, 60)), Pair("layers/0/o", "o", 0, (60, 60)), Pair("layers/0/k", "k", 0, (60, 20))]
    measured = {}
    for pair in pairs:
        w1, dw = rng.standard_normal((2, *pair.shape))
        kept = {"tuned": np.linalg.svd(w1, compute_uv=False), "spectrum": np.linalg.svd(dw, compute_uv=False)}
        measured[pair.name] = {"arrays": {f"tuned/kept/{key}": x for key, x in kept.items()}}
    table = records.measurement_table(rows.tail_rows(pairs, measured, "tuned", CONSTANT))
    for pair, key, subject in ((pairs[0], "tuned", "weights"), (pairs[1], "spectrum", "update")):
        values = measured[pair.name]["arrays"][f"tuned/kept/{key}"] ** 2
        fit = tail_fits.power_law(values)
        for metric, exact in (("weight.tail.alpha", fit.alpha), ("weight.tail.ks", fit.ks),
                              ("weight.mp.sigma", tail_fits.marchenko_pastur(values, pair.shape).sigma)):
            (row,) = select(table, metric=metric, tensor=pair.name, params=f"of={subject}").to_pylist()
            assert row["value"] == pytest.approx(exact, rel=1e-12) and (row["unit"], row["n_units"]) == ("pair", 1)
            assert row["null_lo"] <= row["null_value"] <= row["null_hi"]
    (row,) = select(table, metric="weight.mp.sigma", tensor="layers/0/q", params="of=update").to_pylist()
    assert row["value"] == pytest.approx(1.0, rel=0.1) and row["null_value"] == pytest.approx(1.0, rel=0.1)
    (small,) = select(table, metric="weight.tail.alpha", tensor="layers/0/k", params="of=update").to_pylist()
    assert small["status"] == "absent" and str(tail_fits.MIN_VALUES) in small["status_reason"]
    assert set(tails.SpectrumTails(bootstrap=0).metrics) == set(table["metric"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("level", ["top", "exact"])
def test_spectral_rows_are_those_of_the_probe_within_its_own_errors(tmp_path, level):
    tensors = checkpoints.base_tensors()
    tuned = {name: checkpoints.on_grid(x) for name, x in checkpoints.moved(tensors).items()}
    base, other = checkpoints.write(tmp_path / "base", tensors), checkpoints.write(tmp_path / "tuned", tuned)
    table = compare(base, other, level=level).rows
    prepared = comparison.prepare(base, [other], comparison.Settings(level=level))
    wanted = probe_rows(table, prepared, checkpoints.ours(tensors), checkpoints.ours(tuned)).to_pylist()
    found = {row["row_id"]: row for row in table.to_pylist()}
    assert {row["row_id"] for row in wanted} <= found.keys()
    drawn = 0
    for row in wanted:
        mine = found[row["row_id"]]
        assert mine["status"] == row["status"] or "unresolved" in (mine["status"], row["status"]), row
        if row["role"] == "null" or row["value"] is None:
            continue
        bound = 1.01 * (row["num_err"] or 0) + 3e-6 * abs(row["value"]) + 1e-9
        assert abs(mine["value"] - row["value"]) <= bound, (row, mine["value"])
        if row["null_value"] and row["metric"].startswith("weight.rotation"):
            drawn += 1
            assert 0.2 < mine["null_value"] / row["null_value"] < 5, row  # single draws of a heavy-tailed law
    assert drawn > 20 and gram.GRAM_ERROR < 1e-13
