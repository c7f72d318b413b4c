"""The tokenizer of a directory: a byte-level BPE trained here, its special tokens, its chat template."""

import json

import pytest

from jaxpost.tasks import tokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["What is 1 plus 2?", "na\u00efve caf\u00e9", "3"]
SPECIAL = ["<pad>", "<s>", "</s>"]
CHAT = ("{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}")


@pytest.fixture
def directory(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=280, special_tokens=SPECIAL,
                                                                   initial_alphabet=alphabet, show_progress=False))
    made.enable_truncation(3)  # a file may carry these; text is never cut here
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    about(tmp_path, eos_token="</s>", pad_token="<pad>")
    return tmp_path


def about(directory, name="tokenizer_config", **given):
    (directory / f"{name}.json").write_text(json.dumps(given))


def test_text_makes_the_round_trip_whole(directory):
    found = tokenizer.load(directory)
    for text in (*TEXTS, "\u4e2d \U0001f600\n\t  x", ""):
        assert found.decode(found.encode(text)) == text
    assert (found.pad, found.eos, found.start, found.chat) == (0, 2, (), None)
    assert max(found.encode("".join(map(chr, range(32, 127))))) < found.size <= 280
    assert found.encode("a</s>")[-1] == found.eos and found.decode([*found.encode("a"), found.eos]) == "a"


@pytest.mark.parametrize(("files", "wanted"), [
    ({"tokenizer_config": {"eos_token": {"content": "</s>"}}}, (2, 2, ())),
    ({"tokenizer_config": {}, "config": {"eos_token_id": 1}}, (1, 1, ())),
    ({"generation_config": {"eos_token_id": [1, 2]}}, (0, 2, ())),
    ({"tokenizer_config": {}, "generation_config": {"eos_token_id": [1, 2]}}, (1, 1, ())),
    ({"tokenizer_config": {}, "special_tokens_map": {"eos_token": {"content": "</s>"}, "pad_token": "<pad>"}}, (0, 2, ())),
    ({"tokenizer_config": {"eos_token": "</s>", "bos_token": "<s>", "add_bos_token": True}}, (2, 2, (1,))),
    ({"tokenizer_config": {"eos_token": "</s>", "bos_token": "<s>"}}, (2, 2, ())),
    ({"tokenizer_config": {"eos_token": "absent"}, "config": {"eos_token_id": None}}, None),
])
def test_special_tokens_are_those_that_the_files_name(directory, files, wanted):
    for name, given in files.items():
        about(directory, name, **given)
    if wanted is None:
        with pytest.raises(ValueError, match="no end token: generation_config.json and config.json have no eos_token_id"):
            tokenizer.load(directory)
    else:
        found = tokenizer.load(directory)
        assert (found.pad, found.eos, found.start) == wanted


@pytest.mark.parametrize(("generation", "config", "ends"), [
    ([1, 2], None, {1, 2}), (1, [2, 0], {0, 1, 2}), ([], 1, {1, 2}), ([1, 1, -1], None, {1, 2}), (None, None, {2}),
])
def test_any_end_token_ends_an_answer_and_a_demonstration_ends_with_the_tokenizers(directory, generation, config, ends):
    about(directory, "generation_config", eos_token_id=generation)
    about(directory, "config", eos_token_id=config)
    found = tokenizer.load(directory)
    assert found.eos == 2 and {found.eos, *found.ends} == ends and found.eos not in found.ends


@pytest.mark.parametrize("wrong", ["</s>", [1, "2"], True, 1.0, {"id": 1}])
def test_an_end_token_that_is_no_token_id_is_refused(directory, wrong):
    about(directory, "generation_config", eos_token_id=wrong)
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id has .* expected a token id"):
        tokenizer.load(directory)


@pytest.mark.parametrize(("said", "start"), [({}, (1,)), ({"add_bos_token": False}, ()), ({"add_bos_token": True}, (1,))])
def test_a_start_token_that_only_the_post_processor_knows_goes_before_prompts(directory, said, start):
    made = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(directory / "tokenizer.json"))
    about(directory, eos_token="</s>", bos_token="<s>", **said)
    found = tokenizer.load(directory)
    assert found.start == start and found.encode("3") == tokenizer.load(directory).encode("3") and 1 not in found.encode("3")


def test_the_chat_template_is_that_of_the_directory(directory):
    first = tokenizer.load(directory).digest
    about(directory, eos_token="</s>", pad_token="<pad>", chat_template=CHAT)
    found = tokenizer.load(directory)
    assert found.chat("1+1?") == "<s>user: 1+1?</s>assistant: " and found.digest != first
    assert found.encode(found.chat("1"))[0] == 1
    several = [{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ eos_token }}"}]
    about(directory, eos_token="</s>", chat_template=several)
    assert tokenizer.load(directory).chat("x") == "</s>"
    (directory / "chat_template.jinja").write_text("{{ strftime_now('%Y') }} {{ messages | tojson }}")
    assert tokenizer.load(directory).chat("\u00e9") == '2000 [{"role": "user", "content": "\u00e9"}]'
    (directory / "chat_template.jinja").write_text("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
                                                   "{{ tools is none }}{{ documents is none }}{{ pad_token is defined }}"
                                                   "{% endfor %}")
    assert tokenizer.load(directory).chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]) == (
        "aTrueTrueFalsebTrueTrueFalse")
    for template, message in (("{{ raise_exception('no users') }}", "refuses a user's message: no users"),
                              ("{% for", "cannot be read"), ("{{ ''.__class__.__mro__[1] }}", "refuses")):
        (directory / "chat_template.jinja").write_text(template)
        with pytest.raises(ValueError, match=message):
            tokenizer.load(directory).chat("x")


def test_templates_are_found_as_transformers_finds_them_and_compiled_when_used(directory):
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": "older"}))
    assert tokenizer.load(directory).chat("x") == "older"
    about(directory, eos_token="</s>", chat_template="config")
    assert tokenizer.load(directory).chat("x") == "config"
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    broken = tokenizer.load(directory)  # loads: chat may be off
    with pytest.raises(ValueError, match="has the chat templates tool_use and none is named 'default'"):
        broken.chat("x")
    (directory / "chat_template.jinja").write_text("beside")
    assert tokenizer.load(directory).chat("x") == "beside"
    system = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (directory / "chat_template.jinja").write_text(system)
    with pytest.raises(ValueError, match="refuses messages of the roles system, user: System role not supported"):
        tokenizer.load(directory).chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])


def test_what_is_missing_is_named_with_the_command(directory, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="has no tokenizer.json; transformers makes one"):
        tokenizer.load(tmp_path / "nowhere")
    about(directory, "generation_config")
    (directory / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match="generation_config.json is not JSON"):
        tokenizer.load(directory)
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json cannot be read"):
        tokenizer.load(directory)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxpost\[hf\]'"):
        tokenizer.load(directory)
