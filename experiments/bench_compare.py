"""Prices of comparing two checkpoints: the command in a process of its own, on a synthetic pair, against fixed targets."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from experiments.harness import benchmark, checks
from experiments.harness.benchmark import Target, target
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.session import StopSignals
from jaxpost import formats, records
from jaxpost.formats import safetensors

TITLE = "What a comparison of two checkpoints costs"
QUESTION = "Does a comparison run at the speed of the disk, in a bounded memory?"
BF16 = np.dtype(ml_dtypes.bfloat16)
BLOCK = 2**20  # entries drawn at once
STEP = 3e-5  # standard deviation of the update
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A tensor that is drawn when it is written: Gaussian entries, and for the tuned side an update of them."""

    shape: tuple[int, ...]
    seed: int
    tuned: bool
    dtype: np.dtype = BF16

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        out = np.empty(self.shape, BF16)
        flat, rng, update = out.reshape(-1), np.random.default_rng(self.seed), np.random.default_rng([self.seed, 1])
        for first in range(0, flat.size, BLOCK):
            piece = flat[first:first + BLOCK]
            piece[:] = 0.02 * rng.standard_normal(piece.size, dtype=np.float32)
            if self.tuned:
                piece[:] = piece.astype(np.float32) + STEP * update.standard_normal(piece.size, dtype=np.float32)
        return out


@dataclasses.dataclass(frozen=True)
class Ran:
    """One run of the command: seconds of the process, CPU seconds, seconds of its pass, bytes read, peak bytes."""

    wall: float
    cpu: float
    pass_s: float
    read: float
    peak: float


