"""Do SFT and GRPO move the weights of a pretrained language model differently on one text data set?

Question: the one of rlvr_sparsity, asked of a Hugging Face directory (Llama, Mistral, Qwen2/2.5, Qwen3, OLMoE, Qwen3-MoE) and
of text that a verifier on the host can check. Both kinds of arm run at the same learning rates; rewards permuted within their
group are the control. Every tuned policy is written back as a Hugging Face directory, which `python -m jaxpost.compare` and
transformers read.

Offline:   python -m experiments.tiny_hf DIR    makes a tiny model, tokenizer and data, and prints the command of the smoke run
Study:     pip install -e '.[tpu,hf]', then with Qwen2.5-0.5B in MODEL and GSM8K as JSONL (fields question, answer) in DATA:
           python -m experiments.run --config=post_train_hf --config.model.directory=MODEL \\
               --config.data.train=DATA/train.jsonl --config.data.evaluate=DATA/test.jsonl \\
               --config.data.prompt=question --config.mesh.fsdp=8
           TFDS instead of JSONL: --config.data.train=tfds:gsm8k:train --config.data.evaluate=tfds:gsm8k:test
Memory:    float32 masters, two moments and the base are 16 bytes a parameter, and the measurement's copy of the base 4 more,
           spread over fsdp. As the TPU compiler says (no TPU was there): an update of Qwen2.5-0.5B in microbatches of 8 rows of
           128 + 256 tokens takes 10.9 of the 15.75 GiB of one v5e chip beside 3.7 of the base; at the default lengths on
           v5e-16, fsdp 16 and one microbatch, every program but the weight probe takes at most 1.7 GiB a chip.
           `--config.memory.report=True` prints it for your machine before step 0, `--compile_for=v5e-16` for any slice.
Run time:  estimate, not measured: 10 to 20 s a GRPO step of 128 rows on 8 TPU v5e chips, most of it sampling; 5 arms, 3 seeds
           and 100 steps take 3 to 5 hours. Any kill is resumed by the same command.
Healthy:   success of the base is that of its model card or below it (temperature 1, no few-shot examples); the RLVR and SFT
           arms at the larger rate raise it, the permuted arm does not; dropped problems are a few per cent.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "3 to 5 hours on 8 TPU v5e chips for Qwen2.5-0.5B (an estimate); smoke one minute on two CPU cores"

# Written before any run; a threshold is also the equivalence margin.
CLAIMS = (
    {"id": "sparser-at-same-lr", "primary": True, "kind": "difference",
     "statement": "RLVR leaves more bf16 weights unchanged than SFT at the same learning rate.",
     "metric": "weight.sparsity.bf16", "dtype": "bf16", "arms": ("rlvr-lr1", "sft-lr1"), "at": "final",
     "direction": "greater", "threshold": 0.02, "equivalence_margin": 0.02},
    {"id": "off-principal-beyond-null", "primary": True, "kind": "excess_over_null",
     "statement": "The RLVR update mask overlaps the principal mask less than the magnitude-conditioned null says.",
     "metric": "weight.overlap.principal", "dtype": "bf16", "k": 16, "alpha": 0.5, "arms": ("rlvr-lr1",), "at": "final",
     "direction": "less", "threshold": -0.01, "equivalence_margin": 0.01},
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = ConfigDict()
    c.experiment = "post_train_hf"
    c.seeds = ConfigDict({
        "first": 100,  # seeds are first, first + 1, ...: of the data order and of sampling; the base is one
        "count": 3,  # one after another; more may be added later
    })
    c.model = ConfigDict({
        "directory": "",  # config.json, safetensors, tokenizer.json
        "compute_dtype": "bfloat16",  # of activations and products; masters are float32
        "expert_products": "grouped",  # of a mixture: a token costs its own experts; dense: all of them
    })
    c.data = ConfigDict({
        "train": "", "evaluate": "",  # JSONL files, or tfds:NAME:SPLIT
        "tfds_directory": "",  # of TFDS data sets; empty: its default
        "prompt": "prompt", "answer": "answer",  # names of the fields
        "target": "",  # field that the verifier compares with; empty: the answer
        "messages": "",  # name of a field with a conversation, instead of the three: every turn of the assistant is a row
        "template": "{prompt}",  # text around the prompt, or around the user's last message
        "chat": False,  # apply the tokenizer's chat template
        "end": "",  # text of one token that ends an answer, such as a line break; empty: the tokenizer's end token
        "verifier": "math",  # exact, math, math_verify, or a Python file of yours (jaxpost/tasks/verifier_file.py)
        "prompt_tokens": 256, "answer_tokens": 256,  # the latter with the end token; longer problems are dropped, counted
        "pack": False,  # several demonstrations of SFT share a row of that width: the same step from fewer rows
    })
    c.ood = ConfigDict()  # name -> JSONL file of further problems of the same form, of which success alone is measured
    c.train = ConfigDict({
        "steps": 100,
        "prompts": 16, "group": 8,  # RL rows = prompts * group; SFT takes as many demonstrations
        "objective": "grpo",  # of the RLVR arms
        "learning_rates": (1e-6, 1e-5),  # both RLVR and SFT run at each
        "sgd_learning_rate": 0.01,  # of arms rlvr-sgd and sft-sgd
        "adapter_learning_rate": 1e-4,  # of LoRA's factors, arms rlvr-lora and sft-lora
        "schedule": "constant", "warmup_steps": 0, "final_share": 0.0,  # of the rate: constant, linear or cosine
        "weight_decay": 0.0, "clip_norm": 1.0, "b1": 0.9, "b2": 0.98,  # of AdamW
        "temperature": 1.0, "top_k": 0, "top_p": 1.0,  # of sampling in RL; 0 and 1: from all tokens
        "microbatches": 16,  # exact accumulation: logits and activations of rows / microbatches are held at once
        "steps_per_call": 10,  # between looks of the host: a loss that is not finite is seen there, checkpoints are due there
    })
    adamw = {name: f"train.{name}" for name in ("weight_decay", "clip_norm", "b1", "b2")}
    c.arm = ConfigDict(defaults.RLVR_AND_SFT)
    c.arm.rlvr.optimizer_settings = c.arm.sft.optimizer_settings = adamw
    c.arm["rlvr-sgd"].optimizer_settings = c.arm["sft-sgd"].optimizer_settings = {"clip_norm": "train.clip_norm"}
    for kind in ("rlvr", "sft"):
        c.arm[f"{kind}-lora"] = {"like": kind, "trainable": "lora", "learning_rate": "train.adapter_learning_rate"}
    c.arms = ("rlvr-lr0", "rlvr-lr1", "sft-lr0", "sft-lr1", "permuted")
    c.tune = ConfigDict({"rank": 8, "lora_alpha": 16.0})  # of adapters; experiments/harness/trainable.py has the rest
    c.measure = ConfigDict({
        "grid_points": 6,  # measured steps, log-spaced from 1 to the last
        "every": 0,  # and every so many steps; 0: at those alone
        "completions": 4,  # prompts whose answers are kept at every measurement, for readers; 0: none
        "probes": ("weight", "ever_changed", "loss_tokens"),  # ids of the catalogue; the policy's statistics always come too
        "spectra": "top",  # top (certified leading triplets), exact for small matrices, masks (of the base alone), none
        "ks": (16,), "alphas": (0.5,),  # first is primary
        "problems": 256,  # of the evaluation set, fixed
        "rows": 32,  # evaluated at once
        "text": "", "text_tokens": 24,  # general text, one a line, of which loss and KL to the base say what was forgotten:
                                        # shipped (200 sentences) or a file; as many texts as problems, cut to so many tokens
    })
    c.mesh = ConfigDict({"ensemble": 1, "data": 1, "fsdp": 1, "tensor": 1})
    c.memory = defaults.memory(remat="layer", logprob_chunk=16384)
    c.export = ConfigDict({
        "dtype": "float32",  # of the tuned directories; bfloat16 halves them and hides small updates
        "best": False,  # also the measured step with the largest success on data.evaluate, which that success then flatters
    })
    c.checkpoint = ConfigDict({"every_seconds": 600.0})
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})  # mode: disabled, offline or online
    c.tensorboard = False  # event files in the bundle's telemetry/tensorboard
    if argument == "smoke":
        c.seeds.count = 2
        c.model.compute_dtype = "float32"
        c.data.update({"prompt_tokens": 12, "answer_tokens": 4})
        c.train.update({"steps": 6, "prompts": 4, "group": 4, "learning_rates": (1e-4, 1e-3), "microbatches": 2,
                        "steps_per_call": 2})
        c.arms = ("rlvr-lr1", "sft-lr1", "permuted")
        c.measure.update({"grid_points": 2, "spectra": "exact", "problems": 16, "rows": 8})
    elif argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default, smoke)")
    return c
