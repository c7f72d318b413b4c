"""Conversations as demonstrations: every turn of the assistant is a row of its own, given all that was said before it.

    {"messages": [{"role": "system", "content": ...}, {"role": "user", "content": ...}, {"role": "assistant", "content": ...},
                  {"role": "user", ...}, {"role": "assistant", ...}]}                     two rows

The loss is on the assistant's turns only: a row's prompt is the rendered conversation before its turn, and the turn, with its
end token, is the answer. Summed over the rows of a conversation this is the loss of one pass over it with the other turns
masked out, as long as the chat template renders a turn in the same way wherever it stands; prefixes are read again for every
turn. A turn may as well be sampled: for RL every row is a prompt, and its turn the target.
"""

import re
from collections.abc import Mapping

from jaxpost.lookup import nearest
from jaxpost.tasks.verifiers import Problem

_HALF = re.compile("[\ud800-\udfff]")
ROLES = ("system", "user", "assistant")


def rows(messages: object, where: str) -> list[Problem]:
    """One problem for each turn of the assistant, in order.

    Raises:
      ValueError: no list of {role, content}, a role that is not known, content that is no text, a turn of the assistant that
        follows no user's, or no turn of the assistant at all.
    """
    if not isinstance(messages, list) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise ValueError(f"{where}: expected a list of messages {{role, content}}, found {type(messages).__name__}")
    before, problems = [], []
    for i, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"{where}, message {i}: role {role!r} is not known{nearest(str(role), ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"{where}, message {i}: content is {content!r}, expected text")
        require_whole(content, f"{where}, message {i}: content")
        if role == "assistant":
            if not before or before[-1][0] != "user":
                raise ValueError(f"{where}, message {i}: a turn of the assistant follows "
                                 f"{before[-1][0] if before else 'nothing'}, expected a user's message before it")
            problems.append(Problem(before[-1][1], content, content, tuple(before[:-1])))
        before.append((role, content))
    if not problems:
        raise ValueError(f"{where}: no turn of the assistant, so nothing to learn from")
    return problems


def require_whole(text: str, where: str) -> None:
    """Refuse half a character. Raises: ValueError."""
    if half := _HALF.search(text):
        raise ValueError(f"{where} has the lone surrogate {ascii(half[0])} at character {half.start()} (half of a character, "
                         "usually an emoji that was cut), which no tokenizer can read; mend the line or leave it out")


def messages(problem: Problem, prompt: str) -> list[dict[str, str]]:
    """What a chat template renders: the turns before, and the user's message as `prompt` has it."""
    return [{"role": role, "content": content} for role, content in (*problem.before, ("user", prompt))]
