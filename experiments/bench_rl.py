"""A GRPO step beside TRL's trainer: the same weights, shapes, loss and optimizer, step by step in turn."""

import os
import time
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
from jaxpost import models, objectives, tasks, training
from jaxpost.lookup import nearest
from jaxpost.models import hf

TITLE = "What a GRPO step costs"
QUESTION = "Does a step of sampling, verifying and training keep up with TRL on the same model, prompts and number of tokens?"
AGREE = 1e-4  # absolute, of losses of the size of an advantage: two implementations in float32


def task(vocab: int, prompt: int, tokens: int) -> tasks.Task:
    """Prompts of random tokens and answers of a fixed length, none of which ends early; reward: the share of odd tokens."""
    def sample(key, knobs):
        del knobs
        return jax.random.randint(key, (prompt,), 1, vocab)

    return tasks.Task("odd_tokens", 1, prompt, tokens, {"train": np.float32(0)}, sample, lambda problem: problem,
                      lambda problem, key: jnp.ones(tokens, jnp.int32), lambda problem, answer: jnp.mean(answer % 2.0),
                      lambda split: 0.5, vocab_size=vocab, pad=0, eos=benchmark.NEVER)


class Ours:
    """Rollouts and the train step as a study runs them, one step a call."""

    def __init__(self, c: models.TransformerConfig, params: dict, case: ConfigDict):
        self.spec = training.StepSpec(c, objectives.get("grpo", kl_coef=0.0), (("clip_norm", 1.0), ("name", "adamw")),
                                      group=case.group, microbatches=case.microbatches)
        source = training.Rollouts(task(c.vocab, case.prompt, case.tokens), case.prompts, self.spec)
        self.program = training.segment_program(source, self.spec, 1)
        self.members = training.stack([training.Member(np.uint32(0), training.Scalars(jnp.float32(case.learning_rate)))])
        self.states = training.stack([training.create(self.spec, params, source.curriculum.init(jax.random.key(0)))])

    def step(self) -> None:
        """One step, to its end."""
        self.states, _ = training.run_segment(self.program, self.states, self.members, 1, None)


class Theirs:
    """TRL's trainer on a directory of the same weights; its trainer is told to sample from the whole softmax."""

    def __init__(self, directory: Path, vocab: int, case: ConfigDict, steps: int, after_step):
        trl, transformers = benchmark.peer("trl"), benchmark.peer("transformers")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        datasets, tokenizers = benchmark.peer("datasets"), benchmark.peer("tokenizers")
        words = {str(token): token for token in range(vocab)}
        inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="0", eos_token="0",
                                                         padding_side="left")
        rows = case.prompts * case.group
        args = trl.GRPOConfig(
            output_dir=str(directory / "trainer"), per_device_train_batch_size=rows // case.microbatches,
            gradient_accumulation_steps=case.microbatches, num_generations=case.group, max_completion_length=case.tokens,
            max_steps=steps, learning_rate=case.learning_rate, lr_scheduler_type="constant", beta=0.0, loss_type="grpo",
            use_bias_correction_kl=False, temperature=1.0, top_k=0, top_p=1.0, report_to=[], use_cpu=True, bf16=False,
            gradient_checkpointing=False, logging_strategy="no", save_strategy="no", disable_tqdm=True,
            generation_kwargs={"min_new_tokens": case.tokens}, model_init_kwargs={"dtype": "float32"})
        prompts = np.random.default_rng(0).integers(1, vocab, (case.prompts * (steps + 1), case.prompt))
        self.prompts = [" ".join(map(str, prompt)) for prompt in prompts]

        class Turns(transformers.TrainerCallback):
            def on_step_end(self, *args, **kwargs):
                after_step()

        self.trainer = trl.GRPOTrainer(
            model=str(directory / "model"), args=args, processing_class=tokenizer, callbacks=[Turns()],
            train_dataset=datasets.Dataset.from_dict({"prompt": self.prompts}),
            reward_funcs=lambda completion_ids, **_: [float(np.mean(np.asarray(ids) % 2)) for ids in completion_ids])
        self.trainer.remove_callback(transformers.PrinterCallback)

    def loss(self, case: ConfigDict) -> tuple[float, dict]:
        """Loss of a batch that the trainer samples from the weights it starts from, and the batch."""
        rows = [{"prompt": prompt} for prompt in self.prompts[:case.prompts] for _ in range(case.group)]
        made = self.trainer._generate_and_score_completions(rows)
        self.trainer.current_gradient_accumulation_steps = 1
        return float(self.trainer._compute_loss(self.trainer.model, made)), made


