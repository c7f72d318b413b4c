"""Answers of policies: merged in one order, shown by arm, kept when seeds are added, no part of the bundle id."""

import pyarrow.parquet as pq

from jaxpost import records
from jaxpost.records import completions
from jaxpost.records.storage import read_json
from jaxpost.records.verify import verify


def answers(arm, step, seed, count=4, prompt="1+2="):
    return {"arm": [arm] * count, "seed": seed, "step": step, "split": "id", "problem": list(range(count)),
            "prompt": prompt, "answer": [f"{i}|<b>" for i in range(count)], "reward": [i / 4 for i in range(count)],
            "parts": "correct=1;length=0.25", "logp": -1.25, "tokens": 3, "finished": [i % 2 == 0 for i in range(count)]}


def test_answers_are_in_the_page_and_in_one_file_and_change_no_number(tmp_path, run, finished, monkeypatch):
    monkeypatch.setattr("jaxpost.records.report.write_figures", lambda *given: [])  # none is looked at
    bundle = run.open_bundle(tmp_path / "b")
    run.fill(bundle)
    for arm, step in (("rlvr-lr1", 10), ("rlvr-lr1", 100), ("base", 0)):
        for seed in (1, 0):
            bundle.write_completions(f"{arm}-{step}-{seed}", answers(arm, step, seed))
    run.finish(bundle)
    path = tmp_path / "b"
    assert read_json(path / "manifest.json")["bundle_id"] == read_json(finished / "manifest.json")["bundle_id"]
    table = completions.read(path)
    assert len(table) == 24 and not (path / "completions").exists() and verify(path)[1] == []
    assert table.slice(0, 1).to_pylist()[0] | {"arm": "base"} == table.to_pylist()[0] and completions.read(finished) is None
    found = completions.shown(table)
    assert [arm for arm, _ in found] == ["base", "rlvr-lr1"] and {row["step"] for row in found[1][1]} == {100}
    assert len(found[1][1]) == 3 and {row["seed"] for row in found[1][1]} == {0}
    page = (path / "report.html").read_text()
    assert "What the policies answer" in page and "1|&lt;b&gt;" in page and "correct=1, length=0.25" in page
    assert page.count("not ended") == 2  # one of three shown answers an arm
    assert "What the policies answer" not in (finished / "report.html").read_text()


def test_answers_of_finished_seeds_stay_when_seeds_are_added(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    run.fill(bundle, arms=("rlvr-lr1",), steps=(10,))
    bundle.write_completions("rlvr-lr1-10-0", answers("rlvr-lr1", 10, 0))
    bundle.merge(run.metrics(set(bundle.read_rows()["metric"].to_pylist())))
    bundle.seal()
    records.reopen(run.open_bundle(tmp_path / "b"))
    again = run.open_bundle(tmp_path / "b")
    again.write_completions("rlvr-lr1-10-3", answers("rlvr-lr1", 10, 3))
    again.merge(run.metrics(set(again.read_rows()["metric"].to_pylist())))
    assert sorted(pq.read_table(tmp_path / "b" / "completions.parquet")["seed"].unique().to_pylist()) == [0, 3]
