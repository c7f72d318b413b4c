"""Name maps: declared, complete, never by position."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxpost.formats import FormatError, names


class Source:
    """A checkpoint in memory."""

    def __init__(self, tensors, config=None, kind="safetensors"):
        self.arrays, self.config, self.kind, self.path = tensors, config or {}, kind, Path("here")
        self.tensors = {n: SimpleNamespace(shape=x.shape, dtype="F32", nbytes=x.nbytes) for n, x in tensors.items()}

    def read(self, name, rows=None):
        return self.arrays[name] if rows is None else self.arrays[name][rows]


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_stacked_layers_of_our_own_trees():
    source = Source({"embed": numbered(5, 4), "layers/q": numbered(3, 4, 6), "layers/q_bias": numbered(3, 6)}, kind="orbax")
    parts = names.resolve(source)
    assert set(parts) == {"embed", *(f"layers/{i}/{n}" for i in range(3) for n in ("q", "q_bias"))}
    np.testing.assert_array_equal(parts["layers/2/q"].read(source), source.arrays["layers/q"][2])
    assert parts["layers/2/q"].shape == (4, 6) and parts["layers/1/q_bias"].kind == "bias"


def test_stacked_experts_of_our_own_trees():
    source = Source({"layers/gate": numbered(2, 3, 4, 5), "layers/down": numbered(2, 3, 5, 4),
                     "layers/router": numbered(2, 4, 3), "layers/shared_gate": numbered(2, 4, 6)}, kind="orbax")
    parts = names.resolve(source)
    assert len(parts) == 2 * 2 * 3 + 2 + 2
    part = parts["layers/1/experts/2/down"]
    np.testing.assert_array_equal(part.read(source), source.arrays["layers/down"][1, 2])
    assert (part.kind, part.layer, part.expert, part.shape) == ("down", 1, 2, (5, 4))
    assert parts["layers/0/router"].kind == "router" and parts["layers/0/shared_gate"].kind == "gate"
    assert parts["layers/1/shared_gate"].shape == (4, 6) and parts["layers/1/shared_gate"].expert is None


def test_fused_experts_are_split_by_expert_and_half():
    fused = numbered(2, 6, 4)
    source = Source({"model.layers.0.mlp.experts.gate_up_proj": fused})
    parts = names.resolve(source)
    np.testing.assert_array_equal(parts["layers/0/experts/1/up"].read(source), fused[1, 3:].T)
    assert parts["layers/0/experts/1/up"].expert == 1 and parts["layers/0/experts/1/up"].shape == (4, 3)


def test_an_unknown_tensor_is_an_error_with_the_nearest():
    with pytest.raises(FormatError, match="nearest known is 'model.norm.weight'"):
        names.resolve(Source({"model.norms.weight": numbered(3)}))


def test_two_tensors_for_one_name_are_an_error():
    with pytest.raises(FormatError, match="both are 'embed'"):
        names.resolve(Source({"model.embed_tokens.weight": numbered(3, 2), "wte": numbered(3, 2)}),
                      [{"pattern": "wte", "name": "embed"}])


def test_fused_attention_needs_the_configuration():
    tensors = {"model.layers.0.self_attn.qkv_proj.weight": numbered(16, 4)}
    with pytest.raises(FormatError, match="how many heads"):
        names.resolve(Source(tensors))
    with pytest.raises(FormatError, match="16 rows; q . k . v are 24"):
        names.resolve(Source(tensors, {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 2}))


def test_the_users_rules_rename_transpose_and_leave_out(tmp_path):
    place = tmp_path / "map.json"
    place.write_text(json.dumps([{"pattern": r"h\.(\d+)\.wq", "name": r"layers/\1/q", "transpose": True},
                                 {"pattern": r".*\.inv_freq", "name": None}]))
    source = Source({"h.3.wq": numbered(2, 5), "h.3.inv_freq": numbered(4)})
    parts = names.resolve(source, names.read_rules(place))
    assert set(parts) == {"layers/3/q"} and parts["layers/3/q"].shape == (5, 2) and parts["layers/3/q"].kind == "q"
    np.testing.assert_array_equal(parts["layers/3/q"].read(source), source.arrays["h.3.wq"].T)


@pytest.mark.parametrize("rules", ["{", "{}", '[{"pattern": "("}]', '[{"pattern": "(", "name": "a"}]',
                                   '[{"pattern": 3, "name": "a"}]', '[{"pattern": "a", "name": 3}]', "[" * 99999,
                                   '[{"pattern": "a", "name": "b", "transpose": "false"}]'])
def test_a_map_that_is_no_map_is_one_line(tmp_path, rules):
    (tmp_path / "map.json").write_text(rules)
    with pytest.raises(FormatError) as error:
        names.read_rules(tmp_path / "map.json")
    assert "map.json" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FormatError, match="expected layers/<number>"):
        names.resolve(Source({"wq": numbered(2, 2)}), [{"pattern": "wq", "name": "layers/x/q"}])
    for template in (r"layers/\1/q", r"\g<layer>"):
        with pytest.raises(FormatError, match="does not fit"):
            names.resolve(Source({"wq": numbered(2, 2)}), [{"pattern": "wq", "name": template}])


@pytest.mark.parametrize(("name", "layer", "expert"), [("layers/2/experts/5/up", 2, 5), ("layers/2/experts/a/up", 2, None),
                                                       ("layers/2/experts", 2, None), ("layers", None, None)])
def test_any_name_that_a_rule_makes_has_a_place(name, layer, expert):
    part = names.resolve(Source({"w": numbered(2, 2)}), [{"pattern": "w", "name": name}])[name]
    assert (part.layer, part.expert) == (layer, expert)
