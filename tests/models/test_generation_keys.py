"""generation_config.json: each key gives the tokens that transformers gives, or is named when it would change them."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("safetensors")

from pyattn import models
from tests.data.record_generation_keys import BASES, FILE, KEYS, PROMPT, cases, write_case

RECORD = json.loads(FILE.read_text())
CASES = list(zip(cases(RECORD["firsts"]), RECORD["answers"], strict=True))


def generated(model, **changes):
    if model.encoder is None:
        [result] = model.generate([PROMPT], **changes)
    else:
        [result] = model.generate(memory=model.encode([PROMPT]), **changes)
    return result.tokens.tolist()


# What is refused though transformers has it, by key; the other values of the key are obeyed.
REFUSED = {"max_time": [100.0], "guidance_scale": [2.0], "watermarking_config": [{"bias": 9.0}]}
# Where transformers raises, though the key leaves the tokens as they are; and one that config.json has as well.
PASSED_OVER = {"use_mtp", "low_memory", "decoder_start_token_id"}


@pytest.mark.parametrize("key", ["", *KEYS])
def test_a_key_gives_the_tokens_of_transformers_or_is_named(key, tmp_path):
    for number, ((case, mode, settings), expected) in enumerate(CASES):
        if next(iter(settings), "") == key:
            model = models.load(write_case(tmp_path / str(number), case, mode, settings))
            if settings.get(key) in REFUSED.get(key, []) or (expected is None and key not in PASSED_OVER):
                with pytest.raises(ValueError, match=rf"^GenerativeModel\.generate: generation_config\.json .*{key}"):
                    generated(model)
            else:
                assert generated(model) == expected or expected is None, settings


def test_most_keys_change_something():
    plain = {(case, mode): answer for (case, mode, settings), answer in CASES if not settings}
    changing = {next(iter(x[2])) for x, answer in CASES if x[2] and answer != plain[x[:2]]}
    assert len(changing) > 20 and changing >= {"encoder_repetition_penalty", "bad_words_ids", "sequence_bias"}


NAMED = (
    r"GenerativeModel\.generate: (generation_config\.json beside|beside .*_token_id must be|a prompt of 6 tokens and)|"
    "generate: the options name token"
)
HOSTILE = [{key: value} for key in KEYS for value in (-1, 10**30, "x", [["x"]], {"a": [1]}, 1e300)]


def test_whatever_the_file_says_logits_are_those_of_the_model(tmp_path):
    """And what is wrong is a ValueError of generate that names the file."""
    plain = models.load(write_case(tmp_path / "plain", "gpt2", "greedy", {}))([PROMPT])
    folder = write_case(tmp_path / "x", "gpt2", "greedy", {})
    refused = 0
    for settings in HOSTILE:
        told = BASES["gpt2"] | settings | {"max_length": 9}
        (folder / "generation_config.json").write_text(json.dumps(told))
        model = models.load(folder)
        try:
            generated(model)
        except ValueError as error:
            assert re.match(NAMED, str(error))
            refused += 1
        else:
            assert len(generated(model, max_new_tokens=2)) == 2
    np.testing.assert_array_equal(model([PROMPT]), plain)
    assert 50 < refused < len(HOSTILE)


def test_options_in_the_call_take_the_place_of_the_files(tmp_path):
    told = {"do_sample": True, "temperature": 0.0, "num_beams": 3, "typical_p": "x", "top_k": -1, "min_new_tokens": 5}
    model = models.load(write_case(tmp_path, "gpt2", "greedy", told))
    with pytest.raises(ValueError, match=r"generation_config\.json .*options in the call take the place of the file's"):
        generated(model)
    with pytest.raises(ValueError, match=r"^GenerativeModel\.options: generation_config\.json"):
        model.options  # noqa: B018
    plain = models.load(write_case(tmp_path / "plain", "gpt2", "beams", {}))
    assert generated(model, do_sample=False, max_new_tokens=3) == generated(plain, max_new_tokens=3)
    changes = {"num_beams": 1, "temperature": 1e-7, "typical_p": 1.0, "seed": 0}
    assert generated(model, **changes) == generated(plain, num_beams=1, min_new_tokens=5)
    with pytest.raises(ValueError, match="^GenerationOptions: temperature must be from"):  # that of the call
        generated(model, num_beams=1, temperature=-1, typical_p=1.0)
    with pytest.raises(TypeError, match=r"^GenerativeModel\.generate: there is no option 'beams'"):
        generated(model, beams=3)
    model.options = plain.options
    assert generated(model) == generated(plain)
    with pytest.raises(TypeError, match=r"^GenerativeModel\.options: options must be GenerationOptions"):
        model.options = {"num_beams": 2}


def test_config_json_says_it_where_there_is_no_other_file(tmp_path):
    folder = write_case(tmp_path, "gpt2", "greedy", {})
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    told = {"num_beams": 3, "max_length": 9, "bad_words_ids": [[26]], "bos_token_id": 7}
    (folder / "config.json").write_text(json.dumps(config | told | {"force_bos_token_to_be_generated": True}))
    options = models.load(folder).options
    assert (options.num_beams, options.max_length, options.forced_bos_token_id) == (3, 9, 7)
    (folder / "config.json").write_text(json.dumps(config | told | {"guidance_scale": 3.0}))
    with pytest.raises(ValueError, match=r"^GenerativeModel\.generate: config\.json beside .*guidance_scale is 3\.0"):
        generated(models.load(folder))


def test_options_of_the_encoders_tokens_need_them(tmp_path):
    model = models.load(write_case(tmp_path, "bart", "greedy", {"encoder_no_repeat_ngram_size": 2}))
    whole = model.encode([PROMPT])
    with pytest.raises(ValueError, match="options of the encoder's tokens need a memory that has them"):
        model.generate(memory=models.Memory(whole.hidden, whole.lengths))
    assert model.encode([PROMPT, PROMPT], [6, 3]).tokens[1].tolist() == PROMPT[:3]


@pytest.mark.parametrize("token", [40, "2", -1, True])
def test_a_start_token_that_is_none_is_named_where_it_is_needed(token, tmp_path):
    model = models.load(write_case(tmp_path, "bart", "greedy", {"decoder_start_token_id": token}))
    assert model([[2, 5]], model.encode([PROMPT])).shape == (1, 2, 40)
    with pytest.raises(ValueError, match=r"decoder_start_token_id must be a token, 0 to 39, not "):
        generated(model)
