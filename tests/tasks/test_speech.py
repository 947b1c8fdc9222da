"""Speech to text: windows, prompts, timestamps and segments, around a small random model."""

import io
import json
import re

import numpy as np
import pytest

from pyattn.generation import Generated
from pyattn.models.generative import GenerativeConfig, GenerativeModel
from pyattn.tasks.speech import Segment, SpeechRecognizer, Transcript
from pyattn.tasks.speech import windows as speech
from pyattn.tasks.speech.windows import TimestampRules
from tests.data import record_speech
from tests.support.tiny_whisper import (
    BEGIN,
    CONFIG,
    END,
    IDS,
    SETTINGS,
    STAMP,
    sound,
    tensors,
    tokenizer,
    write_whisper,
)

pytest.importorskip("tokenizers")
wavfile = pytest.importorskip("scipy.io.wavfile")
RECORDED = json.loads(record_speech.FILE.read_text())


@pytest.fixture(scope="module")
def recognizer():
    model = GenerativeModel(GenerativeConfig.from_dict(CONFIG), tensors())
    return SpeechRecognizer(model, tokenizer(), SETTINGS)


def told(recognizer, **changes):
    """The recognizer of other settings; "absent" is none."""
    return SpeechRecognizer(recognizer.model, tokenizer(), record_speech.settings(changes))


def spoken(*parts):
    """Tokens: a number is a timestamp in seconds, a word is itself."""
    return np.array([IDS[x] if isinstance(x, str) else STAMP + round(x * 50) for x in parts] + [END])


@pytest.fixture
def says(monkeypatch):
    """Makes the model say what is given, window by window, and keeps the prompts."""

    def plan(*windows, score=-1.0):
        waiting, seen = list(windows), []

        def generate(continuation, prompts, options, adjust=None):
            seen.append((prompts, options))
            continuation.step(np.array(prompts))
            return [Generated(waiting.pop(0), "stop", score) for _ in prompts]

        monkeypatch.setattr(speech, "generate", generate)
        return seen

    return plan


def times(transcript):
    return [(x.start, x.end, x.text) for x in transcript.segments]


def test_segments_and_where_the_next_window_begins(recognizer, says):
    says(
        spoken(0.0, "hello", 2.5, 2.5, "world", 20.0, 20.0, "again"),  # cut off: the next window begins at 20 s
        spoken(0.5, "again", "hello", 9.0),
    )
    transcript = recognizer.transcribe(sound(33), language="en")
    assert times(transcript) == [(0, 2.5, "hello"), (2.5, 20, "world"), (20.5, 29, "again hello")]
    assert transcript.text == "helloworldagain hello"  # Whisper's own tokens begin with their space
    assert (transcript.seconds, transcript.language) == (33.0, "en")
    assert transcript.srt().splitlines()[:4] == ["1", "00:00:00,000 --> 00:00:02,500", "hello", ""]


def test_a_window_that_ends_with_one_timestamp_is_done(recognizer, says):
    seen = says(spoken(0.0, "hello", 2.0, 2.0, "world", 30.0), spoken(0.0, "again", 4.0))
    assert times(recognizer.transcribe(sound(34), language="en"))[2] == (30, 34, "again")
    assert len(seen) == 2


@pytest.mark.parametrize("tokens", [spoken(), spoken(3.0), spoken(0.0, 0.0), spoken("hello"), spoken(0.0, "hello")])
def test_every_window_ends(recognizer, says, tokens):
    """Whatever the model says, decoding goes on to the end of the sound."""
    seen = says(*[tokens] * 3)
    transcript = recognizer.transcribe(sound(65), language="en")
    assert len(seen) == 3
    assert {text for _, _, text in times(transcript)} <= {"hello"}
    assert all(0 <= start <= end <= 65 for start, end, _ in times(transcript))


