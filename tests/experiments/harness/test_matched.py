"""Comparisons at equal footing on synthetic trajectories whose answers are known."""

import numpy as np
import pyarrow as pa
import pytest

from experiments.harness import matched
from jaxpost.records import measurement_table, parse_params

BASE = "b" * 16


def rows(arm, seed, steps, norms, sparsity, new, old):
    out = []
    shared = {"arm": arm, "role": "seed", "seed": seed, "conditional_on": BASE}
    for step, norm, sparse in zip(steps, norms, sparsity):
        for dtype in ("fp32", "bf16"):
            out.append({**shared, "metric": "weight.update_norm", "step": step, "granularity": "global", "dtype": dtype,
                        "value": norm})
        out.append({**shared, "metric": "weight.sparsity.bf16", "step": step, "granularity": "global", "dtype": "bf16",
                    "value": sparse, "null_kind": "halfulp_permuted", "null_value": sparse - 0.1})
    for step, n, o in zip(steps, new, old):
        out += [{**shared, "metric": "policy.success", "step": step, "granularity": "policy", "split": split, "value": value}
                for split, value in (("id", n), ("second", o))]
    return out


def table(*parts):
    flat = [row for part in parts for row in part]
    names = dict.fromkeys(name for row in flat for name in row)
    return measurement_table({name: [row.get(name) for row in flat] for name in names})


@pytest.fixture
def two_arms():
    base = [r for r in rows("base", 1, [0], [1.0], [1.0], [0.4], [0.9]) if r["metric"] == "policy.success"]
    a = rows("a", 1, [1, 2, 4], [1.0, 2.0, 4.0], [0.9, 0.8, 0.7], [0.5, 0.6, 0.8], [0.9, 0.85, 0.8])
    b = rows("b", 1, [1, 2, 4], [2.0, 4.0, 16.0], [0.6, 0.4, 0.2], [0.4, 0.5, 0.6], [0.8, 0.7, 0.6])
    return table(base, a, b)


def values(columns, metric, split=None):
    found = {}
    for i, name in enumerate(columns["metric"]):
        if name == metric and columns["split"][i] == split and columns["dtype"][i] in (None, "bf16"):
            found[columns["arm"][i]] = (columns["value"][i], columns["null_value"][i], columns["status"][i])
    return found


def test_matched_norm_is_log_linear_and_targets_the_smallest_final_norm(two_arms):
    columns, target = matched.at_matched_distance(matched.Trajectories(two_arms), ("a", "b"), BASE, "a+b")
    assert target == 4.0
    got = values(columns, "weight.sparsity.bf16")
    assert got["a"][:2] == pytest.approx((0.7, 0.6))
    assert got["b"][:2] == pytest.approx((0.4, 0.3))
    assert {tuple(sorted(parse_params(p).items())) for p in columns["params"]} == {(("among", "a+b"), ("at", "matched_norm"))}


def test_matched_kl_reads_where_each_run_first_had_the_smallest_final_kl(two_arms):
    """By hand: b ends at 1; a has 1 halfway between ln 1/2 and ln 2, where its success on the second task is 0.875."""
    kl = {"metric": "policy.kl_forward", "granularity": "policy", "role": "seed", "seed": 1, "conditional_on": BASE,
          "split": "id"}
    own = [kl | {"arm": arm, "step": step, "value": value * factor, "params": params}
           for arm, values_P in (("a", (0.5, 2.0, 3.0)), ("b", (0.1, 0.2, 1.0))) for step, value in zip((1, 2, 4), values_P)
           for params, factor in (("reduce=sequence_sum", 1.0), ("reduce=token_mean", 0.1))]
    columns, target = matched.at_matched_distance(matched.Trajectories(table(two_arms.to_pylist(), own)), ("a", "b"), BASE,
                                                  "a+b", place="matched_kl", distance=matched.kl)
    got = values(columns, "policy.success", "second")
    assert target == 1.0 and got["a"][0] == pytest.approx(0.875) and got["b"][0] == pytest.approx(0.6)
    assert {parse_params(p)["at"] for p in columns["params"]} == {"matched_kl"}


