"""Reading and measuring every pair once, side by side on all cores, within a memory budget, resumable.

A finished pair is a file of small arrays (`progress/<number>.safetensors`): histograms have become values and references,
so the rows of a model of any size are made from megabytes. Spectra are made from blocks of rows; the probes beside the panel
hold whole matrices. What of a pair does not fit the budget has no rows but the reason.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load, save

from jaxpost import probes
from jaxpost.compare import elementwise, matrices, principal, spectra
from jaxpost.compare.pairing import Checkpoint, Pair
from jaxpost.compare.reading import Reader, as_float32, bf16_codes, bf16_values, byte_range, pieces, whole
from jaxpost.compare.tally import Tally
from jaxpost.probes.rows.inventory import is_wide
from jaxpost.probes.weights import cross_seed
from jaxpost.probes.weights.panel import Panel
from jaxpost.records import digests

FOLDER = "progress"
_LEVEL = 1e-10  # by which the largest entry of a tensor of one magnitude may differ from its root mean square
ONE = "w"  # every matrix is measured under this name, so that equal shapes share a program
_PROGRAMS = threading.Lock()  # JAX programs hold the most memory and use all cores themselves: one at a time


@dataclass(frozen=True)
class Job:
    """What every pair goes through."""

    base: Checkpoint
    tuned: tuple[Checkpoint, ...]
    panel: Panel
    probes: tuple[probes.Probe, ...]  # beside the panel, of whole matrices
    memory: int  # bytes for the working sets of all pairs under way


class Budget:
    """Bytes that several threads share; a request waits until it fits."""

    def __init__(self, total: int):
        self.total, self._free, self._changed = total, total, threading.Condition()

    def take(self, amount: int) -> None:
        """Wait for `amount` bytes (at most all there are)."""
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount

    def give(self, amount: int) -> None:
        """Give them back."""
        with self._changed:
            self._free += min(amount, self.total)
            self._changed.notify_all()


def digester():
    """(new hash, its name): XXH3 of 128 bits where xxhash is installed, which keeps up with memory; else SHA-256."""
    try:
        import xxhash  # optional: sha256 takes 3 ns of an entry pair, longer than the counting kernel
    except ImportError:
        return hashlib.sha256, "sha256"
    return xxhash.xxh3_128, "xxh3_128"


def bytes_of(job: Job, pair: Pair) -> int:
    """Bytes that a pair has on disk, all sides."""
    n = int(np.prod(pair.shape, dtype=np.int64))
    return sum(n * side.source.tensors[side.parts[pair.name].tensor].nbytes
               // max(int(np.prod(side.source.tensors[side.parts[pair.name].tensor].shape, dtype=np.int64)), 1)
               for side in (job.base, *job.tuned))


def working_set(job: Job, pair: Pair) -> int:
    """Predicted bytes of the spectral pass of a pair: sides whose rows do not stream, left vectors, Gram matrices, blocks."""
    (n, m), kept = sorted(pair.shape), max(job.panel.ks)
    sides = matrices.held_bytes(job.base, pair) + max(matrices.held_bytes(side, pair) for side in job.tuned)
    return int(sides + 40 * m * kept + 64 * n * n + 64 * matrices.ROWS * n)


def other_set(job: Job, pair: Pair) -> int:
    """Predicted bytes of the probes beside the panel and of the comparison of several runs, which hold whole matrices."""
    n = int(np.prod(pair.shape, dtype=np.int64))
    shape = jax.ShapeDtypeStruct(pair.shape, jnp.float32)
    ctx = probes.Context({probes.WEIGHTS0: {ONE: shape}, probes.WEIGHTS: {ONE: shape}})
    held = max((probe.cost(ctx).held for probe in job.probes), default=0)
    return int(16 * n + (5 * n * len(job.tuned) if len(job.tuned) > 1 else 0) + held)


def run(job: Job, pairs: Sequence[Pair], folder: Path | None, workers: int, advance: Callable[[Pair, int], None]) -> dict:
    """name -> record of every pair; those that `folder` holds are read from there.

    Args:
      folder: where finished pairs are kept, None to keep nothing. advance: called with a pair and its bytes when it is done.
    """
    budget, local = Budget(job.memory), threading.local()

    def one(number: int) -> tuple[str, dict]:
        pair = pairs[number]
        path = None if folder is None else folder / f"{number:06d}.safetensors"
        if path is not None and path.exists() and digests.sound(path):
            record = _load(path)
        else:
            if not hasattr(local, "reader"):
                local.reader = Reader()
            _ahead(job, pairs, number + workers)
            record = _measure(job, pair, local.reader, budget)
            if path is not None:
                _save(path, record)
        advance(pair, bytes_of(job, pair))
        return pair.name, record

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, number) for number in range(len(pairs))]
        try:
            records = dict(future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {pair.name: records[pair.name] for pair in pairs}


def _ahead(job: Job, pairs: Sequence[Pair], number: int) -> None:
    """Ask the system to read a coming pair while this one is measured."""
    if number >= len(pairs) or not hasattr(os, "posix_fadvise"):
        return
    for side in (job.base, *job.tuned):
        if (r := byte_range(side, pairs[number])) is not None:
            with open(r.file, "rb") as file:
                os.posix_fadvise(file.fileno(), r.offset, r.size * r.dtype.itemsize, os.POSIX_FADV_WILLNEED)


def _measure(job: Job, pair: Pair, reader: Reader, budget: Budget) -> dict:
    began, (new, algorithm) = time.monotonic(), digester()
    record = {"digest": algorithm, "base": None, "arrays": {}, "skipped": None, "beside": None}
    element = Panel(ks=job.panel.ks, alphas=job.panel.alphas, null_draws=job.panel.null_draws, spectra="none")
    tallies, cuts, laws = {}, {}, {}
    for side in job.tuned:
        tally, digests = Tally(element), (new(), new())
        stream, _ = pieces(job.base, side, pair, reader)
        for w0, w1 in stream:
            for digest, piece in zip(digests, (w0, w1)):
                digest.update(memoryview(piece.view(np.uint8)))
            tally.add(w0, w1)
        tallies[side.label] = tally
        record["base"] = _facts(job.base, pair, tally, digests[0], base=True)
        record[side.label] = _facts(side, pair, tally, digests[1], base=False) | {"same": _same(tally, digests)}
    first = next(iter(tallies.values()))
    reason = pair.reason or ("the base holds NaN or Inf" if first.nonfinite_base else
                             "the base is all zero" if not elementwise.base_norm(first) else None)
    record["reason"] = reason
    if reason is None:
        limits = elementwise.thresholds(element, first)
        for side in job.tuned:
            label, tally = side.label, tallies[side.label]
            cuts[label] = elementwise.ties(limits, lambda side=side: pieces(job.base, side, pair, reader), pair.shape)
            low, laws[label] = elementwise.low_masks(tally, limits, cuts[label]), elementwise.blind_law(tally)
            _put(record, f"{label}/element/vals", elementwise.values(element, tally, low, laws[label]))
            _put(record, f"{label}/element/refs", elementwise.references(tally))
        if job.panel.subspaces:
            record["skipped"] = _spectral(job, pair, tallies, laws, limits, cuts, record, budget)
    record["seconds"] = time.monotonic() - began
    return record


def _same(tally: Tally, digests) -> str | None:
    """"bits" where both sides hold the same bytes, "values" where only their dtypes or signs of zero differ, else None."""
    if digests[0].digest() == digests[1].digest():
        return "bits"
    return "values" if tally.same_fp32 == tally.size and not (tally.rounded_base or tally.nonfinite) else None


def _facts(side: Checkpoint, pair: Pair, tally: Tally, digest, base: bool) -> dict:
    norm2 = elementwise.base_norm(tally) ** 2 if base else tally.tuned2
    codes = np.flatnonzero(tally.count_C) & 0x7FFF
    largest = float(bf16_values(codes[codes < 0x7F80].astype(np.uint16)).max(initial=0)) if base else tally.largest
    nonfinite = tally.nonfinite_base if base else tally.nonfinite
    rms = float(np.sqrt(norm2 / tally.size)) if np.isfinite(norm2) else None
    level = np.count_nonzero(tally.count_C) == 1 if base else rms is not None and abs(largest - rms) <= _LEVEL * largest
    return {"dtype": side.dtype(pair.name), "digest": digest.hexdigest(), "zero": not norm2 and not nonfinite,
            "constant": bool(level), "max_abs": largest, "nonfinite": nonfinite,
            "off_grid": tally.rounded_base if base else tally.off_grid,
            "rms": rms}


def _put(record: dict, prefix: str, tree: Mapping) -> None:
    for key, x in tree.items():
        if isinstance(x, Mapping):
            _put(record, f"{prefix}/{key}", x)
        else:
            record["arrays"][f"{prefix}/{key}"] = np.asarray(x)


def _spectral(job: Job, pair: Pair, tallies, laws, limits, cuts, record, budget: Budget) -> str | None:
    """The part that reads a matrix several times; returns why it was left out, or None."""
    need = working_set(job, pair)
    if need > budget.total:
        return _too_large(need, budget)
    if any(tally.nonfinite for tally in tallies.values()):
        return "non-finite entries"
    budget.take(need)
    try:
        w0 = matrices.tall(job.base, pair)
        for side in job.tuned:
            tally = tallies[side.label]
            seen = matrices.rounded(w0) if tally.rounded_base else w0
            _one_run(job, pair, side, seen, tally, laws[side.label], limits, cuts[side.label], record)
        del w0
    finally:
        budget.give(need)
    need = other_set(job, pair)
    if need > budget.total:
        record["beside"] = _too_large(need, budget)
        return None
    budget.take(need)
    try:
        _beside(job, pair, record, any(tally.rounded_base for tally in tallies.values()))
    finally:
        budget.give(need)
    return None


def _too_large(need: int, budget: Budget) -> str:
    return f"needs about {need / 2**30:.1f} GiB of memory, {budget.total / 2**30:.1f} are allowed"


def _one_run(job: Job, pair: Pair, side: Checkpoint, w0, tally: Tally, law: elementwise.Blind, limits, cut, record) -> None:
    """Spectra and principal masks of one tuned side."""
    refs, turned, label = elementwise.references(tally), is_wide(pair.shape), side.label
    w1 = matrices.tall(side, pair)
    spectral = spectra.measure(job.panel, pair.name, w0, w1, turned, refs, law, np.sqrt(elementwise.rounding_variance(tally)))
    low = elementwise.low_masks(tally, limits, cut)
    masks, ambiguous = principal.counts(job.panel, spectral.frame, matrices.rounded(w0), w1, turned, limits, cut, low)
    _put(record, f"{label}/panel/vals", elementwise.values(job.panel, tally, masks, law) | spectral.values)
    _put(record, f"{label}/panel/refs", refs | spectral.references | {"ambiguous": ambiguous})
    _put(record, f"{label}/kept", spectral.arrays)


def _beside(job: Job, pair: Pair, record, rounded: bool) -> None:
    """The probes beside the panel, and what several runs have in common; the base `rounded` where a run is stored in bf16."""
    w0 = as_float32(whole(job.base, pair))
    w0 = bf16_values(bf16_codes(w0)) if rounded else w0
    runs = []
    for side in job.tuned:
        w1 = as_float32(whole(side, pair))
        runs.append(w1 if len(job.tuned) > 1 else None)
        for probe in job.probes:
            with _PROGRAMS:
                state, values = _program_values(probe, pair.name, w0, w1)
            _put(record, f"{side.label}/probe/{probe.id}/state", state)
            _put(record, f"{side.label}/probe/{probe.id}/values", values)
    if len(runs) > 1:
        overlap = cross_seed.jaccard({ONE: jnp.asarray(w0)}, {ONE: jnp.asarray(np.stack(runs))})[ONE]
        _put(record, "jaccard", overlap)


def _program_values(probe: probes.Probe, name: str, w0, w1) -> tuple[dict, dict]:
    """(state, values with a leading axis of one run) of one matrix, as the probe keeps them under its name."""
    base, key = {probes.WEIGHTS0: {name: jnp.asarray(w0)}}, jax.random.key(0)
    state = probe.init(probes.Context(base), key).get(name)
    values = _program(probe)(base[probes.WEIGHTS0][name], jnp.asarray(w1), state)
    return state or {}, {key: np.asarray(x)[None] for key, x in jax.device_get(values).items()}


@functools.cache
def _program(probe: probes.Probe):
    def measure(w0, w1, state):
        ctx = probes.Context({probes.WEIGHTS0: {ONE: w0}, probes.WEIGHTS: {ONE: w1}})
        return probe.measure(ctx, {} if state is None else {ONE: state}, jax.random.key(0))[1][ONE]

    return jax.jit(measure)


def _save(path: Path, record: dict) -> None:
    text = json.dumps({key: x for key, x in record.items() if key != "arrays"})
    data = save({key: np.asarray(x, order="C") for key, x in record["arrays"].items()}, {"record": text})
    digests.write(path, lambda temporary: temporary.write_bytes(data))


def _load(path: Path) -> dict:
    data = digests.read(path)
    about = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return json.loads(about["record"]) | {"arrays": load(data)}
