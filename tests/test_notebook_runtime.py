"""What the first cell of a notebook installs, and when it restarts, by tables of versions as hosted runtimes have them."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from notebooks import runtime

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = ["jax>=0.10,<0.12", "flax>=0.12.8", "orbax-checkpoint>=0.12", "ml_collections>=1.1", "numpy>=2.4"]
FITS = {"jax": "0.10.2", "flax": "0.12.8", "orbax-checkpoint": "0.12.8", "ml-collections": "1.1.0", "numpy": "2.4.1"}
COLAB = FITS | {"jax": "0.7.2", "flax": "0.11.2", "orbax-checkpoint": "0.11.31", "numpy": "2.0.2"}
LIBRARIES = {"jax": ["jax"], "jaxlib": ["jaxlib"], "orbax": ["orbax-checkpoint"], "numpy": ["numpy"], "google": ["a", "b"]}


def test_the_requirements_are_those_of_the_package():
    required = runtime.requirements((ROOT / "setup.py").read_text(encoding="utf-8"))
    stated = {text.partition(";")[0] for text in importlib.metadata.requires("jaxpost") if "extra ==" not in text}
    assert {runtime.Requirement(text) for text in required} == {runtime.Requirement(text) for text in stated}


@pytest.mark.parametrize(("versions", "expected"), [
    (FITS, []),
    (COLAB, ["jax>=0.10,<0.12", "flax>=0.12.8", "orbax-checkpoint>=0.12", "numpy>=2.4"]),
    ({}, REQUIRED),
    (FITS | {"jax": "0.12.0"}, ["jax>=0.10,<0.12"]),  # too new is as wrong as too old
    (FITS | {"jax": "0.10.3.dev20260601"}, []),  # a nightly build counts by its number
])
def test_unmet_compares_versions(versions, expected):
    assert runtime.unmet(REQUIRED, versions) == expected


@pytest.mark.parametrize(("accelerator", "more", "jax"), [
    (None, {}, "jax>=0.10,<0.12"),
    (None, {"jax-cuda12-plugin": "0.7.2"}, "jax>=0.10,<0.12"),  # a CPU runtime of an image with CUDA
    ("gpu", {"jax-cuda12-plugin": "0.7.2"}, "jax[cuda12]>=0.10,<0.12"),
    ("gpu", {"jax-cuda13-plugin": "0.8.0"}, "jax[cuda13]>=0.10,<0.12"),
    ("gpu", {}, "jax[cuda12]>=0.10,<0.12"),
    ("tpu", {"libtpu": "0.0.21"}, "jax[tpu]>=0.10,<0.12"),
])
def test_jax_comes_with_the_plugin_of_the_accelerator_and_no_other(accelerator, more, jax):
    assert runtime.targets(REQUIRED, accelerator, COLAB | more) == [jax, *REQUIRED[1:]]
    assert runtime.targets(REQUIRED, accelerator, FITS | more) == []


@pytest.mark.parametrize(("devices", "expected"), [
    ((), None), (("null", "vfio/vfio"), None), (("nvidiactl", "nvidia0"), "gpu"), (("accel0",), "tpu"), (("vfio/0",), "tpu"),
])
def test_the_accelerator_is_told_by_its_device_files(devices, expected, tmp_path):
    for name in devices:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert runtime.found_accelerator(tmp_path) == expected


def test_stale_is_what_was_imported_and_replaced():
    imported = ["numpy", "numpy.linalg", "google.colab", "sys"]
    assert runtime.stale(COLAB, FITS, imported, LIBRARIES) == ["numpy"]
    assert runtime.stale(COLAB, FITS, ["sys"], LIBRARIES) == []
    assert runtime.stale(FITS, FITS | {"optax": "0.2.8"}, [*imported, "optax"], LIBRARIES | {"optax": ["optax"]}) == []  # new
    assert runtime.stale(COLAB, {name: v for name, v in COLAB.items() if name != "jax"}, ["jax"], LIBRARIES) == ["jax"]  # gone


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A runtime with these versions, whose pip makes them fit; gives the record of what was done."""
    (tmp_path / "setup.py").write_text(f"setup(name='x', install_requires={REQUIRED!r})")

    def make(versions, modules=()):
        tables, done = [versions, FITS], []
        monkeypatch.setattr(runtime, "installed", lambda: tables.pop(0))
        monkeypatch.setattr(runtime, "found_accelerator", lambda: "gpu")
        monkeypatch.setattr(runtime.importlib.metadata, "packages_distributions", lambda: LIBRARIES)
        monkeypatch.setattr(runtime.subprocess, "run", lambda command, check: done.append(command))
        monkeypatch.setattr(runtime, "restart", done.append)
        monkeypatch.setattr(sys, "modules", {name: None for name in modules})
        runtime.ready(tmp_path)
        return done

    return make


def test_a_runtime_that_fits_is_left_alone(machine):
    assert machine(FITS, ("jax", "numpy")) == []


def test_an_old_runtime_is_brought_up_and_restarted_only_where_a_package_was_in_use(machine):
    pip = [sys.executable, "-m", "pip", "install", "-q", "jax[cuda12]>=0.10,<0.12", *REQUIRED[1:]]
    assert machine(COLAB) == [pip]
    done, why = machine(COLAB, ("numpy", "json"))
    assert done == pip and why.startswith("replaced while in use: numpy.") and "first cell" in why