def test_prompts(recognizer, says):
    seen = says(*[spoken("hello")] * 4)
    begin = BEGIN
    for options, prompt in (
        ({"language": "de"}, [begin, IDS["<|de|>"], IDS["<|transcribe|>"]]),
        ({"language": "de", "task": "translate"}, [begin, IDS["<|de|>"], IDS["<|translate|>"]]),
        ({"language": "en", "timestamps": False}, [begin, IDS["<|en|>"], IDS["<|transcribe|>"], STAMP - 1]),
    ):
        recognizer.transcribe(sound(1), **options)
        prompts, told = seen[-1]
        assert prompts == [prompt]
        assert told.suppress_tokens == tuple(SETTINGS["suppress_tokens"]) and told.stop_tokens == (END,)
    assert recognizer.transcribe(sound(1)).language in recognizer.languages == ("en", "de")


def test_doubtful_windows_are_tried_again(recognizer, monkeypatch):
    """At higher temperatures, until the text is likely and no repetition; and silence gives nothing."""
    tried = []

    def generate(continuation, prompts, options, adjust=None):
        tried.append(options.temperature if options.do_sample else 0.0)
        words = ["hello"] * 30 if len(tried) == 1 else ["hello", "world"]
        return [Generated(spoken(0.0, *words), "stop", -99.0 if len(tried) == 2 else -1.0) for _ in prompts]

    monkeypatch.setattr(speech, "generate", generate)
    transcript = recognizer.transcribe(sound(1), language="en")
    assert tried == [0.0, 0.2, 0.4]
    assert transcript.text == "hello world"
    tried[:] = []
    transcript = recognizer.transcribe(sound(1), language="en", temperatures=(0.0, 0.2))
    assert transcript.text == "hello world"  # the less likely, for the other repeats itself
    tried[:] = [0.0]
    silent = told(recognizer, no_speech_threshold=-1.0)
    assert silent.transcribe(sound(1), language="en", temperatures=0.0).segments == ()


@pytest.mark.parametrize(
    ("changes", "words", "score", "temperatures", "silent"),
    [
        ({}, ["hello", "world"], -99.0, [0.0, 0.2], False),
        ({"logprob_threshold": None}, ["hello", "world"], -99.0, [0.0], False),
        ({"logprob_threshold": -1000.0}, ["hello", "world"], -99.0, [0.0], False),
        ({}, ["hello"] * 30, -1.0, [0.0, 0.2], False),
        ({"compression_ratio_threshold": None}, ["hello"] * 30, -1.0, [0.0], False),
        ({"compression_ratio_threshold": 5.17}, ["hello"] * 30, -1.0, [0.0], False),  # transformers measures 5.1667
        ({"compression_ratio_threshold": 5.16}, ["hello"] * 30, -1.0, [0.0, 0.2], False),
        ({"no_speech_threshold": 0}, ["hello", "world"], -99.0, [0.0], True),
        ({"no_speech_threshold": 0}, ["hello", "world"], -1.0, [0.0], False),
        ({"no_speech_threshold": 0, "logprob_threshold": None}, ["hello", "world"], -1.0, [0.0], True),
        ({"no_speech_threshold": None}, ["hello", "world"], -99.0, [0.0, 0.2], False),
    ],
)
def test_thresholds_of_the_settings(recognizer, monkeypatch, changes, words, score, temperatures, silent):
    tried = []

    def generate(continuation, prompts, options, adjust=None):
        tried.append(options.temperature if options.do_sample else 0.0)
        return [Generated(spoken(0.0, *words), "stop", score) for _ in prompts]

    monkeypatch.setattr(speech, "generate", generate)
    transcript = told(recognizer, **changes).transcribe(sound(1), language="en", temperatures=(0.0, 0.2))
    assert tried == temperatures and (transcript.segments == ()) == silent


