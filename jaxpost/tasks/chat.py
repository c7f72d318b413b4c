"""Chat templates of a Hugging Face directory, rendered as `transformers` does: sandboxed Jinja2, its variables, its tags."""

import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

TODAY = datetime.datetime(2000, 1, 1)


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: transformers marks the assistant's text with it; here it is its content."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser):
        """The content as a scope of its own, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller) -> str:
        return caller()


def chat_of(directory: Path, about: Mapping, special: Mapping[str, str]) -> tuple[Callable | None, list[Path]]:
    """(messages -> text, or None without a template; the files that were looked at beside tokenizer_config.json).

    As transformers, files go before tokenizer_config.json: chat_template.jinja is the template "default",
    additional_chat_templates/NAME.jinja others; chat_template.json (of processors) is read where nothing else has one. Of
    several named templates "default" is taken.

    Differs from transformers in: `strftime_now` is told 1 January 2000, so that prompts do not change from day to day.

    Args:
      about: tokenizer_config.json.
      special: the named special tokens, which a template sees as variables; one that is absent is undefined there too.
    """
    beside, older = directory / "chat_template.jinja", directory / "chat_template.json"
    others = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    named = {path.stem: path.read_text(encoding="utf-8") for path in others}
    if beside.is_file():
        named["default"] = beside.read_text(encoding="utf-8")
    template = named or about.get("chat_template")
    if isinstance(template, list):
        template = {t["name"]: t["template"] for t in template if isinstance(t, Mapping) and {"name", "template"} <= set(t)}
    if not template and older.is_file():
        template = _older(older)
    if not template:
        return None, [beside, *others]
    compiled = functools.cache(lambda: _compiled(directory, template))

    def render(messages: str | Sequence[Mapping]) -> str:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        try:
            return compiled().render(messages=[dict(message) for message in messages], tools=None, documents=None,
                                     add_generation_prompt=True, **special)
        except (jinja2.TemplateError, TypeError, AttributeError, KeyError, IndexError, ValueError, ArithmeticError) as error:
            if isinstance(error, _Refused):
                raise
            roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in messages))
            who = "a user's message" if roles == "user" else f"messages of the roles {roles}"
            raise ValueError(f"{directory}: the chat template refuses {who}: {error}") from error

    return render, [beside, *others, *([older] if older.is_file() else [])]


class _Refused(ValueError):
    """A template that cannot be used at all."""


def _older(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object with a chat_template: {error}") from error


def _compiled(directory: Path, template: str | Mapping[str, str]) -> jinja2.Template:
    """Raises: ValueError where several templates have no default, or the template is not Jinja."""
    if isinstance(template, Mapping):
        if "default" not in template:
            raise _Refused(f"{directory} has the chat templates {', '.join(sorted(template))} and none is named 'default'")
        template = template["default"]
    if not isinstance(template, str):
        raise _Refused(f"{directory}: the chat template is {type(template).__name__}, expected text")
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise _Refused(f"{directory}: the chat template cannot be read: {error}") from error


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str):
    raise jinja2.TemplateError(message)
