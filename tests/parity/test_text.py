"""Tokenizers, chat templates and exported policies against transformers."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tiny_hf
from jaxpost import models
from jaxpost.models import hf
from jaxpost.tasks import text_data, tokenizer

from .chat_styles import STYLES

pytestmark = pytest.mark.parity
TEXTS = ["What is 3 plus 4?", "na\u00efve \u4e2d\u6587 \U0001f600", "  two  spaces\n\nlines\t", "a<|im_end|>b", ""]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    tiny_hf.make(path, steps=3)
    return path


@pytest.fixture(scope="module")
def theirs(place):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(place / "model")


def test_tokens_are_those_of_transformers(place, theirs):
    ours = tokenizer.load(place / "model")
    assert (ours.eos, ours.pad) == (theirs.eos_token_id, theirs.pad_token_id)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_chat_prompts_are_those_of_transformers(place, theirs):
    ours = tokenizer.load(place / "model")
    for text in TEXTS:
        message = [{"role": "user", "content": text}]
        assert ours.chat(text) == theirs.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        wanted = theirs.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        assert ours.encode(ours.chat(text)) == wanted


def test_transformers_reads_what_the_experiment_exports(place, tmp_path):
    import torch
    import transformers

    c, params = hf.load(place / "model")
    tuned = {**params, "final_norm": params["final_norm"] * 1.5}
    hf.save(tmp_path / "tuned", c, tuned, like=place / "model", dtype="float32")
    ours = tokenizer.load(tmp_path / "tuned")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").float().eval()
    found = text_data.read(str(place / "train.jsonl"), tiny_hf.FIELDS)[:4]
    data = text_data.tokenise(found, ours, tiny_hf.PROMPT_TOKENS, tiny_hf.ANSWER_TOKENS)
    logits = models.token_logits(c, tuned, jnp.asarray(data.prompt_NxP), jnp.asarray(data.answer_NxT), ours.pad)
    for i in range(len(found)):
        lead = int(np.argmax(data.prompt_NxP[i] != ours.pad))
        tokens = np.concatenate([data.prompt_NxP[i, lead:], data.answer_NxT[i]])[None]
        with torch.no_grad():
            wanted = model(torch.from_numpy(tokens.astype(np.int64))).logits[0, -data.answer_NxT.shape[1] - 1:-1].numpy()
        assert np.linalg.norm(np.asarray(logits[i]) - wanted) <= 1e-5 * np.linalg.norm(wanted)


CONVERSATIONS = ([{"role": "user", "content": "What is 3 plus 4?"}],
                 [{"role": "user", "content": "  na\u00efve <|im_end|>\n\u4e2d \U0001f600 "}],
                 [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
                 [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
                  {"role": "user", "content": "sure?"}])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("where", ["config", "file", "named"])
def test_chat_templates_give_the_tokens_of_transformers(place, tmp_path, style, where):
    """Text and token ids equal, or both refuse."""
    import transformers

    directory = shutil.copytree(place / "model", tmp_path / "model")
    about = json.loads((directory / "tokenizer_config.json").read_text())
    about |= {"bos_token": "<|im_start|>", "unk_token": "<|endoftext|>"}
    about.pop("chat_template")
    if where == "config":
        about["chat_template"] = STYLES[style]
    elif where == "named":
        about["chat_template"] = [{"name": "tool_use", "template": "{{ no }}"}, {"name": "default", "template": STYLES[style]}]
    else:
        (directory / "chat_template.jinja").write_text(STYLES[style], encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(about))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(directory), tokenizer.load(directory)
    agreed = 0
    for messages in CONVERSATIONS:
        try:
            wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:
            with pytest.raises(ValueError, match="the chat template refuses"):
                ours.chat(messages)
            continue
        assert ours.chat(messages) == wanted
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        assert ours.encode(ours.chat(messages)) == ids
        agreed += 1
    assert agreed >= 2 and ours.chat(CONVERSATIONS[0][0]["content"]) == ours.chat(CONVERSATIONS[0])


@pytest.mark.parametrize("begins", [False, True])
def test_a_prompt_begins_as_that_of_transformers(place, tmp_path, begins):
    """tokenizer.json puts a first token before any text, or does not."""
    import tokenizers
    import transformers

    directory = shutil.copytree(place / "model", tmp_path / "model")
    about = json.loads((directory / "tokenizer_config.json").read_text()) | {"bos_token": "<|im_start|>",
                                                                             "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(about))
    if begins:
        made = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<|im_start|> $A",
                                                                       special_tokens=[("<|im_start|>", 1)])
        made.save(str(directory / "tokenizer.json"))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(directory), tokenizer.load(directory)
    assert [*ours.start, *ours.encode("1+1?")] == theirs("1+1?")["input_ids"] and bool(ours.start) == begins