def test_statistics_with_steps_of_their_own_are_paired_by_step_or_left_out(two_arms):
    def more(metric, steps):
        return [{"metric": metric, "arm": arm, "role": "seed", "seed": 1, "conditional_on": BASE, "step": step,
                 "granularity": "policy", "split": "id", "value": float(step)} for arm in ("base", "a", "b")
                for step in (steps if arm != "base" else [0])]

    runs = matched.Trajectories(table(two_arms.to_pylist(), more("policy.often", [1, 2, 3, 4]),
                                      more("policy.elsewhere", [1, 3, 4])))
    columns = matched.at_matched_distance(runs, ("a", "b"), BASE, "a+b")[0]
    assert {arm: x[0] for arm, x in values(columns, "policy.often", "id").items()} == pytest.approx({"a": 4, "b": 2})
    read = (("policy.often", "id"), ("policy.elsewhere", "id"))
    at_success = matched.at_matched_success(runs, ("a", "b"), BASE, "a+b", read=read)[0]
    assert {arm: x[0] for arm, x in values(at_success, "policy.often", "id").items()} == pytest.approx({"a": 2, "b": 4})
    assert "policy.elsewhere" not in {*columns["metric"], *at_success["metric"]}


def test_outside_the_range_of_a_run_the_value_is_absent(two_arms):
    small = table([r for r in rows("c", 1, [1, 2, 4], [0.1, 0.2, 0.5], [1, 1, 1], [0.4] * 3, [0.9] * 3)])
    both = matched.Trajectories(pa.concat_tables([two_arms, small]))
    columns, target = matched.at_matched_distance(both, ("a", "b", "c"), BASE, "all")
    assert target == 0.5
    got = values(columns, "weight.sparsity.bf16")
    assert got["a"] == (None, None, "absent") and got["b"][2] == "absent" and got["c"][2] == "ok"


def test_between_points_the_norm_is_interpolated_in_its_logarithm(two_arms):
    third = table(rows("c", 1, [1, 2], [1.0, 2.0 * np.sqrt(2)], [0.5, 0.5], [0.4] * 2, [0.9] * 2))
    both = matched.Trajectories(pa.concat_tables([two_arms, third]))
    columns, target = matched.at_matched_distance(both, ("a", "b", "c"), BASE, "all")
    assert target == pytest.approx(2 * np.sqrt(2))
    got = values(columns, "weight.sparsity.bf16")
    assert got["a"][0] == pytest.approx(0.75) and got["b"][0] == pytest.approx(0.5)


def test_matched_success_reads_the_old_task_where_the_new_one_was_first_reached(two_arms):
    columns, target = matched.at_matched_success(matched.Trajectories(two_arms), ("a", "b"), BASE, "a+b")
    assert target == 0.6
    got = values(columns, "policy.success", "second")
    assert got["a"][0] == pytest.approx(0.85) and got["b"][0] == pytest.approx(0.6)


def test_other_statistics_are_read_at_matched_success_each_variant_by_itself(two_arms):
    similarity = {"metric": "policy.similarity_per_input", "granularity": "policy", "split": "id", "role": "seed", "seed": 1,
                  "conditional_on": BASE, "params": "samples=8"}
    steps = [("base", 0, 0.1), *(("a", step, x) for step, x in ((1, 0.2), (2, 0.4), (4, 0.8))),
             *(("b", step, x) for step, x in ((1, 0.3), (2, 0.5), (4, 0.7)))]
    own = [similarity | {"arm": arm, "step": step, "value": x} for arm, step, x in steps]
    ead = [row | {"metric": "policy.ead"} for row in own]
    several = [row | {"params": f"samples={n}", "value": n * row["value"]} for row in ead for n in (4, 8)]
    several += [row | {"params": "samples=2"} for row in ead if row["step"] in (0, 4)]  # not at every step
    runs = matched.Trajectories(table(two_arms.to_pylist(), own, several))
    read = (("policy.similarity_per_input", "id"), ("policy.ead", "id"), ("policy.ood_gap", "id"))
    columns, target = matched.at_matched_success(runs, ("a", "b"), BASE, "a+b", read=read)
    got = values(columns, "policy.similarity_per_input", "id")
    assert target == 0.6 and got["a"][0] == pytest.approx(0.4) and got["b"][0] == pytest.approx(0.7)
    ead = {(arm, parse_params(params)["samples"]): value for metric, arm, params, value in zip(
        *(columns[name] for name in ("metric", "arm", "params", "value")), strict=True) if metric == "policy.ead"}
    assert ead == pytest.approx({("a", "4"): 1.6, ("a", "8"): 3.2, ("b", "4"): 2.8, ("b", "8"): 5.6})
    assert set(columns["metric"]) == {"policy.similarity_per_input", "policy.ead"}


