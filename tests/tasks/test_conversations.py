"""Conversations as rows: one a turn of the assistant, whose losses sum to that of one masked pass; what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.tasks import conversations, text_data
from jaxpost.tasks.tokenizer import Tokenizer
from tests import compiled

TALK = [("system", "be kind"), ("user", "hi"), ("assistant", "ho"), ("user", "and"), ("assistant", "so on")]
MARK = {"system": "S", "user": "U", "assistant": "A"}
END = 1


def chat(messages):
    """As usual templates: every turn with its mark and its end, then the assistant's mark."""
    return "".join(f"{MARK[m['role']]}{m['content']}|" for m in messages) + "A"


def encode(text):
    return [END if letter == "|" else 2 + ord(letter) % 30 for letter in text]


TOKENIZER = Tokenizer(encode, decode=str, pad=0, eos=END, size=40, chat=chat)


def written(tmp_path, *talks):
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": [{"role": r, "content": c} for r, c in talk]}) + "\n" for talk in talks))
    return text_data.read(str(path), {"prompt": "", "answer": "", "target": "", "messages": "messages"})


def test_losses_of_the_rows_sum_to_that_of_one_pass_with_the_other_turns_masked(tmp_path):
    problems = written(tmp_path, TALK)
    assert [(p.prompt, p.answer, len(p.before)) for p in problems] == [("hi", "ho", 1), ("and", "so on", 3)]
    data = text_data.tokenise(problems, TOKENIZER, 40, 8, chat=True)
    model = models.TransformerConfig(vocab=40, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=16)
    params = models.init(model, jax.random.key(0))
    logits = compiled.token_logits(model, params, jnp.asarray(data.prompt_NxP), jnp.asarray(data.answer_NxT))
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(data.answer_NxT)[..., None], -1)[..., 0]
    rows = float((logp * (data.answer_NxT != 0)).sum())
    whole, mask = [], []  # the conversation in one piece
    for role, content in TALK:
        turn = [*encode(MARK[role]), *encode(content), END]
        whole += turn
        mask += [0] + [int(role == "assistant")] * (len(turn) - 1)
    all_real = jnp.ones((1, len(whole)), bool)
    once = jax.nn.log_softmax(compiled.apply(model, params, jnp.asarray([whole]), valid_BxS=all_real).logits[0])
    alone = sum(float(once[t - 1, whole[t]]) for t in range(1, len(whole)) if mask[t])
    np.testing.assert_allclose(rows, alone, rtol=1e-5)


@pytest.mark.parametrize("talk, message", [
    ([("user", "a"), ("asistant", "b")], "message 2: role 'asistant' is not known; did you mean 'assistant'"),
    ([("assistant", "b")], "message 1: a turn of the assistant follows nothing"),
    ([("user", "a"), ("assistant", "b"), ("assistant", "c")], "message 3: a turn of the assistant follows assistant"),
    ([("user", "a\ud800"), ("assistant", "b")], "lone surrogate '\\ud800' at character 1"),
    ([("user", "a")], "no turn of the assistant"), ([("user", " ")], "content is ' ', expected text"), ([], "expected a list"),
])
def test_what_is_no_conversation_is_one_line_with_its_place(tmp_path, talk, message):
    with pytest.raises(ValueError, match="line 1, field 'messages'") as raised:
        written(tmp_path, talk)
    assert message in str(raised.value)


def test_conversations_need_the_chat_template_and_differ_by_what_was_said_before(tmp_path):
    problems = written(tmp_path, TALK, [("user", "and"), ("assistant", "so on")])
    with pytest.raises(ValueError, match="set chat=True"):
        text_data.tokenise(problems, TOKENIZER, 40, 8)
    assert len(text_data.without(problems, problems[2:])) == 2  # the same last message after other turns stays
    assert conversations.messages(problems[1], "x")[-1] == {"role": "user", "content": "x"}
