"""The load balance against that of transformers, layer by layer, under left padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.training import router_losses

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
pytest.importorskip("transformers", reason="pip install -e '.[test,parity]'")

pytestmark = [pytest.mark.parity, pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])]


def test_load_balance(hf, family):
    from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

    model, c = hf.build(family)
    tokens = np.random.default_rng(0).integers(2, hf.vocab, (4, 11))
    valid = np.arange(11)[None, :] >= 2 * np.arange(4)[:, None]
    params = hf.tree(model.named_parameters(), c)
    router = models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid)).router
    found, _ = router_losses.measure(c.experts_per_token, router, jnp.asarray(valid))
    layers = [torch.tensor(np.asarray(z).reshape(-1, c.experts)) for z in router["logits"]]
    mask = torch.tensor(valid.astype(np.int64))
    expected = np.mean([float(load_balancing_loss_func((z,), c.experts, c.experts_per_token, mask)) for z in layers])
    hf.agree(abs(float(found["router_balance"]) - expected) / expected, 1e-6)


def test_router_logits_are_those_of_transformers(hf, family):
    model, c = hf.build(family)
    tokens = np.random.default_rng(0).integers(2, hf.vocab, (4, 11))
    seen = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, inputs, out: seen.append(out[0].detach().numpy()))
    model(input_ids=torch.tensor(tokens))
    params = hf.tree(model.named_parameters(), c)
    logits = models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.ones(tokens.shape, bool)).router["logits"]
    hf.agree(hf.normwise(np.asarray(logits).reshape(c.layers, -1, c.experts), np.stack(seen)), 1e-5)
