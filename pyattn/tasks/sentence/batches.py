"""How texts are put together: windows that are tokenized at once, and batches that are computed at once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

# Texts that are tokenized and sorted together, while those before them are encoded: enough to fill a batch.
_WINDOW = 128


@dataclass(frozen=True)
class Call:
    """The checked options of a call of `encode` or `encode_stream`."""

    function: str
    prompt: str
    prompt_length: int  # the number of tokens that Pooling leaves out
    normalize: bool | None
    batch_tokens: int
    truncate: bool
    width: int


def windows(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while window := list(islice(iterator, _WINDOW)):
        yield window


def batches(sequences: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences, longest first: a batch has similar lengths, and at most batch_tokens or one sequence."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    start = tokens = 0
    for place, index in enumerate(order):
        if place > start and tokens + len(sequences[index]) > batch_tokens:
            yield order[start:place]
            start, tokens = place, 0
        tokens += len(sequences[index])
    yield order[start:]
