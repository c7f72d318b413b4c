"""Weak scaling: exponents of planted quantities, what is refused before compiling, and, slow, the smoke form."""

import pytest

from experiments import bench_weak_scaling, run
from jaxpost import aot, records
from jaxpost.records.verify import verify


def test_an_exponent_is_fitted_where_parameters_are_in_as_many_parts():
    """Bytes that grow with the square root of the chips miss; slices that share in fewer parts are shown alone."""
    rows = [{"program": "p", "chips": n, "fsdp": min(n, 16), "flops": 1e12, "peak_bytes": 2**30 * (1 if n >= 16 else 4),
             "bytes": 2**20 * n**0.5} for n in (4, 16, 64, 256)]
    found = {target.name: target for target in bench_weak_scaling.exponents(rows, 16)}
    assert [(name, round(t.measured, 9), t.met) for name, t in found.items()] == [
        ("p, FLOPs", 0, True), ("p, memory", 0, True), ("p, collectives", 0.5, False)]
    assert found["p, memory"].note == "chips: GiB a chip: 4: 4, 16: 1, 64: 1, 256: 1"


def chips(name):
    """As many as a slice has; libtpu is left to one file of tests, since one process at a time may load it."""
    if name == "v5e-5":
        raise ValueError("topology 'v5e-5' is not known to libtpu")
    return [None] * int(name.partition("-")[2])


@pytest.mark.parametrize(("override", "expected"), [
    ("prompts=0", "prompts=0: must be at least 1"), ("group=1", "error: group=1: must be at least 2"),
    ("directory=Qwen2.5-0.6B", "directory='Qwen2.5-0.6B' is neither a directory with a config.json nor a shipped shape"),
    ("fsdp=3", "fsdp=3 does not divide the 4 chips of v5e-4; take 4 or a divisor of it"),
    ("slices=('v5e-4',)", "an exponent needs two sizes of at least fsdp=4 chips"),
    ("slices=('v5e-4','v5e-5')", "topology 'v5e-5' is not known to libtpu")])
def test_a_mistake_is_one_line_before_anything_is_compiled(monkeypatch, capsys, tmp_path, override, expected):
    monkeypatch.setattr(aot, "devices", chips)
    assert run.main(["--config=bench_weak_scaling:smoke", f"--workdir={tmp_path}/run", f"--config.{override}"]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.slow
def test_the_smoke_form_keeps_what_every_program_takes(tmp_path):
    pytest.importorskip("libtpu")
    assert run.main(["--config=bench_weak_scaling:smoke", f"--workdir={tmp_path}/run"]) == 0
    assert not verify(tmp_path / "run")[1]
    manifest = records.storage.read_json(tmp_path / "run" / "manifest.json")
    assert {(row["program"], row["chips"]) for row in manifest["programs"]} == {
        (name, chips) for name in ("sft-update", "rlvr-rollout", "rlvr-update") for chips in (4, 16)}
    assert all(target["met"] for target in manifest["targets"]) and len(manifest["targets"]) == 9
