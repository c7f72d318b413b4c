"""Frozen evaluation sets: problems of a family, written once as a TFDS data set and read with their digests checked.

    python -m jaxpost.tasks freeze countdown numbers=4 --split id=512 --split ood/target=512 --seed 1 --out sets
    python -m jaxpost.tasks frozen sets/frozen/countdown-4adec223/1.0.0

Procedural data need no file: a name, options, a split and a range of indices are the set. A file is for those who have other
tools: TFDS reads it with or without this package, in array_record, and neither writing nor reading imports TensorFlow. Every
record has `index`, `prompt` and `answer` (tokens, padded) and `prompt_text` and `answer_text`, so that the set is also a source
of `text_data.read` ("tfds:NAME:SPLIT"). The metadata has family, options, seed, sizes and the digest of each split, which for
seed 0 is that of `tasks.digest`. Reading takes the digest of the tokens again; `compared` draws the problems once more. What is
equal everywhere is the content, not the bytes of a file: TFDS orders the fields of records differently in every process.

Shapes: N problems, P prompt and T answer tokens.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxpost import tasks
from jaxpost.tasks import vocab

SEED_STRIDE = 2**20  # indices of a seed: a set of seed s begins at index s * SEED_STRIDE of its split
SEEDS = 2**32 // SEED_STRIDE
FIELDS = {"family": str, "options": dict, "sizes": dict, "seed": int, "digests": dict}  # of the metadata


class Set(NamedTuple):
    """Problems as they were read."""

    prompt_NxP: np.ndarray  # int32
    answer_NxT: np.ndarray  # int32
    digest: str


@dataclasses.dataclass(eq=False, kw_only=True)
class Recipe(tfds.core.BuilderConfig):
    """What a set is made of."""

    family: str
    options: dict
    sizes: dict  # split -> problems
    seed: int

    @functools.cached_property
    def sets(self) -> dict[str, Set]:
        """{split: its problems}, drawn."""
        task, first = tasks.get(self.family, **self.options), self.seed * SEED_STRIDE
        sets = {}
        for split, count in self.sizes.items():
            batch = tasks.examples(task, split, np.arange(first, first + count).astype(np.uint32))
            prompt_NxP, answer_NxT = np.asarray(batch.prompt_NxP), np.asarray(batch.answer_NxT)
            sets[split] = Set(prompt_NxP, answer_NxT, tasks.digest_of(task, split, prompt_NxP, answer_NxT, first))
        return sets


class Frozen(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of a recipe."""

    code_path = epath.Path(__file__)  # the search of TFDS for it needs importlib_resources, which TFDS does not install

    def _info(self) -> tfds.core.DatasetInfo:
        recipe: Recipe = self.builder_config
        first = next(iter(recipe.sets.values()))
        tokens = {name: tfds.features.Tensor(shape=x.shape[1:], dtype=np.int32)
                  for name, x in (("prompt", first.prompt_NxP), ("answer", first.answer_NxT))}
        texts = {f"{name}_text": tfds.features.Text() for name in tokens}
        return tfds.core.DatasetInfo(
            builder=self, description=f"Problems of jaxpost's task family {recipe.family}.", disable_shuffling=True,
            features=tfds.features.FeaturesDict({"index": tfds.features.Scalar(np.int64), **tokens, **texts}),
            metadata=tfds.core.MetadataDict({
                "family": recipe.family, "options": recipe.options, "sizes": recipe.sizes, "seed": recipe.seed,
                "digests": {split: drawn.digest for split, drawn in recipe.sets.items()}}))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {_name(split): self._generate_examples(drawn) for split, drawn in self.builder_config.sets.items()}

    def _generate_examples(self, drawn: Set):
        recipe: Recipe = self.builder_config
        task = tasks.get(recipe.family, **recipe.options)
        for i, (prompt_P, answer_T) in enumerate(zip(drawn.prompt_NxP, drawn.answer_NxT)):
            yield i, {"index": recipe.seed * SEED_STRIDE + i, "prompt": prompt_P, "answer": answer_T,
                      "prompt_text": tasks.to_text(task, prompt_P, (vocab.PAD, vocab.BOS)),
                      "answer_text": tasks.to_text(task, answer_T, (vocab.PAD, vocab.EOS))}


