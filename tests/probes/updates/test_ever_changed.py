"""Ever-changed masks: packing, what counts as a change, rows of a planted path, and a watch that began late."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.updates import ever_changed

SHAPES = {"embed": (5, 3), "final_norm": (3,), "layers": {"q": (2, 4, 9), "mlp_norm": (2, 4)}}
KEY = jax.random.key(0)


def tree(make):
    return jax.tree.map(make, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize("shape", [(1,), (3, 8), (2, 5, 17), (9,)])
def test_bits_come_back_from_the_packed_mask(shape):
    bits = np.random.default_rng(0).random(shape) < 0.5
    packed = ever_changed.pack(jnp.asarray(bits))
    assert packed.dtype == jnp.uint8 and packed.shape == (*shape[:-1], -(-shape[-1] // 8))
    np.testing.assert_array_equal(ever_changed.unpack(packed, shape[-1]), bits)
    assert int(jax.lax.population_count(packed).astype(jnp.int32).sum()) == bits.sum()


def test_a_change_is_one_of_the_bf16_value():
    before = jnp.asarray([0.0, 1.0, 1.0, np.nan, 1.0, np.nan], jnp.float32)
    after = jnp.asarray([-0.0, 1.001, 1.01, np.nan, np.nan, 1.0], jnp.float32)
    assert ever_changed.changed(before, after).tolist() == [False, False, True, False, True, True]


def planted(seed=0):
    """(base, path of three trees): a third of the entries moves and stays, a third comes back, a third never moves."""
    rng = np.random.default_rng(seed)
    base = tree(lambda s: rng.normal(size=s).astype(np.float32))
    kind = tree(lambda s: rng.integers(0, 3, size=s))
    path = [base]
    for away in ({0: 2.0, 1: 4.0}, {0: 3.0, 1: 8.0}, {0: 2.0, 1: 1.0}):
        path.append(jax.tree.map(lambda x, k, a=away: np.select([k == 0, k == 1], [x * a[0], x * a[1]], x), base, kind))
    return base, kind, [jax.tree.map(jnp.asarray, x) for x in path]


def rows_of(base, path, since=0, seeds=(0,)):
    state = ever_changed.start(path[0], since)
    for before, after in zip(path, path[1:], strict=False):
        state = ever_changed.mark(state, ever_changed.changes(before, after))
    probe = ever_changed.EverChanged()
    ctx = probes.Context({probes.PARAMS0: base, probes.PARAMS: path[-1], ever_changed.EVER: state["ever_changed"]})
    values = jax.jit(probe.measure)(ctx, probe.init(ctx, KEY), KEY)[1]
    columns = probe.finalize(jax.tree.map(lambda x: np.stack([x] * len(seeds)), values), {},
                             infos=gradient_sums.inventory(base), arm="a", step=3, seeds=seeds, conditional_on="base",
                             row_ids=records.row_ids)
    return records.measurement_table(columns).to_pylist()


def one(rows, metric, **wanted):
    (row,) = [r for r in rows if r["metric"] == metric and all(r[k] == v for k, v in wanted.items())]
    return row


def test_rows_count_what_moved_stayed_and_came_back():
    base, kind, path = planted()
    rows = rows_of(base, path)
    flat = np.concatenate([k.ravel() for k in jax.tree.leaves(kind)])
    whole = one(rows, "weight.sparsity.ever", granularity="global")
    assert whole["value"] == pytest.approx(np.mean(flat == 2), rel=1e-12)
    assert one(rows, "weight.cancelled", granularity="global")["value"] == pytest.approx(np.mean(flat == 1), rel=1e-12)
    for i in range(2):
        q = one(rows, "weight.cancelled", tensor=f"layers/{i}/q")
        assert q["value"] == pytest.approx(np.mean(kind["layers"]["q"][i] == 1)) and q["dtype"] == "bf16"
        both = np.concatenate([kind["layers"][n][i].ravel() for n in ("q", "mlp_norm")])
        assert one(rows, "weight.cancelled", granularity="layer", layer=i)["value"] == pytest.approx(np.mean(both == 1))
    assert {r["status"] for r in rows} == {"ok"} and whole["num_err"] == 0
    assert probes.metric("weight.cancelled").null.startswith("none: ")


def test_a_late_watch_says_so_and_a_misfit_is_refused():
    base, _, path = planted()
    rows = rows_of(base, path, since=7)
    assert {(r["status"], r["status_reason"]) for r in rows} == {("unresolved", "watched from step 7 on only")}
    probe = ever_changed.EverChanged()
    with pytest.raises(ValueError, match=r"\[seeds, tensors\] = \(1, 3\); expected \(1, 6\)"):
        probe.finalize({"ever_T": np.zeros((1, 3))}, {}, infos=gradient_sums.inventory(base), arm="a", step=3, seeds=(0,),
                       conditional_on=None, row_ids=records.row_ids)
    with pytest.raises(ValueError, match="runs in lane sidecar"):
        ever_changed.EverChanged(lane="offline")
    assert isinstance(probe, probes.Probe) and set(probe.metrics) <= set(probes.METRICS)


def test_a_new_head_that_the_base_lacks_is_left_out():
    base, _, path = planted()
    wider = [{**x, "value": jnp.ones((3, 1)) * (i + 1)} for i, x in enumerate(path)]
    assert one(rows_of(base, wider), "weight.cancelled", granularity="global")["value"] == pytest.approx(
        one(rows_of(base, path), "weight.cancelled", granularity="global")["value"])


def test_parameters_that_are_not_finite_are_rows_with_a_status():
    base, _, path = planted()
    broken = [*path[:-1], {**path[-1], "embed": path[-1]["embed"].at[0, 0].set(jnp.nan)}]
    rows = rows_of(base, broken)
    whole, embed = one(rows, "weight.cancelled", granularity="global"), one(rows, "weight.cancelled", tensor="embed")
    assert whole["status"] == embed["status"] == "nan" and "non-finite" in whole["status_reason"]
    assert one(rows, "weight.cancelled", tensor="layers/0/q")["status"] == "ok"
