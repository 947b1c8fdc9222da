"""Text from tokens, as they come: what is decoded once is never decoded again, nor taken back.

A tokenizer decodes a text, not tokens: of the first it drops the space in front, of bytes it makes characters, and of
bytes that are no characters as many marks of replacement as there are bytes in a row. So tokens are decoded after one
that stands for all before them: a whole word, whose text does not change with what follows.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pyattn.models.tokenizer import errors_of_library, steps_of

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what the first bytes of a character are decoded to
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SEARCHED = 2000  # tokens, of which one will be a word
_MOST_HELD = 16  # tokens that wait for the rest of a character, which has four bytes at most


class Decoder:
    """Makes texts of tokens.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or what decodes as it does.
        function, file: for messages.
    """

    def __init__(self, tokenizer: Any, function: str, file: Path) -> None:
        self._tokenizer, self._function, self._file = tokenizer, function, file
        self._words: dict[int, bool] = {}
        self._open = getattr(tokenizer, "unsettled", 0) or _unsettled(getattr(tokenizer, "decoder", None))

    def pieces(self, before: Iterable[int], tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens that follow others, piece by piece: none is empty, and none ends within a character."""
        before = list(before)
        anchor = self._last_word(before, [])
        if not anchor and before and self._decode(before):  # of bytes alone
            anchor = self._last_word(range(_SEARCHED), [])
        waiting: list[int] = []
        done = 0  # characters of those waiting that have been given
        for token in tokens:
            waiting.append(token)
            text = self._text(anchor, waiting)
            if text.endswith(_INCOMPLETE) and len(waiting) < _MOST_HELD:
                continue
            settled = text[done : max(done, len(text) - self._open)]
            if settled:
                yield settled
                done += len(settled)
            if text and not self._open:
                anchor, waiting, done = self._last_word(waiting, anchor), [], 0
        if rest := self._text(anchor, waiting)[done:]:
            yield rest

    def _text(self, anchor: list[int], tokens: list[int]) -> str:
        whole = self._decode([*anchor, *tokens])
        before = self._decode(anchor) if anchor else ""
        if not whole.startswith(before):  # a decoder that changes even words by what follows
            before = before[: next(i for i, (x, y) in enumerate(zip_longest(before, whole)) if x != y)]
        return whole[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        with errors_of_library(self._function, self._file):
            return str(self._tokenizer.decode(tokens))

    def _last_word(self, tokens: Sequence[int], otherwise: list[int]) -> list[int]:
        return next(([token] for token in reversed(tokens) if self._is_word(token)), otherwise)

    def _is_word(self, token: int) -> bool:
        """Whether a token has a text of its own: it is neither special nor a byte."""
        if token not in self._words:
            name = getattr(self._tokenizer, "id_to_token", lambda token: None)(token)
            text = self._decode([token, token])
            self._words[token] = bool(text) and _INCOMPLETE not in text and not (name and _BYTE.fullmatch(name))
        return self._words[token]


def _unsettled(decoder: Any) -> int:
    """How many of a text's last characters may still change as tokens follow: those that a rule could find."""
    if decoder is None or not hasattr(decoder, "__getstate__"):
        return 0
    steps = list(steps_of(decoder))
    kinds = [step["type"] for step in steps]
    whole = steps[kinds.index("Fuse") + 1 :] if "Fuse" in kinds else []
    patterns = [step["pattern"] for step in whole if step["type"] == "Replace"]
    if any("String" not in pattern for pattern in patterns):
        return 2**30  # there is no telling
    return max((len(pattern["String"]) - 1 for pattern in patterns), default=0)
