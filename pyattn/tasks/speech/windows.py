"""Decoding of sounds in windows of 30 seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pyattn._checks import Array
from pyattn.generation import Continuation, generate
from pyattn.models import GenerativeModel, Memory
from pyattn.tasks.speech.settings import Settings, Thresholds
from pyattn.tasks.speech.timestamps import TimestampRules
from pyattn.tasks.speech.transcript import Segment, Transcript

FRAMES = 100  # frames of the spectrogram in a second
TICKS = 50  # timestamps in a second


@dataclass(frozen=True)
class Options:
    """The checked options of a call of `transcribe`."""

    task: str
    timestamps: bool
    max_new_tokens: int
    num_beams: int
    temperatures: tuple[float, ...]
    seed: int


@dataclass
class Recording:
    """A sound, and how far it has been transcribed."""

    features: Array  # the spectrogram of the sound, then that of 30 seconds of silence
    frames: int  # of the sound
    seconds: float
    language: str = ""  # "" until it is known
    seek: int = 0  # the frame where the next window begins
    segments: list[Segment] = field(default_factory=list)

    def transcript(self) -> Transcript:
        text = "".join(segment.text for segment in self.segments).strip()
        return Transcript(text, self.language, self.seconds, tuple(self.segments))


@dataclass(frozen=True, eq=False)
class _Decoded:
    """The result of decoding a window."""

    tokens: Array  # without the stop token
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
        """Orders doubtful results; the greatest is taken."""
        return not self.repeats(), self.average


class WindowDecoder:
    """Decodes windows of several recordings together."""

    def __init__(self, model: GenerativeModel, tokenizer: Any, settings: Settings) -> None:
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self.window: int = model.encoder_embeddings.frames  # frames that the model reads at once

    def advance(self, recordings: Sequence[Recording], options: Options) -> None:
        """Transcribes one window of each recording, again at higher temperatures while the result is doubtful."""
        features = np.stack([x.features[x.seek : x.seek + self.window] for x in recordings])
        memory = self._model.encode(features)
        found: dict[int, _Decoded] = {}
        for temperature in options.temperatures:
            rows = [i for i in range(len(recordings)) if i not in found or found[i].is_doubtful()]
            if not rows:
                break
            part = Memory(memory.hidden[rows], memory.lengths[rows])
            decoded = self._decode([recordings[i] for i in rows], part, options, temperature)
            for i, one in zip(rows, decoded, strict=True):
                if i not in found or one.rank() > found[i].rank():
                    found[i] = one
        for i, recording in enumerate(recordings):
            self._append(recording, found[i], min(self.window, recording.frames - recording.seek))

    def _decode(
        self, recordings: Sequence[Recording], memory: Memory, options: Options, temperature: float
    ) -> list[_Decoded]:
        settings, model = self._settings, self._model
        beams = options.num_beams if temperature == 0 else 1
        capacity = model.config.max_position_embeddings
        opening = model.start(memory, batch_size=len(recordings) * beams, capacity=capacity)
        logits = opening.step(np.full((len(recordings), 1), settings.start))
        silence = _softmax(logits)[:, settings.no_timestamps - 1]
        codes = np.array(list(settings.languages.values()))
        prompts = []
        for recording, row in zip(recordings, logits, strict=True):
            if not recording.language:
                recording.language = list(settings.languages)[int(row[codes].argmax())] if codes.size else "en"
            spoken = [settings.languages[recording.language], settings.tasks[options.task]] if codes.size else []
            prompts.append([settings.start, *spoken] + [settings.no_timestamps] * (not options.timestamps))
        chosen = replace(
            settings.options,
            max_new_tokens=options.max_new_tokens,
            num_beams=beams,
            do_sample=temperature > 0,
            temperature=temperature or 1.0,
            seed=options.seed,
            return_scores=True,
        )
        rules = TimestampRules(settings.first_timestamp, settings.end, settings.latest_begin)
        adjust = rules if options.timestamps else None
        generated = generate(_Opened(opening, logits), prompts, chosen, adjust=adjust)
        decoded = []
        for one, probability in zip(generated, silence, strict=True):
            assert one.score is not None
            length = max(1, len(one.tokens))
            average = one.score / length if beams == 1 else one.score * length ** (chosen.length_penalty - 1)
            tokens = one.tokens[:-1] if one.reason == "stop" else one.tokens
            decoded.append(_Decoded(tokens, average, float(probability), self._text(tokens), settings.thresholds))
        return decoded

    def _text(self, tokens: Array) -> str:
        """The text of tokens, without special ones."""
        text: str = self._tokenizer.decode([int(t) for t in tokens if t < self._settings.text_end])
        return text

    def _append(self, recording: Recording, decoded: _Decoded, window: int) -> None:
        """Appends the segments of a window of so many frames, and moves to where the next window begins."""
        if decoded.is_silence():
            recording.seek += window
            return
        start, tokens, first_timestamp = recording.seek / FRAMES, decoded.tokens, self._settings.first_timestamp
        stamps = tokens >= first_timestamp
        ends = np.flatnonzero(stamps[1:] & stamps[:-1]) + 1  # between the end of a segment and the start of the next
        whole = len(tokens) < 2 or (stamps[-1] and not stamps[-2])  # the window's end cuts no segment off
        parts = np.split(tokens, ends)
        if len(ends) and not whole:
            parts.pop()
        for part in parts:
            times = [int(t) - first_timestamp for t in part if t >= first_timestamp]
            first = times[0] / TICKS if times else 0.0
            ends_in_time = len(times) > 1 or (times and part[-1] >= first_timestamp)
            last = times[-1] / TICKS if ends_in_time else window / FRAMES
            if text := self._text(part):
                begin = min(start + first, recording.seconds)
                end = min(start + max(first, last), recording.seconds)
                recording.segments.append(Segment(begin, end, text, decoded.average, decoded.no_speech_probability))
        advanced = window
        if len(ends) and not whole:
            advanced = (int(tokens[ends[-1] - 1]) - first_timestamp) * FRAMES // TICKS
        recording.seek += advanced if advanced > 0 else window


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


class _Opened:
    """A continuation that has read the first token of its prompts already, and the logits after it."""

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
