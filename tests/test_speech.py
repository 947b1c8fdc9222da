"""Speech to text: windows, prompts, timestamps and segments, around a small random model."""

import json

import numpy as np
import pytest

from pyattn import speech
from pyattn.generation import Generated
from pyattn.models.config import GenerativeConfig
from pyattn.models.generative import GenerativeModel
from pyattn.speech import SpeechRecognizer

tokenizers = pytest.importorskip("tokenizers")
wavfile = pytest.importorskip("scipy.io.wavfile")

WORDS = ["hello", "world", "again", "so"]
SPECIAL = ["endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startofprev", "nospeech"]
SPECIAL = [f"<|{name}|>" for name in [*SPECIAL, "notimestamps"]]
IDS = {name: i for i, name in enumerate(WORDS + SPECIAL)}
STAMP = len(IDS)  # <|0.00|>
END = IDS["<|endoftext|>"]
CONFIG = {
    "model_type": "whisper",
    "vocab_size": STAMP + 1501,
    "num_mel_bins": 8,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "max_source_positions": 1500,
    "max_target_positions": 48,
    "activation_function": "gelu",
    "decoder_start_token_id": IDS["<|startoftranscript|>"],
    "eos_token_id": END,
}
SETTINGS = {"is_multilingual": True, "suppress_tokens": [IDS["so"]]}


def tensors(seed=0):
    """Of a random model, under the names of files."""
    rng = np.random.default_rng(seed)
    config = GenerativeConfig.from_dict(CONFIG)
    width, inner = CONFIG["d_model"], CONFIG["decoder_ffn_dim"]
    shapes = {
        "encoder.conv1.weight": (width, 8, 3),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.embed_positions.weight": (1500, width),
        "decoder.embed_positions.weight": (48, width),
        "decoder.embed_tokens.weight": (config.vocab_size, width),
    }
    for part in ("encoder.conv1", "encoder.conv2", "encoder.layer_norm", "decoder.layer_norm"):
        shapes[f"{part}.bias"] = (width,)
    for part in ("encoder.layer_norm", "decoder.layer_norm"):
        shapes[f"{part}.weight"] = (width,)
    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        layer = f"{side}.layers.0"
        for attention in attentions:
            for x in "qkv":
                shapes[f"{layer}.{attention}.{x}_proj.weight"] = (width, width)
                if x != "k":
                    shapes[f"{layer}.{attention}.{x}_proj.bias"] = (width,)
            shapes |= {
                f"{layer}.{attention}.out_proj.weight": (width, width),
                f"{layer}.{attention}.out_proj.bias": (width,),
            }
            shapes |= {f"{layer}.{attention}_layer_norm.{x}": (width,) for x in ("weight", "bias")}
        shapes |= {f"{layer}.final_layer_norm.{x}": (width,) for x in ("weight", "bias")}
        shapes |= {f"{layer}.fc1.weight": (inner, width), f"{layer}.fc1.bias": (inner,)}
        shapes |= {f"{layer}.fc2.weight": (width, inner), f"{layer}.fc2.bias": (width,)}
    return {f"model.{name}": rng.standard_normal(shape, dtype=np.float32) * 0.3 for name, shape in shapes.items()}


def tokenizer():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(IDS, unk_token="so"))
    made.add_special_tokens(SPECIAL)
    return made


@pytest.fixture(scope="module")
def recognizer():
    model = GenerativeModel(GenerativeConfig.from_dict(CONFIG), tensors())
    return SpeechRecognizer(model, tokenizer(), SETTINGS)


def sound(seconds, seed=0):
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16000)) * 0.1).astype(np.float32)


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
    begin = IDS["<|startoftranscript|>"]
    for options, prompt in (
        ({"language": "de"}, [begin, IDS["<|de|>"], IDS["<|transcribe|>"]]),
        ({"language": "de", "task": "translate"}, [begin, IDS["<|de|>"], IDS["<|translate|>"]]),
        ({"language": "en", "timestamps": False}, [begin, IDS["<|en|>"], IDS["<|transcribe|>"], STAMP - 1]),
    ):
        recognizer.transcribe(sound(1), **options)
        prompts, told = seen[-1]
        assert prompts == [prompt]
        assert told.suppress_tokens == (IDS["so"],) and told.stop_tokens == (END,)
    assert recognizer.transcribe(sound(1)).language in recognizer.languages == ("en", "de")


def test_doubtful_windows_are_tried_again(recognizer, monkeypatch):
    """At higher temperatures, until the text is likely and no repetition; and silence gives nothing."""
    told = []

    def generate(continuation, prompts, options, adjust=None):
        told.append(options.temperature if options.do_sample else 0.0)
        words = ["hello"] * 30 if len(told) == 1 else ["hello", "world"]
        return [Generated(spoken(0.0, *words), "stop", -99.0 if len(told) == 2 else -1.0) for _ in prompts]

    monkeypatch.setattr(speech, "generate", generate)
    transcript = recognizer.transcribe(sound(1), language="en")
    assert told == [0.0, 0.2, 0.4]
    assert transcript.text == "hello world"
    told[:] = []
    transcript = recognizer.transcribe(sound(1), language="en", temperatures=(0.0, 0.2))
    assert transcript.text == "hello world"  # the less likely, for the other repeats itself
    told[:] = [0.0]
    monkeypatch.setattr(speech, "MOST_SILENCE", -1.0)
    assert recognizer.transcribe(sound(1), language="en", temperatures=(0.0,)).segments == ()


def rules(histories, logits, **settings):
    rule = speech._TimestampRules(STAMP, END, settings)
    return rule([np.array(tokens, np.int64) for tokens in histories], logits.copy())


def allowed(tokens, likely=0, **settings):
    """Which of text, the end and timestamps (in ticks) may follow."""
    logits = np.zeros((1, CONFIG["vocab_size"]), np.float32)
    logits[0, likely] = 20.0
    (row,) = rules([tokens], logits, **settings) > -np.inf
    stamps = np.flatnonzero(row[STAMP:])
    return bool(row[0]), bool(row[END]), (int(stamps[0]), int(stamps[-1])) if len(stamps) else None


def test_timestamps_come_in_pairs_and_never_go_back():
    hello = IDS["hello"]
    assert allowed([]) == (False, False, (0, 50))  # the first token is one, of the first second
    assert allowed([], max_initial_timestamp_index=3) == (False, False, (0, 3))
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


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (np.zeros(9), {}, r"^transcribe: samples must be finite, \(n,\) float32"),
        (np.full(9, np.nan, np.float32), {}, "^transcribe: samples must be finite"),
        (np.zeros((9, 2), np.float32), {}, "^transcribe: samples must be finite"),
        (np.zeros(9, np.float32), {"task": "sing"}, "^transcribe: task must be one of 'transcribe', 'translate'"),
        (np.zeros(9, np.float32), {"language": "xx"}, "^transcribe: language must be one of 'en', 'de', not 'xx'"),
        (np.zeros(9, np.float32), {"batch_size": 0}, "^transcribe: batch_size must be a positive integer"),
        (np.zeros(9, np.float32), {"num_beams": 0}, "^transcribe: num_beams must be a positive integer"),
        (np.zeros(9, np.float32), {"temperatures": ()}, "^transcribe: temperatures must be numbers from 0 to 10"),
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
    safetensors = pytest.importorskip("safetensors.numpy")
    from pyattn.cli import main

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text(json.dumps(SETTINGS))
    safetensors.save_file(tensors(), tmp_path / "model.safetensors")
    tokenizer().save(str(tmp_path / "tokenizer.json"))
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
