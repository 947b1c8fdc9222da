"""What the files of a Whisper say about its use: tokens, languages, limits and thresholds."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn.generation import GenerationOptions
from pyattn.models.files import read_json

_NAME = "SpeechRecognizer"
_FILE = "generation_config.json"

_ENGLISH_END = 50256  # <|endoftext|> of the models of English

# Keys that are read here, and keys whose values transformers' Whisper replaces.
_OWN = ("max_length", "do_sample", "temperature", "num_return_sequences", "eos_token_id")

# Codes and names of languages: a file may use either.
_LANGUAGES = """
en english zh chinese de german es spanish ru russian ko korean fr french ja japanese pt portuguese tr turkish pl polish
ca catalan nl dutch ar arabic sv swedish it italian id indonesian hi hindi fi finnish vi vietnamese he hebrew
uk ukrainian el greek ms malay cs czech ro romanian da danish hu hungarian ta tamil no norwegian th thai ur urdu
hr croatian bg bulgarian lt lithuanian la latin mi maori ml malayalam cy welsh sk slovak te telugu fa persian lv latvian
bn bengali sr serbian az azerbaijani sl slovenian kn kannada et estonian mk macedonian br breton eu basque is icelandic
hy armenian ne nepali mn mongolian bs bosnian kk kazakh sq albanian sw swahili gl galician mr marathi pa punjabi
si sinhala km khmer sn shona yo yoruba so somali af afrikaans oc occitan ka georgian be belarusian tg tajik sd sindhi
gu gujarati am amharic yi yiddish lo lao uz uzbek fo faroese ht haitian_creole ps pashto tk turkmen nn nynorsk
mt maltese sa sanskrit lb luxembourgish my myanmar bo tibetan tl tagalog mg malagasy as assamese tt tatar haw hawaiian
ln lingala ha hausa ba bashkir jw javanese su sundanese yue cantonese my burmese ca valencian nl flemish ht haitian
lb letzeburgesch ps pushto pa panjabi ro moldavian ro moldovan si sinhalese es castilian zh mandarin
"""
_PAIRS = _LANGUAGES.split()
_CODES = {name.replace("_", " "): code for code, name in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}


class Settings:
    """How a model is to be used, as generation_config.json says, whose contents are `values`, else its tokenizer."""

    def __init__(self, tokenizer: Any, values: Mapping[str, Any], vocab_size: int) -> None:
        given = {key: value for key, value in values.items() if value is not None}

        def token(name: str, key: str | None = None) -> int:
            found = given.get(key or "", tokenizer.token_to_id(f"<|{name}|>"))
            if found is None:
                raise ValueError(f"{_NAME}: the tokenizer has no token <|{name}|>")
            return _token(key or f"<|{name}|>", found, vocab_size)

        self.start = token("startoftranscript", "decoder_start_token_id")
        self.no_timestamps = token("notimestamps", "no_timestamps_token_id")
        self.first_timestamp = self.no_timestamps + 1  # the token of time 0
        self.text_end = token("endoftext")  # tokens below it are text
        stops = given.get("eos_token_id", self.text_end)
        self.end = stops if isinstance(stops, int) else self.text_end  # the rules of timestamps take it for text_end
        # The tokens that name tasks and languages. A model of English has no languages; its prompts name neither.
        self.tasks = _ids(given, "task_to_id", vocab_size)
        if not self.tasks:
            found = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("transcribe", "translate")}
            self.tasks = {name: i for name, i in found.items() if i is not None}
        self.languages = {_bare(name): i for name, i in _ids(given, "lang_to_id", vocab_size).items()}
        if not self.languages and given.get("is_multilingual", self.text_end != _ENGLISH_END):
            first = tokenizer.token_to_id("<|startoftranscript|>")
            last = min([self.no_timestamps, *self.tasks.values()])
            names = {i: tokenizer.id_to_token(i) for i in range(last if first is None else first + 1, last)}
            self.languages = {_bare(name): i for i, name in names.items() if name is not None}
        self.is_multilingual = bool(self.languages and given.get("is_multilingual", True))  # else callers cannot choose
        # Those of calls that name none; None: the language is found out, the task is transcribe.
        self.language, self.task = given.get("language"), given.get("task")
        self.hold_together = self.language is None and self.task is None  # both are used in calls that name neither
        if self.hold_together:
            forced = given.get("forced_decoder_ids", ())
            self.language, self.task = _forced(forced, self.languages, self.tasks, self.no_timestamps)
        for key in ("suppress_tokens", "begin_suppress_tokens"):
            if isinstance(given.get(key), list):  # OpenAI's code gives -1 a meaning; transformers ignores it
                given[key] = [i for i in given[key] if not isinstance(i, int) or 0 <= i < vocab_size]
        options = GenerationOptions.from_dict({key: value for key, value in given.items() if key not in _OWN})
        self.options = replace(options, stop_tokens=stops)  # where a call does not decide
        # The last tick at which a window's first segment may begin; None: any.
        self.latest_begin = _count(given, "max_initial_timestamp_index")
        self.max_length = _count(given, "max_length", 1)  # the most new tokens where options.max_new_tokens is None
        self.needs_text_before = bool(given.get("condition_on_prev_tokens", False))  # which is not supported
        # Limits beyond which a text is doubtful, or silence (Radford et al. 2022, section 4.5); null switches one off.
        self.max_compression = _threshold(values, "compression_ratio_threshold", 2.4, math.inf)
        self.min_log_probability = _threshold(values, "logprob_threshold", -1.0, None)
        self.max_silence = _threshold(values, "no_speech_threshold", 0.6, math.inf)
        on_tokens = "compression_ratio_threshold" in values  # transformers measures the tokens then, not the text
        self._token_bytes = (vocab_size.bit_length() - 1) // 8 + 1 if on_tokens else 0

    def repeats(self, tokens: Array, text: str) -> bool:
        data = text.encode()
        if self._token_bytes:
            data = np.ascontiguousarray(tokens, "<i8").view(np.uint8).reshape(-1, 8)[:, : self._token_bytes].tobytes()
        return bool(len(data) > self.max_compression * len(zlib.compress(data)))

    def language_and_task(self, function: str, language: str | None, task: str | None) -> tuple[str | None, str]:
        """The language and the task of a call, else those of the file; a language of None is to be found out."""
        if task is not None:
            task = _checks.choice(function, "task", task, ("transcribe", "translate"))
        asked, spoken = task, language
        if (task is None and language is None) or not self.hold_together:
            asked = self.task if task is None else task
            spoken = self.language if language is None else language
        asked = "transcribe" if asked is None else asked
        # A model without languages has prompts that name neither; with them, the file may still choose.
        chosen = (task, language) if self.languages else (asked, spoken)
        english = (None, "en", "english", "<|en|>")
        if not self.is_multilingual and (chosen[0] == "translate" or chosen[1] not in english):
            raise ValueError(f"{function}: this model knows English only; a multilingual one translates")
        if not self.languages:
            return None, asked
        name = _bare(spoken.lower()) if isinstance(spoken, str) else ""
        code = _CODES.get(name, name)
        if spoken is not None and code not in self.languages:
            where = f" of {_FILE}" if language is None else ""
            _checks.choice(function, f"language{where}", spoken, tuple(self.languages))
        where = f" of {_FILE}" if task is None else ""
        asked = _checks.choice(function, f"task{where}", asked, self.tasks)
        return code if code in self.languages else None, asked

    def max_new_tokens(self, function: str, prompt: int, positions: int) -> int:
        """The greatest number of tokens after a prompt of so many tokens, in a model of so many positions."""
        most = self.options.max_new_tokens
        if most is None:
            return min(positions // 2 if self.max_length is None else self.max_length, positions - prompt)
        if prompt + most > positions:
            raise ValueError(
                f"{function}: max_new_tokens of {_FILE} is {most}, which with a prompt of {prompt} tokens are more "
                f"than the model's {positions} positions"
            )
        return most


def _bare(token: str) -> str:
    return token.removeprefix("<|").removesuffix("|>")


def _token(key: str, value: Any, vocab_size: int) -> int:
    token = _checks.count(_NAME, f"{key} of {_FILE}", value)
    if token >= vocab_size:
        raise ValueError(f"{_NAME}: {key} of {_FILE} is {token}; the vocabulary has {vocab_size} tokens")
    return token


def _ids(given: Mapping[str, Any], key: str, vocab_size: int) -> dict[str, int]:
    ids = given.get(key, {})
    if not isinstance(ids, dict):
        raise ValueError(f"{_NAME}: {key} of {_FILE} must be an object of token ids, not {ids!r}")
    return {name: _token(key, i, vocab_size) for name, i in ids.items()}


def _count(given: Mapping[str, Any], key: str, lowest: int = 0) -> int | None:
    return _checks.count(_NAME, f"{key} of {_FILE}", given[key], lowest) if key in given else None


def _threshold(values: Mapping[str, Any], key: str, usual: float, off: Any) -> Any:
    value = values.get(key, usual)
    return off if value is None else _checks.real(_NAME, f"{key} of {_FILE}", value, -1e9, 1e9)


def _forced(
    pairs: Any, languages: Mapping[str, int], tasks: Mapping[str, int], no_timestamps: int
) -> tuple[str | None, str | None]:
    """The language and the task that old files name as pairs of a place in the prompt and a token; None: any."""
    what = f"{_NAME}: forced_decoder_ids of {_FILE}"
    prompt: list[Any] = []
    try:
        for place, token in pairs:
            if place != len(prompt) + 1:
                break
            prompt.append(token)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be pairs of a place and a token, not {pairs!r}") from None
    if prompt and len(prompt) < len(pairs):
        raise ValueError(f"{what} leave out places of the prompt: {pairs!r}")
    if prompt and prompt[-1] == no_timestamps:
        prompt.pop()
    chosen: list[str | None] = []
    for token, names in zip([*prompt, None, None], (languages, tasks), strict=False):
        chosen.append(next((name for name, i in names.items() if i == token), None))
        if token is not None and chosen[-1] is None:
            raise ValueError(f"{what} are no language and task of this model: {pairs!r}")
    if len(prompt) > 2:
        raise ValueError(f"{what} are more than a language and a task: {pairs!r}")
    return chosen[0], chosen[1]


def check_extractor(directory: Path, bins: int, frames: int) -> None:
    """Raises ValueError if a directory asks for other spectrograms than Whisper's, of so many bins and frames.

    transformers' save_pretrained has written preprocessor_config.json, and since version 5 processor_config.json.
    """
    file = directory / "processor_config.json"
    both = read_json(file, dict) if file.is_file() else {}
    values = both.get("feature_extractor", both.get("audio_processor"))
    if values is None:
        file = directory / "preprocessor_config.json"
        values = read_json(file, dict) if file.is_file() else {}
    if not isinstance(values, dict):
        raise ValueError(f"load: {file}: feature_extractor must be an object, not {values!r}")
    for key, needed in {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": bins,
        "sampling_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": frames / 100,
        "dither": 0,
        "padding_value": 0,
        "padding_side": "right",
    }.items():
        if values.get(key, needed) not in (needed, None):
            raise ValueError(f"load: {file}: {key} is {values[key]!r}; {needed!r} is supported for this model")
