"""Helpers of several tasks: the check of a list of texts, and a progress bar."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

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
