"""Power from a pilot: the spread between its seeds, and a directory that is none."""

import numpy as np
import pytest

from experiments.harness import defaults, power
from experiments.harness.errors import UserError
from jaxpost import records, stats


def test_the_smallest_effect_is_that_of_the_pilots_spread():
    rng = np.random.default_rng(0)
    rows = [{"metric": "policy.success", "arm": arm, "step": step, "seed": seed, "granularity": "policy", "split": "id",
             "value": float(x)} for arm in "ab" for seed, x in enumerate(rng.normal(size=4)) for step in (3, 7)]
    table = records.measurement_table({name: [row[name] for row in rows] for name in rows[0]} | {"role": "seed"})
    claims = [defaults.claim("known", "x", "policy.success", ("a", "b"), split="id"),
              defaults.claim("absent", "x", "policy.success", ("a", "c"), split="id")]
    known, absent = power.smallest_effects(claims, table, seeds=9)
    a, b = (np.asarray([row["value"] for row in rows if row["arm"] == arm and row["step"] == 7]) for arm in "ab")
    assert known.pilot == 4 and known.sd == pytest.approx(np.std(a - b, ddof=1))
    assert known.smallest == pytest.approx(stats.smallest_effect(known.sd, 9)) and np.isnan(absent.smallest)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no finished run"):
        power.pilot_rows(str(tmp_path))
