"""Tables, figures, the page and the citation of a finished bundle; verification; starting again."""

import base64
import csv
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxpost import records
from jaxpost.records import closing, report
from jaxpost.records.__main__ import main
from jaxpost.records.citation import bibtex
from jaxpost.records.drawing.figures import FIGURES
from jaxpost.records.drawing.style import arm_styles
from jaxpost.records.report import caveat, interval_drawing
from jaxpost.records.rows import select
from jaxpost.records.storage import read_json, write_json
from jaxpost.records.tabulating.cells import format_number
from jaxpost.records.tabulating.latex import tex_escape, tex_number, tex_table
from jaxpost.records.tabulating.tables import main_table, splits_table
from jaxpost.records.tabulating.variants import variant
from jaxpost.records.verify import verify

# Of bundles of many arms or runs, of gradients, and of runs on whole tables.
OF_OTHERS = ("changes", "responses", "coherence_layers", "pathway_trajectories", "fourier_progress",
             "kernel_progress", "reasoning")
DRAWN = [name for name in FIGURES if name not in OF_OTHERS]


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_every_figure_is_drawn_with_its_source(finished):
    ids = set(records.read_measurements(finished)["row_id"].to_pylist())
    for name in DRAWN:
        assert (finished / f"figures/{name}.pdf").stat().st_size > 5000
        source = json.loads((finished / f"figures/{name}.src.json").read_text())
        assert source["bundle_id"] == read_json(finished / "manifest.json")["bundle_id"]
        assert set(source["row_ids"]) <= ids and (source["row_ids"] or source["arrays"])
        assert "3 seeds" in source["caption"] or source["arrays"]


def test_figures_and_tables_show_estimates_only(finished):
    roles = dict(
        zip(*(records.read_measurements(finished)[name].to_pylist() for name in ("row_id", "role")), strict=True)
    )
    for path in finished.glob("*/*.src.json"):
        source = json.loads(path.read_text())
        shown = source.get("row_ids", []) + [i for cell in source.get("cells", []) for i in cell["row_ids"]]
        assert {roles[row_id] for row_id in shown} <= {"estimate", "null", "claim"}


def test_the_page_is_self_contained_and_says_what_it_must(finished):
    page = (finished / "report.html").read_text()
    assert not re.search(r"src\s*=\s*[\"']?(?:https?:)?//|url\(", page) and "<script" not in page and "@import" not in page
    linked = re.findall(r'<a[^>]*href="([^"]*)"', page)  # within the page, the data themselves, papers
    assert all(link.startswith(("#", "data:", "https://arxiv.org/abs/")) for link in linked)
    assert '<a href="https://arxiv.org/abs/2511.08567">' in page and "<link" not in page
    carried = re.search(r'download="main.csv" href="data:text/csv;base64,([^"]*)"', page)[1]
    assert base64.b64decode(carried) == (finished / "tables/main.csv").read_bytes()
    assert page.count("data:image/png;base64,") == len(DRAWN)
    manifest = read_json(finished / "manifest.json")
    for text in (
        manifest["bundle_id"][:12],
        "supported",
        "contradicted",
        "conditional on one base checkpoint",
        "Does it render?",
        "[0.170, 0.250]",
        "before the first arm",
        "booktabs",
        "weight.<wbr>rotation.<wbr>mean_sin2",
    ):
        assert text in page


def test_the_page_speaks_to_those_who_do_not_see_it_and_to_the_dark(finished):
    page = (finished / "report.html").read_text()
    assert "prefers-color-scheme:dark" in page and 'lang="en"' in page and "width=device-width" in page
    assert not re.findall(r"<th(?![^>]*scope=)(?!ead)[^>]*>", page.split("<body>")[1])
    alts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(alts) == len(DRAWN) and not any(alt in [title for title, _ in FIGURES.values()] for alt in alts)
    table = records.read_measurements(finished)
    success = variant(table, "policy.success", split="id")
    first, last = (select(success, arm="rlvr-lr1", step=step)["value"][0].as_py() for step in (10, 100))
    assert f"rlvr-lr1 {format_number(first)} to {format_number(last)}" in alts[0]
    assert any("map from 0 to 1.00" in alt for alt in alts)


