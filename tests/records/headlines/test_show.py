"""The headline of a finished study: claims with verdicts first, then a line an arm with nulls, what is absent, the report."""

import re

import pytest

from jaxpost import records
from jaxpost.records.__main__ import main
from jaxpost.records.headlines.studies import claim_lines
from jaxpost.records.tabulating.tables import claims_table


def test_claims_come_first_then_arms_then_the_report(finished, run, capsys):
    assert main(["show", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"A made-up run \(bundle [0-9a-f]{12}\)", lines[0]) and lines[-1] == str(finished / "report.html")
    assert lines[1].startswith("SUPPORTED ") and lines[1].endswith(run.CLAIMS[0]["statement"])
    assert lines[2].strip() == "+0.2100 [+0.1700, +0.2500], threshold > +0.05, p (Holm) 0.0008, n = 5"
    assert lines[3].startswith("CONTRADICTED ") and "threshold < -0.02" in lines[4] and lines[4].endswith("density shows.")
    heading = next(i for i, line in enumerate(lines) if line.startswith("arm "))
    assert [line.split()[0] for line in lines[heading + 1:heading + 4]] == ["rlvr-lr1", "sft-lr1", "permuted"]
    assert "update sparsity" in lines[heading] and "(null " in lines[heading + 1]


def test_what_is_not_finished_has_no_headline(tmp_path, run, capsys):
    run.open_bundle(tmp_path / "b")
    assert main(["show", str(tmp_path / "b")]) == 1 and "its result is not there yet" in capsys.readouterr().err
    with pytest.raises(records.BundleError, match="does not exist"):
        records.headline(tmp_path / "none")


def test_a_claim_without_a_value_or_a_correction_says_so():
    claim = {"id": "a", "statement": "A \x1b[31m is B.", "verdict": "inconclusive", "estimate": float("nan"), "n_units": 0,
             "threshold": None, "p_holm": None, "primary": False}
    assert claim_lines([claim])[0].endswith(r"A \x1b[31m is B.") and "no value, exploratory, n = 0" in claim_lines([claim])[1]
    assert "no p, n = 0" in claim_lines([claim | {"primary": True}])[1]


def test_a_claim_of_no_difference_says_its_margin():
    claim = {"id": "same", "verdict": "supported", "statement": "A is as B.", "direction": "equivalent", "threshold": 0.0,
             "equivalence_margin": 0.02, "primary": False, "n_units": 3, "estimate": 0.0, "ci_lo": -0.01, "ci_hi": 0.01,
             "metric": "m", "note": "", "p_holm": None}
    assert "within ±0.02, exploratory" in claim_lines([claim])[1]
    rows = [{"metric": "m", "role": "claim", "value": 0.0, "granularity": "experiment", "n_units": 3, "unit": "seed",
             "params": f"claim=same;quantity={quantity}"} for quantity in ("estimate", "threshold")]
    table = records.measurement_table({name: [row[name] for row in rows] for name in rows[0]})
    cells = claims_table(table, [claim]).body[0]
    assert "within ±0.02" in [cell.text for cell in cells]
