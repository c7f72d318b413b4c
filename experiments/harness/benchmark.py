"""What every benchmark shares: two sides by turns, a target that was set before, a table of what was met.

A ratio is taken within a turn, so that both sides see the same machine; its median over the turns is compared.
"""

import dataclasses
import importlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.harness import checks
from experiments.harness.errors import UserError
from experiments.harness.session import Session
from jaxpost import models
from jaxpost.models import hf
from jaxpost.records import Bundle

NEVER = -1  # an end token that no model writes


@dataclasses.dataclass(frozen=True)
class Target:
    """One line of the table."""

    name: str
    wanted: str  # as text
    measured: float
    spread: tuple[float, float]  # smallest and largest turn
    met: bool
    note: str


def target(name: str, wanted: str, measured: np.ndarray, met: bool, note: str) -> Target:
    """The median of the turns with its spread."""
    return Target(name, wanted, float(np.median(measured)), (float(measured.min()), float(measured.max())), bool(met), note)


def at_least(name: str, ratio: np.ndarray, limit: float, note: str, of: str) -> Target:
    """A ratio whose median must not be below its limit."""
    return target(name, f">= {limit:g} {of}", ratio, np.median(ratio) >= limit, note)


def at_most(name: str, ratio: np.ndarray, limit: float, note: str, of: str) -> Target:
    """A ratio whose median must not be above its limit."""
    return target(name, f"<= {limit:g} {of}", ratio, np.median(ratio) <= limit, note)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call, to the end of its computation."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def by_turns(first: Callable, second: Callable, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of both calls, A B A B, after one of each that compiles."""
    first(), second()
    seconds_of = np.asarray([(seconds(first), seconds(second)) for _ in range(turns)])
    return seconds_of[:, 0], seconds_of[:, 1]


def matmul_rate(torch: ModuleType | None = None, size: int = 1024, turns: int = 9) -> float:
    """Floating-point operations a second of a float32 matrix product, the best of the turns, of XLA's and torch's.

    What a program reaches of it is its fraction of the machine's limit, measured in the same run.
    """
    a = jnp.ones((size, size))
    products = [lambda: a @ a]
    if torch is not None:
        b = torch.ones(size, size)
        products.append(lambda: b @ b)
    return 2 * size**3 / min(seconds(product) for product in products for _ in range(turns + 1))


def operations(c: models.TransformerConfig, rows: int, prompt: int, tokens: int) -> float:
    """Floating-point operations of the matrix products: every position but the last through every layer and, from the last
    of the prompt on, through the head; queries with the keys before them, twice."""
    layers = c.layers * (c.width * c.head_dim * 2 * (c.heads + c.kv_heads) + 3 * c.width * c.ff)
    positions = prompt + tokens - 1
    attention = c.layers * c.heads * c.head_dim * positions * (positions + 1)
    return 2.0 * rows * (positions * layers + tokens * c.width * c.vocab + attention)


def training_operations(c: models.TransformerConfig, rows: int, tokens: int) -> float:
    """The same of a supervised step: forward as sampling one token after the prompt, but with every position through the head;
    backward is twice that."""
    return 3 * (operations(c, rows, tokens, 1) + 2.0 * rows * (tokens - 1) * c.width * c.vocab)


def peer(name: str) -> ModuleType:
    """The module that is compared with. Raises: UserError with the command where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this benchmark compares with {name}, which is not installed: pip install -e '.[parity]'") from error


def refuse_claims(config: ConfigDict, claims: Sequence[dict]) -> None:
    """A benchmark has targets in the place of claims. Raises: UserError."""
    if claims:
        raise UserError(f"{config.experiment} states targets, no claims; remove CLAIMS from the config's file")


def require_least(config, **least: int) -> None:
    """Refuse numbers below their least; a name `a__b` is the key a.b. Raises: UserError."""
    for name, smallest in least.items():
        key, value = name.replace("__", "."), config
        for part in key.split("."):
            value = value[part]
        if value < smallest:
            raise UserError(f"{key}={value}: must be at least {smallest}")
    checks.one_device(config)


def model_of(section: ConfigDict) -> tuple[models.TransformerConfig, dict]:
    """The float32 model of a section: that of `section.directory` (a Hugging Face one), or random weights of `section.model`.

    Raises: FormatError, as `models.hf.load`.
    """
    if section.directory:
        return hf.load(section.directory)
    c = models.TransformerConfig(**section.model)
    return c, models.init(c, jax.random.key(0))


def transformers_model(c: models.TransformerConfig, params: dict):
    """The peer's model with the same weights, by way of a Hugging Face directory. Raises: UserError, as `peer`."""
    transformers = peer("transformers")
    with tempfile.TemporaryDirectory() as folder:
        hf.save(Path(folder) / "model", c, params)
        return transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "model")


def publish(bundle: Bundle, session: Session, title: str, targets: Sequence[Target], metrics: Mapping = MappingProxyType({}),
            **more: object) -> None:
    """Print the table, close the bundle with it and with `more` (JSON) in its manifest, and say where it is."""
    show(session, title, targets)
    extra = {"n_seeds": 1, "targets": [dataclasses.asdict(target) for target in targets], **more}
    bundle_id = bundle.close(metrics, extra=extra)
    session.say(f"bundle {bundle_id[:12]}: {bundle.path}")


def show(session: Session, title: str, targets: Sequence[Target]) -> None:
    """Print the table."""
    view = Table("what", "target", "measured (turns)", "met", "", title=title.lower())
    for t in targets:
        view.add_row(t.name, t.wanted, f"{t.measured:.3g} [{t.spread[0]:.3g}, {t.spread[1]:.3g}]", "yes" if t.met else "NO",
                     t.note)
    session.console.print(view)
