"""The two problems of `coherence_labels`: clusters under a classifier, addition under a decoder; labels real or random.

Legend: m examples, F features, C classes, P prompt and T completion tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpost import models, objectives, tasks, training
from jaxpost.probes.gradients import coherence


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an arm trains. Functions of one key or one example; `targets` are the fields that random labels permute."""

    init: Callable[[jax.Array], Any]  # key -> parameters
    draw: Callable[[jax.Array], Any]  # key -> training examples with real labels
    loss: Callable[[Any, Any], jax.Array]  # (params, example) -> sum over its target tokens
    targets: tuple[str, ...]
    tokens: Callable[[Any], jax.Array]  # examples -> number of target tokens of each
    learning_rate: float
    rows: Callable[[Any, Any, models.Reader], jax.Array] | None = None  # the same loss of every example, for ghost norms

    def examples(self, key: jax.Array, random_labels: bool) -> Any:
        """The training set; random labels are the real ones of other examples, fixed for the whole run."""
        real = self.draw(jax.random.fold_in(key, 0))
        return coherence.permuted(real, self.targets, jax.random.fold_in(key, 1)) if random_labels else real


def logits(params, x):
    """Of the classifier of `clusters`: [..., C] of x [..., F]."""
    for i, layer in enumerate(params["layers"]):
        x = (jax.nn.relu(x) if i else x) @ layer["w"] + jnp.expand_dims(layer["b"], tuple(range(x.ndim - 1)))
    return x


def clusters(section, count: int) -> Problem:
    """Gaussian clusters of equal size and a classifier of three linear layers (leaves `layers/<i>/w`, `layers/<i>/b`)."""
    sizes = (section.features, section.width, section.width, section.classes)

    def init(key):
        return {"layers": [{"w": jax.random.normal(jax.random.fold_in(key, i), shape) * (2 / shape[0]) ** 0.5,
                            "b": jnp.zeros(shape[1])} for i, shape in enumerate(zip(sizes, sizes[1:], strict=False))]}

    def draw(key):
        centre, noise = (jax.random.normal(jax.random.fold_in(key, i), (n, section.features))
                         for i, n in enumerate((section.classes, count)))
        label = jnp.arange(count) % section.classes
        return {"x": section.separation * centre[label] + noise, "label": label}

    def loss(params, example):
        return -jax.nn.log_softmax(logits(params, example["x"]))[example["label"]]

    return Problem(init, draw, loss, ("label",), lambda examples: jnp.ones(len(examples["label"])), section.learning_rate)


def addition(section, count: int) -> Problem:
    """Sums of two numbers and a decoder; random labels are answers to other problems."""
    task = tasks.get("addition", digits=section.digits)
    model = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=section.width, layers=section.layers, heads=2, kv_heads=2,
                                     head_dim=section.width // 2, ff=2 * section.width)
    spec = training.StepSpec(model, objectives.get("cross_entropy"), (("name", "adamw"),))

    def draw(key):
        return training.demonstrations(task, "train", jax.random.randint(key, (count,), 0, 2**31 - 1))

    def loss(params, example):
        row = jax.tree.map(lambda x: x[None], example)
        return -(training.token_logp(spec, params, row) * row.mask_NxT).sum()

    def by_rows(params, examples, reader):
        return -(training.token_logp(spec, params, examples, reader) * examples.mask_NxT).sum(axis=1)

    return Problem(lambda key: models.init(model, key), draw, loss, ("completion_NxT", "mask_NxT"),
                   lambda examples: examples.mask_NxT.sum(axis=1), section.learning_rate, by_rows)


MAKERS = {"clusters": clusters, "addition": addition}
