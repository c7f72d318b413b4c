"""The tokenizer of a Hugging Face directory: tokenizer.json, its special tokens, its chat template.

Reads what `transformers` writes with the packages `tokenizers` (extra "hf") and Jinja2 alone.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxpost.tasks.chat import chat_of

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FILES = ("tokenizer_config", "generation_config", "config")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back. `encode` adds no special tokens; `start` goes before every prompt."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]  # without special tokens
    pad: int
    eos: int  # ends a demonstration
    size: int  # one above the largest token id
    start: tuple[int, ...] = ()
    chat: Callable | None = None  # a user's message, or messages -> the text up to where the assistant begins
    digest: str = ""  # SHA-256 of the files it was read from
    ends: tuple[int, ...] = ()  # what ends a policy's answer, besides `eos`

    def ending_with(self, text: str) -> "Tokenizer":
        """The same, where `text` ends demonstrations and answers; the other end tokens go on to end answers.

        Raises:
          ValueError: the text is not one token.
        """
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"the end {text!r} is {len(ids)} tokens of this tokenizer, and an answer ends with one")
        others = (self.eos, *self.ends)
        return dataclasses.replace(self, eos=ids[0], ends=tuple(i for i in others if i != ids[0]))


def load(directory: str | Path) -> Tokenizer:
    """The tokenizer of a directory.

    A policy's answer ends with any token that generation_config.json (one or several), tokenizer_config.json or config.json
    names as end token. A demonstration ends with that of tokenizer_config.json, or the first of the others where it has none.
    Padding is that of tokenizer_config.json, or the demonstrations' end token. Start tokens go before prompts without a chat
    template where add_bos_token says so, or, without that key, where tokenizer.json itself puts them (Llama 3). A chat template
    is compiled when it is first used.

    Differs from transformers in: version 5 reads no add_bos_token where there is a tokenizer.json, which alone decides there.

    Raises:
      ValueError: the package or tokenizer.json is missing, it cannot be read, an end token is no token id, or there is none.
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
    about, generation, config = (_json(directory / f"{name}.json") for name in FILES)
    if "added_tokens_decoder" not in about:  # as transformers: files from before it was written
        about = about | _json(directory / "special_tokens_map.json")
    special = {name: text for name in SPECIAL if isinstance(text := _text(about.get(name)), str)}
    own = made.token_to_id(special["eos_token"]) if "eos_token" in special else None
    ends = _ends(own, {"generation_config.json": generation, "config.json": config}, directory)
    if not ends:
        raise ValueError(f"{directory}: no end token: generation_config.json and config.json have no eos_token_id, "
                         "tokenizer_config.json has no eos_token that is in the vocabulary")
    pad = made.token_to_id(special["pad_token"]) if "pad_token" in special else None
    chat, sources = chat_of(directory, about, special)
    return Tokenizer(
        encode=lambda text: made.encode(text, add_special_tokens=False).ids, decode=lambda ids: made.decode(list(ids)),
        pad=ends[0] if pad is None else pad, eos=ends[0], ends=ends[1:],
        size=1 + max(made.get_vocab(with_added_tokens=True).values()), start=_start(made, about, special), chat=chat,
        digest=_digest(path, directory / "tokenizer_config.json", *sources))


def _json(path: Path) -> dict:
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return document if isinstance(document, dict) else {}


def _text(token) -> str | None:
    return token.get("content") if isinstance(token, Mapping) else token


def _ends(own: int | None, files: Mapping[str, Mapping], directory: Path) -> tuple[int, ...]:
    """Every end token once, that of demonstrations first. Raises: ValueError for what is no token id."""
    ends = [] if own is None else [own]
    for name, values in files.items():
        told = values.get("eos_token_id")
        for token in told if isinstance(told, list) else [] if told is None else [told]:
            if isinstance(token, bool) or not isinstance(token, int):
                raise ValueError(f"{directory / name}: eos_token_id has {token!r}, expected a token id (an integer) or several")
            if token >= 0:  # some files write -1 for none
                ends.append(token)
    return tuple(dict.fromkeys(ends))


def _start(made, about: Mapping, special: Mapping[str, str]) -> tuple[int, ...]:
    """Token ids before a prompt: what tokenizer.json puts before any text, unless add_bos_token says otherwise."""
    plain, whole = made.encode("a", add_special_tokens=False).ids, made.encode("a").ids
    before = next((whole[:i] for i in range(len(whole)) if plain and whole[i:i + len(plain)] == plain), [])
    begin = made.token_to_id(special["bos_token"]) if "bos_token" in special else None
    if about.get("add_bos_token") is True and not before and begin is not None:
        return (begin,)
    return () if about.get("add_bos_token") is False else tuple(before)


def _digest(*paths: Path) -> str:
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.read_bytes() if path.is_file() else b"")
    return sha.hexdigest()