def test_cells_of_the_main_table_are_the_rows_they_name(finished):
    rows = {row["row_id"]: row for row in records.read_measurements(finished).to_pylist()}
    lines = list(csv.reader((finished / "tables/main.csv").open()))
    source = json.loads((finished / "tables/main.src.json").read_text())
    assert len(source["cells"]) == (len(lines) - 1) * (len(lines[0]) - 1)  # every cell but the names of the arms
    for cell in source["cells"]:
        line = next(line for line in lines if line[0] == cell["row"])
        row = rows[cell["row_ids"][0]]
        assert line[lines[0].index(cell["column"])] == cell["text"] and cell["text"].startswith(
            format_number(row["value"])
        )
        assert row["arm"] == cell["row"] and row["granularity"] in ("global", "body", "policy")
        assert row["null_value"] is None or f"null {format_number(row['null_value'])}" in cell["text"]


def test_all_arms_of_a_column_are_one_reading(finished):
    table = main_table(records.read_measurements(finished))
    assert "update sparsity (bf16)" in table.headings()
    assert not any("by_tensor" in heading for heading in table.headings())


def test_tex_escapes_and_a_table_that_can_be_pasted(finished):
    assert tex_escape(r"a_b & 5% #1 {x} $y$ ~ ^ \ <") == (
        r"a\_b \& 5\% \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{} \ensuremath{<}"
    )
    assert tex_escape("‖ΔW‖ of 中, é") == r"$\Vert \Delta W\Vert$ of \texttt{U+4E2D}, é"  # pdfTeX has no such letter
    tex = tex_table(main_table(records.read_measurements(finished)), "a" * 64)
    assert tex.count(r"\begin{") == tex.count(r"\end{") >= 4  # tables of some columns each
    assert "Part 2 of" in tex and tex.count(r"\label{") == len(set(re.findall(r"\\label{([^}]*)}", tex)))
    for block in tex.split(r"\midrule")[1:]:
        body = block.split(r"\bottomrule")[0].strip().splitlines()
        assert len({line.count(" & ") for line in body}) == 1 and all(line.endswith(r"\\[2pt]") for line in body)
    assert tex.startswith("% needs") and not re.search(r"(?<!\\)[%#]", tex.split("\n", 1)[1])
    assert tex_number("[-3.2e-05, 0.1]") == r"[$-3.2\times10^{-5}$, 0.1]"
    assert tex_number("rlvr-lr1 is -0.02") == r"rlvr-lr1 is $-$0.02"


