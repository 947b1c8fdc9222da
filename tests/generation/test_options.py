"""Options and other arguments: what files may say, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from pyattn.generation import GenerationOptions, generate, stream
from tests.support.continuations import Fixed, Table


def test_a_whisper_and_a_bart_file():
    whisper = {
        "alignment_heads": [[2, 2], [3, 0]],
        "begin_suppress_tokens": [220, 50257],
        "bos_token_id": 50257,
        "decoder_start_token_id": 50258,
        "eos_token_id": 50257,
        "forced_decoder_ids": [[1, None], [2, 50359]],
        "is_multilingual": True,
        "max_length": 448,
        "return_timestamps": False,
        "suppress_tokens": [1, 2, 7],
    }
    options = GenerationOptions.from_dict(whisper)
    assert options == GenerationOptions(
        begin_suppress_tokens=(220, 50257), stop_tokens=50257, max_length=448, suppress_tokens=(1, 2, 7), top_k=50
    )
    bart = {
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": [2],
        "length_penalty": 2,
        "max_length": 142,
        "min_length": 56,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "bad_words_ids": [[1], [2]],
        "temperature": None,
        "typical_p": 1.0,
        "diversity_penalty": 0.0,
    }
    options = GenerationOptions.from_dict(bart)
    assert (options.forced_bos_token_id, options.forced_eos_token_id, options.early_stopping) == (0, 2, True)
    assert (options.length_penalty, options.min_length, options.max_length, options.num_beams) == (2.0, 56, 142, 4)
    assert (options.bad_words_ids, options.temperature) == (((1,), (2,)), 1.0)


UNSUPPORTED = [
    {"num_beam_groups": 2, "num_beams": 2},
    {"stop_strings": ["."]},
    {"guidance_scale": 1.5},
    {"max_time": 3.5},
    {"penalty_alpha": 0.6},
    {"dola_layers": "high"},
    {"constraints": []},
    {"force_words_ids": [[3]]},
    {"token_healing": True},
    {"watermarking_config": {"bias": 2.0}},
    {"cache_implementation": "quantized"},
    {"top_h": 0.4, "do_sample": True},
    {"bad_words_ids": 3},
    {"bad_words_ids": [3]},
    {"bad_words_ids": [[]]},
    {"sequence_bias": {"3": 1.0}},
    {"sequence_bias": [[[3], "much"]]},
    {"exponential_decay_length_penalty": 3},
    {"num_beams": 4, "do_sample": True},
    {"temperature": 0.0, "do_sample": True},
    {"temperature": "hot", "do_sample": True},
    {"top_k": -2, "do_sample": True},
    {"length_penalty": "long", "num_beams": 2},
    {"eos_token_id": "</s>"},
]


@pytest.mark.parametrize("values", UNSUPPORTED, ids=str)
def test_files_that_ask_for_something_else_are_refused(values):
    name = next(iter(values))
    with pytest.raises((TypeError, ValueError), match=rf"^GenerationOptions: .*({name}|stop_tokens)"):
        GenerationOptions.from_dict(values)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.0, "top_k": -2, "top_p": 3, "min_p": "x", "typical_p": 0, "epsilon_cutoff": 3, "top_h": 0.3},
        {"length_penalty": 1e9, "early_stopping": "soon", "num_beam_groups": 4, "diversity_penalty": 0.5},
        {"eos_token_id": -1, "suppress_tokens": [-1], "begin_suppress_tokens": [-2]},
        {"min_length": -1, "no_repeat_ngram_size": -1, "encoder_no_repeat_ngram_size": -1, "top_k": -1},
        {"penalty_alpha": 0.6, "top_k": 1},
        {"remove_invalid_values": True, "low_memory": True, "use_mtp": True, "prompt_lookup_num_tokens": 2},
        {"cache_implementation": "static", "max_cache_len": 3, "assistant_lookbehind": 2, "pad_token_id": -1},
    ],
    ids=str,
)
def test_what_has_no_effect_in_a_file_is_passed_over(values):
    options = GenerationOptions.from_dict({"max_new_tokens": 4} | values)
    plain = GenerationOptions(max_new_tokens=4)
    [told], [expected] = (generate(Table(3, 1), [[1, 2]], x) for x in (options, plain))
    assert told.tokens.tolist() == expected.tokens.tolist()


def test_what_had_no_effect_is_named_once_it_has():
    options = GenerationOptions.from_dict({"temperature": 0.0, "length_penalty": "long", "max_new_tokens": 4})
    for changes, name in (({"do_sample": True}, "temperature is 0.0"), ({"num_beams": 2}, "length_penalty is 'long'")):
        with pytest.raises(ValueError, match=f"^GenerationOptions: {name}, which is not accepted beside num_beams"):
            generate(Table(3, 1), [[1, 2]], options, **changes)
        with pytest.raises(ValueError, match=f"^GenerationOptions: {name}"):
            replace(options, **changes)
    [result] = generate(Table(3, 1), [[1, 2]], options, do_sample=True, temperature=0.5, seed=0)
    assert result.tokens.size == 4
    kept = GenerationOptions.from_dict({"temperature": 0.7, "max_new_tokens": 4})
    assert replace(kept, do_sample=True).temperature == 0.7


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be an integer, 1 or more, not 0"),
        ({"max_new_tokens": 1.5}, TypeError, "max_new_tokens must be an integer"),
        ({"max_length": -1}, ValueError, "max_length must be"),
        ({"min_new_tokens": -1}, ValueError, "min_new_tokens must be"),
        ({"min_new_tokens": 4, "max_new_tokens": 3}, ValueError, "min_new_tokens=4 is more than max_new_tokens=3"),
        ({"num_beams": 0}, ValueError, "num_beams must be"),
        ({"num_beams": True}, TypeError, "num_beams must be"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences=2 needs do_sample"),
        ({"num_return_sequences": 4, "num_beams": 3}, ValueError, "num_return_sequences=4 needs"),
        ({"num_beams": 2, "do_sample": True}, ValueError, "do_sample does not go with num_beams=2"),
        ({"temperature": 0}, ValueError, "temperature must be from 1e-30 to 1e.06, not 0"),
        ({"temperature": np.nan}, ValueError, "temperature must be from"),
        ({"temperature": "hot"}, TypeError, "temperature must be a real number, not str"),
        ({"top_p": 1.1}, ValueError, "top_p must be from 0 to 1"),
        ({"min_p": -0.1}, ValueError, "min_p must be from 0 to 1"),
        ({"top_k": -1}, ValueError, "top_k must be"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be"),
        ({"length_penalty": 21}, ValueError, "length_penalty must be from -20 to 20"),
        ({"typical_p": 0}, ValueError, "typical_p must be from 1e-30 to 1, not 0"),
        ({"bad_words_ids": [1]}, ValueError, r"bad_words_ids\[0\] has shape"),
        ({"bad_words_ids": [[1], []]}, ValueError, r"bad_words_ids\[1\] is empty"),
        ({"bad_words_ids": "ab"}, TypeError, "bad_words_ids must be a list of lists of token ids, not str"),
        ({"sequence_bias": [[1], 2.0]}, TypeError, "sequence_bias must be a list of pairs"),
        ({"sequence_bias": [([1], np.nan)]}, ValueError, "sequence_bias must be from -inf"),
        ({"exponential_decay_length_penalty": (1, -2)}, ValueError, "exponential_decay_length_penalty must be from 0"),
        ({"forced_eos_token_id": []}, ValueError, "forced_eos_token_id must be a token id, or several"),
        ({"early_stopping": "always"}, ValueError, "early_stopping must be True, False or"),
        ({"early_stopping": None}, TypeError, "early_stopping must be True or False"),
        ({"early_stopping": np.array([2, 2])}, TypeError, "early_stopping must be True or False"),
        ({"min_length": None}, TypeError, "min_length must be an integer, 0 or more, not None"),
        ({"do_sample": "yes"}, TypeError, "do_sample must be True or False"),
        ({"stop_tokens": -1}, ValueError, "stop_tokens must not be negative"),
        ({"stop_tokens": 1.0}, TypeError, "stop_tokens has dtype float64"),
        ({"suppress_tokens": [[1]]}, ValueError, "suppress_tokens has shape"),
        ({"suppress_tokens": 1}, ValueError, "suppress_tokens has shape"),
        ({"forced_bos_token_id": -2}, ValueError, "forced_bos_token_id must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"seed": 1.5}, TypeError, "seed must be"),
        ({"seed": [1, "a"]}, TypeError, r"seed\[1\] must be"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(changes, error, message):
    with pytest.raises(error, match=f"^GenerationOptions: {message}"):
        GenerationOptions(**changes)
    with pytest.raises(error, match=f"^GenerationOptions: {message}"):
        generate(Fixed([0.0]), [[0]], **changes)


@pytest.mark.parametrize("function", [generate, stream])
@pytest.mark.parametrize(
    ("arguments", "changes", "error", "message"),
    [
        (([[0]],), {}, ValueError, "max_new_tokens, or max_length"),
        (([[0]], {"max_new_tokens": 3}), {}, TypeError, "options must be GenerationOptions or None, not dict"),
        (([[0]],), {"max_tokens": 3}, TypeError, "there is no option 'max_tokens'; there are max_new_tokens,"),
        (("text",), {"max_new_tokens": 3}, TypeError, "prompts must be a list of arrays of token ids.*not str"),
        (
            (np.array([1, 2]),),
            {"max_new_tokens": 3},
            TypeError,
            r"prompts must be a list.* not an array of shape \(2,\)",
        ),
        (([1, 2],), {"max_new_tokens": 3}, ValueError, r"prompts\[0\] has shape \(\)"),
        (([[0], []],), {"max_new_tokens": 3}, ValueError, r"prompts\[1\] is empty"),
        (([[0], [1.0]],), {"max_new_tokens": 3}, TypeError, r"prompts\[1\] has dtype float64"),
        (([[0, -3]],), {"max_new_tokens": 3}, ValueError, r"prompts\[0\] must not be negative, but one is -3"),
        (([[0], [1, 2]],), {"max_length": 2}, ValueError, r"no new token may follow prompts\[1\] of 2 tokens"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": [1, 2]}, ValueError, ".*of 1 tokens and a prefix of 2"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": [[1], [2]]}, ValueError, "there are 1 prompts, but 2 prefixes"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": 3}, TypeError, "prefixes must be a list"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": [[1.5]]}, TypeError, r"prefixes\[0\] has dtype"),
        (([[0]],), {"max_new_tokens": 2, "seed": [1, 2]}, ValueError, "there are 1 prompts, but 2 seeds"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(function, arguments, changes, error, message):
    continuation = Fixed([0.0, 0.0])
    with pytest.raises(error, match=f"^{function.__name__}: {message}"):
        function(continuation, *arguments, **changes)
    assert not continuation.taken


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_tokens": (1, 2)},
        {"suppress_tokens": [2]},
        {"begin_suppress_tokens": [2]},
        {"forced_eos_token_id": 2},
        {"bad_words_ids": [[2, 1]]},
        {"sequence_bias": [([1, 2], 1.0)]},
    ],
)
def test_tokens_beyond_the_vocabulary_are_refused(changes):
    with pytest.raises(ValueError, match="^generate: the options name token 2; the vocabulary has 2"):
        generate(Fixed([0.0, 0.0]), [[0]], max_new_tokens=2, **changes)


def test_a_continuation_or_an_adjustment_that_returns_something_else():
    class Wrong(Fixed):
        def step(self, tokens, lengths=None):
            return self.logits[0]

    with pytest.raises(ValueError, match=r"^generate: step must return \(1, vocabulary\) logits, not \(3,\)"):
        generate(Wrong(np.zeros(3)), [[0]], max_new_tokens=2)
    for wrong, seen in ((None, "NoneType"), (np.zeros(2), r"shape \(2,\)")):
        with pytest.raises(ValueError, match=rf"^generate: adjust must return logits of shape \(1, 2\), not {seen}"):
            generate(Fixed([0.0, 0.0]), [[0]], max_new_tokens=2, adjust=lambda *_: wrong)  # noqa: B023