def tensors(model: ConfigDict, layers: int, vocab: int, tuned: bool) -> dict[str, Drawn]:
    """Names and shapes of a Qwen2 checkpoint with a tied head."""
    d, matrices = model.width, {"self_attn.q_proj": (model.width, model.width), "self_attn.k_proj": (model.kv, model.width),
                                "self_attn.v_proj": (model.kv, model.width), "self_attn.o_proj": (model.width, model.width),
                                "mlp.gate_proj": (model.ff, model.width), "mlp.up_proj": (model.ff, model.width),
                                "mlp.down_proj": (model.width, model.ff)}
    shapes = {"model.embed_tokens.weight": (vocab, d)}
    for i in range(layers):
        here = f"model.layers.{i}"
        shapes |= {f"{here}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"{here}.self_attn.{n}_proj.bias": (d if n == "q" else model.kv,) for n in "qkv"}
        shapes |= {f"{here}.{n}_layernorm.weight": (d,) for n in ("input", "post_attention")}
    shapes["model.norm.weight"] = (d,)
    return {name: Drawn(shape, seed, tuned) for seed, (name, shape) in enumerate(shapes.items())}


def write_pair(folder: Path, model: ConfigDict, layers: int, vocab: int) -> tuple[Path, Path]:
    """Both sides, written unless they are there."""
    sides = folder / "base", folder / "tuned"
    for side, tuned in zip(sides, (False, True), strict=True):
        if not (side / "config.json").exists():
            side.mkdir(parents=True, exist_ok=True)
            safetensors.write(side / "model.safetensors", tensors(model, layers, vocab, tuned))
            (side / "config.json").write_text(json.dumps({"model_type": "qwen2", "tie_word_embeddings": True}))
    return sides


def copy_bandwidth(nbytes: int = GIB) -> float:
    """Bytes a second that all cores together copy from memory to memory."""
    cores = len(os.sched_getaffinity(0))
    pairs = [(np.ones(nbytes // cores // 8), np.empty(nbytes // cores // 8)) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))  # pages exist now
        began = time.perf_counter()
        list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
    return sum(a.nbytes for a, _ in pairs) / (time.perf_counter() - began)


def command(sides: Sequence[Path], out: Path, level: str, memory_gib: float) -> Ran:
    """Compare in a process of its own, the files in the page cache. Raises: UserError with what the process said."""
    shutil.rmtree(out, ignore_errors=True)
    for side in sides:
        with open(side / "model.safetensors", "rb", buffering=0) as file:
            while file.read(64 * 2**20):
                pass
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "jaxpost.compare", *map(str, sides), "--out", str(out), "--level", level,
                           "--memory", f"{memory_gib}GiB"], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"the comparison failed: {done.stderr.strip()[-300:]}")
    cost = {(row["phase"], row["quantity"]): row["value"] for row in pq.read_table(out / "costs.parquet").to_pylist()}
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(wall, cpu, *(cost[key] for key in (("pass", "wall_s"), ("compare", "disk_bytes"), ("compare", "peak_bytes"))))


def plain_torch(sides: Sequence[Path], dtype: str) -> float | None:
    """CPU seconds of the obvious script on every matrix of the layers (load, subtract, count, decompose in a dtype); None
    without torch."""
    try:
        import torch  # optional: the extra `parity`
    except ImportError:
        return None
    opened_sides = [formats.open_checkpoint(side) for side in sides]
    began = time.process_time()
    for name, entry in opened_sides[0].tensors.items():
        if len(entry.shape) == 2 and ".layers." in name:
            w0, w1 = (torch.from_numpy(side.read(name).astype(dtype)) for side in opened_sides)
            update = w1 - w0
            (update == 0).float().mean(), torch.linalg.norm(update) / torch.linalg.norm(w0)
            u0, _, v0 = torch.linalg.svd(w0, full_matrices=False)
            u1, _, v1 = torch.linalg.svd(w1, full_matrices=False)
            torch.linalg.svdvals(update)
            torch.linalg.svdvals(u0[:, :64].T @ u1[:, :64]), torch.linalg.svdvals(v0[:64] @ v1[:64].T)
    return time.process_time() - began


def check(config: ConfigDict) -> None:
    """Refuse a config that cannot run. Raises: UserError."""
    for key, value, least in (("turns", config.turns, 1), ("torch_layers", config.torch_layers, 0),
                              *((f"model.{k}", v, 1) for k, v in config.model.items())):
        if value < least:
            raise UserError(f"{key}={value}: must be at least {least}")
    if config.torch_layers > config.model.layers:
        raise UserError(f"torch_layers={config.torch_layers} is more than model.layers={config.model.layers}")
    if config.memory_gib < 0.5:
        raise UserError(f"memory_gib={config.memory_gib}: the least is 0.5")
    checks.one_device(config)


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Write the pair, compare it by turns, print the table, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    check(config)
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        targets, peaks = [], []
        for part in (_element, _spectra, _script)[:3 if config.torch_layers else 2]:
            more, peak = part(config, workdir / "pairs", bundle)
            targets, peaks = targets + more, [*peaks, peak]
            session.boundary("the pair that was compared is kept")
        targets.append(target("memory", "< 2.5 GiB", np.asarray([max(peaks) / GIB]), max(peaks) < 2.5 * GIB,
                               f"the command was given {config.memory_gib:g} GiB"))
        benchmark.publish(bundle, session, TITLE, targets)
        shutil.rmtree(workdir / "pairs")


def _element(config: ConfigDict, folder: Path, bundle: records.Bundle) -> tuple[list[Target], float]:
    """The element-wise report and its pass beside copies of memory."""
    sides = write_pair(folder / "whole", config.model, config.model.layers, config.model.vocab)
    out = folder / "report-element"
    command(sides, out, "element", config.memory_gib)  # compiles
    turns = [(copy_bandwidth(), command(sides, out, "element", config.memory_gib)) for _ in range(config.turns)]
    ran = [one for _, one in turns]
    wall, cpu = (np.asarray([getattr(one, key) for one in ran]) for key in ("wall", "cpu"))
    share = np.asarray([one.read / one.pass_s / copied for copied, one in turns])
    bundle.cost("bench.element", wall_s=np.median(wall), disk_bytes=ran[0].read, peak_bytes=max(one.peak for one in ran))
    rates = (np.median(x) / 1e9 for x in ([one.read / one.pass_s for one in ran], [copied for copied, _ in turns]))
    note = "{:.2f} and {:.2f} GB/s".format(*rates)
    return [target("report", "< 30 s", wall, np.median(wall) < 30, f"{ran[0].read / 1e9:.2f} GB, {np.median(cpu):.1f} CPU s"),
            target("bandwidth", ">= 0.6 of copying", share, np.median(share) >= 0.6, note)], max(one.peak for one in ran)


def _spectra(config: ConfigDict, folder: Path, bundle: records.Bundle) -> tuple[list[Target], float]:
    """The spectral report of every matrix."""
    sides = write_pair(folder / "whole", config.model, config.model.layers, config.model.vocab)
    ran = command(sides, folder / "report-top", "top", config.memory_gib)
    bundle.cost("bench.top", wall_s=ran.wall, disk_bytes=ran.read, peak_bytes=ran.peak)
    return [target("spectra", "< 15 min", np.asarray([ran.wall / 60]), ran.wall < 900, f"{ran.cpu:.0f} CPU s")], ran.peak


def _script(config: ConfigDict, folder: Path, bundle: records.Bundle) -> tuple[list[Target], float]:
    """Some layers, by the command and by the plain script in either precision."""
    sides = write_pair(folder / "layers", config.model, config.torch_layers, 2)
    ran, targets = command(sides, folder / "report-layers", "top", config.memory_gib), []
    for dtype in ("float32", "float64"):
        if (theirs := plain_torch(sides, dtype)) is not None:
            bundle.cost(f"bench.torch.{dtype}", wall_s=theirs)
            note = f"CPU seconds, {config.torch_layers} of {config.model.layers} layers: {theirs:.0f} and {ran.cpu:.0f}"
            targets.append(target(f"torch {dtype}", ">= 8 times", np.asarray([theirs / ran.cpu]), theirs / ran.cpu >= 8, note))
    return targets, ran.peak
