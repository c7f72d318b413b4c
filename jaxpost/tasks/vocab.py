"""One vocabulary for every family, so that one model can be trained on, and transferred between, all of them.

Numbers are digit tokens, nodes are letter tokens. Token 0 is padding everywhere. Families that write reasoning use MARKS as
well, and those with more names than letters use tokens from ID on; a model whose vocabulary ends at SIZE can learn the others.
"""

import jax.numpy as jnp

PAD, BOS, EOS = 0, 1, 2
SYMBOLS = "_^$0123456789+-*/()=,>?abcdefghijklmnopqrstuvwxyzYN"  # position = token; `_^$` print PAD, BOS, EOS
MARKS = "[]~.;:|&!<%@'"  # tokens SIZE and on
SIZE = len(SYMBOLS)
MARKED = SIZE + len(MARKS)
ID = MARKED  # token of the i-th name is ID + i
TOKEN = {symbol: token for token, symbol in enumerate(SYMBOLS + MARKS)}
DIGIT = TOKEN["0"]  # token of the digit d is DIGIT + d
LETTER = TOKEN["a"]  # token of the i-th letter is LETTER + i
LETTERS = 26


def encode(text):
    """Tokens of `text`, one a character (`_`, `^`, `$` stand for PAD, BOS, EOS).

    Args:
        text: str over `SYMBOLS` and `MARKS`.
    Returns:
        list[int] of the same length.
    Raises:
        ValueError: a character outside the vocabulary.

    >>> encode("1+2$")
    [4, 13, 5, 2]
    """
    unknown = sorted(set(text) - set(TOKEN))
    if unknown:
        raise ValueError(f"characters {unknown} in {text!r} are not in the vocabulary {SYMBOLS + MARKS!r}")
    return [TOKEN[symbol] for symbol in text]


def decode(tokens):
    """Text of `tokens`, one character a token; `#` for a token outside the vocabulary (a model may emit one).

    >>> decode([0, 1, 4, 13, 5, 99])
    '_^1+2#'
    """
    return "".join((SYMBOLS + MARKS)[int(t)] if 0 <= int(t) < MARKED else "#" for t in tokens)


def decimal(value, width):
    """Decimal digits of a non-negative integer, most significant first.

    Args:
        value: i32[], 0 <= value < 10**width (higher digits are cut off), width <= 9.
        width: static int, number of places.
    Returns:
        (tokens i32[width], keep bool[width]): digit tokens, and which of them are not leading zeros
        (the last digit is always kept, so 0 prints as "0").
    """
    power_W = jnp.asarray([10**place for place in reversed(range(width))], jnp.int32)
    value = jnp.full((width,), value, jnp.int32)
    keep_W = (value >= power_W) | (power_W == 1)
    return DIGIT + value // power_W % 10, keep_W


def pack(tokens_W, keep_W, width, align):
    """The kept tokens, in order and without gaps, in a row of `width` padded with PAD.

    Args:
        tokens_W: i32[W].
        keep_W: bool[W]; at most `width` of them true (what finds no room is dropped on the side away from `align`).
        width: static int.
        align: static, "left" (padding after) or "right" (padding before).
    Returns:
        i32[width].
    """
    count_W = jnp.cumsum(keep_W.astype(jnp.int32))
    start = 0 if align == "left" else width - count_W[-1]
    place_W = start + count_W - 1
    place_W = jnp.where(keep_W & (place_W >= 0), place_W, width)
    return jnp.full((width,), PAD, jnp.int32).at[place_W].set(tokens_W.astype(jnp.int32), mode="drop")
