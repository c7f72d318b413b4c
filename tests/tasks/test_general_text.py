"""The general text of the package, and how a file of texts becomes tokens."""

import dataclasses

import numpy as np
import pytest

from jaxpost.tasks import general_text
from jaxpost.tasks.tokenizer import Tokenizer

LETTERS = Tokenizer(encode=lambda text: [ord(c) for c in text], decode=lambda ids: "".join(map(chr, ids)), pad=0, eos=1,
                    size=256)


def test_it_ships_200_distinct_texts_without_numbers():
    lines = general_text.SHIPPED.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 200
    assert not any(c.isdigit() for line in lines for c in line), "arithmetic is what the tasks are about"


def test_texts_are_padded_on_the_right_and_cut(tmp_path):
    (tmp_path / "text").write_text("abc\n\nx\nabcdef\nzz\n")
    tokens, mask = general_text.read(tmp_path / "text", LETTERS, 2, 4)
    np.testing.assert_array_equal(tokens, [[97, 98, 99, 0], [97, 98, 99, 100]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(("name", "known", "message"), [
    ("nowhere", LETTERS, "no such file"), ("text", LETTERS, "has 3 texts of two tokens or more, and 4 are asked for"),
    ("text", dataclasses.replace(LETTERS, pad=97), "has 3 texts"),
])
def test_what_is_missing_is_said(tmp_path, name, known, message):
    (tmp_path / "text").write_text("abc\nx\nabcdef\nzz\n")
    with pytest.raises(ValueError, match=message):
        general_text.read(tmp_path / name, known, 4, 4)


def test_a_text_that_begins_with_padding_is_refused(tmp_path):
    (tmp_path / "text").write_text("abc\n")
    with pytest.raises(ValueError, match="begins with the padding token 97"):
        general_text.read(tmp_path / "text", dataclasses.replace(LETTERS, pad=97), 1, 4)


def test_an_end_of_the_users_comes_before_the_tokenizers_own():
    found = dataclasses.replace(LETTERS, ends=(2,)).ending_with("\n")
    assert (found.eos, found.ends) == (10, (1, 2)) and found.ending_with("\n").ends == (1, 2)
    with pytest.raises(ValueError, match="the end 'ab' is 2 tokens"):
        LETTERS.ending_with("ab")
