"""Text data: reading, what fits, the digest, the order; and a text task made of it."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxpost import tasks
from jaxpost.tasks import text, text_data, verifiers
from jaxpost.tasks.verifiers import Problem

from .letters import EOS, LETTERS, PAD, letters

FIELDS = {"prompt": "question", "answer": "answer", "target": ""}


def written(path, *records):
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records), encoding="utf-8")
    return str(path)


def pair(question, answer="a"):
    return {"question": question, "answer": answer}


def test_lines_are_problems_and_a_target_may_have_its_own_field(tmp_path):
    source = written(tmp_path / "a.jsonl", {**pair("1+1?\u2028x", "two"), "gold": 2}, "", pair("q", "b"))
    assert text_data.read(source, FIELDS) == [Problem("1+1?\u2028x", "two", "two"), Problem("q", "b", "b")]
    with pytest.raises(ValueError, match="line 3: .*'gold'"):
        text_data.read(source, {**FIELDS, "target": "gold"})
    one = written(tmp_path / "b.jsonl", {**pair("q", "two"), "gold": 2})
    assert text_data.read(one, {**FIELDS, "target": "gold"}) == [Problem("q", "two", "2")]


@pytest.mark.parametrize(("lines", "message"), [
    ([{"questoin": "q", "answer": "a"}], "line 1: .*'question'.*'questoin'"),
    ([pair("q"), "{"], "line 2 is not JSON"), (["[1]"], "line 1 is list, expected an object"), ([], "is empty"),
    ([""], "is empty"), ([pair(" ")], "field 'question' is ' ', expected text"), ([pair(None)], "is None, expected text"),
    ([pair(["q"])], "expected text"), (['{"question": "q", "answer": "a", "answer": "b"}'], "line 1 .*'answer' stands twice"),
    (['{"question": "q", "answer": NaN}'], "line 1 .*NaN is no JSON number"), (["[" * 100_000], "line 1 is not JSON"),
    ([pair("q"), '{"question": "hi \\ud83d", "answer": "3"}'], r"line 2: field 'question' has the lone surrogate '\\ud83d' at"),
    (['{"question": "q", "answer": "\\ude00"}'], "line 1: field 'answer' has the lone surrogate"),
])
def test_what_cannot_be_read_names_its_place(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        text_data.read(written(tmp_path / "a.jsonl", *lines), FIELDS)


@pytest.mark.parametrize("written_as", ["0.00001", "1e16", "10000000000000000.0", "1500", "-0.50", "1E+3", "1e400",
                                        "123456789" * 40, "true", "false"])
def test_numbers_keep_their_written_text(tmp_path, written_as):
    source = written(tmp_path / "a.jsonl", f'{{"question": "q", "answer": {written_as}}}')
    assert text_data.read(source, FIELDS) == [Problem("q", written_as, written_as)]


def test_whole_emoji_are_no_lone_surrogates_and_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"question": "\\ud83d\\ude00", "answer": "3"}\n', encoding="utf-8")
    assert text_data.read(str(tmp_path / "a.jsonl"), FIELDS) == [Problem("\U0001f600", "3", "3")]


def test_a_file_that_is_not_there_names_those_beside_it_and_bytes_are_no_text(tmp_path):
    written(tmp_path / "train.jsonl", pair("q"))
    with pytest.raises(ValueError, match="no such file.*train.jsonl"):
        text_data.read(str(tmp_path / "trian.jsonl"), FIELDS)
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        text_data.read(str(tmp_path / "b.jsonl"), FIELDS)


def test_tfds_records_are_read_by_position(monkeypatch, tmp_path):
    asked = {}

    def source(name, **given):
        asked.update(given, name=name)
        return [{"question": b"q\xc3\xa9", "answer": "a"}, {"question": "r", "answer": np.int64(3).item()}]

    with monkeypatch.context() as patch:
        patch.setattr(tfds, "data_source", source)
        for name, split in (("gsm8k/main", "train[:10%]"), ("gsm8k", "train"), ("gsm8k:1.0.0", "train+test")):
            found = text_data.read(f"tfds:{name}:{split}", FIELDS, str(tmp_path))
            assert found == [Problem("q\u00e9", "a", "a"), Problem("r", "3", "3")]
            assert asked == {"name": name, "split": split, "data_dir": str(tmp_path), "download": False}
    with pytest.raises(ValueError, match="TFDS cannot read it from"):
        text_data.read("tfds:no_such_data:train", FIELDS, str(tmp_path))
    for short in ("tfds:gsm8k", "tfds::train", "tfds:gsm8k:", "tfds:gsm8k:1.0.0"):
        with pytest.raises(ValueError, match="expected tfds:NAME:SPLIT"):
            text_data.read(short, FIELDS)


def problems(*pairs):
    return [Problem(prompt, answer, answer) for prompt, answer in pairs]


def test_what_fits_is_padded_and_what_does_not_is_dropped_and_counted():
    found = text_data.tokenise(problems(("ab", "1"), ("abcd", "12"), ("abcde", "1"), ("a", "123"), ("!", "1")), letters(), 4, 3)
    a = LETTERS.index("a")
    np.testing.assert_array_equal(found.prompt_NxP, [[PAD, PAD, a, a + 1], [a, a + 1, a + 2, a + 3]])
    np.testing.assert_array_equal(found.answer_NxT, [[1, EOS, PAD], [1, 2, EOS]])
    assert [problem.prompt for problem in found.problems] == ["ab", "abcd"] and len(found) == 2
    assert found.dropped == {"prompt too long": 1, "answer too long": 1, "no token in the prompt": 1}
    assert text_data.dropped_label(found.dropped) == "1 answer too long, 1 no token in the prompt, 1 prompt too long"
    assert text_data.dropped_label({}) == "none"


def test_templates_and_special_tokens_frame_the_prompt():
    tokenizer = letters(start=(7,), chat=lambda message: f"u {message} a ")
    one = text_data.tokenise(problems(("ab", "1")), tokenizer, 12, 3, template="x {prompt}?")
    assert tokenizer.decode(one.prompt_NxP[0]) == "7x ab?"
    own = text_data.tokenise(problems(("ab", "1")), tokenizer, 12, 3, template="7x {prompt}?")  # begins with the start token
    np.testing.assert_array_equal(own.prompt_NxP, one.prompt_NxP)
    two = text_data.tokenise(problems(("ab", "1")), tokenizer, 12, 3, template="x {prompt}?", chat=True)
    assert tokenizer.decode(two.prompt_NxP[0]) == "u x ab? a "  # the chat template places the first token itself
    assert one.digest != two.digest


@pytest.mark.parametrize(("given", "parts", "message"), [
    ({"template": "x"}, {}, "no {prompt}"), ({"chat": True}, {}, "no chat template"),
    ({}, {"pad": LETTERS.index("a")}, "begins with the padding token 10"),
    ({"prompt_len": 1}, {}, "none of 1 problems fits: 1 prompt too long; the longest prompt has 2 tokens"),
    ({"answer_len": 1}, {}, "1 answer too long"), ({}, {"eos": 1}, "1 end token inside the answer"),
])
def test_what_cannot_be_tokenised_is_said(given, parts, message):
    with pytest.raises(ValueError, match=message):
        text_data.tokenise(problems(("ab", "1")), letters(**parts), **{"prompt_len": 4, "answer_len": 3, **given})


def test_the_digest_is_of_the_tokens():
    digests = {text_data.tokenise(problems(*pairs), letters(), P, 3).digest
               for pairs, P in (([("ab", "1")], 4), ([("ab", "2")], 4), ([("ac", "1")], 4), ([("ab", "1")], 5),
                                ([("ab", "1"), ("ab", "1")], 4))}
    assert len(digests) == 5
    again = text_data.tokenise([Problem("ab", "1", "another target")], letters(), 4, 3).digest
    assert again in digests and len(again) == 64


def test_training_problems_leave_out_the_evaluated_ones():
    found = text_data.without(problems(("a", "1"), (" b ", "2"), ("c", "3")), problems(("b", "9")))
    assert [problem.prompt for problem in found] == ["a", "c"]


def test_the_order_is_a_permutation_an_epoch_and_any_step_is_read_directly():
    order = text_data.Order(10, seed=3)
    first = np.concatenate([order.take(step, 5) for step in range(2)])
    second = np.concatenate([order.take(step, 5) for step in (2, 3)])
    assert sorted(first) == sorted(second) == list(range(10)) and list(first) != list(second)
    np.testing.assert_array_equal(text_data.Order(10, seed=3).take(3, 5), second[5:])  # resumed: nothing is carried
    np.testing.assert_array_equal(order.take(1, 4), np.concatenate([first, second])[4:8])
    assert list(text_data.Order(10, seed=4).take(0, 10)) != list(first)
    assert sorted(text_data.Order(3, seed=0).take(0, 9)) == [0] * 3 + [1] * 3 + [2] * 3  # more than an epoch a step


@pytest.fixture
def task():
    data = text_data.tokenise(problems(("1+1", "2"), ("1+2", "3"), ("2+1", "3")), letters(), 4, 3)
    return text.make("sums", data, letters(), verifiers.get("math")), data


def test_a_text_task_has_the_tokenizers_tokens_and_leaves_verifying_to_the_host(task):
    found, data = task
    assert (found.pad, found.eos, found.vocab_size, found.prompt_len, found.completion_len) == (PAD, EOS, EOS + 1, 4, 3)
    assert found.guess("id") == pytest.approx(2 / 3)
    tasks.require_vocab(found, EOS + 1)
    with pytest.raises(ValueError, match="vocabulary"):
        tasks.require_vocab(found, EOS)
    row = text.rows(data, [2, 0])
    np.testing.assert_array_equal(found.prompt(row), data.prompt_NxP[[2, 0]])
    np.testing.assert_array_equal(found.oracle(row, None), data.answer_NxT[[2, 0]])
    for call in (lambda: found.sample(None, None), lambda: found.verify(row, None)):
        with pytest.raises(ValueError, match="task 'sums' is text: .*use training.split"):
            call()


def test_rewards_are_of_the_text_before_the_end_token(task):
    found, data = task
    tokens = np.asarray([[2, EOS, PAD], [EOS, 2, EOS], [2, 2, 2], [2, PAD, EOS], [3, EOS, 2], [1, EOS, EOS]])
    asked = [data.problems[0]] * len(tokens)
    got = text.reward(found, letters().decode, asked, tokens)
    np.testing.assert_array_equal(got, [1, 0, 0, 1, 0, 0])
    assert got.dtype == np.float32
    with pytest.raises(ValueError):
        text.reward(found, letters().decode, asked[:-1], tokens)


def test_any_of_several_end_tokens_ends_an_answer():
    tokenizer = letters(ends=(5, 6))
    data = text_data.tokenise(problems(("1+1", "2"), ("1+2", "56")), tokenizer, 4, 3)
    assert data.dropped == {"end token inside the answer": 1}
    np.testing.assert_array_equal(data.answer_NxT, [[2, EOS, PAD]])
    found = text.make("sums", data, tokenizer, verifiers.get("exact"))
    assert found.eos == EOS and found.ends == (EOS, 5, 6)
    tokens = np.asarray([[2, 5, 1], [2, 6, 2], [2, EOS, 5], [2, 2, 5], [5, 2, EOS], [2, 2, 2]])
    np.testing.assert_array_equal(text.reward(found, tokenizer.decode, [data.problems[0]] * 6, tokens), [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(tasks.through(tokens, found.ends), [[1, 1, 0]] * 3 + [[1, 1, 1], [1, 0, 0], [1, 1, 1]])


def test_a_verifier_beyond_its_range_is_held_to_it(task):
    _, data = task
    loud = verifiers.Verifier("loud", lambda text: text, lambda target, text: True)
    object.__setattr__(loud, "reward", lambda problem, text: 7.0)
    assert text.make("loud", data, letters(), loud).verify_host(data.problems[0], "x") == 1.0