@pytest.mark.parametrize("first, reached, wanted", [(0.5, 0.6, 0.7), (0.8, 0.2, 0.8)])
def test_between_measured_steps_and_from_a_base_without_success_it_is_linear(first, reached, wanted):
    """By hand: halfway from 0.5 to 0.7 the old task is halfway from 0.9 to 0.5; a quarter from 0 to 0.8, from 0.9 to 0.5."""
    base = [r for r in rows("base", 1, [0], [1.0], [1.0], [0.0], [0.9]) if r["metric"] == "policy.success"]
    last = {0.5: ([0.5, 0.7], [0.9, 0.5]), 0.8: ([0.8, 0.9], [0.5, 0.4])}[first]
    a, b = (rows(arm, 1, [1, 2], [1.0, 2.0], [0.9, 0.8], *x) for arm, x in (("a", last), ("b", ([0.1, reached], [0.8, 0.8]))))
    columns, target = matched.at_matched_success(matched.Trajectories(table(base, a, b)), ("a", "b"), BASE, "a+b")
    assert target == reached and values(columns, "policy.success", "second")["a"][0] == pytest.approx(wanted)


def test_rescaling_has_the_target_norm_and_keeps_the_direction():
    w0, w1 = {"w": np.ones((2, 3), np.float32)}, {"w": np.ones((2, 2, 3), np.float32)}
    w1["w"][0] += 2.0
    w1["w"][1, 0, 0] += 3.0
    norm_S = np.asarray([np.linalg.norm(w - w0["w"]) for w in w1["w"]])
    seen = {}

    def rows_of(params):
        seen.update(params)
        return {"granularity": ["global", "tensor", "global"], "role": ["seed", "seed", "null"], "params": [None, None, None],
                "metric": ["m", "m", "m"], "seed": [1, 1, 1]}

    columns = matched.at_rescaled_norm(rows_of, w0, w1, [1, 2], norm_S, 0.5, "a")
    np.testing.assert_allclose([np.linalg.norm(w - w0["w"]) for w in seen["w"]], 0.5, rtol=1e-6)
    assert columns["params"] == ["among=a;at=rescaled_norm"] and columns["metric"] == ["m"]


def test_an_arm_that_was_measured_at_step_0_begins_there_and_not_at_the_base():
    """By hand: from 0.6 at step 0 to 0.8 at step 1 the target 0.7 is halfway."""
    base = [r for r in rows("base", 1, [0], [1.0], [1.0], [0.2], [0.9]) if r["metric"] == "policy.success"]
    a = rows("a", 1, [0, 1], [1.0, 2.0], [0.9, 0.8], [0.6, 0.8], [0.5, 0.3])
    b = rows("b", 1, [1], [2.0], [0.6], [0.7], [0.8])
    columns, target = matched.at_matched_success(matched.Trajectories(table(base, a, b)), ("a", "b"), BASE, "a+b")
    got = values(columns, "policy.success", "second")
    assert target == 0.7 and got["a"][0] == pytest.approx(0.4) and got["b"][0] == pytest.approx(0.8)
