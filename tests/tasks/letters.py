"""A tokenizer of single characters, for tests without the package tokenizers: token 0 is a letter like any other."""

from jaxpost.tasks.tokenizer import Tokenizer

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz +?"
PAD, EOS = len(LETTERS), len(LETTERS) + 1


def letters(**parts) -> Tokenizer:
    """Characters that it does not know are dropped, as are special tokens."""
    return Tokenizer(**{"encode": lambda text: [LETTERS.index(c) for c in text if c in LETTERS],
                        "decode": lambda ids: "".join(LETTERS[i] for i in ids if i < len(LETTERS)),
                        "pad": PAD, "eos": EOS, "size": EOS + 1, **parts})