def test_beams_score_is_the_average_already(recognizer, says):
    for penalty in (1.0, 0.0, 2.0):
        says(spoken(0.0, "hello", "world", 2.0), score=-3.0 / 5**penalty)
        (segment,) = told(recognizer, length_penalty=penalty).transcribe(sound(3), language="en", num_beams=2).segments
        assert segment.average_log_probability == pytest.approx(-3 / 5)
    says(spoken(0.0, "hello", "world", 2.0), score=-3.0)
    (segment,) = recognizer.transcribe(sound(3), language="en").segments
    assert segment.average_log_probability == pytest.approx(-3 / 5)


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_settings_are_obeyed_as_transformers_obeys_them(recognizer, monkeypatch, number):
    changes, call = record_speech.CASES[number]
    seen, generate = [], speech.generate  # type: ignore[attr-defined]

    def spy(continuation, prompts, options, adjust=None):
        (result,) = generate(continuation, prompts, options, adjust=adjust)
        seen.append({"prompt": prompts[0], "tokens": result.tokens.tolist()})
        return [result]

    monkeypatch.setattr(speech, "generate", spy)
    told(recognizer, **changes).transcribe(sound(5), temperatures=0.0, **call)
    assert seen[0] == RECORDED[number]


def test_records_tell_settings_apart():
    """Each of these keys changes what the model is asked, or says."""
    plain = RECORDED[0]
    same = {str(changes) for (changes, call), seen in zip(record_speech.CASES, RECORDED, strict=True) if seen == plain}
    assert len(RECORDED) - len(same) > 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_start_token_id": -1}, "decoder_start_token_id of generation_config.json must be an integer, 0 or"),
        ({"no_timestamps_token_id": "x"}, "no_timestamps_token_id of generation_config.json must be an integer"),
        ({"max_initial_timestamp_index": 1.5}, "max_initial_timestamp_index of generation_config.json must be an int"),
        (
            {"lang_to_id": {"<|en|>": 9999}},
            "lang_to_id of generation_config.json is 9999; the vocabulary has 1550 tokens",
        ),
        ({"max_length": 0}, "max_length of generation_config.json must be an integer, 1 or more, not 0"),
        ({"lang_to_id": ["en"]}, r"lang_to_id of generation_config.json must be an object of token ids, not \['en'\]"),
        ({"task_to_id": {"translate": None}}, "task_to_id of generation_config.json must be an integer"),
        (
            {"forced_decoder_ids": 3},
            "forced_decoder_ids of generation_config.json must be pairs of a place and a token",
        ),
        ({"forced_decoder_ids": [[1, None], [3, 4]]}, "forced_decoder_ids .* leave out places of the prompt"),
        ({"forced_decoder_ids": [[1, IDS["hello"]]]}, "forced_decoder_ids .* are no language and task of this model"),
        ({"forced_decoder_ids": [[1, None], [2, None], [3, 7]]}, "forced_decoder_ids .* are more than a language and"),
        ({"logprob_threshold": "x"}, "logprob_threshold of generation_config.json must be a real number, not str"),
    ],
)
def test_settings_that_are_wrong_are_named(recognizer, changes, message):
    with pytest.raises((TypeError, ValueError), match=f"^SpeechRecognizer: {message}"):
        told(recognizer, **changes)


JUNK = [None, True, 0, -1, 3, 1549, 10**30, 1.5, float("nan"), "x", [], [1], [[1]], [[1, 2]], {}, {"a": None}, [None]]


def test_whatever_a_file_says_is_obeyed_or_named(recognizer):
    rng = np.random.default_rng(0)
    keys = [*SETTINGS, "language", "task", "num_beams", "logprob_threshold", "max_new_tokens", "repetition_penalty"]
    outcomes = {"obeyed": 0, "named": 0}
    for number in range(300):
        changes = {keys[i]: JUNK[rng.integers(len(JUNK))] for i in rng.integers(0, len(keys), 2)}
        try:
            made = told(recognizer, **changes)
            if not number % 10:
                made.transcribe(sound(0.1), temperatures=0.0)
            outcomes["obeyed"] += 1
        except (TypeError, ValueError) as error:
            assert re.match("(SpeechRecognizer|GenerationOptions|transcribe|generate): ", str(error)), changes
            outcomes["named"] += 1
    assert min(outcomes.values()) > 30


