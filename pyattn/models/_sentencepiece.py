"""Marian's tokenizer: source.spm and target.spm, read by the sentencepiece library, and vocab.json.

Their pieces are tokens by the numbers of vocab.json (Kudo & Richardson 2018, arXiv:1808.06226, makes the pieces). The
library sees the .spm files as they are: of 1,500 spoiled ones it read or refused each, none ended the process.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyattn.models._files import import_extra, read_json, require_file

FILES = ("source.spm", "target.spm", "vocab.json")
_LANGUAGE = re.compile(r">>.+?<<")  # in front of a text: the language to translate to, where a model has several
_END, _UNKNOWN, _PADDING, _SPACE = "</s>", "<unk>", "<pad>", "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True)
class Encoding:
    ids: list[int]


class MarianTokenizer:
    """What a TextGenerator asks of a tokenizer."""

    def __init__(self, directory: Path, vocab_size: int) -> None:
        file = directory / "vocab.json"
        self._vocabulary = read_json(file, dict)
        numbers = list(self._vocabulary.values())
        if not all(type(number) is int and 0 <= number < vocab_size for number in numbers):
            raise ValueError(
                f"load: {file} numbers tokens otherwise than 0 to {vocab_size - 1}, as config.json has them"
            )
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"load: {file} has a number twice")
        if missing := {_END, _UNKNOWN} - self._vocabulary.keys():
            raise ValueError(f"load: {file} lacks {' and '.join(sorted(missing))}")
        if (directory / "target_vocab.json").exists():
            raise ValueError(f"load: {directory}: separate vocabularies (target_vocab.json) are not supported")
        self._source, self._target = (_processor(directory / name) for name in FILES[:2])
        self._pieces = {number: piece for piece, number in self._vocabulary.items()}

    def encode(self, text: str) -> Encoding:
        """Its pieces and the token that ends a text; >>code<< in front of it is a token of its own."""
        code = _LANGUAGE.match(text)
        pieces = [code[0]] if code else []
        pieces += self._source.encode(text[code.end() :] if code else text, out_type=str)
        unknown = self._vocabulary[_UNKNOWN]
        return Encoding([*(self._vocabulary.get(piece, unknown) for piece in pieces), self._vocabulary[_END]])

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [self._pieces.get(int(number), _UNKNOWN) for number in ids]
        text = self._target.decode([piece for piece in pieces if piece not in (_END, _UNKNOWN, _PADDING)])
        return str(text).replace(_SPACE, " ").strip()  # pieces of the source alone keep their mark


def _processor(file: Path) -> Any:
    sentencepiece = import_extra("sentencepiece", f"load: reading {file}")
    require_file(file)
    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(file.read_bytes())
        return processor
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"load: {file} is not a model that the sentencepiece library reads ({error})") from error
