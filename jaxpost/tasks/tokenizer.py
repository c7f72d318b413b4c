"""The tokenizer of a Hugging Face directory: tokenizer.json, its special tokens, its chat template.

Reads what `transformers` writes with the packages `tokenizers` (extra "hf") and Jinja2 alone.
"""

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back. `encode` adds no special tokens; `start` goes before every prompt."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]  # without special tokens
    pad: int
    eos: int
    size: int  # one above the largest token id
    start: tuple[int, ...] = ()
    chat: Callable[[str], str] | None = None  # a user's message -> the text up to where the assistant begins
    digest: str = ""  # SHA-256 of the files it was read from


def load(directory: str | Path) -> Tokenizer:
    """The tokenizer of a directory.

    The end token is the one that generation_config.json, tokenizer_config.json or config.json names (the first that
    does; the first of several), padding that of tokenizer_config.json, or the end token where there is none. A start token
    goes before prompts where add_bos_token says so, or, without that key, where tokenizer.json itself puts it (Llama 3).

    Raises:
      ValueError: the package or tokenizer.json is missing, it cannot be read, or there is no end token.
    """
    directory = Path(directory)
    try:
        import tokenizers  # optional: the extra "hf"
    except ImportError as error:
        raise ValueError("text needs the package tokenizers: pip install 'jaxpost[hf]' (or pip install tokenizers)") from error
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{directory} has no tokenizer.json; transformers makes one of other files: "
                         "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)")
    try:
        made = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception for a damaged file
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    made.no_truncation()
    made.no_padding()
    files = ("tokenizer_config", "generation_config", "config")
    about, generation, config = (_json(directory / f"{name}.json") for name in files)
    ends = (generation.get("eos_token_id"), about.get("eos_token"), config.get("eos_token_id"))
    eos = _first(_id(made, found) for found in ends)
    if eos is None:
        raise ValueError(f"{directory}: no end token: generation_config.json and config.json have no eos_token_id, "
                         "tokenizer_config.json has no eos_token that is in the vocabulary")
    pad = _first([_id(made, about.get("pad_token")), eos])
    begin = _id(made, about.get("bos_token"))
    if not about.get("add_bos_token", begin in made.encode("").ids[:1]):
        begin = None
    return Tokenizer(
        encode=lambda text: made.encode(text, add_special_tokens=False).ids, decode=lambda ids: made.decode(list(ids)),
        pad=pad, eos=eos, size=1 + max(made.get_vocab(with_added_tokens=True).values()),
        start=() if begin is None else (begin,), chat=_chat(directory, about),
        digest=_digest(path, directory / "tokenizer_config.json", directory / "chat_template.jinja"))


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _first(found):
    return next((x for x in found if x is not None), None)


def _text(token) -> str | None:
    return token.get("content") if isinstance(token, Mapping) else token


def _id(made, token) -> int | None:
    """The id of a token given as id, list of ids, text or added-token mapping; None where there is none."""
    if isinstance(token, list):
        token = token[0] if token else None
    return token if isinstance(token, int) or token is None else made.token_to_id(_text(token))


def _digest(*paths: Path) -> str:
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.read_bytes() if path.is_file() else b"")
    return sha.hexdigest()


def _chat(directory: Path, about: Mapping) -> Callable[[str], str] | None:
    """The chat template for one user's message, rendered as transformers does (sandboxed Jinja2); None without a template.

    A template that asks for today's date is told 1 January 2000, so that prompts do not change from day to day.
    """
    beside = directory / "chat_template.jinja"
    template = beside.read_text() if beside.is_file() else about.get("chat_template")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not template:
        return None
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.datetime(2000, 1, 1).strftime}
    special = {name: _text(about.get(name)) or "" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(f"{directory}: the chat template cannot be read: {error}") from error

    def render(message: str) -> str:
        try:
            return compiled.render(messages=[{"role": "user", "content": message}], add_generation_prompt=True, **special)
        except jinja2.TemplateError as error:
            raise ValueError(f"{directory}: the chat template refuses a user's message: {error}") from error

    return render


def _refuse(message: str):
    raise jinja2.TemplateError(message)
