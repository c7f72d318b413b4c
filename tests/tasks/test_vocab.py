"""The shared vocabulary and its packing helpers."""

import doctest

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.tasks import vocab


def test_round_trip_and_size():
    assert vocab.encode(vocab.SYMBOLS) == list(range(vocab.SIZE))
    assert vocab.decode(vocab.encode("^12+a>b?$_")) == "^12+a>b?$_"
    assert len(set(vocab.SYMBOLS + vocab.MARKS)) == vocab.MARKED == vocab.ID == 64
    assert vocab.encode(vocab.MARKS) == list(range(vocab.SIZE, vocab.MARKED))
    assert (vocab.PAD, vocab.BOS, vocab.EOS) == (0, 1, 2)


def test_tokens_outside_the_vocabulary():
    assert vocab.decode([-1, vocab.MARKED, 3]) == "##0"
    with pytest.raises(ValueError, match=r"\['A', 'B'\].*not in the vocabulary"):
        vocab.encode("1A2B")


def test_doctests():
    assert doctest.testmod(vocab).failed == 0


@pytest.mark.parametrize("value", [0, 7, 10, 99, 100, 999_999_999])
def test_decimal_prints_like_python(value):
    tokens, keep = vocab.decimal(jnp.int32(value), 9)
    assert vocab.decode(np.asarray(tokens)[np.asarray(keep)]) == str(value)


@pytest.mark.parametrize("align,expected", [("left", "12+__"), ("right", "__12+")])
def test_pack_removes_gaps(align, expected):
    tokens, keep = jnp.asarray(vocab.encode("1a2b+")), jnp.asarray([True, False, True, False, True])
    assert vocab.decode(vocab.pack(tokens, keep, 5, align)) == expected
    nothing = vocab.pack(tokens, keep & False, 5, align)
    assert vocab.decode(nothing) == "_____"


def test_pack_drops_what_finds_no_room():
    tokens, keep = jnp.asarray(vocab.encode("12345")), jnp.ones((5,), bool)
    assert vocab.decode(vocab.pack(tokens, keep, 3, "left")) == "123"
    assert vocab.decode(vocab.pack(tokens, keep, 3, "right")) == "345"
