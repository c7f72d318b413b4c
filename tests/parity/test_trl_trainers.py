"""Whole TRL trainers on a tiny Qwen2: the same rewards give the same advantages, loss and parameter gradients.

TRL generates the completions; everything after that (log-probabilities at a temperature, reference, KL, advantages,
aggregation, gradient) is computed by both sides. One row's reward is fractional and one group's rewards are equal.
"""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives, training
from jaxpost.objectives import Batch

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
trl = pytest.importorskip("trl", reason="pip install -e '.[test,parity]'")
datasets, tokenizers, transformers = map(pytest.importorskip, ("datasets", "tokenizers", "transformers"))

pytestmark = pytest.mark.parity

GROUP, LENGTH, TEMPERATURE, BETA = 4, 8, 0.8, 0.05
PROMPTS = ("1 2 3", "4 5", "6 7 8 9")
REWARDS = (1.0, 0.0, 0.3, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0)
MISSING = (1.0, None, 0.3, 0.0, None, None, 0.7, None, None, None, None, None)  # a group with a gap, with one reward, with none


def tokenizer(hf):
    """Digits and two special tokens; pads on the left."""
    words = {"<pad>": hf.pad, "<eos>": hf.eos, **{str(i): i + 2 for i in range(hf.vocab - 2)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>",
                                                padding_side="left")


@pytest.fixture
def saved(hf, tmp_path, monkeypatch):
    """A reference model on disk; trainers load the policy and the reference from there."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, config = hf.build("qwen2")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.2)  # the tied head: flat enough to emit the end token now and then
    model.save_pretrained(tmp_path / "model")
    return types.SimpleNamespace(path=str(tmp_path / "model"), out=str(tmp_path / "out"), config=config,
                                 reference=hf.tree(model.named_parameters(), config))


def moved(trainer):
    """The trainer's policy, a step away from the reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_rows(kind, saved, hf, rewards=REWARDS, **options):
    """(trainer, its batch) of three groups."""
    config, make = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}[kind]
    args = config(output_dir=saved.out, per_device_train_batch_size=len(REWARDS), num_generations=GROUP, beta=BETA,
                  max_completion_length=LENGTH, temperature=TEMPERATURE, report_to=[], use_cpu=True, bf16=False,
                  gradient_checkpointing=False, model_init_kwargs={"dtype": "float32", "attn_implementation": "eager"},
                  generation_kwargs={"suppress_tokens": [hf.pad]},  # torch's pad embedding gets no gradient
                  **options)
    data = datasets.Dataset.from_dict({"prompt": list(PROMPTS)})
    trainer = moved(make(model=saved.path, args=args, processing_class=tokenizer(hf), train_dataset=data,
                         reward_funcs=lambda **_: list(rewards)))
    torch.manual_seed(0)
    repeated = [{"prompt": p} for p in itertools.chain.from_iterable([p] * GROUP for p in PROMPTS)]
    return trainer, trainer._generate_and_score_completions(repeated)


def our_loss(spec, saved, batch):
    """params -> (loss, prepared batch), with TRL's choice that the behaviour is the policy itself."""
    def loss(params):
        behaviour = jax.lax.stop_gradient(training.token_logp(spec, params, batch))
        reference = training.token_logp(spec, saved.reference, batch)
        prepared = spec.objective.prepare(batch._replace(behaviour_NxT=behaviour, reference_NxT=reference), spec.group)
        total, count, _ = spec.objective.loss(objectives.View(training.token_logp(spec, params, batch)), prepared, {})
        return total / count, prepared
    return loss


ARMS = {
    "grpo": ("grpo", {"loss_type": "grpo", "use_bias_correction_kl": False}, {"kl_place": "loss"}),
    "dr_grpo": ("dr_grpo", {"loss_type": "dr_grpo", "use_bias_correction_kl": False, "scale_rewards": "none"},
                {"kl_place": "loss", "aggregation_length": LENGTH}),
    "grpo-batch-std": ("grpo", {"loss_type": "grpo", "use_bias_correction_kl": False, "scale_rewards": "batch"},
                       {"kl_place": "loss", "scale": "batch"}),
    "rloo": ("rloo", {}, {"kl_place": "reward", "kl_estimator": "k1"}),
}


COUNTED = {"aggregation_empty": "counted"}
for _name in ("grpo", "dr_grpo", "grpo-batch-std", "rloo"):  # missing rewards; rows cut before their end left out
    _recipe, _options, _parts = ARMS[_name]
    ARMS[f"{_name}-missing"] = (_recipe, _options | {"rewards": MISSING}, _parts)
    _more = {"dr_grpo": {"mask_truncated": True}, "grpo": {"mask_truncated": True, **COUNTED}, "rloo": COUNTED}[_recipe]
    ARMS[f"{_name}-truncated"] = (_recipe, _options | {"mask_truncated_completions": True}, _parts | _more)
