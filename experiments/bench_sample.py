"""Sampling beside `generate` of transformers: the same weights, prompts and number of tokens, by turns."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import benchmark
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.session import StopSignals
from jaxpost import models

TITLE = "What sampling costs"
QUESTION = "Does sampling keep up with `generate` of transformers, and how near is it to the machine's matrix products?"
MARGIN = 1e-3  # logits of two implementations in float32 differ by less


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Check that both write the same, time them by turns, print the table, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    benchmark.require_least(config, rows=1, prompt=1, tokens=1, turns=1)
    torch, _ = benchmark.peer("torch"), benchmark.peer("transformers")  # both before anything is made
    c = models.TransformerConfig(**config.model)
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        params = models.init(c, jax.random.key(0))
        prompt = np.array(jax.random.randint(jax.random.key(1), (config.rows, config.prompt), 1, c.vocab))
        model = benchmark.transformers_model(c, params).eval()
        inputs = {"input_ids": torch.tensor(prompt), "attention_mask": torch.ones(prompt.shape, dtype=torch.long)}
        model.generation_config.eos_token_id = None

        def theirs(**options):
            with torch.inference_mode():
                return model.generate(**inputs, max_new_tokens=config.tokens, pad_token_id=0, **options)

        sample = jax.jit(lambda params, key: models.sample(c, params, jnp.asarray(prompt), key, length=config.tokens,
                                                           eos=benchmark.NEVER))
        agree(c, params, prompt, theirs(do_sample=False)[:, config.prompt:].numpy())
        ours_s, theirs_s = benchmark.by_turns(lambda: sample(params, jax.random.key(2)),
                                              lambda: theirs(do_sample=True, top_k=0), config.turns)
        work, rate = benchmark.operations(c, config.rows, config.prompt, config.tokens), benchmark.matmul_rate(torch)
        for side, wall_s in (("sample", ours_s), ("generate", theirs_s)):
            bundle.cost(f"bench.{side}", wall_s=np.median(wall_s), flops=work)
        bundle.cost("bench.limit", flops_per_s=rate)
        shares = " and ".join(f"{np.median(wall_s):.2f} s ({work / np.median(wall_s) / rate:.2f} of the matmul rate)"
                              for wall_s in (ours_s, theirs_s))
        targets = [benchmark.at_least("generate", theirs_s / ours_s, 3.0, f"ours and theirs: {shares}", "of our time")]
        benchmark.publish(bundle, session, TITLE, targets)


def agree(c: models.TransformerConfig, params: dict, prompt_NxP: np.ndarray, greedy_NxT: np.ndarray) -> None:
    """Every token of the peer's greedy answers has our largest logit, up to a margin. Raises: UserError with the worst."""
    logits = models.token_logits(c, params, jnp.asarray(prompt_NxP), jnp.asarray(greedy_NxT))
    taken = jnp.take_along_axis(logits, jnp.asarray(greedy_NxT)[..., None], axis=-1)[..., 0]
    if (worst := float((logits.max(axis=-1) - taken).max())) > MARGIN:
        raise UserError(f"the peer's greedy token is {worst:.2g} below our largest logit, more than {MARGIN:g}: the two models "
                        "are not the same, and their times mean nothing")
