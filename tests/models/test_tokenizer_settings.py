"""tokenizer_config.json: every setting beside every class gives the tokens that transformers' AutoTokenizer gives."""

import base64
import json
from pathlib import Path

import pytest

from tests.support import tiny_tokenizers as tiny

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

from pyattn.models.tokenizer import errors_of_library, read_tokenizer

RECORD = json.loads((Path(__file__).parents[1] / "data" / "tokenizers.json").read_text())
CHARSMAP = base64.b64decode(RECORD["charsmap"])
CASES = list(zip(tiny.cases(), RECORD["cases"], strict=True))


def answers(folder):
    whole = read_tokenizer(folder / "tokenizer.json", tiny.VOCAB_SIZE, 2**20)
    cut = read_tokenizer(folder / "tokenizer.json", tiny.VOCAB_SIZE, tiny.LONGEST)
    results = []
    for text in tiny.TEXTS:
        ids, short = whole.encode(text).ids, cut.encode(text).ids
        results.append([ids, whole.decode(ids), short if short != ids else 0])
    return results


# Keys of other backends, of callers, and of files that stand beside tokenizer.json.
WITHOUT_EFFECT = {
    "add_bos_token", "add_eos_token", "chat_template", "do_basic_tokenize", "errors", "max_len", "max_length",
    "model_max_length", "never_split", "pad_token_type_id", "sp_model_kwargs", "stride", "tgt_lang",
    "use_default_system_prompt",
}  # fmt: skip

# What is refused though transformers gives a result: a template with a token that is called None.
REFUSED = [{"sep_token": None}, {"cls_token": None}]


@pytest.mark.parametrize(("model_type", "name"), [*tiny.CLASSES, *tiny.OTHER_CLASSES])
def test_settings_give_the_tokens_of_transformers(model_type, name, tmp_path):
    for number, (case, index) in enumerate(CASES):
        if case[:2] != (model_type, name):
            continue
        folder, settings = tmp_path / str(number), case[-1]
        folder.mkdir()
        tiny.write_tokenizer(folder, *case, CHARSMAP)
        expected = RECORD["results"][index]
        try:
            with errors_of_library("load", folder):  # as those who encode have it
                answer = answers(folder)
        except ValueError:
            assert expected is None or (settings in REFUSED and model_type in ("bert", "mpnet")), settings
        else:
            assert answer == expected or expected is None, settings


def test_every_setting_changes_what_some_class_gives():
    """Else the walk would not show that it is obeyed; those that change nothing are listed."""
    plain = {case[:2]: index for case, index in CASES if not case[-1]}
    changing = {key for case, index in CASES for key in case[-1] if index != plain[case[:2]]}
    assert set(tiny.KEYS) - changing == WITHOUT_EFFECT


def test_without_settings_tokenizer_json_is_taken_as_it_stands(tmp_path):
    tiny.write_tokenizer(tmp_path, "bert", "BertTokenizer", "WordPiece", {"do_lower_case": False}, CHARSMAP)
    file = tmp_path / "tokenizer.json"
    told = read_tokenizer(file, tiny.VOCAB_SIZE, 9).encode("HELLO")
    (tmp_path / "tokenizer_config.json").unlink()
    plain = read_tokenizer(file, tiny.VOCAB_SIZE, 9).encode("HELLO")
    assert told.tokens == ["[CLS]", "HELLO", "[SEP]"]
    assert plain.tokens == ["[CLS]", "hello", "[SEP]"]
    (tmp_path / "added_tokens.json").write_text('{"<new>": 700}')
    assert read_tokenizer(file, tiny.VOCAB_SIZE, 9).encode("<new>").tokens == ["[CLS]", "<new>", "[SEP]"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_lower_case": "no"}, r"tokenizer_config\.json: do_lower_case must be true or false, not 'no'"),
        ({"truncation_side": "up"}, r"tokenizer_config\.json: truncation_side must be \"left\" or \"right\", not 'up'"),
        ({"init_inputs": [1]}, "init_inputs must be empty"),
        ({"fast_tokenizer_files": ["tokenizer.4.json"]}, "fast_tokenizer_files must be"),
        ({"fix_mistral_regex": True}, "fix_mistral_regex must be false"),
        ({"tokenizer_class": 3}, "tokenizer_class must be a name, not 3"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder must be an object"),
        ({"added_tokens_decoder": {"x": tiny.ENT}}, "added_tokens_decoder must be an object whose keys are numbers"),
        ({"added_tokens_decoder": {"3": "<ent>"}}, "'<ent>' is not a special token"),
        ({"added_tokens_decoder": {"3": {"lstrip": True}}}, "is not a special token"),
        ({"added_tokens_decoder": {"3": {"content": "a", "lstrip": "x"}}}, "is not a special token"),
        ({"extra_special_tokens": "<ent>"}, "extra_special_tokens must be a list of tokens"),
        ({"extra_special_tokens": [3]}, "3 is not a special token"),
        ({"mask_token": 3}, "3 is not a special token"),
        ({"extra_special_tokens": [f"<{i}>" for i in range(50_001)]}, "at most 50000 added tokens are accepted"),
        ({"added_tokens.json": {"x": "y"}}, r"added_tokens\.json: 'x' must have a number, not 'y'"),
        ({"special_tokens_map.json": [3]}, r"special_tokens_map\.json must hold a JSON object"),
    ],
)
def test_settings_that_are_refused(settings, message, tmp_path):
    tiny.write_tokenizer(tmp_path, "bert", "BertTokenizer", "WordPiece", settings, CHARSMAP)
    with pytest.raises(ValueError, match=rf"^load: {tmp_path}.*{message}"):
        read_tokenizer(tmp_path / "tokenizer.json", tiny.VOCAB_SIZE, 9)


@pytest.mark.parametrize("name", ["HerbertTokenizer", "NllbTokenizerFast", "PhobertTokenizer", "DebertaV2Tokenizer"])
def test_classes_that_are_not_made_here_are_refused(name, tmp_path):
    tiny.write_tokenizer(tmp_path, "bert", name, "WordPiece", {}, CHARSMAP)
    message = (
        rf"^load: {tmp_path}/tokenizer_config\.json: tokenizer_class '{name}' is not supported; save the tokenizer"
    )
    with pytest.raises(ValueError, match=message):
        read_tokenizer(tmp_path / "tokenizer.json", tiny.VOCAB_SIZE, 9)


def test_a_language_that_is_no_token_is_refused(tmp_path):
    tiny.write_tokenizer(tmp_path, "mbart", "MBartTokenizer", "Unigram", {"src_lang": "xx_XX"}, CHARSMAP)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: src_lang must be a token, not 'xx_XX'"):
        read_tokenizer(tmp_path / "tokenizer.json", tiny.VOCAB_SIZE, 9)


def test_tokens_beyond_the_embeddings_are_named_where_every_text_has_them(tmp_path):
    tiny.write_tokenizer(tmp_path, "bert", "BertTokenizer", "WordPiece", {"cls_token": "<new>"}, CHARSMAP)
    file = tmp_path / "tokenizer.json"
    size = read_tokenizer(file, tiny.VOCAB_SIZE, 9).token_to_id("<new>")
    read_tokenizer(file, size + 1, 9)
    with pytest.raises(ValueError, match=rf"^load: {file} gives the token {size}; config.json has vocab_size {size}"):
        read_tokenizer(file, size, 9)
