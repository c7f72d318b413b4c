"""Tasks that are made of other families, which options name as calls: `chains` or `chains(nodes=(3, 4))`."""

import ast

from jaxpost.tasks import base, vocab

FORM = "NAME or NAME(OPTION=VALUE, ...)"


def task_of(get, name: str, option: str, text: str) -> base.Task:
    """The task that `text` names, found by `get` (family, **options), for the family `name` and its `option`.

    Raises:
      ValueError: another text, what `get` refuses, a vocabulary of the member's own or a verifier on the host.
    """
    family, options = _call(name, text)
    part = get(family, **options)
    shared = part.words is None and (part.pad, part.eos, part.other_ends) == (vocab.PAD, vocab.EOS, ())
    base.require(shared and part.verify_host is None, name, option, text,
                 "a family in the shared vocabulary whose verifier runs on device")
    return part


def _call(name, text):
    """(family, options) of FORM. Raises: ValueError for another text."""
    expected = ValueError(f"member {text!r} of task {name!r}: expected {FORM}")
    try:
        node = ast.parse(str(text), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name):
            raise expected
        return node.func.id, {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (SyntaxError, ValueError) as error:
        raise expected from error
