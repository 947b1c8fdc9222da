"""Speech to text: Whisper's windows, prompts and rules around a model that reads spectrograms."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn._extras import import_extra
from pyattn.generation import generate
from pyattn.models._files import find_directory, read_json
from pyattn.models._tokenizer import read_tokenizer
from pyattn.models.generative import Continuation, GenerativeModel, Memory
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks import audio
from pyattn.tasks.speech.settings import Thresholds, check_extractor, read_settings

Sound: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | BinaryIO
    | NDArray[Any]
    | Sequence[float]
    | tuple[int, Any]
    | tuple[Any, int]
    | Mapping[str, Any]
)

FRAMES = 100  # a second, of the spectrogram
TICKS = 50  # a second, of timestamps

# Where decoding has gone wrong it is tried again at random, ever more so: Radford et al. 2022, section 4.5.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Segment:
    """A phrase, from start to end in seconds, both within the sound; probabilities are of its window."""

    start: float
    end: float
    text: str
    average_log_probability: float
    no_speech_probability: float


@dataclass(frozen=True)
class Transcript:
    """What was said, in `language` (a code such as "en"; that of the sound, whatever the text's), over seconds."""

    text: str
    language: str
    seconds: float
    segments: tuple[Segment, ...]

    def srt(self) -> str:
        """The segments as SubRip subtitles."""
        blocks = (
            f"{number}\n{_clock(segment.start)} --> {_clock(segment.end)}\n{_subtitle(segment.text)}\n"
            for number, segment in enumerate(self.segments, start=1)
        )
        return "\n".join(blocks)


def _subtitle(text: str) -> str:
    """text without what would end a block, or begin one."""
    return "\n".join(line for line in text.strip().splitlines() if line.strip()).replace("-->", "->")


def _clock(seconds: float) -> str:
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, seconds_ = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds_:02},{milliseconds:03}"


@dataclass
class _Job:
    """A sound on its way through windows of 30 seconds."""

    features: Array  # frames of the sound, then those of 30 seconds of silence
    frames: int
    seconds: float
    language: str = ""
    seek: int = 0
    segments: list[Segment] = field(default_factory=list)


