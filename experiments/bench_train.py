"""A train step beside eager torch: the same weights, rows, loss and AdamW, by turns."""

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
from jaxpost import models, objectives, training

TITLE = "What a train step costs"
QUESTION = "Does a supervised step keep up with eager torch, and how near is it to the machine's matrix products?"
ADAMW = {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
AGREE = 1e-4  # relative: two implementations in float32, after some steps


class Ours:
    """The train step of this project, inline probes included."""

    def __init__(self, c: models.TransformerConfig, params: dict, tokens_NxT: np.ndarray, config: ConfigDict):
        self.spec = training.StepSpec(c, objectives.get("cross_entropy"), tuple(sorted({"name": "adamw", **ADAMW}.items())),
                                      microbatches=config.microbatches, pad=-1)
        rows = objectives.Batch(tokens_NxT[:, :1], tokens_NxT[:, 1:], np.ones(tokens_NxT[:, 1:].shape, np.float32))
        self.rows, self.state = jax.tree.map(jnp.asarray, rows), training.create(self.spec, params, {})
        self.scalars = training.Scalars(jnp.float32(config.learning_rate))
        self.program = jax.jit(lambda state, rows, scalars: training.train_step(self.spec, state, rows, scalars),
                               donate_argnums=0)

    def step(self) -> float:
        """One step; its loss."""
        self.state, metrics = self.program(self.state, self.rows, self.scalars)
        total, count = metrics["loss"]
        return float(total / count)


class Theirs:
    """The plain torch loop: forward, cross entropy, backward, clip, AdamW."""

    def __init__(self, torch, model, tokens_NxT: np.ndarray, config: ConfigDict):
        self.torch, self.model, self.tokens = torch, model, torch.tensor(tokens_NxT, dtype=torch.long)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(ADAMW["b1"], ADAMW["b2"]),
                                           eps=ADAMW["eps"], weight_decay=ADAMW["weight_decay"])

    def step(self) -> float:
        """One step; its loss."""
        logits = self.model(input_ids=self.tokens[:, :-1]).logits
        loss = self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), ADAMW["clip_norm"])
        self.optimizer.step()
        return float(loss.detach())


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Time steps by turns, check that losses agree, print the table, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    benchmark.require_least(config, rows=1, tokens=1, turns=1, microbatches=1)
    torch, _ = benchmark.peer("torch"), benchmark.peer("transformers")  # both before anything is made
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        c, params = benchmark.model_of(config)
        tokens = np.array(jax.random.randint(jax.random.key(1), (config.rows, config.tokens + 1), 0, c.vocab))
        model = benchmark.transformers_model(c, params).train()
        losses, sides = [], (Ours(c, params, tokens, config), Theirs(torch, model, tokens, config))
        ours_s, theirs_s = benchmark.by_turns(*(lambda side=side: losses.append(side.step()) for side in sides), config.turns)
        agree(*np.asarray(losses).reshape(-1, 2).T)
        work = benchmark.training_operations(c, config.rows, config.tokens)
        rate = benchmark.matmul_rate(torch)
        for side, wall_s in (("step", ours_s), ("torch", theirs_s)):
            bundle.cost(f"bench.{side}", wall_s=np.median(wall_s), flops=work)
        bundle.cost("bench.limit", flops_per_s=rate)
        note = f"{np.median(ours_s):.2f} and {np.median(theirs_s):.2f} s"
        targets = [benchmark.at_least("torch", theirs_s / ours_s, 1.2, f"ours and theirs: {note}", "of our time"),
                   benchmark.at_least("limit", work / ours_s / rate, 0.85, f"theirs {np.median(work / theirs_s / rate):.2f}",
                                      "of the matmul rate")]
        benchmark.publish(bundle, session, TITLE, targets)


def agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Both losses of every step are equal up to rounding. Raises: UserError with the first step that differs."""
    apart = np.abs(ours - theirs) > AGREE * np.abs(theirs)
    if apart.any():
        step = int(np.argmax(apart))
        raise UserError(f"losses differ at step {step + 1}: ours {ours[step]:.6f}, theirs {theirs[step]:.6f}: the two steps "
                        "are not the same, and their times mean nothing")
