"""Languages that are tokens: mBART's stand beside the text and begin the translation, Marian's stand in front of it."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from pyattn._checks import Array
from pyattn.models.naming import listed
from pyattn.models.tokenizer_classes import LANGUAGES

_CODE = re.compile(r"[a-z]{2,3}_[A-Za-z]{2,4}")
_IN_FRONT = re.compile(r">>(.+)<<")


class Languages:
    """The languages of a tokenizer.

    Attributes:
        codes: their tokens, by what they are called: "de_DE", as of mBART, or "deu", as of Marian.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, file: Path) -> None:
        self._file = file
        found = {}
        if hasattr(tokenizer, "get_added_tokens_decoder"):
            found = {code: tokenizer.token_to_id(code) for code in LANGUAGES}
            added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
            found |= {code: number for code, number in added.items() if _CODE.fullmatch(code)}
        numbers_by_code = {code: number for code, number in found.items() if number is not None}
        around = tokenizer.encode("").ids if numbers_by_code else []
        self._is_in_front = not numbers_by_code
        if self._is_in_front:
            names = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
            numbers_by_code = {x[1]: number for name, number in names.items() if (x := _IN_FRONT.fullmatch(name))}
        self.codes: dict[str, int] = {code: number for code, number in numbers_by_code.items() if number < vocab_size}
        numbers = set(self.codes.values())
        # of the tokens around a text; a template has the language first or last
        self._source = next((i for i in (0, -1) if around and around[i] in numbers), None)

    def source(self, function: str, language: str | None, ids: Array) -> Array:
        """The tokens of a text with those of its language."""
        if language is None:
            return ids
        number = self._number(function, "source", language)
        if self._source is None:
            raise ValueError(f"{function}: source is {language!r}, but {self._file} marks no text with its language")
        ids = ids.copy()
        ids[self._source] = number
        return ids

    def target(self, function: str, language: str | None, ids: Array) -> Array:
        """The tokens of a text with that of the language to translate it to, where it belongs to the text."""
        if language is None or not self._is_in_front:
            return ids
        return np.concatenate([[self._number(function, "target", language)], ids])

    def options(self, function: str, language: str | None) -> dict[str, Any]:
        """The options that translate to a language, where it begins the translation."""
        if language is None:
            return {}
        number = self._number(function, "target", language)
        return {} if self._is_in_front else {"forced_bos_token_id": number}

    def _number(self, function: str, what: str, language: str) -> int:
        if not isinstance(language, str):
            raise TypeError(f"{function}: {what} must be a language's code, not {type(language).__name__}")
        if not self.codes:
            raise ValueError(f"{function}: {what} is {language!r}, but {self._file} has no tokens for languages")
        name = language.removeprefix(">>").removesuffix("<<")
        if name not in self.codes:
            known = listed(self.codes, most=12)
            raise ValueError(f"{function}: {what} must be one of {known}, not {language!r}")
        return self.codes[name]
