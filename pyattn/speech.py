"""Speech to text: Whisper's windows, prompts and rules around a model that reads spectrograms."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks, audio
from pyattn._checks import Array
from pyattn.generation import Generated, GenerationOptions, generate
from pyattn.models._files import find_directory, import_extra, read_json
from pyattn.models._tokenizer import read_tokenizer
from pyattn.models.generative import Continuation, GenerativeModel, Memory
from pyattn.models.pretrained import WeightDtypes

Sound: TypeAlias = str | os.PathLike[str] | NDArray[np.float32]

FRAMES = 100  # a second, of the spectrogram
TICKS = 50  # a second, of timestamps

# Where decoding has gone wrong it is tried again at random, ever more so: Radford et al. 2022, section 4.5.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MOST_COMPRESSION = 2.4  # of what is no repetition
LEAST_LOG_PROBABILITY = -1.0  # of a token, on average
MOST_SILENCE = 0.6  # probability


@dataclass(frozen=True)
class Segment:
    """A phrase, from start to end in seconds; probabilities are of its window."""

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
            f"{number}\n{_clock(segment.start)} --> {_clock(segment.end)}\n{segment.text.strip()}\n"
            for number, segment in enumerate(self.segments, start=1)
        )
        return "\n".join(blocks)


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
    seek: int = 0
    language: str = ""
    segments: list[Segment] = field(default_factory=list)


class SpeechRecognizer:
    """Whisper: speech in many languages to text, or to English text.

    Radford et al. 2022 (arXiv:2212.04356). `from_pretrained` makes one from a directory.

    Args:
        model: a `GenerativeModel` that reads spectrograms.
        tokenizer: a `tokenizers.Tokenizer`.
        settings: what generation_config.json says.
    """

    def __init__(self, model: GenerativeModel, tokenizer: Any, settings: dict[str, Any]) -> None:
        if model.config.encoder_input != "frames":
            raise ValueError(f"SpeechRecognizer: {model.config.model_type} is no model of speech; Whisper is")
        self.model, self._tokenizer, self._settings = model, tokenizer, settings
        special = {name: tokenizer.token_to_id(f"<|{name}|>") for name in _SPECIAL}
        if missing := [name for name in ("startoftranscript", "endoftext", "notimestamps") if special[name] is None]:
            raise ValueError(f"SpeechRecognizer: the tokenizer has no token <|{missing[0]}|>")
        self._special = special
        self._first_timestamp = special["notimestamps"] + 1
        self._no_speech = special["nospeech"] or special["nocaptions"] or special["notimestamps"] - 1
        first, last = special["startoftranscript"] + 1, special["translate"] or special["notimestamps"]
        self._languages = {_bare(tokenizer.id_to_token(i)): i for i in range(first, last)}
        self.is_multilingual = bool(settings.get("is_multilingual", special["endoftext"] != _ENGLISH_END))

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], *, dtype: WeightDtypes = "float32"
    ) -> "SpeechRecognizer":
        """The recognizer of a directory, or of a repository on the Hugging Face hub such as "openai/whisper-tiny".

        Args:
            path_or_hub_id: holds config.json, model.safetensors, tokenizer.json and generation_config.json.
            dtype: as in `pyattn.models.load`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        directory = find_directory(path_or_hub_id)
        model = GenerativeModel.from_directory(directory, dtype)
        config = model.config
        tokenizer = read_tokenizer(directory / "tokenizer.json", config.vocab_size, config.max_position_embeddings)
        settings = directory / "generation_config.json"
        values = read_json(settings if settings.is_file() else directory / "config.json", dict)
        return cls(model, tokenizer, values)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of the languages that the model knows."""
        return tuple(self._languages) if self.is_multilingual else ("en",)

    def transcribe(
        self,
        sound: Sound | Sequence[Sound],
        *,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = True,
        num_beams: int = 1,
        temperatures: Sequence[float] = TEMPERATURES,
        batch_size: int = 8,
        seed: int = 0,
        show_progress: bool = False,
    ) -> Any:
        """What is said in a sound, or in each of several.

        Args:
            sound: the path of a WAV file of any rate and number of channels, or samples (n,), float32, 16,000 a second;
                or a list of these, whose windows are decoded together.
            language: its code, as "de"; None: found from the first 30 seconds. Models of English know no other.
            task: "transcribe", or "translate" to English text.
            timestamps: False leaves them out: each window of 30 seconds is one segment.
            num_beams: of the beam search at temperature 0; 1 is greedy.
            temperatures: at which a window is decoded until the result is likely and no repetition, else the likeliest
                is taken; those above 0 draw at random, from seed.
            batch_size: windows of different sounds that are decoded together.
            show_progress: a bar on standard error.

        Returns:
            A `Transcript`, or a list of them.

        Raises:
            TypeError, ValueError: an argument is none of these; a file is no WAV file, damaged or empty.
            OSError: a file cannot be read.
        """
        name = "transcribe"
        single = isinstance(sound, str | os.PathLike | np.ndarray)
        sounds: Sequence[Any] = [sound] if single else sound  # type: ignore[assignment]
        task = _checks.choice(name, "task", task, ("transcribe", "translate"))
        if not self.is_multilingual and (task == "translate" or language not in (None, "en")):
            raise ValueError(f"{name}: this model knows English only; a multilingual one translates")
        if language is not None:
            _checks.choice(name, "language", language, self.languages)
        batch_size = _checks.size(name, "batch_size", batch_size)
        num_beams = _checks.size(name, "num_beams", num_beams)
        if not temperatures or not all(0 <= temperature <= 10 for temperature in temperatures):
            raise ValueError(f"{name}: temperatures must be numbers from 0 to 10, one at least, not {temperatures!r}")
        jobs = [self._job(name, x, language or "") for x in sounds]
        tqdm = import_extra("tqdm", "transcribe: showing progress").tqdm if show_progress else None
        bar = tqdm(total=sum(job.frames for job in jobs) / FRAMES, unit="s", desc="transcribe") if tqdm else None
        options = _Options(task, timestamps, num_beams, tuple(temperatures), seed)
        while waiting := [job for job in jobs if job.seek < job.frames][:batch_size]:
            before = sum(min(job.seek, job.frames) for job in waiting)
            self._advance(waiting, options)
            if bar is not None:
                bar.update((sum(min(job.seek, job.frames) for job in waiting) - before) / FRAMES)
        if bar is not None:
            bar.close()
        results = [
            Transcript(
                "".join(x.text for x in job.segments).strip(), job.language, job.frames / FRAMES, tuple(job.segments)
            )
            for job in jobs
        ]
        return results[0] if single else results

    def _job(self, name: str, sound: Any, language: str) -> _Job:
        if isinstance(sound, np.ndarray):
            if sound.ndim != 1 or sound.dtype != np.float32 or not np.isfinite(sound).all():
                raise ValueError(
                    f"{name}: samples must be finite, (n,) float32 at {audio.RATE} a second, not {sound.shape} "
                    f"{sound.dtype}"
                )
            samples = sound
        else:
            samples = audio.resample(*audio.read_wave(sound))
        frames = -(-len(samples) * FRAMES // audio.RATE)
        window = self.model.encoder_embeddings.frames
        bins = self.model.config.num_mel_bins
        features = audio.log_mel(samples, num_mel_bins=bins, frames=frames + window) if frames else np.zeros((0, bins))
        return _Job(features, frames, language=language if self.is_multilingual else "en")

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
        special, model = self._special, self.model
        beams = options.num_beams if temperature == 0 else 1
        longest = model.config.max_position_embeddings
        opening = model.start(memory, batch_size=len(jobs) * beams, capacity=longest)
        logits = opening.step(np.full((len(jobs), 1), special["startoftranscript"]))
        silence = _softmax(logits)[:, self._no_speech]
        codes = np.array(list(self._languages.values()))
        prompts = []
        for job, row in zip(jobs, logits, strict=True):
            if not job.language:
                job.language = list(self._languages)[int(row[codes].argmax())]
            spoken = [self._languages[job.language], special[options.task]] if self.is_multilingual else []
            prompts.append(
                [special["startoftranscript"], *spoken] + [special["notimestamps"]] * (not options.timestamps)
            )
        rules = _TimestampRules(self._first_timestamp, special["endoftext"], self._settings)
        generated = generate(
            _Begun(opening, logits),
            prompts,
            GenerationOptions(
                max_new_tokens=longest // 2 - len(prompts[0]),
                stop_tokens=special["endoftext"],
                suppress_tokens=self._settings.get("suppress_tokens") or (),
                begin_suppress_tokens=self._settings.get("begin_suppress_tokens") or (),
                num_beams=beams,
                do_sample=temperature > 0,
                temperature=temperature or 1.0,
                seed=options.seed,
                return_scores=True,
            ),
            adjust=rules if options.timestamps else None,
        )
        return [_Decoded(one, float(p), self._text(one.tokens)) for one, p in zip(generated, silence, strict=True)]

    def _text(self, tokens: Array) -> str:
        """Tokens of text, without those that mean something else."""
        text: str = self._tokenizer.decode([int(t) for t in tokens if t < self._special["endoftext"]])
        return text

    def _take(self, job: _Job, decoded: "_Decoded", window: int) -> None:
        """Segments of a window of so many frames, and where the next one begins."""
        start = job.seek / FRAMES
        tokens = decoded.generated.tokens
        tokens = tokens[tokens != self._special["endoftext"]]
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
                segment = Segment(
                    start + first, start + max(first, last), text, decoded.average(), decoded.no_speech_probability
                )
                job.segments.append(segment)
        advanced = window
        if len(ends) and not whole:
            advanced = (int(tokens[ends[-1] - 1]) - self._first_timestamp) * FRAMES // TICKS
        job.seek += advanced if advanced > 0 else window


_SPECIAL = (
    "startoftranscript",
    "endoftext",
    "notimestamps",
    "transcribe",
    "translate",
    "nospeech",
    "nocaptions",
)
_ENGLISH_END = 50256  # <|endoftext|> of the models of English


def _bare(token: str) -> str:
    return token.removeprefix("<|").removesuffix("|>")


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class _Options:
    task: str
    timestamps: bool
    num_beams: int
    temperatures: tuple[float, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A window's tokens."""

    generated: Generated
    no_speech_probability: float
    text: str

    def average(self) -> float:
        """Log-probability of a token."""
        assert self.generated.score is not None
        return self.generated.score / max(1, len(self.generated.tokens))

    def is_silence(self) -> bool:
        return self.no_speech_probability > MOST_SILENCE and self.average() < LEAST_LOG_PROBABILITY

    def is_doubtful(self) -> bool:
        return (self.repeats() or self.average() < LEAST_LOG_PROBABILITY) and not self.is_silence()

    def repeats(self) -> bool:
        data = self.text.encode()
        return len(data) > MOST_COMPRESSION * len(zlib.compress(data))

    def rank(self) -> tuple[bool, float]:
        """Of several that are doubtful, the greatest is taken."""
        return not self.repeats(), self.average()


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

    def __init__(self, first: int, end: int, settings: dict[str, Any]) -> None:
        self._first, self._end = first, end
        self._latest_begin = int(settings.get("max_initial_timestamp_index") or 50)

    def __call__(self, histories: list[Array], logits: Array) -> Array:
        first, end = self._first, self._end
        logits[:, first - 1] = -np.inf  # that there are no timestamps
        for tokens, row in zip(histories, logits, strict=True):
            if not len(tokens):
                row[:first] = -np.inf
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
