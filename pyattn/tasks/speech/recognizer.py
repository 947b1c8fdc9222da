"""Speech to text with a Whisper: from sounds to transcripts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pyattn import _checks
from pyattn.models.files import find_directory
from pyattn.models.generative import GenerativeModel
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tokenizer import read_tokenizer
from pyattn.tasks import audio
from pyattn.tasks.speech.settings import Settings, check_extractor
from pyattn.tasks.speech.windows import FRAMES, Recording, WindowDecoder
from pyattn.tasks.texts import progress

Sound: TypeAlias = (
    str | os.PathLike[str] | bytes | BinaryIO | NDArray[Any] | Sequence[float] | tuple[Any, Any] | Mapping[str, Any]
)

# A doubtful result is decoded again at random, at ever higher temperatures: Radford et al. 2022, section 4.5.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class SpeechRecognizer:
    """Whisper: speech in many languages to text, or to English text.

    Radford et al. 2022 (arXiv:2212.04356). `from_pretrained` makes one from a directory.

    Args:
        model: a `GenerativeModel` that reads spectrograms.
        tokenizer: a `tokenizers.Tokenizer`.
        settings: the contents of generation_config.json. These keys are obeyed: tokens and limits (eos_token_id,
            decoder_start_token_id, no_timestamps_token_id, lang_to_id, task_to_id, is_multilingual, max_length,
            max_new_tokens, max_initial_timestamp_index, suppress_tokens, begin_suppress_tokens); language and task
            (or forced_decoder_ids), where a call names none; thresholds (compression_ratio_threshold, measured on the
            bytes of tokens as transformers does, logprob_threshold, no_speech_threshold; null switches one off); and
            the options of `GenerationOptions`, except do_sample and temperature, which `temperatures` decides, and
            return_timestamps, which `timestamps` decides.

    Raises:
        ValueError: the model does not read speech; a setting, or the tokenizer, is wrong.
    """

    def __init__(self, model: GenerativeModel, tokenizer: Any, settings: dict[str, Any]) -> None:
        if model.config.encoder_input != "frames":
            raise ValueError(f"SpeechRecognizer: {model.config.model_type} is no model of speech; Whisper is")
        self.model, self._tokenizer = model, tokenizer
        self._settings = Settings(tokenizer, settings, model.config.vocab_size)
        self.is_multilingual = self._settings.is_multilingual

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        strict: bool = True,
        cache_dtype: DTypeLike | None = None,
    ) -> "SpeechRecognizer":
        """The recognizer of a directory, or of a repository on the Hugging Face hub such as "openai/whisper-tiny".

        Args:
            path_or_hub_id: holds config.json, model.safetensors, tokenizer.json and generation_config.json. If it has
                preprocessor_config.json or processor_config.json, that must ask for Whisper's spectrograms.
            dtype, strict: as in `pyattn.models.load`.
            cache_dtype: "int8" or None: how keys and values are held, the attribute of `GenerativeModel`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        directory = find_directory(path_or_hub_id)
        model = GenerativeModel.from_directory(directory, dtype, strict)
        model.cache_dtype = cache_dtype
        config = model.config
        if config.encoder_input == "frames":
            check_extractor(directory, config.num_mel_bins, model.encoder_embeddings.frames)
        tokenizer = read_tokenizer(directory / "tokenizer.json", config.vocab_size, config.max_position_embeddings)
        values, forced = dict(config.source if model.generation is None else model.generation), "forced_decoder_ids"
        if values.get(forced) is None:  # older directories have it in config.json, where transformers finds it too
            values[forced] = config.source.get(forced)
        return cls(model, tokenizer, values)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of the languages that the model knows."""
        return tuple(self._settings.languages) if self.is_multilingual else ("en",)

    def transcribe(
        self,
        sound: Sound | Iterable[Sound],
        *,
        language: str | None = None,
        task: str | None = None,
        timestamps: bool = True,
        num_beams: int | None = None,
        temperatures: float | Sequence[float] = TEMPERATURES,
        batch_size: int = 8,
        seed: int = 0,
        show_progress: bool = False,
    ) -> Any:
        """What is said in a sound, or in each of several.

        Args:
            sound: a WAV file, or samples, (n,) or (n, channels), with or without their rate, in any form that
                `pyattn.audio.read_sound` takes. Or an iterable of several, whose windows are decoded together.
            language: its code, as "de", or its English name; None: the one in generation_config.json, else it is found
                from the first 30 seconds. Models of English know no other.
            task: "transcribe", or "translate" to English; None: the one in generation_config.json, else transcribe.
            timestamps: False omits them: each window of 30 seconds is one segment.
            num_beams: of the beam search at temperature 0; 1 is greedy; None: as generation_config.json says, else 1.
            temperatures: a window is decoded at each in turn until the result is likely and does not repeat itself,
                else the likeliest result is taken; temperatures above 0 draw at random, from seed.
            batch_size: how many windows of different sounds are decoded together.
            show_progress: whether to draw a bar on standard error.

        Returns:
            A `Transcript`, or a list of them. Times that the model says beyond the end of the sound become that end.

        Raises:
            TypeError, ValueError: an argument is none of these; a file is no WAV file, damaged or empty; samples are
                masked, NaN or infinite; generation_config.json asks for what is not supported.
            OSError: a file cannot be read.
        """
        name, settings, config = "transcribe", self._settings, self.model.config
        single = audio.is_sound(sound)
        if not single and not isinstance(sound, Iterable):
            audio.read_sound(sound, name)  # raises an error that says what is accepted
        sounds: Iterable[Any] = [sound] if single else sound  # type: ignore[assignment]
        language, task = settings.language_and_task(name, language, task)
        batch_size = _checks.size(name, "batch_size", batch_size)
        num_beams = settings.options.num_beams if num_beams is None else _checks.size(name, "num_beams", num_beams)
        timestamps = _checks.flag(name, "timestamps", timestamps)
        if timestamps and settings.first_timestamp >= config.vocab_size:
            raise ValueError(f"{name}: the model has no tokens of times; timestamps=False does without")
        warmth = [_checks.real(name, "temperatures", x, 0, 10) for x in np.atleast_1d(temperatures).tolist()]
        if not warmth:
            raise ValueError(f"{name}: temperatures must be numbers from 0 to 10, one at least, not {temperatures!r}")
        prompt = 1 + 2 * bool(settings.languages) + (not timestamps)
        max_new_tokens = settings.max_new_tokens(name, prompt, config.max_position_embeddings)
        recordings = [
            Recording(*audio.read_sound(x, name, "sound" if single else f"sound[{i}]"), self.model, language or "")
            for i, x in enumerate(sounds)
        ]
        if settings.needs_text_before and any(x.frames > self.model.encoder_embeddings.frames for x in recordings):
            raise ValueError(
                f"{name}: condition_on_prev_tokens of generation_config.json is not supported; sounds of one window of "
                "30 seconds do not need it"
            )
        parts = (self.model, self._tokenizer, settings)
        decoder = WindowDecoder(*parts, task, timestamps, max_new_tokens, num_beams, tuple(warmth), seed)
        seconds = sum(recording.frames for recording in recordings) / FRAMES
        purpose = f"{name}: showing progress"
        with progress(seconds, bool(show_progress), purpose=purpose, label=name, unit="s") as done:
            while waiting := [x for x in recordings if x.seek < x.frames][:batch_size]:
                before = sum(min(x.seek, x.frames) for x in waiting)
                decoder.advance(waiting)
                done((sum(min(x.seek, x.frames) for x in waiting) - before) / FRAMES)
        results = [recording.transcript() for recording in recordings]
        return results[0] if single else results
