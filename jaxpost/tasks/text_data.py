"""Text data sets: read from JSONL or TFDS, tokenised to fixed lengths, named by a digest, visited in a seeded order.

Nothing is cut: a problem whose prompt or answer is too long is dropped, and counted.

Shapes: N problems, P prompt and T answer tokens.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import grain
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import conversations
from jaxpost.tasks.tokenizer import Tokenizer
from jaxpost.tasks.verifiers import Problem

TFDS = "tfds:"  # tfds:NAME:SPLIT or tfds:NAME:VERSION:SPLIT


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
    """Problems that fit, as text and as tokens."""

    problems: tuple[Problem, ...]
    prompt_NxP: np.ndarray  # int32, padded on the left
    answer_NxT: np.ndarray  # int32, with the end token, padded on the right
    digest: str  # SHA-256 over lengths and token ids
    dropped: Mapping[str, int]  # reason -> problems

    def __len__(self) -> int:
        return len(self.problems)


def read(source: str, fields: Mapping[str, str], directory: str | None = None) -> list[Problem]:
    """Problems of a JSONL file (one object a line) or of a TFDS data set, `tfds:NAME:SPLIT`.

    Args:
      source: path, or name and split; TFDS data sets are read as random-access sources (array_record), without TensorFlow.
      fields: `prompt`, `answer`, `target` -> name of the field; an empty `target` means the answer. With `messages` not empty,
        that field holds a conversation (`conversations`), and the others are not read.
      directory: of TFDS data sets.

    Raises:
      ValueError: nothing there, a line that is no object, a field that is absent (the nearest is named), empty or no text,
        or no problem at all. Of a JSONL file also: a field that stands twice, NaN, or half a character.
    """
    records = _tfds(source, directory) if source.startswith(TFDS) else _jsonl(source)
    problems = [problem for where, record in records for problem in _problems(record, fields, f"{source}, {where}")]
    if not problems:
        raise ValueError(f"{source} is empty: no problem in it")
    return problems


def _jsonl(source: str) -> Iterable[tuple[str, Mapping]]:
    path = Path(source)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        hint = f"; {path.parent} has {', '.join(beside[:5])}" if beside else ""
        raise ValueError(f"{source}: no such file{hint}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: texts may hold other line separators
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = _JSON.decode(line.strip())
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{source}, line {number} is not JSON: {error}") from error
            if not isinstance(record, Mapping):
                raise ValueError(f"{source}, line {number} is {type(record).__name__}, expected an object with fields")
            yield f"line {number}", record


class _Number(str):
    """A JSON number as it is written: 0.00001 would come back from a float as 1e-05, 1e400 as infinity."""


def _no_number(name: str):
    raise ValueError(f"{name} is no JSON number; write it as text or leave the problem out")


def _fields(pairs: list[tuple]) -> dict:
    """Raises: ValueError for a name that stands twice: which of the two values is meant?"""
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"the field {twice[0]!r} stands twice in one object")
    return dict(pairs)


_JSON = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_no_number, object_pairs_hook=_fields)


def _written(value) -> str | None:
    """A value as text: numbers and truth values as JSON writes them; None for anything else."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, str) else json.dumps(value) if isinstance(value, bool | int | float) else None


def _tfds(source: str, directory: str | None) -> Iterable[tuple[str, Mapping]]:
    source_of = re.fullmatch(r"([^:[]+(?::[\d.*]+)?):([^:[\d][^:[]*(?:\[.*)?)", source.removeprefix(TFDS))
    if source_of is None:
        raise ValueError(f"{source!r}: expected {TFDS}NAME:SPLIT, such as {TFDS}gsm8k:train or {TFDS}gsm8k:1.0.0:train[:90%]")
    name, split = source_of.groups()
    import tensorflow_datasets as tfds  # slow to import, and only for such data

    try:
        source_of = tfds.data_source(name, split=split, data_dir=directory or None, download=False)
    except Exception as error:  # it raises many types for names, splits and files
        raise ValueError(f"{source}: TFDS cannot read it from {directory or 'its default directory'}: "
                         f"{(str(error).strip().splitlines() or [type(error).__name__])[0]}") from error
    return ((f"record {i}", source_of[i]) for i in range(len(source_of)))


def _problems(record: Mapping, fields: Mapping[str, str], where: str) -> list[Problem]:
    if not (name := fields.get("messages")):
        return [_problem(record, fields, where)]
    if name not in record:
        raise ValueError(f"{where}: unknown field messages {name!r}{nearest(name, record)}")
    return conversations.rows(record[name], f"{where}, field {name!r}")


