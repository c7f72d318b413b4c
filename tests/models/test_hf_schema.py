"""config.json: whatever stands in it, it is read as it is meant or refused in one line, at once."""

import json
import time

import numpy as np
import pytest

from jaxpost.formats import FormatError, directory
from jaxpost.models import hf, hf_schema

LLAMA = {"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {"llama": {}, "mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {},
            "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 4},
            "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}}
ODD = (0, -1, 1.5, 1e400, float("nan"), True, "8", "", None, [], [8], {}, {"a": 1}, 2**70, 100_000_000)


def read(found):
    """The architecture, or the refusal: in one line, in no time."""
    began = time.monotonic()
    try:
        return hf.config_of(found)
    except FormatError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return str(error)
    finally:
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_with_every_odd_value_is_read_or_one_line(family):
    plain = {**LLAMA, "model_type": family, **FAMILIES[family]}
    assert not isinstance(read(plain), str)
    keys = [*hf_schema.ARCHITECTURE, *hf_schema.MIXTURE, *hf_schema.ROPE, "moe_intermediate_size", "sliding_window"]
    for key in keys:
        for value in ODD:
            read({**plain, key: value})
            read({**plain, "rope_parameters": {key: value}})
        read({name: x for name, x in plain.items() if name != key})


@pytest.mark.parametrize(("change", "message"), [
    ({"rope_parameters": {"type": "linear", "factor": 4.0}}, "rope_parameters.type='linear'"),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling.type='linear'"),
    ({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, "rope_parameters.factor=4.0"),
    ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e6}, "two spellings of one thing"),
    ({"rope_parameters": "default"}, "expected an object or null"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' is not supported; expected true or false"),
    ({"num_hidden_layers": 100_000}, "num_hidden_layers=100000 .*whole number from 1 to 2,000"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0"), ({"hidden_size": 16.0}, "hidden_size=16.0"),
    ({"vocab_size": [24]}, "vocab_size=.24. is not"), ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps=-1e-06"), ({"num_atention_heads": 4}, "nearest known: 'num_attention_heads'"),
    ({"logits_scaling": 2.0}, "'logits_scaling' is not a key"), ({"model_type": ["llama"]}, "model_type"),
    ({"model_type": "lama"}, "nearest is 'llama'"), ({"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
])
def test_what_the_decoder_would_not_do_is_refused_by_name(change, message):
    with pytest.raises(FormatError, match=message):
        hf.config_of({**LLAMA, **change})


@pytest.mark.parametrize("change", [
    {"rope_parameters": {"rope_type": "default"}}, {"rope_scaling": {"type": "default"}}, {"rope_scaling": None},
    {"rope_parameters": {"type": "default", "rope_theta": 10_000.0}, "rope_theta": 10_000.0}, {"quantization_config": None},
])
def test_the_plain_embedding_is_read_in_every_spelling(change):
    assert hf.config_of({**LLAMA, **change}) == hf.config_of(LLAMA)


@pytest.mark.parametrize(("text", "message"), [
    (b'{"a": 1, "a": 2}', "'a' stands there twice"), (b'{"a": {"b": 1, "b": 1}}', "'b' stands there twice"),
    (b'{"a": NaN}', "holds NaN"), (b'{"a": -Infinity}', "holds -Infinity"), (b"[]", "expected a JSON object"),
    (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"), (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
])
def test_json_is_one_object_of_plain_values_with_every_key_once(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(FormatError, match=message) as error:
        directory.read_object(tmp_path / "config.json")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_any_mixture_of_odd_values_is_read_or_one_line():
    rng, keys = np.random.default_rng(0), [*hf_schema.ARCHITECTURE, *hf_schema.ROPE, "num_experts", "surprise"]
    for _ in range(20_000):
        family = rng.choice(list(FAMILIES))
        chosen = rng.choice(keys, rng.integers(1, 5), replace=False)
        found = {**LLAMA, "model_type": str(family), **FAMILIES[family]} | {str(k): ODD[rng.integers(len(ODD))] for k in chosen}
        read(json.loads(json.dumps(found)))
