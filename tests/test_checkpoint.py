"""Checkpoints: exact round trip, parameters alone, damage named, resharding."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpost import sharding, training
from jaxpost.checkpoint import CheckpointError, Checkpoints


def state(scale=1.0):
    params = {"a": scale * jnp.arange(16.0).reshape(8, 2), "b": jnp.ones((3,), jnp.bfloat16)}
    return training.TrainState(jnp.int32(7), params, ({"mu": jnp.ones(4)},), {}, {})


def test_round_trip_is_exact_and_keeps_the_latest(tmp_path):
    saves = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        saves.save(step, state(step), {"seeds": [step]})
    saves.close()
    again = Checkpoints(tmp_path)
    assert again.latest() == (3, {"seeds": [3]})
    back = again.restore(3, jax.eval_shape(state))
    chex.assert_trees_all_equal(back, state(3))
    assert back.params["b"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(again.restore_params(2), state(2).params)
    again.close()


def test_probe_state_is_an_item_of_its_own(tmp_path):
    def watched():
        return state()._replace(probe_state={"sum": jnp.arange(2, dtype=jnp.uint8)})

    with Checkpoints(tmp_path) as saves:
        saves.save(1, watched(), {})
        saves.save(2, state(), {})
    assert (tmp_path / "1" / "probe_state").is_dir() and not (tmp_path / "2" / "probe_state").exists()
    with Checkpoints(tmp_path) as again:
        back = again.restore(1, jax.eval_shape(watched))
        chex.assert_trees_all_equal(back, watched())
        assert back.probe_state["sum"].dtype == jnp.uint8
        assert again.restore(1, jax.eval_shape(state)).probe_state is None  # a program that wants none
        assert again.restore(2, jax.eval_shape(watched)).probe_state is None  # it was saved without


def test_a_truncated_checkpoint_is_named_with_the_way_on(tmp_path):
    saves = Checkpoints(tmp_path)
    for step in (1, 2):
        saves.save(step, state(), {})
    saves.close()
    for file in (tmp_path / "2" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    again = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"/2 cannot be read .*resumes from step 1"):
        again.restore(2, jax.eval_shape(state))
    again.close()


def test_a_checkpoint_is_read_onto_another_mesh(tmp_path):
    saves = Checkpoints(tmp_path)
    saves.save(1, state(), {})
    saves.close()
    layout = NamedSharding(sharding.make_mesh({"data": 8}), PartitionSpec("data"))
    again = Checkpoints(tmp_path)
    got = again.restore_params(1, {"a": jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=layout),
                                   "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)})
    assert got["a"].sharding == layout
    np.testing.assert_array_equal(got["a"], state().params["a"])
    again.close()


def test_what_is_read_is_tied_to_no_device_unless_asked(tmp_path):
    saves = Checkpoints(tmp_path)
    saves.save(1, state(), {})
    saves.close()
    again = Checkpoints(tmp_path)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state())
    assert not any(x.committed for x in jax.tree.leaves(again.restore(1, abstract)))
    again.close()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write checkpoint .*file/run: Not a directory; what was saved before"):
        Checkpoints(tmp_path / "file" / "run")


def test_a_failed_save_comes_up_at_the_next_call_and_keeps_the_earlier_one(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write checkpoint"), Checkpoints(tmp_path) as saves:
        saves.save(1, state(), {})
        saves.wait()
        saves.save(2, state(), {"not JSON": object()})
    with Checkpoints(tmp_path) as again:
        assert again.latest() == (1, {})


def test_what_a_kill_in_the_middle_of_a_save_left_is_removed(tmp_path):
    (tmp_path / "3.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    with Checkpoints(tmp_path) as saves:
        assert saves.latest() is None
    assert not list(tmp_path.iterdir())


def test_digests_hold_over_meshes(tmp_path):
    place = NamedSharding(sharding.make_mesh({"data": 8}), PartitionSpec("data"))
    spread = state()._replace(params=state().params | {"a": jax.device_put(state().params["a"], place)})
    with Checkpoints(tmp_path) as saves:
        saves.save(1, spread, {})
        saves.wait()
        assert saves.latest() == (1, {})
        chex.assert_trees_all_equal(saves.restore(1, jax.eval_shape(state)), state())
