"""Edits of weights against numpy in float64, on stacks of layers and of experts; what cannot be made is one line."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from experiments.harness import edits, one_arm
from experiments.harness.errors import UserError
from experiments.harness.stages import Stage

SHAPES = {"q": (2, 4, 6), "o": (2, 6, 4), "up": (1, 2, 4, 5), "attn_norm": (2, 4)}
ATTENTION = ("q", "o")


def ends():
    """Two parameter trees, float32."""
    rng = np.random.default_rng(0)
    base = {"embed": rng.normal(size=(7, 4)), "layers": {name: rng.normal(size=shape) for name, shape in SHAPES.items()}}
    tuned = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), base)
    return [jax.tree.map(lambda x: x.astype(np.float32), tree) for tree in (base, tuned)]


def edited(rule, seed=0, **settings):
    return edits.Edit(rule, tuple(settings.items()))(ends(), seed)


def matrices(tree):
    """name of a stack and index -> its matrices in float64; vectors and what lies outside of the layers are none."""
    return {(name, index): np.asarray(x[index], np.float64) for name, x in tree["layers"].items() if name != "attn_norm"
            for index in np.ndindex(x.shape[:-2])}


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_restored_kinds_are_the_bases_bit_for_bit_and_the_rest_is_tuned():
    (base, tuned), found = ends(), edited("restore", kinds=ATTENTION)
    assert all(same(found["layers"][name], (base if name in ATTENTION else tuned)["layers"][name]) for name in SHAPES)
    assert same(found["embed"], tuned["embed"])


def test_the_random_control_restores_as_many_entries_spread_over_all_linear_matrices():
    (base, tuned), wanted = ends(), sum(np.prod(SHAPES[name]) for name in ATTENTION)
    shares = []
    for seed in range(20):
        found = edited("restore_random", seed, kinds=ATTENTION)
        back = {name: found["layers"][name] == base["layers"][name] for name in (*ATTENTION, "up")}
        assert sum(x.sum() for x in back.values()) == wanted
        assert same(found["layers"]["attn_norm"], tuned["layers"]["attn_norm"])
        assert all(np.where(x, base["layers"][n], tuned["layers"][n]).tobytes() == found["layers"][n].tobytes()
                   for n, x in back.items())
        shares.append(back["up"].mean())
    assert np.mean(shares) == pytest.approx(wanted / (wanted + 40), abs=0.05) and len(set(shares)) > 5


def frames_error(w, carried):
    """First-order bound of sum_i carried_i u_i v_i' with the singular vectors of w in float32: a vector of each frame turns by
    at most 2^-24 ||w|| over the gap to the other singular values and to 0."""
    s = np.linalg.svd(w, compute_uv=False)
    gaps = [np.abs(np.append(np.delete(s, i), 0.0) - s[i]).min() for i in range(len(carried))]
    return 2 * 2.0**-24 * s[0] * np.sum(carried / np.asarray(gaps))


def test_low_rank_and_spectra_follow_numpy_in_float64():
    (base, tuned) = ends()
    found = {rule: matrices(edited(rule)) for rule in ("low_rank", "spectrum_reset", "spectrum_only")}
    for at, w0 in matrices(base).items():
        w1 = matrices(tuned)[at]
        u, s, v = np.linalg.svd(w1 - w0, full_matrices=False)
        (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
        wanted = {"low_rank": (w0 + np.linalg.norm(s) * np.outer(u[:, 0], v[0]), frames_error(w1 - w0, [np.linalg.norm(s)])),
                  "spectrum_reset": (u1 * s0 @ v1, frames_error(w1, s0)),
                  "spectrum_only": (u0 * s1 @ v0, frames_error(w0, s1))}
        for rule, (w, error) in wanted.items():
            rounding = 2.0**-22 * np.abs(w0).max()  # of the sums and of the values themselves
            assert np.linalg.norm(found[rule][at] - w) < error + rounding < 2e-5, (rule, at)


def test_a_random_update_has_the_rank_and_the_norm_and_another_direction():
    (base, tuned) = ends()
    found = [matrices(edited("low_rank", seed, k=2, random=True)) for seed in (0, 1)]
    for at, w0 in matrices(base).items():
        one, two = (x[at] - w0 for x in found)
        norm = np.linalg.norm(matrices(tuned)[at] - w0)
        assert np.linalg.norm(one) == pytest.approx(norm, rel=1e-5) and np.linalg.matrix_rank(one, tol=1e-5) == 2
        assert np.abs((one * two).sum()) < 0.9 * norm**2


def test_a_mixture_is_the_straight_line():
    base, tuned = ends()
    for share in (0.0, 0.3, 1.0):
        found = edited("mix", share=share)
        for x, w0, w1 in zip(*map(jax.tree.leaves, (found, base, tuned)), strict=True):
            np.testing.assert_allclose(x, (1 - share) * w0.astype(float) + share * w1.astype(float), rtol=0, atol=2e-7)


def test_added_skills_are_one_adapter_of_their_ranks_and_halves_of_two_are_the_average():
    """Two LoRA arms of ranks 1 and 2 in float64: W0 + sum of c_i s A_i B_i, whatever was not trained is the base's."""
    rng, (base, _) = np.random.default_rng(1), ends()
    skills, products = [], []
    for rank in (1, 2):
        product = rng.normal(size=(2, 4, rank)) @ rng.normal(size=(2, rank, 6)) * 0.1
        products.append(product)
        layers = base["layers"] | {"q": (base["layers"]["q"] + product).astype(np.float32)}
        skills.append(base | {"layers": layers})
    found = edits.Edit("add", (("shares", (1.0, -0.5)),))([base, *skills], 0)
    update = found["layers"]["q"] - base["layers"]["q"].astype(np.float64)
    np.testing.assert_allclose(update, products[0] - 0.5 * products[1], atol=1e-6)
    assert [np.linalg.matrix_rank(x, tol=1e-5) for x in update] == [3, 3]
    assert same({**found, "layers": {**found["layers"], "q": 0}}, {**base, "layers": {**base["layers"], "q": 0}})
    halves = edits.Edit("add", (("shares", (0.5, 0.5)),))([base, *skills], 0)
    chex.assert_trees_all_close(halves, one_arm.mean(skills, 0), atol=3e-7)


