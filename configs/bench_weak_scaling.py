"""Does a chip get more to do when chips are added?

Question: the updates of SFT and GRPO and the rollout of `post_train_hf`, compiled for TPU slices of several sizes with the
rows of a chip kept. `fsdp` chips share the parameters, the others take further rows. What a chip computes, holds and
receives has to stay as it is: the exponent in the number of chips is near 0. Slices smaller than `fsdp` share the
parameters in fewer parts; they are shown and not fitted. Nothing is run: the numbers are the TPU compiler's, no seconds.

    FLOPs           exponent of the compiler's count a chip              at most 0.02
    memory          exponent of the bytes that a chip holds              at most 0.05
    collectives     exponent of the bytes that a chip is sent            at most 0.1

Command:   python -m experiments.run --config=bench_weak_scaling          (needs `pip install -e '.[tpu]'`, no TPU)
           python -m experiments.run --config=bench_weak_scaling:smoke    (a short context on two small slices)
Misleads:  bytes say nothing of the time that they take: a slice of several hosts has slower links. The compiler counts the
           body of a loop once, so FLOPs of programs that move weights in loops compare with no others.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "9 min on two busy CPU cores (smoke 5 CPU minutes)"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_weak_scaling"
    c.directory = "Qwen2.5-0.5B"  # a shipped shape, or a Hugging Face directory
    c.slices = ("v5e-4", "v5e-16", "v5e-64", "v5e-256")
    c.prompts, c.group = 1, 8  # a chip has prompts * group rows
    c.prompt_tokens, c.answer_tokens = 128, 256
    c.fsdp = 16  # chips that share the parameters
    c.mesh = ConfigDict({"ensemble": 1})  # of this process; the slices have meshes of their own
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.slices, c.fsdp = ("v5e-4", "v5e-16"), 4
        c.prompt_tokens, c.answer_tokens = 16, 16
    return c