def _problem(record: Mapping, fields: Mapping[str, str], where: str) -> Problem:
    texts = {}
    for role in ("prompt", "answer", "target"):
        name = fields[role] or fields["answer"]
        if name not in record:
            raise ValueError(f"{where}: unknown field {role} {name!r}{nearest(name, record)}")
        text = _written(record[name])
        if text is None or not text.strip():
            raise ValueError(f"{where}: field {name!r} is {record[name]!r}, expected text")
        conversations.require_whole(text, f"{where}: field {name!r}")
        texts[role] = text
    return Problem(**texts)


def tokenise(problems: Sequence[Problem], tokenizer: Tokenizer, prompt_len: int, answer_len: int, template: str = "{prompt}",
             chat: bool = False) -> TextData:
    """Tokens of the problems that fit.

    Args:
      prompt_len, answer_len: P and T, the latter with the end token.
      template: text with `{prompt}`, filled in before the chat template.
      chat: whether the tokenizer's chat template is applied.

    Raises:
      ValueError: the template has no place for the prompt, the tokenizer no chat template, a prompt begins with the
        padding token, or nothing is left.
    """
    if "{prompt}" not in template:
        raise ValueError(f"the prompt template {template!r} has no {{prompt}}")
    if chat and tokenizer.chat is None:
        raise ValueError("the tokenizer has no chat template (tokenizer_config.json, chat_template.jinja)")
    kept, prompts, answers, dropped, longest = [], [], [], Counter(), 0
    for problem in problems:
        text = template.replace("{prompt}", problem.prompt)
        if problem.before and not chat:
            raise ValueError("conversations are rendered by the chat template: set chat=True (data.chat)")
        if chat:
            text = tokenizer.chat(conversations.messages(problem, text) if problem.before else text)
        prompt = tokenizer.encode(text)
        start = list(tokenizer.start)
        if not chat and prompt[:len(start)] != start:  # a template's own start token is not doubled
            prompt = [*start, *prompt]
        answer = tokenizer.encode(problem.answer)
        longest = max(longest, len(prompt))
        if reason := _unfit(prompt, answer, tokenizer, prompt_len, answer_len):
            dropped[reason] += 1
            continue
        kept.append(problem)
        prompts.append([tokenizer.pad] * (prompt_len - len(prompt)) + prompt)
        answers.append([*answer, tokenizer.eos] + [tokenizer.pad] * (answer_len - len(answer) - 1))
    if not kept:
        raise ValueError(f"none of {len(problems)} problems fits: {dropped_label(dropped)}; the longest prompt has {longest} "
                         f"tokens, prompts may have {prompt_len} and answers {answer_len} with their end token")
    prompt_NxP, answer_NxT = np.asarray(prompts, np.int32), np.asarray(answers, np.int32)
    return TextData(tuple(kept), prompt_NxP, answer_NxT, digest_of(prompt_NxP, answer_NxT), dict(dropped))


def _unfit(prompt: list[int], answer: list[int], tokenizer: Tokenizer, prompt_len: int, answer_len: int) -> str:
    if not prompt:
        return "no token in the prompt"
    if prompt[0] == tokenizer.pad:
        raise ValueError(f"a prompt begins with the padding token {tokenizer.pad}, which would hide it: give the tokenizer "
                         "another pad_token (tokenizer_config.json)")
    if tokenizer.eos in answer or not set(answer).isdisjoint(tokenizer.ends):
        return "end token inside the answer"
    return ("prompt too long" if len(prompt) > prompt_len else "answer too long" if len(answer) >= answer_len else "")


def dropped_label(dropped: Mapping[str, int]) -> str:
    """`3 prompt too long, 1 answer too long`; "none" where nothing was dropped."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"


def digest_of(*arrays: np.ndarray) -> str:
    """SHA-256 over the shapes and token ids of arrays."""
    sha = hashlib.sha256("/".join(map(str, (a.shape for a in arrays))).encode())
    for array in arrays:
        sha.update(array.astype("<i4").tobytes())
    return sha.hexdigest()


def without(problems: Sequence[Problem], others: Sequence[Problem]) -> list[Problem]:
    """The problems whose prompt is none of the others': a training set without its evaluation set."""
    held = {(problem.before, problem.prompt.strip()) for problem in others}
    return [problem for problem in problems if (problem.before, problem.prompt.strip()) not in held]


class Order:
    """Indices of a data set in a seeded order without end: a permutation an epoch, each another one.

    `order.take(step, count)` is the step's range of it; nothing is carried, so that resuming needs no position.
    """

    def __init__(self, problems: int, seed: int):
        self._order = grain.MapDataset.range(problems).seed(seed).shuffle().repeat()

    def take(self, step: int, count: int) -> np.ndarray:
        """index_B of a step that takes `count` problems: positions step * count and on."""
        return np.asarray([self._order[step * count + i] for i in range(count)], np.int64)
