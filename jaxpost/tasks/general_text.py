"""General text that no task is about: what a policy keeps of it says what it forgot.

`general_text.txt` holds 200 plain English sentences, questions and instructions that were written for this package, in a
shuffled order, so that the first N are a sample of all.
"""

from pathlib import Path

import numpy as np

from jaxpost.tasks.tokenizer import Tokenizer

SHIPPED = Path(__file__).with_suffix(".txt")


def read(source: str | Path, tokenizer: Tokenizer, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens_NxT, mask_NxT) of the first `count` lines of a text file: int32, padded on the right; 1 at real tokens.

    Args:
      source: one text a line, UTF-8; empty lines are left out.
      count: N; length: T. A longer text is cut there: its loss is a sum over tokens, each given those before it.

    Raises:
      ValueError: no such file, fewer than N texts of two tokens, or a text that begins with the padding token.
    """
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{source}: no such file; one text a line, for example {SHIPPED.name} of jaxpost.tasks")
    texts = [tokenizer.encode(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = [[*tokenizer.start, *ids][:length] for ids in texts]
    texts = [ids for ids in texts if len(ids) > 1][:count]
    if len(texts) < count:
        raise ValueError(f"{source} has {len(texts)} texts of two tokens or more, and {count} are asked for")
    if any(ids[0] == tokenizer.pad for ids in texts):
        raise ValueError(f"{source}: a text begins with the padding token {tokenizer.pad}, which would hide it")
    tokens_NxT, mask_NxT = np.full((count, length), tokenizer.pad, np.int32), np.zeros((count, length), np.float32)
    for i, ids in enumerate(texts):
        tokens_NxT[i, :len(ids)], mask_NxT[i, :len(ids)] = ids, 1.0
    return tokens_NxT, mask_NxT