@pytest.mark.parametrize(
    ("changes", "seconds", "message"),
    [
        ({"language": "klingon"}, 1, "language of generation_config.json must be one of 'en', 'de', not 'klingon'"),
        ({"language": ["en"]}, 1, r"language of generation_config.json must be one of 'en', 'de', not \['en'\]"),
        ({"task": "sing"}, 1, "task of generation_config.json must be one of 'transcribe', 'translate', not 'sing'"),
        ({"max_new_tokens": 46}, 1, "max_new_tokens of generation_config.json is 46, .* the model's 48 positions"),
        ({"no_timestamps_token_id": 1549}, 1, "the model has no tokens of times; timestamps=False does without"),
        ({"condition_on_prev_tokens": True}, 31, "condition_on_prev_tokens of generation_config.json is not supported"),
        ({"is_multilingual": False, "lang_to_id": None, "task": "translate"}, 1, "this model knows English only"),
        ({"is_multilingual": False, "lang_to_id": None, "language": "de"}, 1, "this model knows English only"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_named(recognizer, says, changes, seconds, message):
    says()
    with pytest.raises(ValueError, match=f"^transcribe: {message}"):
        told(recognizer, **changes).transcribe(sound(seconds))


def test_special_tokens_may_have_number_zero(recognizer):
    """Zero is a token, and null is none said."""
    changed = told(recognizer, decoder_start_token_id=0, eos_token_id=None, no_timestamps_token_id=None)
    assert changed._settings.start == 0
    assert changed._settings.no_timestamps == STAMP - 1 and changed._settings.options.stop_tokens == (END,)


def test_what_no_file_says_is_read_off_the_tokenizer(recognizer):
    bare = SpeechRecognizer(recognizer.model, tokenizer(), {})
    assert bare.languages == ("en", "de") and bare.is_multilingual
    assert bare._settings.tasks == SETTINGS["task_to_id"]
    assert bare._settings.max_new_tokens("", 3, 448) == 224


def rules(histories, logits, latest=50):
    rule = TimestampRules(STAMP, END, latest)
    return rule([np.array(tokens, np.int64) for tokens in histories], logits.copy())


def allowed(tokens, likely=0, **latest):
    """Which of text, the end and timestamps (in ticks) may follow."""
    logits = np.zeros((1, CONFIG["vocab_size"]), np.float32)
    logits[0, likely] = 20.0
    (row,) = rules([tokens], logits, **latest) > -np.inf
    stamps = np.flatnonzero(row[STAMP:])
    return bool(row[0]), bool(row[END]), (int(stamps[0]), int(stamps[-1])) if len(stamps) else None


def test_timestamps_come_in_pairs_and_never_go_back():
    hello = IDS["hello"]
    assert allowed([]) == (False, False, (0, 50))  # the first token is one, of the first second
    assert allowed([], latest=3) == (False, False, (0, 3))
    assert allowed([], latest=0) == (False, False, (0, 0))
    assert allowed([], latest=None) == (False, False, (0, 1500))
    assert allowed([STAMP]) == (True, True, None)  # text, or the end, follows a beginning
    assert allowed([STAMP, hello]) == (True, True, (1, 1500))
    assert allowed([STAMP, hello, STAMP + 70], likely=END) == (False, True, (70, 1500))
    assert allowed([STAMP, hello, STAMP + 70, STAMP + 70]) == (True, True, None)
    assert allowed([STAMP, hello, STAMP + 70, STAMP + 80, hello]) == (True, True, (81, 1500))


def test_timestamps_that_are_likelier_than_any_text_come():
    logits = np.zeros((1, CONFIG["vocab_size"]), np.float32)
    logits[0, IDS["world"]] = 6.0  # less than the logarithm of as many timestamps
    row = rules([[STAMP, IDS["hello"]]], logits)[0]
    assert (row[:STAMP] == -np.inf).all() and (row[STAMP + 1 :] == 0).all()
    logits[0, IDS["world"]] = 8.0
    assert rules([[STAMP, IDS["hello"]]], logits)[0, IDS["world"]] == 8


def test_several_sounds_are_each_alone(recognizer):
    """A random model says what it will: the same, whatever else is transcribed."""
    sounds = [sound(3, 1), sound(41, 2), sound(0.2, 3)]
    options = {"temperatures": (0.0,), "language": "de"}
    together = recognizer.transcribe(sounds, batch_size=2, **options)
    for one, alone in zip(together, sounds, strict=True):
        assert recognizer.transcribe(alone, **options) == one
    beams = recognizer.transcribe(sounds[:1], num_beams=3, **options)
    assert beams[0].seconds == 3


def test_files_of_any_rate(recognizer, tmp_path, says):
    says(*[spoken(0.0, "hello", 1.0)] * 3)
    for rate in (8000, 16000, 44100):
        path = tmp_path / f"{rate}.wav"
        wavfile.write(path, rate, (np.sin(np.arange(2 * rate) / 9) * 9000).astype(np.int16))
        assert recognizer.transcribe(path, language="en").seconds == 2
    for content in (b"", b"RIFF", b"text"):
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(ValueError, match=r"^read_wave: .*bad\.wav"):
            recognizer.transcribe(tmp_path / "bad.wav")


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(16000, np.float32)])
def test_nothing_and_silence(recognizer, samples):
    transcript = recognizer.transcribe(samples, temperatures=(0.0,))
    assert transcript.seconds == len(samples) / 16000
    assert len(samples) or transcript.segments == ()


def test_sounds_in_all_their_forms(recognizer):
    """One is one, a list is a list, and every form of a sound is the same sound."""
    stored = (sound(2) * 20000).astype(np.int16)
    floats = (stored / 32768).astype(np.float32)
    file = io.BytesIO()
    wavfile.write(file, 16000, stored)
    options = {"language": "en", "temperatures": 0.0}
    expected = recognizer.transcribe(floats, **options)
    assert expected.seconds == 2 and expected.segments
    forms = [
        (16000, stored),
        (floats.astype(np.float64), 16000),
        (np.stack([floats, floats], axis=1), 16000),
        {"array": floats, "sampling_rate": 16000, "path": None},
        {"raw": stored, "sampling_rate": 16000},
        file.getvalue(),
        stored,
        floats.tolist(),
        tuple(floats.tolist()),
    ]
    for form in forms:
        assert recognizer.transcribe(form, **options) == expected
    assert recognizer.transcribe(io.BytesIO(file.getvalue()), **options) == expected
    assert recognizer.transcribe(forms, **options) == [expected] * len(forms)
    assert recognizer.transcribe(iter([floats]), **options) == [expected]
    assert recognizer.transcribe((floats, stored), **options) == [expected] * 2
    for none in ([], (), iter([])):
        assert recognizer.transcribe(none) == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, "samples of sound are NoneType; accepted are a WAV file .its path, its bytes, or it open"),
        (7, TypeError, "samples of sound are int; accepted are"),
        ([7, 8], TypeError, "samples of sound have dtype int64"),
        ([None], TypeError, r"samples of sound\[0\] are NoneType"),
        ([np.zeros(9), {"array": [0.5]}], ValueError, r"sound\[1\] is a dictionary of 'array'; accepted are"),
        ((np.zeros(9), -1), ValueError, "rate must be a positive integer, not -1"),
        (np.zeros((2, 16000)), ValueError, r"samples of sound have shape \(2, 16000\); .*its transpose"),
        (np.ma.masked_array([0.5], [True]), TypeError, "samples of sound are a masked array"),
        (np.full(9, np.nan, np.float32), ValueError, "samples of sound are NaN or infinite"),
        ((8000, np.full(9, np.inf)), ValueError, "samples of sound are NaN or infinite"),
        (np.full(9, 20000.0), ValueError, "samples of sound reach 20000; floats lie from -1 to 1"),
    ],
)
def test_what_is_no_sound_is_refused(recognizer, given, error, message):
    with pytest.raises(error, match=f"^transcribe: {message}"):
        recognizer.transcribe(given)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (spoken(0.0, "hello", 29.0), [(0, 5, "hello")]),
        (spoken(20.0, "hello", 29.0), [(5, 5, "hello")]),
        (
            spoken(0.0, "hello", 4.0, 4.0, "world", 12.0, 20.0, "again", 29.0),
            [(0, 4, "hello"), (4, 5, "world"), (5, 5, "again")],
        ),
        (spoken(1.0, "hello", 20.0, 20.0), [(1, 5, "hello")]),
        (spoken(9.0, "hello"), [(5, 5, "hello")]),
        (spoken("hello"), [(0, 5, "hello")]),
    ],
)
def test_times_end_where_the_sound_ends(recognizer, says, tokens, expected):
    """transformers keeps such texts, and the times that the model says: it has heard 30 seconds."""
    says(tokens)
    assert times(recognizer.transcribe(sound(5), language="en")) == expected


