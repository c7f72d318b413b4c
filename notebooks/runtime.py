"""Makes a notebook's Python able to run jaxpost: compares what is installed with setup.py, installs, restarts where it must.

A hosted runtime such as Colab ships jax, flax and orbax of its own, often older than what jaxpost needs, and on a GPU or a TPU
jax must come with the plugin of that accelerator. Nothing is installed where everything fits. The first cell of every notebook
is `notebooks/first_cell.py`, which brings the clone and calls `ready`.
"""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

ACCELERATORS = {"gpu": ("nvidia[0-9]*",), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}  # files in /dev


def requirements(setup: str) -> list[str]:
    """`install_requires` of a setup.py, from its text."""
    found = [word.value for node in ast.walk(ast.parse(setup)) if isinstance(node, ast.Call) for word in node.keywords
             if word.arg == "install_requires"]
    return ast.literal_eval(found[0])


def unmet(required: Iterable[str], versions: Mapping[str, str]) -> list[str]:
    """The requirements that installed versions (distribution -> version) do not satisfy.

    >>> unmet(["jax>=0.10,<0.12", "flax>=0.12.8", "optax>=0.2.8"], {"jax": "0.7.2", "flax": "0.12.8"})
    ['jax>=0.10,<0.12', 'optax>=0.2.8']
    """
    parsed = [(text, Requirement(text)) for text in required]
    return [text for text, r in parsed
            if _canonical(r.name) not in versions or not r.specifier.contains(versions[_canonical(r.name)], prereleases=True)]


def extra(accelerator: str | None, versions: Mapping[str, str]) -> str:
    """The extra of jax that brings the plugin of the accelerator; of CUDA the version at hand, or 12; "" on a CPU."""
    if accelerator != "gpu":
        return accelerator or ""
    return "cuda13" if "jax-cuda13-plugin" in versions else "cuda12"


def targets(required: Sequence[str], accelerator: str | None, versions: Mapping[str, str]) -> list[str]:
    """What pip is asked for: every requirement, so that none is broken by another, and jax with its plugin; [] if all is met.

    >>> targets(["jax>=0.10", "flax>=0.12.8"], "tpu", {"jax": "0.9.0", "flax": "0.12.8"})
    ['jax[tpu]>=0.10', 'flax>=0.12.8']
    """
    if not unmet(required, versions):
        return []
    plugin = extra(accelerator, versions)
    return [f"jax[{plugin}]{text[3:]}" if plugin and Requirement(text).name == "jax" else text for text in required]


def stale(before: Mapping[str, str], after: Mapping[str, str], imported: Iterable[str],
          distributions: Mapping[str, Sequence[str]]) -> list[str]:
    """Imported packages whose files were replaced: the running Python still has the old ones.

    Args:
      before, after: versions around the installation.
      imported: names of modules, such as those of `sys.modules`.
      distributions: top-level module -> distributions, as `importlib.metadata.packages_distributions` gives it.
    """
    tops = {name.partition(".")[0] for name in imported}
    changed = {name for name, version in before.items() if after.get(name) != version}
    return sorted(top for top in tops if changed & {_canonical(name) for name in distributions.get(top, ())})


def found_accelerator(devices: Path = Path("/dev")) -> str | None:
    """gpu, tpu, or None on a CPU, by the device files."""
    return next((kind for kind, names in ACCELERATORS.items() if any(any(devices.glob(name)) for name in names)), None)


def installed() -> dict[str, str]:
    """Distribution -> version of this Python."""
    importlib.invalidate_caches()
    return {_canonical(d.metadata["Name"]): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}


def ready(root: Path) -> None:
    """Install what is missing; restart the notebook's Python if a package that it has imported was replaced."""
    before = installed()
    wanted = targets(requirements((root / "setup.py").read_text()), found_accelerator(), before)
    if not wanted:
        return
    owners = importlib.metadata.packages_distributions()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)
    old = stale(before, installed(), list(sys.modules), owners)
    if old:
        restart(f"replaced while in use: {', '.join(old)}. Python restarts now; run the notebook again from its first cell")


def restart(why: str) -> None:
    """End this kernel, for its front end to start a new one. Raises: SystemExit, always, so that no further cell runs here."""
    from IPython import get_ipython

    get_ipython().kernel.do_shutdown(restart=True)
    raise SystemExit(why)


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
