"""Helpers of several tasks: checks of lists of texts or of tokens, and a progress bar."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from pyattn._extras import import_extra


def checked_texts(
    function: str, texts: Iterable[str], name: str = "texts", example: str | None = None
) -> Iterator[str]:
    """The texts, each checked when it is taken; the call itself raises if texts is a str or no iterable.

    name, example: that of the argument, and a call with a single text, for messages.
    """
    if isinstance(texts, str):
        example = example or f"{function}([text])"
        raise TypeError(f"{function}: {name} must be a list of str, not a single one: {example}")
    try:
        iterator = iter(texts)
    except TypeError:
        raise TypeError(f"{function}: {name} must be a list of str, not {type(texts).__name__}") from None

    def checked() -> Iterator[str]:
        for index, text in enumerate(iterator):
            if not isinstance(text, str):
                raise TypeError(f"{function}: {name}[{index}] must be a str, not {type(text).__name__}")
            yield text

    return checked()


def checked_ids(
    function: str, token_ids: Iterable[Sequence[int]], longest: int | None, vocab_size: int
) -> list[list[int]]:
    """The tokens of texts, given by their ids, as lists of int; longest: how many of them a text may have."""
    if isinstance(token_ids, str | bytes) or not isinstance(token_ids, Iterable):
        raise TypeError(f"{function}: token_ids must be lists of integers, not {type(token_ids).__name__}")
    rows = []
    for index, row in enumerate(token_ids):
        what = f"{function}: token_ids[{index}]"
        is_row = isinstance(row, Sequence | np.ndarray) and not isinstance(row, str | bytes)
        kinds = set(map(type, row)) if is_row else {str}  # a text may have thousands of tokens, of one type or two
        if not all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
            raise TypeError(f"{what} must be a list of integers, one for each token")
        if len(row) and not (min(row) >= 0 and max(row) < vocab_size):
            wrong = min(row) if min(row) < 0 else max(row)
            raise ValueError(f"{what} has the id {wrong}; the vocabulary is 0 to {vocab_size - 1}")
        if longest is not None and len(row) > longest:
            raise ValueError(f"{what} has {len(row)} tokens; at most {longest} are accepted, and none is cut off")
        rows.append(list(map(int, row)))
    return rows


def without_surrogates(text: str) -> str:
    """The text with "?" in place of lone surrogates, which tokenizers refuse."""
    return text.encode(errors="replace").decode()


@contextmanager
def progress(
    total: float, show: bool | None, *, purpose: str, label: str, unit: str
) -> Iterator[Callable[[float], object]]:
    """A progress bar on standard error, and a function that is told how many more of all units are done.

    show: None draws it on a terminal, when the work takes longer than a second. purpose: what needs tqdm, for errors.
    """
    if show is False:
        yield lambda done: None
        return
    tqdm = import_extra("tqdm", purpose).tqdm
    with tqdm(total=total, desc=label, unit=unit, disable=None if show is None else not show, delay=not show) as bar:
        yield bar.update
