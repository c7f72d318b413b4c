"""Tokenizers, chat templates and exported policies against transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tiny_hf
from jaxpost import models
from jaxpost.models import hf
from jaxpost.tasks import text_data, tokenizer

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
