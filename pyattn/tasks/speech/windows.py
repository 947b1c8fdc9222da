"""Decoding of sounds in windows of 30 seconds, to texts with times."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyattn._checks import Array
from pyattn.generation import Continuation, generate
from pyattn.models import GenerativeModel, Memory
from pyattn.tasks import audio
from pyattn.tasks.speech.settings import Settings

FRAMES = 100  # frames of the spectrogram in a second
TICKS = 50  # timestamps in a second


@dataclass(frozen=True)
class Segment:
    """A phrase, from start to end in seconds, both within the sound; its probabilities are those of its window."""

    start: float
    end: float
    text: str
    average_log_probability: float
    no_speech_probability: float


@dataclass(frozen=True)
class Transcript:
    """What was said in a sound of so many seconds. language: the code of the spoken language, such as "en"."""

    text: str
    language: str
    seconds: float
    segments: tuple[Segment, ...]

    def srt(self) -> str:
        """The segments as SubRip subtitles."""
        return "\n".join(
            f"{number}\n{_clock(x.start)} --> {_clock(x.end)}\n{_subtitle(x.text)}\n"
            for number, x in enumerate(self.segments, start=1)
        )


def _subtitle(text: str) -> str:
    """The text without blank lines, which end a block, and without arrows, which begin one."""
    return "\n".join(line for line in text.strip().splitlines() if line.strip()).replace("-->", "->")


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"


class Recording:
    """A sound, and how far it has been transcribed. language: "" until it is known."""

    def __init__(self, samples: Array, rate: int, model: GenerativeModel, language: str) -> None:
        self.seconds, self.language = len(samples) / rate, language
        self.seek = 0  # the frame where the next window begins
        self.segments: list[Segment] = []
        samples = audio.resample(samples, rate) if len(samples) else samples
        self.frames = -(-len(samples) * FRAMES // audio.RATE)  # of the sound; 30 seconds of silence follow
        bins, frames = model.config.num_mel_bins, self.frames + model.encoder_embeddings.frames
        self.features = audio.log_mel(samples, num_mel_bins=bins, frames=frames) if len(samples) else samples

    def transcript(self) -> Transcript:
        text = "".join(segment.text for segment in self.segments).strip()
        return Transcript(text, self.language, self.seconds, tuple(self.segments))


@dataclass(frozen=True, eq=False)
class _Decoded:
    """The result of decoding a window."""

    tokens: Array  # without the stop token
    average: float  # log-probability of a token
    no_speech_probability: float
    is_silence: bool
    is_doubtful: bool
    rank: tuple[bool, float]  # of doubtful results, the greatest is taken


@dataclass(frozen=True)
class WindowDecoder:
    """Decodes windows of several recordings together; the arguments but the first three are those of `transcribe`."""

    model: GenerativeModel
    tokenizer: Any
    settings: Settings
    task: str
    timestamps: bool
    max_new_tokens: int
    num_beams: int
    temperatures: tuple[float, ...]
    seed: int

    def advance(self, recordings: Sequence[Recording]) -> None:
        """Transcribes one window of each recording, again at higher temperatures while the result is doubtful."""
        window: int = self.model.encoder_embeddings.frames  # frames that the model reads at once
        memory = self.model.encode(np.stack([x.features[x.seek : x.seek + window] for x in recordings]))
        found: dict[int, _Decoded] = {}
        for temperature in self.temperatures:
            rows = [i for i in range(len(recordings)) if i not in found or found[i].is_doubtful]
            if not rows:
                break
            part = Memory(memory.hidden[rows], memory.lengths[rows])
            decoded = self._decode([recordings[i] for i in rows], part, temperature)
            for i, one in zip(rows, decoded, strict=True):
                found[i] = max(found.get(i, one), one, key=lambda decoded: decoded.rank)
        for i, recording in enumerate(recordings):
            self._append(recording, found[i], min(window, recording.frames - recording.seek))

    def _decode(self, recordings: Sequence[Recording], memory: Memory, temperature: float) -> list[_Decoded]:
        settings, model = self.settings, self.model
        beams = self.num_beams if temperature == 0 else 1
        capacity = model.config.max_position_embeddings
        opening = model.start(memory, batch_size=len(recordings) * beams, capacity=capacity)
        logits = opening.step(np.full((len(recordings), 1), settings.start))
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        silence = (weights[:, settings.no_timestamps - 1] / weights.sum(axis=1)).tolist()
        codes = np.array(list(settings.languages.values()))
        prompts = []
        for recording, row in zip(recordings, logits, strict=True):
            if not recording.language:
                recording.language = list(settings.languages)[int(row[codes].argmax())] if codes.size else "en"
            spoken = [settings.languages[recording.language], settings.tasks[self.task]] if codes.size else []
            prompts.append([settings.start, *spoken] + [settings.no_timestamps] * (not self.timestamps))
        chosen = replace(
            settings.options,
            max_new_tokens=self.max_new_tokens,
            num_beams=beams,
            do_sample=temperature > 0,
            temperature=temperature or 1.0,
            seed=self.seed,
            return_scores=True,
        )
        rules = TimestampRules(settings.first_timestamp, settings.end, settings.latest_begin)
        continuation = _Opened(opening, logits)
        generated = generate(continuation, prompts, chosen, adjust=rules if self.timestamps else None)
        decoded = []
        for one, probability in zip(generated, silence, strict=True):
            assert one.score is not None
            length = max(1, len(one.tokens))
            average = one.score / length if beams == 1 else one.score * length ** (chosen.length_penalty - 1)
            tokens = one.tokens[:-1] if one.reason == "stop" else one.tokens
            repeats, lowest = settings.repeats(tokens, self._text(tokens)), settings.min_log_probability
            is_unlikely = lowest is not None and average < lowest
            is_silence = probability > settings.max_silence and (is_unlikely or lowest is None)
            is_doubtful = (repeats or is_unlikely) and not is_silence
            rank = (not repeats, average)
            decoded.append(_Decoded(tokens, average, probability, is_silence, is_doubtful, rank))
        return decoded

    def _text(self, tokens: Array) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode([int(t) for t in tokens if t < self.settings.text_end]))

    def _append(self, recording: Recording, decoded: _Decoded, window: int) -> None:
        """Appends the segments of a window of so many frames, and moves to where the next window begins."""
        if decoded.is_silence:
            recording.seek += window
            return
        start, tokens, first_timestamp = recording.seek / FRAMES, decoded.tokens, self.settings.first_timestamp
        stamps = tokens >= first_timestamp
        ends = np.flatnonzero(stamps[1:] & stamps[:-1]) + 1  # between the end of a segment and the start of the next
        is_whole = len(tokens) < 2 or (stamps[-1] and not stamps[-2])  # the window's end cuts no segment off
        is_cut = len(ends) and not is_whole
        for part in np.split(tokens, ends)[: -1 if is_cut else None]:
            times = ((part[part >= first_timestamp] - first_timestamp) / TICKS).tolist()
            first = times[0] if times else 0.0
            ends_in_time = len(times) > 1 or (times and part[-1] >= first_timestamp)
            last = times[-1] if ends_in_time else window / FRAMES
            if text := self._text(part):
                begin = min(start + first, recording.seconds)
                end = min(start + max(first, last), recording.seconds)
                recording.segments.append(Segment(begin, end, text, decoded.average, decoded.no_speech_probability))
        advanced = (int(tokens[ends[-1] - 1]) - first_timestamp) * FRAMES // TICKS if is_cut else window
        recording.seek += advanced if advanced > 0 else window


@dataclass(frozen=True)
class TimestampRules:
    """Which timestamps may come next: in pairs around text, never backwards, where they are likelier than any text.

    Radford et al. 2022 (arXiv:2212.04356), section 4.5, and the article's code.
    """

    first: int  # the token of time 0; the token before it says that there are no timestamps
    end: int  # tokens below it are text
    latest_begin: int | None  # the last tick at which the first segment may begin; None: any

    def __call__(self, histories: list[Array], logits: Array) -> Array:
        first = self.first
        logits[:, first - 1] = -np.inf
        for tokens, row in zip(histories, logits, strict=True):
            if not len(tokens):
                row[:first] = -np.inf
                if self.latest_begin is not None:
                    row[first + self.latest_begin + 1 :] = -np.inf
                continue
            was_stamp = tokens[-1] >= first
            has_begun = was_stamp and (len(tokens) < 2 or tokens[-2] >= first)
            if has_begun:
                row[first:] = -np.inf  # text follows
            elif was_stamp:
                row[: self.end] = -np.inf  # a segment has ended: the start of the next follows, or the window's end
            stamps = tokens[tokens >= first]
            if len(stamps):
                # A segment takes some time; the next may begin where it ended.
                least = stamps[-1] if was_stamp and not has_begun else stamps[-1] + 1
                row[first:least] = -np.inf
            peak = row[first:].max()
            if peak > -np.inf and peak + np.log(np.exp(row[first:] - peak).sum()) > row[:first].max():
                row[:first] = -np.inf
        return logits


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