def agree(spec: training.StepSpec, params: dict, theirs: float, made: dict) -> None:
    """Our loss of the peer's batch is the peer's. Raises: UserError with both, or where an answer ended early."""
    counted = np.asarray(made["completion_mask"], np.float32)
    if not counted.all():
        raise UserError(f"{int((1 - counted).sum())} tokens of the peer's answers are padding: the work is not the same")
    tokens = np.asarray(made["completion_ids"])
    reward = np.mean(tokens % 2, axis=1, dtype=np.float32)
    batch = objectives.Batch(np.asarray(made["prompt_ids"]), tokens, counted, reward)
    batch = jax.tree.map(jnp.asarray, batch)
    logp = training.token_logp(spec, params, batch)
    prepared = spec.objective.prepare(batch._replace(behaviour_NxT=logp), spec.group)
    total, count, _ = spec.objective.loss(objectives.View(logp), prepared, {})
    if abs(float(total / count) - theirs) > AGREE:
        raise UserError(f"losses of one batch differ: ours {float(total / count):.6f}, theirs {theirs:.6f}: the two steps are "
                        "not the same, and their times mean nothing")


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Time steps of every case in turn, check one loss, print the table, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    benchmark.require_least(config, turns=1)
    for case in config.selected:
        if case not in config.cases:
            raise UserError(f"selected: case {case!r} is not known{nearest(case, config.cases)}")
    for peer in ("torch", "transformers", "trl"):  # before anything is made
        benchmark.peer(peer)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        targets = [measured(bundle, case, config.cases[case], config.turns, workdir) for case in config.selected]
        benchmark.publish(bundle, session, TITLE, targets)


def measured(bundle, name: str, case: ConfigDict, turns: int, workdir: Path) -> benchmark.Target:
    """One case: seconds of both steps by turns, after one of each that compiles."""
    c, params = benchmark.model_of(case)
    directory = workdir / "peer" / name
    hf.save(directory / "model", c, params)
    ours, ended, ours_s, theirs_s = Ours(c, params, case), [0.0], [], []

    def after_step():
        theirs_s.append(time.perf_counter() - ended[0])
        ours_s.append(benchmark.seconds(ours.step))
        ended[0] = time.perf_counter()

    theirs = Theirs(directory, c.vocab, case, turns + 1, after_step)
    agree(ours.spec, params, *theirs.loss(case))
    ended[0] = time.perf_counter()
    theirs.trainer.train()
    ours_S, theirs_S = np.asarray(ours_s[1:]), np.asarray(theirs_s[1:])
    rows = case.prompts * case.group
    forward = benchmark.operations(c, rows, case.prompt, case.tokens)  # once to sample, and three times for the gradient
    for side, wall in (("jaxpost", ours_S), ("trl", theirs_S)):
        bundle.cost(f"bench.{name}.{side}", wall_s=np.median(wall), flops=4 * forward)
    note = (f"{models.count_parameters(c) / 1e6:.1f}M, {case.prompts} x {case.group} x {case.tokens} tokens: ours and theirs "
            f"{np.median(ours_S):.2f} and {np.median(theirs_S):.2f} s")
    return benchmark.at_least(f"trl, {name}", theirs_S / ours_S, case.wanted, note, "of our time")