@pytest.mark.parametrize(
    "value, text",
    [
        (0.91234, "0.912"),
        (3.21e-5, "3.21e-05"),
        (0, "0"),
        (None, "n/a"),
        (123456, "1.23e+05"),
        (-12.345, "-12.3"),
        (1234.5, "1234"),
        (0.001, "0.00100"),
        (99999.4, "99999"),
        (1e5, "1.00e+05"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert format_number(value) == text


def test_arms_keep_their_colours_and_families_differ():
    arms = ["sft-lr1", "rlvr-lr1", "permuted", "raft", "rlvr-lr0", "sft-lr0", "mine"]
    styles = arm_styles(arms)
    assert list(styles)[:2] == ["rlvr-lr0", "rlvr-lr1"] and len({style["color"] for style in styles.values()}) == len(
        arms
    )
    assert arm_styles(arms[::-1]) == styles
    many = arm_styles([f"mine-{i}" for i in range(15)]).values()
    assert len({(style["color"], style["marker"]) for style in many}) == len({(s["color"], s["linestyle"]) for s in many}) == 15


def test_curves_of_what_was_sampled_stand_in_for_success(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b", claims=[])
    for step in (0, 10):
        columns = run.measurement("rlvr-lr1", step)
        keep = [i for i, metric in enumerate(columns["metric"]) if metric == "policy.success"]
        kept = {name: [values[i] for i in keep] for name, values in columns.items()}
        bundle.write_rows(f"rlvr-lr1-{step}", kept | {"metric": ["policy.pass_at_k"] * len(keep), "k": [1] * len(keep)})
    run.finish(bundle, claims=[])
    source = read_json(tmp_path / "b/figures/learning_curves.src.json")
    table = records.read_measurements(tmp_path / "b")
    shown = table.filter(pa.array([row_id in set(source["row_ids"]) for row_id in table["row_id"].to_pylist()]))
    assert source["caption"].startswith("Pass@1") and set(shown["metric"].to_pylist()) == {"policy.pass_at_k"}
    assert set(shown["split"].to_pylist()) == set(filter(None, table["split"].to_pylist()))
    assert set(shown["step"].to_pylist()) == {0, 10}
    assert main_table(table).header == ["arm", "pass@1, trained task"]
    splits = splits_table(table)
    assert splits.header == ["arm", "id", "ood/carry", "ood/digits", "second"] and splits.caption.startswith("Pass@1")
    last = select(table, role="estimate", step=10)
    wanted = dict(zip(*(last[name].to_pylist() for name in ("split", "row_id")), strict=True))
    assert [cell.row_ids for cell in splits.body[0][1:]] == [(wanted[split],) for split in splits.header[1:]]


def test_what_was_not_measured_is_absent_with_a_reason(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b", claims=[])
    columns = run.measurement("rlvr-lr1", 10, n_seeds=1)
    keep = [i for i, metric in enumerate(columns["metric"]) if metric == "policy.success"]
    bundle.write_rows("rlvr-lr1-10", {name: [values[i] for i in keep] for name, values in columns.items()})
    run.finish(bundle, claims=[])
    page = (tmp_path / "b/report.html").read_text()
    assert sorted(path.stem for path in (tmp_path / "b/figures").glob("*.pdf")) == ["forgetting", "learning_curves"]
    for text in (
        "no arrays/masks.safetensors",
        "no estimates of weight.jaccard",
        "There is one seed",
        "1 seed, no interval",
        "No claim was stated",
    ):
        assert text in page
    assert verify(tmp_path / "b")[1] == []


def test_finish_starts_again_after_a_crash_and_is_free_when_done(tmp_path, run, finished, monkeypatch):
    bundle = run.open_bundle(tmp_path / "b")
    run.fill(bundle)
    monkeypatch.setattr(closing, "render", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.finish(bundle)
    bundle.release()
    monkeypatch.setattr(closing, "render", lambda path, manifest: None)
    again = run.open_bundle(tmp_path / "b")
    assert again.state == "resumed"
    bundle_id = run.finish(again)
    assert (
        bundle_id == read_json(finished / "manifest.json")["bundle_id"] == run.finish(run.open_bundle(tmp_path / "b"))
    )


def test_a_claim_that_was_not_stated_is_exploratory(tmp_path, run, monkeypatch):
    monkeypatch.setattr(report, "write_figures", lambda *_: [])
    bundle = run.open_bundle(tmp_path / "b", claims=run.CLAIMS[:1])
    run.fill(bundle, steps=(10,))
    results = [run.RESULTS[0], run.RESULTS[1] | {"p_holm": float("nan"), "ci_lo": None, "ci_hi": None}]
    run.finish(bundle, claims=results)
    lines = list(csv.reader((tmp_path / "b/tables/claims.csv").open()))
    assert [line[0] for line in lines[1:]] == ["sparser", "off-principal (exploratory)"]
    assert (
        lines[1][5] == "8.00e-04" and lines[2][5] == ""
    )  # a p value that was not corrected is not shown as one that was
    assert "exploratory" in (tmp_path / "b/report.html").read_text()


def test_a_finished_bundle_verifies(finished, capsys):
    assert main(["verify", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.startswith("OK") for line in lines)


def test_verify_finds_a_flipped_byte(copy, capsys):
    path = copy / "arrays/masks.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(copy)]) == 1
    out = capsys.readouterr().out
    assert (
        "arrays/masks.safetensors has SHA-256" in out
        and "arrays and config give bundle" in out
        and "OK    tables" in out
    )


def _forge(path):
    """Renew the digests, as somebody who edits a bundle on purpose would."""
    manifest = read_json(path / "manifest.json")
    (path / "manifest.json").write_text(json.dumps(manifest | {"files": report.digest_files(path)}))


def test_verify_finds_an_edited_table_even_with_a_forged_digest(copy, capsys):
    path = copy / "tables/main.csv"
    text = path.read_text()
    number = re.search(r"0\.\d{3}", text).group()
    path.write_text(text.replace(number, "0.999", 1))
    _forge(copy)
    assert main(["verify", str(copy)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"tables/main.csv line \d+ is .*0\.999.*the rows give", out) and "OK    files" in out


def test_verify_finds_an_edited_row_claim_and_config(copy, capsys):
    table = records.read_measurements(copy)
    value = table["value"].to_pylist()
    value[0] = 123.0
    pq.write_table(
        table.set_column(table.schema.get_field_index("value"), table.schema.field("value"), [value]),
        copy / "measurements.parquet",
    )
    manifest = read_json(copy / "manifest.json")
    manifest["claim_results"][0]["threshold"] = 0.0
    manifest["config"]["train"]["lr"] = 1.0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    _forge(copy)
    assert main(["verify", str(copy)]) == 1
    out = capsys.readouterr().out
    for text in ("give bundle", "config hashes to", "threshold was 0.05 before the run and is 0.0"):
        assert text in out


def test_verify_says_when_there_is_nothing_to_verify(tmp_path, run, capsys):
    assert main(["verify", str(tmp_path / "none")]) == 1 and "does not exist" in capsys.readouterr().err
    run.open_bundle(tmp_path / "b")
    assert main(["verify", str(tmp_path / "b")]) == 1 and "not finished" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["status", "config", "claims", "config_exclude", "claim_results", "files"])
@pytest.mark.parametrize("value", [None, 3])
def test_verify_finds_a_manifest_of_which_a_part_is_lost_or_something_else(copy, capsys, key, value):
    manifest = read_json(copy / "manifest.json")
    manifest.pop(key)
    write_json(copy / "manifest.json", manifest | ({} if value is None else {key: value}))
    assert main(["verify", str(copy)]) == 1
    out, err = capsys.readouterr()
    assert "WRONG manifest" in out or (key, value) == ("status", 3) and "not finished" in err
    for text in ("[]", "null", "[" * 99999):
        (copy / "manifest.json").write_text(text)
        assert main(["verify", str(copy)]) == 1 and capsys.readouterr().err.startswith("cannot read")


def test_report_draws_again_and_keeps_the_bundle_id(copy, monkeypatch, capsys):
    before = read_json(copy / "manifest.json")
    (copy / "report.html").unlink()
    monkeypatch.setattr(report, "write_figures", lambda *_: [])
    assert main(["report", str(copy)]) == 0 and capsys.readouterr().out.strip().endswith("report.html")
    assert (copy / "report.html").exists() and verify(copy)[1] == []
    assert read_json(copy / "manifest.json")["bundle_id"] == before["bundle_id"]


def test_citation_has_the_bundle_its_papers_and_those_of_its_metrics_once(finished):
    manifest = read_json(finished / "manifest.json")
    cited = ["Zhu et al., arXiv:2511.08567, section 4", "RL's Razor, arXiv:2509.04259", None, "arXiv:9901.00001"]
    text = bibtex(manifest, cited)
    assert (finished / "CITATION.bib").read_text().startswith(f"@misc{{jaxpost-{manifest['bundle_id'][:12]},")
    assert text.count("2511.08567") == 1 and "@misc{arxiv-2509.04259" in text
    assert "title = {{RL's Razor: Why Online Reinforcement Learning Forgets Less}}" in text
    assert "author = {Shenfeld, Idan and Pari, Jyothish and Agrawal, Pulkit}" in text
    unknown = text[text.index("@misc{arxiv-9901.00001"):]
    assert "author" not in unknown.split("note")[0] and "key = {arXiv:9901.00001}" in unknown and "not recorded here" in unknown
    assert text.count("{") == text.count("}")


def test_drawing_and_caveat(finished):
    drawing = interval_drawing({"estimate": 0.2, "lo": 0.1, "hi": 0.3, "threshold": 0.05, "equivalence_margin": 0.02})
    assert drawing.count("<line") == 3 and "<rect" in drawing
    alone = interval_drawing({"estimate": 0.0, "lo": None, "hi": None, "threshold": None, "equivalence_margin": None})
    assert alone.count("<line") == 1 and "<rect" not in alone
    table = records.read_measurements(finished)
    assert "one base checkpoint" in caveat(table)
    place = table.schema.get_field_index("conditional_on")
    without = table.set_column(place, table.schema.field(place), pa.nulls(len(table), table.schema.field(place).type))
    assert "starts from an initialisation of its own" in caveat(without)