class SpeechRecognizer:
    """Whisper: speech in many languages to text, or to English text.

    Radford et al. 2022 (arXiv:2212.04356). `from_pretrained` makes one from a directory.

    Args:
        model: a `GenerativeModel` that reads spectrograms.
        tokenizer: a `tokenizers.Tokenizer`.
        settings: what generation_config.json says. Obeyed are its tokens and limits (eos_token_id,
            decoder_start_token_id, no_timestamps_token_id, lang_to_id, task_to_id, is_multilingual, max_length,
            max_new_tokens, max_initial_timestamp_index, suppress_tokens, begin_suppress_tokens), its language and task
            (or forced_decoder_ids) where a call names none, its thresholds (compression_ratio_threshold, of the tokens'
            bytes as transformers measures it, logprob_threshold, no_speech_threshold; null is none), and the options of
            `GenerationOptions` but do_sample and temperature, which `temperatures` decides, and return_timestamps,
            which `timestamps` decides.

    Raises:
        ValueError: the model is none of speech; a setting, or the tokenizer, is wrong.
    """

    def __init__(self, model: GenerativeModel, tokenizer: Any, settings: dict[str, Any]) -> None:
        if model.config.encoder_input != "frames":
            raise ValueError(f"SpeechRecognizer: {model.config.model_type} is no model of speech; Whisper is")
        self.model, self._tokenizer = model, tokenizer
        self._settings = read_settings(tokenizer, settings, model.config.vocab_size)
        self._first_timestamp = self._settings.no_timestamps + 1
        self.is_multilingual = self._settings.is_multilingual

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], *, dtype: WeightDtypes = "float32", strict: bool = True
    ) -> "SpeechRecognizer":
        """The recognizer of a directory, or of a repository on the Hugging Face hub such as "openai/whisper-tiny".

        Args:
            path_or_hub_id: holds config.json, model.safetensors, tokenizer.json and generation_config.json. Where
                there is preprocessor_config.json or processor_config.json, it must ask for Whisper's spectrograms.
            dtype, strict: as in `pyattn.models.load`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        directory = find_directory(path_or_hub_id)
        model = GenerativeModel.from_directory(directory, dtype, strict)
        config = model.config
        if config.encoder_input == "frames":
            check_extractor(directory, config.num_mel_bins, model.encoder_embeddings.frames)
        tokenizer = read_tokenizer(directory / "tokenizer.json", config.vocab_size, config.max_position_embeddings)
        settings, forced = directory / "generation_config.json", "forced_decoder_ids"
        values = read_json(settings, dict) if settings.is_file() else dict(config.source)
        if values.get(forced) is None:  # where older files have them, and transformers looks for them
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
            sound: a WAV file (its path, its bytes, or it open for reading); or samples, as an array or a list, (n,) or
                (n, channels), floats from -1 to 1 or integers, 16,000 a second; or (samples, rate), (rate, samples) or
                {"array": samples, "sampling_rate": rate}, as `pyattn.audio.read_sound` takes them. Or several of these,
                in a list or another iterable, whose windows are decoded together.
            language: its code, as "de", or its English name; None: what generation_config.json says, else it is found
                from the first 30 seconds. Models of English know no other.
            task: "transcribe", or "translate" to English text; None: what generation_config.json says, else transcribe.
            timestamps: False leaves them out: each window of 30 seconds is one segment.
            num_beams: of the beam search at temperature 0; 1 is greedy; None: what generation_config.json says, else 1.
            temperatures: at which a window is decoded until the result is likely and no repetition, else the likeliest
                is taken; those above 0 draw at random, from seed.
            batch_size: windows of different sounds that are decoded together.
            show_progress: a bar on standard error.

        Returns:
            A `Transcript`, or a list of them. Times that the model says beyond the end of the sound are that end.

        Raises:
            TypeError, ValueError: an argument is none of these; a file is no WAV file, damaged or empty; samples are
                masked, NaN or infinite; generation_config.json asks for what is not supported.
            OSError: a file cannot be read.
        """
        name, settings = "transcribe", self._settings
        single = audio.is_sound(sound)
        if not single and not isinstance(sound, Iterable):
            audio.read_sound(sound, name)  # which says what is accepted
        sounds: Iterable[Any] = [sound] if single else sound  # type: ignore[assignment]
        language, task = self._language_and_task(name, language, task)
        batch_size = _checks.size(name, "batch_size", batch_size)
        num_beams = settings.options.num_beams if num_beams is None else _checks.size(name, "num_beams", num_beams)
        timestamps = _checks.flag(name, "timestamps", timestamps)
        if timestamps and self._first_timestamp >= self.model.config.vocab_size:
            raise ValueError(f"{name}: the model has no tokens of times; timestamps=False does without")
        warmth = [_checks.real(name, "temperatures", x, 0, 10) for x in np.atleast_1d(temperatures).tolist()]
        if not warmth:
            raise ValueError(f"{name}: temperatures must be numbers from 0 to 10, one at least, not {temperatures!r}")
        prompt = 1 + 2 * bool(settings.languages) + (not timestamps)
        most = settings.most_new_tokens(name, prompt, self.model.config.max_position_embeddings)
        jobs = [self._job(name, "sound" if single else f"sound[{i}]", x, language or "") for i, x in enumerate(sounds)]
        if settings.needs_text_before and any(job.frames > self.model.encoder_embeddings.frames for job in jobs):
            raise ValueError(
                f"{name}: condition_on_prev_tokens of generation_config.json is not supported; sounds of one window of "
                "30 seconds do not need it"
            )
        tqdm = import_extra("tqdm", "transcribe: showing progress").tqdm if show_progress else None
        bar = tqdm(total=sum(job.frames for job in jobs) / FRAMES, unit="s", desc="transcribe") if tqdm else None
        options = _Options(task, timestamps, most, num_beams, tuple(warmth), seed)
        while waiting := [job for job in jobs if job.seek < job.frames][:batch_size]:
            before = sum(min(job.seek, job.frames) for job in waiting)
            self._advance(waiting, options)
            if bar is not None:
                bar.update((sum(min(job.seek, job.frames) for job in waiting) - before) / FRAMES)
        if bar is not None:
            bar.close()
        results = [
            Transcript("".join(x.text for x in job.segments).strip(), job.language, job.seconds, tuple(job.segments))
            for job in jobs
        ]
        return results[0] if single else results

    def _language_and_task(self, name: str, language: str | None, task: str | None) -> tuple[str | None, str]:
        """Those of a call, else those of generation_config.json; a language of None is to be found out."""
        settings, english = self._settings, (None, "en", "english", "<|en|>")
        if task is not None:
            task = _checks.choice(name, "task", task, ("transcribe", "translate"))
        told, spoken = task, language
        if (task is None and language is None) or not settings.hold_together:
            told = settings.task if task is None else task
            spoken = settings.language if language is None else language
        told = "transcribe" if told is None else told
        # Without languages, prompts name neither; with them, they may still be the file's to choose.
        chosen = (task, language) if settings.languages else (told, spoken)
        if not self.is_multilingual and (chosen[0] == "translate" or chosen[1] not in english):
            raise ValueError(f"{name}: this model knows English only; a multilingual one translates")
        if not settings.languages:
            return None, told
        code = settings.language_code(spoken) if isinstance(spoken, str) else None
        if spoken is not None and code is None:
            where = " of generation_config.json" if language is None else ""
            _checks.choice(name, f"language{where}", spoken, tuple(settings.languages))
        where = " of generation_config.json" if task is None else ""
        return code, _checks.choice(name, f"task{where}", told, settings.tasks)

    def _job(self, name: str, what: str, sound: Any, language: str) -> _Job:
        samples, rate = audio.read_sound(sound, name, what)
        seconds = len(samples) / rate
        bins, window = self.model.config.num_mel_bins, self.model.encoder_embeddings.frames
        if not len(samples):
            return _Job(np.zeros((0, bins)), 0, seconds, language)
        samples = audio.resample(samples, rate)
        frames = -(-len(samples) * FRAMES // audio.RATE)
        features = audio.log_mel(samples, num_mel_bins=bins, frames=frames + window)
        return _Job(features, frames, seconds, language)

    def _advance(self, jobs: list[_Job], options: "_Options") -> None:
        """One window of each job."""
        window = self.model.encoder_embeddings.frames
        memory = self.model.encode(np.stack([job.features[job.seek : job.seek + window] for job in jobs]))
        found: dict[int, _Decoded] = {}
        for temperature in options.temperatures:
            rows = [i for i in range(len(jobs)) if i not in found or found[i].is_doubtful()]
            if not rows:
                break
            part = Memory(memory.hidden[rows], memory.lengths[rows])
            decoded = self._decode([jobs[i] for i in rows], part, options, temperature)
            for i, one in zip(rows, decoded, strict=True):
                if i not in found or one.rank() > found[i].rank():
                    found[i] = one
        for i, job in enumerate(jobs):
            self._take(job, found[i], min(window, job.frames - job.seek))

    def _decode(self, jobs: list[_Job], memory: Memory, options: "_Options", temperature: float) -> "list[_Decoded]":
        settings, model = self._settings, self.model
        beams = options.num_beams if temperature == 0 else 1
        capacity = model.config.max_position_embeddings
        opening = model.start(memory, batch_size=len(jobs) * beams, capacity=capacity)
        logits = opening.step(np.full((len(jobs), 1), settings.start))
        silence = _softmax(logits)[:, settings.no_timestamps - 1]
        codes = np.array(list(settings.languages.values()))
        prompts = []
        for job, row in zip(jobs, logits, strict=True):
            if not job.language:
                job.language = list(settings.languages)[int(row[codes].argmax())] if codes.size else "en"
            spoken = [settings.languages[job.language], settings.tasks[options.task]] if codes.size else []
            prompts.append([settings.start, *spoken] + [settings.no_timestamps] * (not options.timestamps))
        chosen = replace(
            settings.options,
            max_new_tokens=options.most_new_tokens,
            num_beams=beams,
            do_sample=temperature > 0,
            temperature=temperature or 1.0,
            seed=options.seed,
            return_scores=True,
        )
        rules = _TimestampRules(self._first_timestamp, settings.end, settings.latest_begin)
        adjust = rules if options.timestamps else None
        generated = generate(_Begun(opening, logits), prompts, chosen, adjust=adjust)
        decoded = []
        for one, probability in zip(generated, silence, strict=True):
            assert one.score is not None
            length = max(1, len(one.tokens))
            average = one.score / length if beams == 1 else one.score * length ** (chosen.length_penalty - 1)
            tokens = one.tokens[:-1] if one.reason == "stop" else one.tokens
            decoded.append(_Decoded(tokens, average, float(probability), self._text(tokens), settings.thresholds))
        return decoded

    def _text(self, tokens: Array) -> str:
        """Tokens of text, without those that mean something else."""
        text: str = self._tokenizer.decode([int(t) for t in tokens if t < self._settings.text_end])
        return text

    def _take(self, job: _Job, decoded: "_Decoded", window: int) -> None:
        """Segments of a window of so many frames, and where the next one begins."""
        start = job.seek / FRAMES
        tokens = decoded.tokens
        if decoded.is_silence():
            job.seek += window
            return
        stamps = tokens >= self._first_timestamp
        ends = np.flatnonzero(stamps[1:] & stamps[:-1]) + 1  # between the end of a segment and the start of the next
        whole = len(tokens) < 2 or (stamps[-1] and not stamps[-2])  # nothing was cut off at the window's end
        parts = np.split(tokens, ends)
        if len(ends) and not whole:
            parts.pop()
        for part in parts:
            times = [int(t) - self._first_timestamp for t in part if t >= self._first_timestamp]
            first = times[0] / TICKS if times else 0.0
            last = (
                times[-1] / TICKS
                if len(times) > 1 or (times and part[-1] >= self._first_timestamp)
                else window / FRAMES
            )
            if text := self._text(part):
                begin = min(start + first, job.seconds)
                end = min(start + max(first, last), job.seconds)
                job.segments.append(Segment(begin, end, text, decoded.average, decoded.no_speech_probability))
        advanced = window
        if len(ends) and not whole:
            advanced = (int(tokens[ends[-1] - 1]) - self._first_timestamp) * FRAMES // TICKS
        job.seek += advanced if advanced > 0 else window


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class _Options:
    task: str
    timestamps: bool
    most_new_tokens: int
    num_beams: int
    temperatures: tuple[float, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A window's tokens."""

    tokens: Array  # without the one that ended them
    average: float  # log-probability of a token
    no_speech_probability: float
    text: str
    thresholds: Thresholds

    def is_silence(self) -> bool:
        return self.thresholds.is_silence(self.no_speech_probability, self.average)

    def is_doubtful(self) -> bool:
        return (self.repeats() or self.thresholds.is_unlikely(self.average)) and not self.is_silence()

    def repeats(self) -> bool:
        return self.thresholds.repeats(self.tokens, self.text)

    def rank(self) -> tuple[bool, float]:
        """Of several that are doubtful, the greatest is taken."""
        return not self.repeats(), self.average


class _Begun:
    """A continuation that has seen the first token of its prompts, and what came of it."""

    def __init__(self, continuation: Continuation, logits: Array) -> None:
        self._continuation = continuation
        self._logits: Array | None = logits

    def step(self, tokens: Array, lengths: Array | None = None) -> Array:
        logits, self._logits = self._logits, None
        if logits is None:
            return self._continuation.step(tokens, lengths)
        return self._continuation.step(tokens[:, 1:]) if tokens.shape[1] > 1 else logits

    def reorder(self, rows: Array) -> None:
        self._continuation.reorder(rows)


class _TimestampRules:
    """Which timestamps may come next: in pairs around text, never backwards, where they are likelier than any text.

    Radford et al. 2022 (arXiv:2212.04356), section 4.5, and the article's code.
    """

    def __init__(self, first: int, end: int, latest_begin: int | None) -> None:
        self._first, self._end, self._latest_begin = first, end, latest_begin

    def __call__(self, histories: list[Array], logits: Array) -> Array:
        first, end = self._first, self._end
        logits[:, first - 1] = -np.inf  # that there are no timestamps
        for tokens, row in zip(histories, logits, strict=True):
            if not len(tokens):
                row[:first] = -np.inf
                if self._latest_begin is not None:
                    row[first + self._latest_begin + 1 :] = -np.inf
                continue
            was_stamp = tokens[-1] >= first
            if was_stamp and (len(tokens) < 2 or tokens[-2] >= first):
                row[first:] = -np.inf  # a segment has begun: text
            elif was_stamp:
                row[:end] = -np.inf  # one has ended: the start of the next, or the end
            stamps = tokens[tokens >= first]
            if len(stamps):
                # a segment is longer than nothing; the next may begin where it ended
                least = stamps[-1] if was_stamp and not (len(tokens) < 2 or tokens[-2] >= first) else stamps[-1] + 1
                row[first:least] = -np.inf
            peak = row[first:].max()
            if peak > -np.inf and peak + np.log(np.exp(row[first:] - peak).sum()) > row[:first].max():
                row[:first] = -np.inf
        return logits
