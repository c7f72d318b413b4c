"""What a run reads before its weights: architecture, tokenizer, problems, general text; each mistake is one line."""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.harness.errors import UserError
from jaxpost import models, tasks
from jaxpost.formats.directory import read_object
from jaxpost.lookup import nearest
from jaxpost.models import hf
from jaxpost.tasks import general_text, text, text_data, tokenizer, verifier_file, verifiers
from jaxpost.training.general_text import GeneralText
from jaxpost.training.text_suite import TextSuite

SHIPPED = "shipped"  # as measure.text: the general text of the package


def architecture(directory: str) -> models.TransformerConfig:
    """That of config.json, before any weight is read."""
    path = Path(directory)
    if not path.is_dir():
        beside = sorted(p.name for p in path.parent.iterdir() if p.is_dir())[:8] if path.parent.is_dir() else []
        raise UserError(f"model.directory={directory}: no such directory{nearest(path.name, beside) if beside else ''}")
    if not (path / "config.json").is_file():
        raise UserError(f"model.directory={directory} has no config.json; a Hugging Face directory has one, beside safetensors")
    return hf.config_of(read_object(path / "config.json"), str(path / "config.json"))


def tokenizer_of(config: ConfigDict) -> tokenizer.Tokenizer:
    """That of the directory, answers ending as `data.end` says. Raises: ValueError."""
    loaded = tokenizer.load(config.model.directory)
    return loaded.ending_with(config.data.end) if config.data.end else loaded


def verifier_of(config: ConfigDict) -> verifiers.Verifier:
    """The one that `data.verifier` names, or that of a Python file. Raises: ValueError."""
    name = config.data.verifier
    return verifier_file.load(name) if name.endswith(".py") else verifiers.get(name)


def data(config: ConfigDict, known: tokenizer.Tokenizer
         ) -> tuple[text_data.TextData, text_data.TextData, dict[str, text_data.TextData], int]:
    """(training data, evaluation data, further evaluation data by name, training problems left out because they are evaluated).

    Raises: ValueError as `text_data.read` and `.tokenise`; UserError for too few problems.
    """
    c = config.data
    fields = {role: c[role] for role in ("prompt", "answer", "target", "messages")}
    read_in = text_data.read(c.train, fields, c.tfds_directory)
    sources = {"data.evaluate": c.evaluate, **{f"ood.{name}": source for name, source in config.ood.items()}}
    read = {key: text_data.read(source, fields, c.tfds_directory) for key, source in sources.items()}
    fresh = text_data.without(read_in, [problem for problems in read.values() for problem in problems])
    if not fresh:
        raise UserError(f"every problem of data.train={c.train} is in data.evaluate={c.evaluate} too; give disjoint sets")
    train, *held = (text_data.tokenise(part, known, c.prompt_tokens, c.answer_tokens, c.template, c.chat)
                    for part in (fresh, *read.values()))
    for key, data in zip(sources, held):
        if len(data) < config.measure.problems:
            raise UserError(f"measure.problems={config.measure.problems}: {key} has {len(data)} problems that fit "
                            f"({text_data.dropped_label(data.dropped)} dropped); set it to at most {len(data)}")
    return train, held[0], dict(zip(config.ood, held[1:])), len(read_in) - len(fresh)


def suite(config: ConfigDict, setup, task: tasks.Task, held: text_data.TextData, label: str) -> TextSuite:
    """The first `measure.problems` of the data, evaluated under a label. Raises: UserError: rows that do not divide them."""
    count, at_once = config.measure.problems, config.measure.rows
    if count % at_once:
        near = min((r for r in range(1, count + 1) if count % r == 0), key=lambda r: abs(r - at_once))
        raise UserError(f"measure.rows={at_once} does not divide measure.problems={count}; nearest valid: {near}")
    if setup.mesh is not None and at_once % (ways := setup.mesh.shape["data"] * setup.mesh.shape["fsdp"]):
        raise UserError(f"measure.rows={at_once} is not divisible by mesh.data * mesh.fsdp = {ways}")
    return TextSuite(setup.model, task, held.problems[:count], text.rows(held, range(count)), setup.tokenizer.decode, at_once,
                     setup.mesh, label)


def general(config: ConfigDict, setup) -> GeneralText | None:
    """The general text of `measure.text`, as many as there are problems. Raises: UserError, as `general_text.read`."""
    c = config.measure
    if not c.text:
        return None
    try:
        tokens_NxT, mask_NxT = general_text.read(general_text.SHIPPED if c.text == SHIPPED else c.text, setup.tokenizer,
                                                 c.problems, c.text_tokens)
    except ValueError as error:
        raise UserError(f"measure.text: {error}") from error
    return GeneralText(setup.model, tokens_NxT, mask_NxT, c.rows, setup.tokenizer.pad, setup.mesh)