ARMS["rloo-whitened"] = ("rloo", {"normalize_advantages": True}, ARMS["rloo"][2] | {"whiten": "row"})
ARMS["rloo-whitened-truncated"] = ("rloo", {"normalize_advantages": True, "mask_truncated_completions": True},
                                   ARMS["rloo-truncated"][2] | {"whiten": "row"})
ARMS["rloo-whitened-missing"] = ("rloo", {"normalize_advantages": True, "rewards": MISSING},
                                 ARMS["rloo"][2] | {"whiten": "row"})


@pytest.mark.parametrize("arm", ARMS)
def test_rl(hf, saved, arm):
    recipe, options, parts = ARMS[arm]
    trainer, made = trl_rows("rloo" if recipe == "rloo" else "grpo", saved, hf, **options)
    rewards = np.asarray([np.nan if r is None else r for r in options.get("rewards", REWARDS)], np.float32)
    expected = trainer._compute_loss(trainer.model, made)
    expected.backward()
    slope = hf.tree(((name, p.grad) for name, p in trainer.model.named_parameters()), saved.config)

    spec = training.StepSpec(saved.config, objectives.get(recipe, kl_coef=BETA, **parts), (("name", "adamw"),),
                             group=GROUP, temperature=TEMPERATURE)
    batch = Batch(*(jnp.asarray(made[name].numpy()) for name in ("prompt_ids", "completion_ids")),
                  jnp.asarray(made["completion_mask"].numpy(), jnp.float32), jnp.asarray(rewards))
    cut = np.asarray(batch.mask_NxT).sum(axis=1) == 0
    assert not options.get("mask_truncated_completions") or 0 < cut.sum() < len(cut)
    if recipe == "rloo":  # an empty row's ratio is exp(0) in TRL, and adds -A to the value, not to the gradient
        expected = expected + made["advantages"][torch.tensor(cut)].sum() / len(cut)
    if parts.get("mask_truncated"):  # TRL has emptied these rows already; ours does it itself, after a KL in the reward
        full = np.where(cut[:, None], 1.0, np.asarray(batch.mask_NxT))
        batch = batch._replace(mask_NxT=jnp.asarray(full, jnp.float32), truncated_N=jnp.asarray(cut, jnp.float32))
    params = hf.tree(trainer.model.named_parameters(), saved.config)
    (value, prepared), gradient = jax.value_and_grad(our_loss(spec, saved, batch), has_aux=True)(params)

    advantage = prepared.advantage_NxT[:, 0]
    kept = ~cut if parts.get("whiten") else slice(None)  # whitened advantages are those of tokens
    np.testing.assert_allclose(advantage[kept], made["advantages"].numpy()[kept], atol=2e-6)
    assert np.ptp(np.asarray(made["completion_mask"]).sum(1)) > 0, "completions of one length test less"
    assert abs(float(value) - expected.item()) <= 1e-6
    hf.agree(hf.normwise(gradient, slope), 1e-5)


def test_supervised(hf, saved):
    """TRL pads rows on the right, prompt and completion together; the loss does not depend on where padding is."""
    args = trl.SFTConfig(output_dir=saved.out, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
                         model_init_kwargs={"dtype": "float32", "attn_implementation": "eager"})
    data = datasets.Dataset.from_dict({"prompt": ["1 2"], "completion": ["3 4"]})
    trainer = trl.SFTTrainer(model=saved.path, args=args, processing_class=tokenizer(hf), train_dataset=data)
    trainer.model.train()
    prompts, answers = [[3, 4, 5], [6], [7, 8]], [[2, 9, hf.eos], [4, 5, 6, 7, hf.eos], [hf.eos]]
    whole = [p + a for p, a in zip(prompts, answers, strict=True)]
    width = max(map(len, whole))

    def padded(rows, pad):
        return torch.tensor([row + [pad] * (width - len(row)) for row in rows])

    loss = trainer.compute_loss(trainer.model, {
        "input_ids": padded(whole, hf.pad), "attention_mask": padded([[1] * len(x) for x in whole], 0),
        "labels": padded([[-100] * len(p) + a for p, a in zip(prompts, answers, strict=True)], -100)})
    loss.backward()
    slope = hf.tree(((name, p.grad) for name, p in trainer.model.named_parameters()), saved.config)

    spec = training.StepSpec(saved.config, objectives.get("cross_entropy"), (("name", "adamw"),))
    P, T = max(map(len, prompts)), max(map(len, answers))
    batch = Batch(jnp.asarray([[hf.pad] * (P - len(p)) + p for p in prompts]),
                  jnp.asarray([a + [hf.pad] * (T - len(a)) for a in answers]),
                  jnp.asarray([[1.0] * len(a) + [0.0] * (T - len(a)) for a in answers]))

    def ours(params):
        total, count, _ = spec.objective.loss(objectives.View(training.token_logp(spec, params, batch)), batch, {})
        return total / count

    value, gradient = jax.value_and_grad(ours)(hf.tree(trainer.model.named_parameters(), saved.config))
    assert abs(float(value) - loss.item()) <= 1e-6 * abs(loss.item())
    hf.agree(hf.normwise(gradient, slope), 1e-5)
