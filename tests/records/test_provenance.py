"""Hashes of configs and code."""

import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpost.records import code_state, config_hash, environment
from jaxpost.records.provenance import arrays_digest, canonical_json, environment_changes


def test_config_hash_ignores_order_and_container_and_what_is_excluded():
    one = {"b": {"y": (1, 2), "x": np.float64(0.1)}, "a": np.int32(3), "workdir": "here"}
    two = {"a": 3, "b": {"x": 0.1, "y": [1, 2]}, "workdir": "there"}
    assert config_hash(one, ["workdir"]) == config_hash(two, ["workdir"])
    assert config_hash(one) != config_hash(two)
    assert config_hash(one, ["workdir", "b.x"]) == config_hash(two | {"b": {"x": 9, "y": [1, 2]}}, ["workdir", "b.x"])
    assert canonical_json({"b": 1e-7, "a": True}) == '{"a":true,"b":1e-07}'


@pytest.mark.parametrize("value, error", [(float("nan"), ValueError), (object(), TypeError)])
def test_config_hash_refuses_what_has_no_canonical_text(value, error):
    with pytest.raises(error):
        config_hash({"a": value})


def test_arrays_digest_reads_content(tmp_path):
    save_file({"x": np.arange(3.0), "y": np.ones((2, 2), np.float32)}, tmp_path / "a.safetensors")
    save_file(
        {"y": np.ones((2, 2), np.float32), "x": np.arange(3.0)}, tmp_path / "b.safetensors", metadata={"note": "z"}
    )
    save_file({"x": np.arange(3.0), "y": np.ones((4,), np.float32)}, tmp_path / "c.safetensors")
    digests = [arrays_digest(tmp_path / f"{name}.safetensors") for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_environment_has_versions_cores_and_what_the_caller_sees(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = environment({"platform": "cpu", "count": np.int64(8)})
    assert found["packages"]["numpy"] == np.__version__ and found["cores"] >= 1
    assert found["variables"]["OPENBLAS_CORETYPE"] == "Haswell" and found["devices"] == {"platform": "cpu", "count": 8}
    assert "devices" not in environment()
    assert environment_changes(found, found | {"cores": -1}) == [f"cores: {found['cores']} -> -1"]


def test_code_state_sees_commits_changes_and_new_files(tmp_path):
    assert "commit" not in code_state(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    (tmp_path / "a.py").write_text("a = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = code_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False and "diff_sha256" not in clean
    (tmp_path / "a.py").write_text("a = 2\n")
    changed = code_state(tmp_path)
    (tmp_path / "b.py").write_text("b = 1\n")
    assert changed["dirty"] and changed["diff_sha256"] != code_state(tmp_path)["diff_sha256"]
