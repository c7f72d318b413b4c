"""Functions of the package as one program each; called as they stand, a test compiles a program for every operation in them."""

import jax

from jaxpost import models, training
from jaxpost.training import step

apply = jax.jit(models.apply, static_argnums=0, static_argnames=("first", "reader", "logits"))
sample = jax.jit(models.sample, static_argnums=0, static_argnames=("length", "top_k", "top_p", "eos", "pad", "early_stop"))
token_logits = jax.jit(models.token_logits, static_argnums=0)
token_logp = jax.jit(training.token_logp, static_argnums=0)
view = jax.jit(step.view, static_argnums=0)
