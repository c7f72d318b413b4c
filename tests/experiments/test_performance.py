"""The page of speed says what the bundles say, and refuses what is no finished benchmark."""

import json

import pytest

from experiments import performance

MANIFEST = {
    "status": "complete", "title": "What a | costs", "question": "Is it fast?", "bundle_id": "0123456789abcdef",
    "config": {"experiment": "bench_train"},
    "sessions": [{"opened": "2026-01-02T03:04:05+00:00", "code": {"version": "1", "commit": "f" * 40, "dirty": True},
                  "environment": {"python": "3.11.7", "machine": "x86_64", "processor": "", "cores": 2,
                                  "packages": {"jax": "0.10.2"},
                                  "devices": {"platform": "gpu", "kind": "H200", "count": 1, "processes": 1}}}],
    "targets": [{"name": "a|b", "wanted": ">= 1 s", "measured": 1.2345, "spread": [1.0, 2.0], "met": True, "note": ""},
                {"name": "limit", "wanted": "<= 3 s", "measured": 4.0, "spread": [4.0, 4.0], "met": False, "note": "slow"}]}


def test_a_table_has_every_target_with_its_machine_and_what_was_missed(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    assert performance.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| a\\|b | >= 1 s | 1.23 [1, 2] | yes |  |" in text and "| limit | <= 3 s | 4 [4, 4] | no | slow |" in text
    assert "x86_64, 2 cores, 1 x H200, jax 0.10.2, Python 3.11.7; bundle 0123456789ab, commit ffffffffffff with" in text


def test_what_is_no_finished_benchmark_is_one_line(tmp_path, capsys):
    assert performance.main([str(tmp_path)]) == 2
    assert "no bundle is there" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "running", "config": {"experiment": "study"}}))
    assert performance.main([str(tmp_path)]) == 2
    assert "study, running: expected a finished benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [
    ("{", "cannot read"), ("[]", "it holds a JSON list, expected an object"), ("{}", "KeyError: 'status'"),
    (json.dumps({key: value for key, value in MANIFEST.items() if key != "sessions"}), "KeyError: 'sessions'"),
    (json.dumps(MANIFEST | {"sessions": []}), "IndexError"), (json.dumps(MANIFEST | {"targets": [{}]}), "KeyError: 'spread'")])
def test_a_broken_manifest_is_one_line_that_names_it(tmp_path, capsys, text, message):
    (tmp_path / "manifest.json").write_text(text)
    assert performance.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and str(tmp_path / "manifest.json") in err and message in err
