"""The templates of OMEGA: any fraction of the right value, grids in another form, ranks by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import omega, omega_templates, vocab


@pytest.mark.parametrize("value, texts, wrong", [
    ((3, 10), ("3/10", "6/20", "27/90"), ("3", "03/10", "3/", "/10", "3/10/1", "-3/10", "--3/10", "3/0", "0.3", "30/10")),
    ((-7, 1), ("-7", "-7/1", "-14/2"), ("7", "-07", "-", "7/-1", "-7-", "", "-8")),
])
def test_every_fraction_of_the_value_is_right(value, texts, wrong):
    problem = omega.Problem(jnp.zeros(1, jnp.int32), *map(jnp.int32, value), jnp.zeros(1, jnp.int32))
    rows = np.asarray([vocab.encode(text + "$" + "_" * (omega.ANSWER - 1 - len(text))) for text in (*texts, *wrong)])
    reward = jax.vmap(lambda row: omega._verify(problem, row))(rows)
    np.testing.assert_array_equal(reward, [1.0] * len(texts) + [0.0] * len(wrong))


def test_a_mirrored_grid_has_the_same_content_and_as_many_ways():
    blocked = np.random.default_rng(0).random((32, 6, 6)) < 0.25
    made = jax.jit(jax.vmap(omega_templates._grid, (None, 0)))(4, blocked)
    inside, turned = blocked[:, :4, :4], blocked.copy()
    for mirror in (inside.transpose(0, 2, 1), inside[:, ::-1, ::-1], inside[:, ::-1, ::-1].transpose(0, 2, 1)):
        turned[:, :4, :4] = mirror
        other = jax.jit(jax.vmap(omega_templates._grid, (None, 0)))(4, turned)
        np.testing.assert_array_equal(other.content, made.content)
        np.testing.assert_array_equal(other.numerator, made.numerator)
    assert len(np.unique(np.asarray(made.content), axis=0)) > 24 and len(set(made.numerator.tolist())) > 5


def test_the_levels_and_axes_are_what_they_say():
    task = tasks.get("omega", skills=("rank", "draws", "gcd", "roots", "paths"))
    assert list(task.splits) == ["train", "id", "ood/level", "ood/composed", "ood/transformed"]
    assert list(tasks.get("omega", skills=("gcd",)).splits) == ["train", "id", "ood/level"]
    rows = {split: {(text[1], text.count("|")) for row in np.asarray(tasks.examples(
        task, split, np.arange(256, dtype=np.uint32)).prompt_NxP) for text in [tasks.to_text(task, row)] if "|" in text}
        for split in task.splits}
    assert rows == {"train": {("k", 3), ("p", 3), ("p", 4)}, "id": {("k", 3), ("p", 3), ("p", 4)},
                    "ood/level": {("k", 4), ("p", 5), ("p", 6)}, "ood/composed": {("k", 3)},
                    "ood/transformed": {("k", 6), ("p", 6)}}