def test_times_end_where_the_last_window_ends(recognizer, says):
    says(spoken(0.0, "hello", 30.0), spoken(0.5, "world", 20.0))
    assert times(recognizer.transcribe(sound(34.125), language="en")) == [(0, 30, "hello"), (30.5, 34.125, "world")]


@pytest.mark.parametrize("n", [1, 159, 161, 5 * 44100 + 1])
def test_seconds_are_those_of_the_samples(recognizer, says, n):
    says(spoken(0.0, "hello", 29.0))
    transcript = recognizer.transcribe((np.full(n, 0.1), 44100), language="en")
    assert transcript.seconds == transcript.segments[0].end == n / 44100


def test_subtitles():
    def subtitles(start, end, text):
        return Transcript("", "en", 9999.0, (Segment(start, end, text, -1.0, 0.0),)).srt()

    assert subtitles(0.0, 59.9996, " so ") == "1\n00:00:00,000 --> 00:01:00,000\nso\n"
    assert subtitles(3599.9995, 3723.0014, "so") == "1\n01:00:00,000 --> 01:02:03,001\nso\n"
    assert subtitles(0.0004, 0.0006, "a\n\n b --> c\n") == "1\n00:00:00,000 --> 00:00:00,001\na\n b -> c\n"
    assert Transcript("", "en", 0.0, ()).srt() == ""


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (np.zeros(9, np.float32), {"task": "sing"}, "^transcribe: task must be one of 'transcribe', 'translate'"),
        (np.zeros(9, np.float32), {"language": "xx"}, "^transcribe: language must be one of 'en', 'de', not 'xx'"),
        (np.zeros(9, np.float32), {"batch_size": 0}, "^transcribe: batch_size must be a positive integer"),
        (np.zeros(9, np.float32), {"num_beams": 0}, "^transcribe: num_beams must be a positive integer"),
        (np.zeros(9, np.float32), {"temperatures": ()}, "^transcribe: temperatures must be numbers from 0 to 10"),
        (np.zeros(9, np.float32), {"temperatures": 11}, "^transcribe: temperatures must be from 0 to 10, not 11"),
    ],
)
def test_bad_input(recognizer, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        recognizer.transcribe(arguments, **options)


def test_models_of_english_translate_nothing(recognizer):
    english = SpeechRecognizer(recognizer.model, tokenizer(), {"is_multilingual": False})
    assert english.languages == ("en",)
    for options in ({"task": "translate"}, {"language": "de"}):
        with pytest.raises(ValueError, match="^transcribe: this model knows English only"):
            english.transcribe(sound(1), **options)
    assert english.transcribe(sound(1), temperatures=(0.0,)).language == "en"


def test_a_directory(tmp_path, recognizer, monkeypatch, capsys):
    pytest.importorskip("safetensors")
    from pyattn.cli import main

    write_whisper(tmp_path, SETTINGS)
    loaded = SpeechRecognizer.from_pretrained(tmp_path)
    options = {"language": "en", "temperatures": (0.0,)}
    assert loaded.transcribe(sound(2), **options) == recognizer.transcribe(sound(2), **options)

    wavfile.write(tmp_path / "a.wav", 16000, sound(2))
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--model", str(tmp_path), "--language", "de"]
    assert main([*arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["language"] == "de" and found["seconds"] == 2 and found["file"].endswith("a.wav")
    assert main([*arguments, "--srt"]) == 0
    assert main([*arguments[:-1], "xx"]) == 2
    assert capsys.readouterr().err.startswith("pyattn transcribe: transcribe: language must be one of")
    (tmp_path / "tokenizer.json").unlink()
    assert main(arguments) == 2
    assert "tokenizer.json is missing" in capsys.readouterr().err


def test_old_files_have_forced_tokens_in_the_configuration(tmp_path):
    pytest.importorskip("safetensors")
    old = {"forced_decoder_ids": [[1, IDS["<|de|>"]], [2, IDS["<|translate|>"]], [3, IDS["<|notimestamps|>"]]]}
    for value, expected in (("absent", ("de", "translate")), (None, ("de", "translate")), ([[1, None]], (None, None))):
        settings = record_speech.settings({"forced_decoder_ids": value})
        loaded = SpeechRecognizer.from_pretrained(write_whisper(tmp_path, settings, **old))
        assert (loaded._settings.language, loaded._settings.task) == expected
    (tmp_path / "generation_config.json").unlink()
    assert SpeechRecognizer.from_pretrained(tmp_path)._settings.language == "de"


EXTRACTOR = {
    "chunk_length": 30,
    "dither": 0.0,
    "do_normalize": True,  # which transformers' Whisper does not look at in a file
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 8,
    "hop_length": 160,
    "mel_filters": [[0.0]],  # nor at these
    "n_fft": 400,
    "n_samples": 7,
    "nb_max_frames": 9,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


@pytest.mark.parametrize("nested", [False, True])
def test_files_that_want_other_spectrograms_are_refused(tmp_path, nested):
    pytest.importorskip("safetensors")
    write_whisper(tmp_path, SETTINGS)
    file = tmp_path / ("processor_config.json" if nested else "preprocessor_config.json")

    def load(**changes):
        values = EXTRACTOR | changes
        file.write_text(
            json.dumps({"feature_extractor": values, "processor_class": "WhisperProcessor"} if nested else values)
        )
        if nested:  # which has precedence
            (tmp_path / "preprocessor_config.json").write_text(json.dumps({"hop_length": 7}))
        SpeechRecognizer.from_pretrained(tmp_path)

    load()
    load(feature_size=None, dither=None)
    for key, value in {
        "chunk_length": 15,
        "dither": 1e-4,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 80,
        "hop_length": 320,
        "n_fft": 512,
        "padding_side": "left",
        "padding_value": 1.0,
        "sampling_rate": 8000,
    }.items():
        with pytest.raises(ValueError, match=rf"^load: {re.escape(str(file))}: {key} is {value!r}; .* is supported"):
            load(**{key: value})
    file.write_text(json.dumps({"feature_extractor": 3} if nested else [3]))
    with pytest.raises(ValueError, match=f"^load: {re.escape(str(file))}"):
        SpeechRecognizer.from_pretrained(tmp_path)


def test_a_processor_file_without_an_extractor_says_nothing(tmp_path):
    pytest.importorskip("safetensors")
    write_whisper(tmp_path, SETTINGS)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "WhisperProcessor"}))
    SpeechRecognizer.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"hop_length": 7}))
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: hop_length is 7"):
        SpeechRecognizer.from_pretrained(tmp_path)