@pytest.mark.parametrize(("edit", "expected"), [
    ({"add": {"shares": (1.0, 1.0)}}, r"shares=\(1.0, 1.0\) of 1 ends beside the base; give one each"),
    ({"restor": {}}, "did you mean 'restore'"), ({"restore": {"kind": ("q",)}}, "did you mean 'kinds'"),
    ({"restore": {"kinds": ("qq",)}}, "did you mean 'q'"), ({"mix": {"share": 2.0}}, r"outside \[0, 1\]"),
    ({"low_rank": {"k": 9}}, "the largest possible is 4"), ({"restore": {}}, "kinds"), ({"mix": 3}, "of one rule"),
])
def test_what_cannot_be_made_is_one_line(edit, expected):
    stage = Stage(start=("base", "sft"), edit=tuple(edit.items()))
    with pytest.raises(UserError, match=expected) as error:
        edits.make("a", stage, lambda: ends()[0])
    assert "\n" not in str(error.value) and edits.make("a", dataclasses.replace(stage, edit=()), None) is None
    with pytest.raises(UserError, match="two places to start from and not trained; found start=.*, 'c'"):
        three = dataclasses.replace(stage, start=("base", "sft", "c"), edit=(("mix", {"share": 0.5}),))
        edits.make("a", three, lambda: ends()[0])
    with pytest.raises(UserError, match="not trained"):
        edits.make("a", dataclasses.replace(stage, edit=(("spectrum_only", {}),), steps=3), lambda: ends()[0])
