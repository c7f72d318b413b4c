"""How a decoder's attention is read, and which sequences a task lets the induction probe say twice."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxpost import models, tasks
from jaxpost.probes import circuits
from jaxpost.tasks import Task, rasp, vocab

FORMS = {rasp.NAME: ("^", "=")}  # task -> what stands before the halves and between them, as in its demonstrations


def heads(model: models.TransformerConfig, task: Task) -> circuits.Heads:
    """Sequences of the tokens that the first 256 problems of split `id` are asked with, marks left out."""
    before, between = (tuple(vocab.encode(text)) for text in FORMS.get(task.name, ("", "")))
    marks = (task.pad, vocab.BOS, vocab.EOS, *before, *between)
    symbols = np.setdiff1d(np.asarray(tasks.examples(task, "id", jnp.arange(256)).prompt_NxP), marks)
    return circuits.Heads(scores_of(model), tuple(symbols.tolist()), 2 * model.width + model.head_dim, before, between)


@functools.cache
def scores_of(model: models.TransformerConfig):
    """(params, tokens_NxT) -> attention scores [L, N, H, T, T]; one function a model, so that arms share the program."""
    def scores(params, tokens_NxT):
        return models.residual_stream(model, params, tokens_NxT, valid_BxS=jnp.ones(tokens_NxT.shape, bool),
                                      scores=True).score_LxBxHxTxT

    return scores
