"""Make a tiny Qwen2 directory, its tokenizer and a text data set, to try `post_train_hf` without a network.

    python -m experiments.tiny_hf DIR

DIR/model holds config.json, weights and a byte-level BPE trained on the data; DIR/train.jsonl and DIR/evaluate.jsonl are
sums of two digits. The weights are random but for a few supervised steps, which teach the form of an answer: without them
no sampled answer would ever be right, and rewards would say nothing.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.command import Parser, make_directory, refuse
from experiments.harness.errors import UserError
from jaxpost import models, objectives, training
from jaxpost.models import hf
from jaxpost.tasks import text, text_data, tokenizer, verifiers
from jaxpost.training import split

END, PAD = "<|im_end|>", "<|endoftext|>"
CHAT = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# How Qwen2's tokenizer parts text before merging: contractions, words, single digits, punctuation, white space.
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
FIELDS = {"prompt": "prompt", "answer": "answer", "target": ""}
PROMPT_TOKENS, ANSWER_TOKENS = 12, 4


def problems() -> list[dict[str, str]]:
    """Every sum of two digits that is a digit itself, in a fixed shuffled order."""
    sums = [{"prompt": f"What is {a} plus {b}?", "answer": str(a + b)} for a in range(10) for b in range(10) if a + b < 10]
    return [sums[i] for i in np.random.default_rng(0).permutation(len(sums))]


def make(directory: Path, steps: int = 40) -> Path:
    """Write everything; returns the model's directory.

    Raises:
      ValueError: the package tokenizers is missing.
    """
    records = problems()
    held = len(records) // 3 // 8 * 8
    for name, part in (("evaluate", records[:held]), ("train", records[held:])):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in part))
    draft, place = directory / "draft", directory / "model"
    draft.mkdir()
    size = write_tokenizer(draft, [f"{record['prompt']} {record['answer']}" for record in records])
    c = models.TransformerConfig(vocab=size + 3, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ff=48, qkv_bias=True,
                                 tied=True)
    params = _taught(c, draft, str(directory / "train.jsonl"), steps)
    hf.save(place, c, params, dtype="bfloat16")
    for file in draft.iterdir():
        file.rename(place / file.name)
    draft.rmdir()
    return place


def write_tokenizer(place: Path, texts: list[str]) -> int:
    """A byte-level BPE like Qwen2's, trained on the texts, as transformers stores it; returns its size."""
    try:
        import tokenizers  # optional: the extra "hf"
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise ValueError("a tokenizer needs the package tokenizers: pip install 'jaxpost[hf]'") from error
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    special = [PAD, "<|im_start|>", END]
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made.save(str(place / "tokenizer.json"))
    about = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "pad_token": PAD, "chat_template": CHAT}
    (place / "tokenizer_config.json").write_text(json.dumps(about))
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": [made.token_to_id(END)]}))
    return made.get_vocab_size()


def _taught(c: models.TransformerConfig, place: Path, train: str, steps: int) -> dict:
    """Random parameters after a few supervised steps on answers shuffled anew in every step: form, not sums, nor one answer."""
    known, rng = tokenizer.load(place), np.random.default_rng(1)
    data = text_data.tokenise(text_data.read(train, FIELDS), known, PROMPT_TOKENS, ANSWER_TOKENS)
    task = text.make("tiny", data, known, verifiers.get("exact"))
    spec = training.StepSpec(c, objectives.get("cross_entropy"), (("name", "adamw"),), pad=known.pad)
    run, member = split.programs(task, spec), training.Member(jnp.uint32(0), training.Scalars(1e-2))
    state = split.start(spec, models.init(c, jax.random.key(0)), {})
    rows = text.rows(data, np.arange(len(data)))
    for _ in range(steps):
        shuffled = rows._replace(answer_T=rng.permutation(rows.answer_T))
        state, _ = split.supervised_step(run, member, state, None, shuffled)
    return state.params


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m experiments.tiny_hf", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a new directory")
    try:
        directory = parser.parse_args(arguments).directory
        make_directory(directory, new=True)
        make(directory)
    except (UserError, ValueError) as error:
        return refuse(error)
    print(f"python -m experiments.run --config=post_train_hf:smoke --config.model.directory={directory / 'model'} "
          f"--config.data.train={directory / 'train.jsonl'} --config.data.evaluate={directory / 'evaluate.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
