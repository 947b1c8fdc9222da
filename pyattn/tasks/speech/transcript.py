"""The result of speech recognition: a text, and its segments with times."""

from dataclasses import dataclass


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
        blocks = (
            f"{number}\n{_clock(segment.start)} --> {_clock(segment.end)}\n{_subtitle(segment.text)}\n"
            for number, segment in enumerate(self.segments, start=1)
        )
        return "\n".join(blocks)


def _subtitle(text: str) -> str:
    """The text without blank lines, which end a block, and without arrows, which begin one."""
    return "\n".join(line for line in text.strip().splitlines() if line.strip()).replace("-->", "->")


def _clock(seconds: float) -> str:
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, seconds_ = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds_:02},{milliseconds:03}"
