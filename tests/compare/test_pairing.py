"""Which parameter is compared with which: by name, everything or an error that says what to do."""

import json

import numpy as np
import pytest

from jaxpost.compare import CompareError
from jaxpost.compare.flags import of_rules
from jaxpost.compare.pairing import labels, open_side, pair
from jaxpost.formats import FormatError
from jaxpost.formats.names import read_rules
from tests.compare import checkpoints


def sides(tmp_path, one, other, **settings):
    base = open_side(checkpoints.write(tmp_path / "base", one, **settings.pop("base", {})), "base")
    return base, [open_side(checkpoints.write(tmp_path / "tuned", other, **settings), "tuned")]


def test_everything_is_paired_once_in_the_order_of_the_base(tmp_path):
    tensors = checkpoints.base_tensors(layers=2)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # stored though tied: the embedding, once
    backwards = dict(reversed(tensors.items()))
    base, tuned = sides(tmp_path, tensors, backwards, shards=3)
    found = pair(base, tuned)
    assert [p.name for p in found.pairs] == sorted((p.name for p in found.pairs), key=lambda n: base.source.tensors[
        base.parts[n].tensor].offset)
    matrices = {p.name: p.shape for p in found.pairs if p.reason is None}
    assert matrices == {name: x.shape for name, x in checkpoints.ours(tensors).items()} and "head" not in base.parts
    vectors = {p.name: p.reason for p in found.pairs if p.reason is not None}
    assert "layers/1/q_bias" in vectors and "final_norm" in vectors and set(vectors.values()) == {
        "no matrix: the weight panel reads matrices"}
    assert not found.unpaired and not found.notes


def test_what_one_side_lacks_is_an_error_that_lists_it_or_is_left_out_and_listed(tmp_path):
    tensors = checkpoints.base_tensors()
    fewer = {name: x for name, x in tensors.items() if "up_proj" not in name and "q_proj.bias" not in name}
    base, tuned = sides(tmp_path, tensors, fewer)
    with pytest.raises(CompareError, match=r"2 parameters are unpaired, first 'layers/0/\w+': not in tuned.*--allow-unpaired"):
        pair(base, tuned)
    found = pair(base, tuned, allow_unpaired=True)
    assert found.unpaired == {"layers/0/up": "not in tuned", "layers/0/q_bias": "not in tuned"}
    assert not {p.name for p in found.pairs} & set(found.unpaired)
    with pytest.raises(CompareError, match="not in the base"):
        pair(tuned[0], [base])


def test_unequal_shapes_are_an_error_except_padded_vocabularies_on_request(tmp_path):
    tensors = checkpoints.base_tensors()
    padded = tensors | {"model.embed_tokens.weight": np.pad(tensors["model.embed_tokens.weight"], ((0, 16), (0, 0)))}
    base, tuned = sides(tmp_path, tensors, padded)
    with pytest.raises(CompareError, match=r"'embed' has shapes \(48, 32\) and \(64, 32\): a padded vocabulary"):
        pair(base, tuned)
    for one, others in ((base, tuned), (tuned[0], [base])):
        found = pair(one, others, allow_unpaired=True)
        embed = next(p for p in found.pairs if p.name == "embed")
        assert embed.shape == (48, 32) and embed.rows == 48 and "the first 48 rows are compared" in found.notes[0]
    wider = checkpoints.changed(tensors, lambda name, x: np.pad(x, ((0, 0), (0, 1))) if "o_proj" in name else x)
    with pytest.raises(CompareError, match="'layers/0/o' has shapes .* checkpoints of one architecture"):
        pair(base, [open_side(checkpoints.write(tmp_path / "wider", wider), "wider")], allow_unpaired=True)


def test_names_that_no_map_knows_need_a_map_and_a_map_can_leave_out(tmp_path):
    tensors = checkpoints.base_tensors()
    renamed = {name.replace("model.layers.0.mlp", "blocks.0.ffn"): x for name, x in tensors.items()}
    path = checkpoints.write(tmp_path / "other", renamed | {"rotary.inv_freq": np.ones(4, np.float32)})
    with pytest.raises(FormatError, match="no map for 4 of 15 tensors .* first 'blocks.0.ffn.gate_proj.weight'"):
        open_side(path, "other")
    rules = [{"pattern": r"blocks\.(\d+)\.ffn\.(gate|up|down)_proj\.weight", "name": r"layers/\1/\2", "transpose": True},
             {"pattern": "rotary.*", "name": None}]
    (tmp_path / "map.json").write_text(json.dumps(rules))
    other = open_side(path, "other", tuple(read_rules(tmp_path / "map.json")))
    base = open_side(checkpoints.write(tmp_path / "base", tensors), "base")
    found = pair(base, [other])
    np.testing.assert_array_equal(other.parts["layers/0/up"].read(other.source).astype(np.float32),
                                  checkpoints.ours(tensors)["layers/0/up"])
    assert len(found.pairs) == len(base.parts)


def test_a_rule_that_names_nothing_is_told_with_the_nearest_tensor(tmp_path):
    """Also one that an earlier rule leaves nothing; each rule needs one side alone."""
    base = open_side(checkpoints.write(tmp_path / "base", checkpoints.base_tensors()), "base")
    other = open_side(checkpoints.write(tmp_path / "other", {"head": np.ones((2, 2), np.float32)}, config=None), "other",
                      [{"pattern": "head", "name": "head"}])
    patterns = (r"model\.layers\..*", "head", r"model\.layers\.0\..*", r"model\.nrm\.weight")
    rules = [{"pattern": pattern, "name": None} for pattern in patterns]
    shadowed, typo = of_rules(rules, (base, other))
    assert "rule 2, 'model" in shadowed and "rule 3" in typo and "the nearest is 'model.norm.weight'" in typo


def test_integers_are_no_weights_and_labels_are_unique(tmp_path):
    tensors = checkpoints.base_tensors() | {"lm_head.weight": np.ones((48, 32))}
    path = checkpoints.write(tmp_path / "int", tensors, np.int8, config=None)
    with pytest.raises(CompareError, match="is I8; weights are one of BF16"):
        open_side(path, "int")
    assert labels([tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "my run"]) == ["x-1", "x-2", "my-run"]


def test_labels_name_files_and_nothing_else(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    paths = [tmp_path / name for name in ("x", "base", "runs", "tüned ☃", "n" * 240, "x-1", "a/x")] + [loop]
    names = labels(paths)
    assert names == ["x-2", "base-1", "runs-1", "t-ned--", "n" * 100, "x-1", "x-3", "loop"]
