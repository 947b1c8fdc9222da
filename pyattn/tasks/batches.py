"""Texts in windows, which are tokenized ahead of the model, and packed batches of similar lengths out of each."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import TypeAlias, TypeVar

import numpy as np

from pyattn._checks import Array
from pyattn._threads import one_ahead

WINDOW = 128  # texts that are tokenized and sorted while those before them are encoded: enough to fill a batch
FEW = 8  # texts that are encoded within a second everywhere

_Text = TypeVar("_Text")
_Tokens = TypeVar("_Tokens")
Tokenized: TypeAlias = tuple[list[_Tokens], int | None]  # the tokens of each text, and the first text that was cut


def tokenized(
    texts: Iterable[_Text],
    tokenize: Callable[[list[_Text]], Tokenized[_Tokens]],
    checked: Callable[[Tokenized[_Tokens], int], list[_Tokens]],
) -> Iterator[list[_Tokens]]:
    """The tokens of windows of texts; a thread tokenizes the next window while the caller uses the last one.

    checked: is given what `tokenize` gave, and the number of texts before these; in the caller's thread.
    """
    iterator = iter(texts)
    remaining = iter(lambda: list(islice(iterator, WINDOW)), [])
    first, second = next(remaining, None), next(remaining, None)
    if first is None:
        return
    tokens = checked(tokenize(first), 0)
    if second is not None:  # most calls need no thread
        with one_ahead() as begin:
            for number, window in enumerate(chain([second], remaining), start=1):
                coming = begin(tokenize, window)
                yield tokens
                tokens = checked(coming(), number * WINDOW)
    yield tokens


class Cuts:
    """Texts that were cut: an error, or a warning, the first time."""

    _said = False

    def checked(
        self,
        function: str,
        name: str,
        longest: int | None,
        truncate: bool,
        found: Tokenized[_Tokens],
        before: int,
        *,
        stacklevel: int = 4,  # the caller of what goes through `tokenized`
    ) -> list[_Tokens]:
        """The tokens; ValueError if a text was cut and truncate is False. before: the number of texts before these."""
        tokens, cut = found
        if cut is not None and not (truncate and self._said):
            what = f"{function}: {name}[{before + cut}] has more than {longest} tokens"
            if not truncate:
                raise ValueError(f"{what}; truncate=True cuts it")
            self._said = True
            warnings.warn(f"{what}; such {name} are cut (said once)", stacklevel=stacklevel)
        return tokens


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences, longest first: a batch has similar lengths, and at most batch_tokens or one sequence."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = tokens = 0
    for place, index in enumerate(order):
        if place > start and tokens + lengths[index] > batch_tokens:
            yield order[start:place]
            start, tokens = place, 0
        tokens += lengths[index]
    yield order[start:]


def packed(sequences: Sequence[Sequence[int]], batch: Iterable[int]) -> tuple[Array, Array]:
    """The sequences of a batch one after another, and where each starts."""
    chosen = [sequences[i] for i in batch]
    cu_seqlens = np.array([0, *accumulate(map(len, chosen))], np.int64)
    return np.array(list(chain.from_iterable(chosen)), np.int64), cu_seqlens