def freeze(directory: str, family: str, sizes: Mapping[str, int], seed: int = 0, options: Mapping[str, object] | None = None
           ) -> Path:
    """Write problems of a family's splits.

    Args:
      directory: the set is DIRECTORY/frozen/FAMILY-HASH/VERSION, by options, sizes and seed; one that is there is kept.
      sizes: split -> number of problems, at most SEED_STRIDE.
      seed: which problems; 0: those of the lowest indices, which runs evaluate on.
      options: of the family.

    Returns: the directory of the set.
    Raises:
      ValueError: an unknown family, option or split, a size or seed out of range, or a directory that cannot be written.
    """
    made = {"family": family, "options": dict(options or {}), "sizes": dict(sizes), "seed": seed}
    task = tasks.get(family, **made["options"])
    _require_sizes(task, sizes, seed)
    recipe = Recipe(name=set_name(made), version=tfds.core.Version(f"{task.version}.0.0"), **made)
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        builder = Frozen(data_dir=directory, config=recipe, file_format="array_record")
        tfds.disable_progress_bar()
        with tempfile.TemporaryDirectory() as spare, contextlib.redirect_stdout(io.StringIO()):  # it announces downloads
            builder.download_and_prepare(download_dir=spare)
    except OSError as error:
        raise ValueError(f"{directory}: no set can be written there ({error.strerror or error}); expected a directory, or the "
                         "path of one that can be made") from error
    return Path(builder.data_path)


def set_name(made: Mapping) -> str:
    """FAMILY-HASH of the fields of a recipe."""
    return f"{made['family']}-{hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:8]}"


def _require_sizes(task: tasks.Task, sizes: Mapping[str, int], seed: int) -> None:
    for split, count in sizes.items():
        tasks.knobs(task, split)
        if type(count) is not int or not 1 <= count <= SEED_STRIDE:
            raise ValueError(f"split {split!r}: {count!r} problems; expected 1 to {SEED_STRIDE:,}")
    if not sizes or type(seed) is not int or not 0 <= seed < SEEDS:
        raise ValueError(f"sizes={dict(sizes)}, seed={seed!r}: expected at least one split, and a seed from 0 to {SEEDS - 1:,}")


def read(directory: str) -> tuple[Recipe, dict[str, Set]]:
    """A set that `freeze` wrote: (its recipe, {split: problems}).

    Raises:
      ValueError: no such set there, or tokens of another digest than the metadata have.
    """
    try:
        builder = tfds.builder_from_directory(directory)
        recipe, digests = _about(builder)
        records = {split: _records(builder.as_data_source(split=_name(split))) for split in recipe.sizes}
        counts = {split: len(prompt_NxP) for split, (prompt_NxP, _) in records.items()}
        _require_equal("sizes", recipe.sizes, "files", counts)
        task = tasks.get(recipe.family, **recipe.options)
    except Exception as error:  # it raises many types for what is absent or damaged
        raise ValueError(f"{directory}: no whole set of frozen problems ({(str(error).strip().splitlines() or [''])[0]}); "
                         "expected a directory DIR/frozen/FAMILY-HASH/VERSION") from error
    sets = {}
    for split, (prompt_NxP, answer_NxT) in records.items():
        digest = tasks.digest_of(task, split, prompt_NxP, answer_NxT, recipe.seed * SEED_STRIDE)
        if digest != digests[split]:
            raise ValueError(f"{directory}, split {split!r}: the tokens have digest {digest[:12]}, the metadata "
                             f"{digests[split][:12]}")
        sets[split] = Set(prompt_NxP, answer_NxT, digest)
    return recipe, sets


def _about(builder: tfds.core.DatasetBuilder) -> tuple[Recipe, dict[str, str]]:
    """(recipe, {split: digest}) of the metadata. Raises: ValueError: they lack something, or differ from the files."""
    about = builder.info.metadata or {}
    for field, kind in FIELDS.items():
        if not isinstance(about.get(field), kind):
            raise ValueError(f"the metadata have {field}={about.get(field)!r}, expected {kind.__name__}")
    recipe = Recipe(name=builder.info.config_name, version=builder.version,
                    **{field: about[field] for field in FIELDS if field != "digests"})
    _require_equal("sizes", sorted(recipe.sizes), "digests", sorted(about["digests"]))
    _require_equal("sizes", sorted(map(_name, recipe.sizes)), "files", sorted(builder.info.splits))
    return recipe, {split: str(digest) for split, digest in about["digests"].items()}


def _require_equal(field: str, expected: object, other: str, value: object) -> None:
    if value != expected:
        raise ValueError(f"{field} of the metadata are of {expected}, {other} of {value}")


def _records(source) -> tuple[np.ndarray, np.ndarray]:
    rows = [source[i] for i in range(len(source))]
    return np.stack([row["prompt"] for row in rows]), np.stack([row["answer"] for row in rows])


def compared(directory: str) -> tuple[dict[str, Set], tuple[str, ...]]:
    """(a set as read, splits whose problems are not those that the family draws today). Raises: ValueError as `read`."""
    recipe, sets = read(directory)
    return sets, tuple(split for split, drawn in recipe.sets.items() if drawn.digest != sets[split].digest)


def _name(split: str) -> str:
    """The name of a split in TFDS, which has no strokes."""
    return split.replace("/", "_")
