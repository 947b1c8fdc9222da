"""Marian's tokenizer: source.spm and target.spm, read by the sentencepiece library, and vocab.json.

Their pieces are tokens by the numbers of vocab.json (Kudo & Richardson 2018, arXiv:1808.06226, makes the pieces). A
model whose rules could make texts far longer is refused, as in tokenizer.json.
"""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyattn._extras import import_extra
from pyattn.models.files import read_json, require_file
from pyattn.models.tokenizer import check_growth, growth_of_charsmap
from pyattn.models.tokenizer_classes import CLEANED, content_of

_END, _UNKNOWN, _PADDING, _SPACE = "</s>", "<unk>", "<pad>", "\N{LOWER ONE EIGHTH BLOCK}"
_SPECIAL = re.compile(f"({_END}|{_UNKNOWN}|{_PADDING})")
_CODE = re.compile(r"\A>>.*?<<", re.DOTALL)  # a language in front of a text

# Numbers of fields in sentencepiece_model.proto: ModelProto's normalizer_spec and denormalizer_spec, and their rules.
_NORMALIZERS, _CHARSMAP = (3, 5), 2


class MarianTokenizer:
    """What a TextGenerator asks of a tokenizer.

    Attributes:
        unsettled: how many of a text's last characters may still change as tokens follow.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        file = directory / "vocab.json"
        self._vocabulary = read_json(file, dict)
        if missing := {_END, _UNKNOWN} - self._vocabulary.keys():
            raise ValueError(f"load: {file} lacks {' and '.join(sorted(missing))}")
        numbers = list(self._vocabulary.values())
        needed = [self._vocabulary[piece] for piece in (_END, _UNKNOWN)]  # of the others a text may have none
        if not all(type(number) is int and number >= 0 for number in numbers) or max(needed) >= vocab_size:
            raise ValueError(
                f"load: {file} numbers tokens otherwise than 0 to {vocab_size - 1}, as config.json has them"
            )
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"load: {file} has a number twice")
        self._cleans = _cleans(directory / "tokenizer_config.json")
        self.unsettled = max(map(len, CLEANED)) - 1 if self._cleans else 0
        self._source, self._target = (_processor(directory / f"{side}.spm") for side in ("source", "target"))
        self._pieces = {number: piece for piece, number in self._vocabulary.items()}

    def encode(self, text: str) -> SimpleNamespace:
        """Its pieces and the token that ends a text.

        Special tokens in it are themselves, and part it; >>code<< in front of a part is a token of its own.
        """
        pieces: list[str] = []
        for part in filter(None, _SPECIAL.split(text)):
            rest = _CODE.sub("", part)
            if rest != part:
                pieces.append(part.removesuffix(rest))
            pieces += [rest] if _SPECIAL.fullmatch(rest) else self._source.encode(rest, out_type=str)
        unknown = self._vocabulary[_UNKNOWN]
        return SimpleNamespace(ids=[self._vocabulary.get(piece, unknown) for piece in (*pieces, _END)])

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocabulary)

    def token_to_id(self, token: str) -> int | None:
        return self._vocabulary.get(token)

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [self._pieces.get(int(number), _UNKNOWN) for number in ids]
        text = self._target.decode([piece for piece in pieces if piece not in (_END, _UNKNOWN, _PADDING)])
        text = str(text).replace(_SPACE, " ").strip()  # pieces of the source alone keep their mark
        for old, new in CLEANED.items() if self._cleans else ():
            text = text.replace(old, new)
        return text


def _cleans(file: Path) -> bool:
    """Whether a tokenizer_config.json takes away spaces in front of punctuation; what is not supported is refused."""
    settings = read_json(file, dict, optional=True)
    added = settings.get("added_tokens_decoder") or {}
    contents = [content_of(x) for x in (added.values() if isinstance(added, dict) else added)]
    refused = ("separate_vocabs", "sp_model_kwargs", "additional_special_tokens", "extra_special_tokens")
    accepted = {key: not settings.get(key) for key in refused}
    accepted["added_tokens_decoder"] = {_END, _UNKNOWN, _PADDING}.issuperset(contents)
    for name, token in (("eos_token", _END), ("unk_token", _UNKNOWN), ("pad_token", _PADDING)):
        accepted[name] = content_of(settings.get(name, token)) == token
    for key, is_so in accepted.items():
        if not is_so:
            raise ValueError(
                f"load: {file}: {key} is {settings[key]!r:.200}, which is not supported of Marian's tokenizers"
            )
    return settings.get("clean_up_tokenization_spaces") is True


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the fields of a protobuf message that have a length."""
    stream = BytesIO(message)
    while stream.tell() < len(message):
        key = _integer(stream) & 0xFFFFFFFF  # as the library reads it
        wire_type = key & 7
        if wire_type == 2:
            yield key >> 3, stream.read(min(_integer(stream), len(message)))
        elif wire_type == 0:
            _integer(stream)
        elif wire_type in (1, 5):
            stream.read({1: 8, 5: 4}[wire_type])
        else:
            raise ValueError(f"a field has type {wire_type}")


def _integer(stream: BytesIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = stream.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number has more than 64 bits")


def _processor(file: Path) -> Any:
    sentencepiece = import_extra("sentencepiece", f"load: reading {file}")
    require_file(file)
    content = file.read_bytes()
    try:
        normalizers = [part for number, part in _fields(content) if number in _NORMALIZERS]
        rules = [x for part in normalizers for number, x in _fields(part) if number == _CHARSMAP and x]
        growth = max(map(growth_of_charsmap, rules), default=1.0)
    except (IndexError, ValueError) as error:
        raise ValueError(f"load: {file} is not a model of sentencepiece ({error})") from error
    check_growth(growth, file)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
        return processor
    except RuntimeError as error:
        raise ValueError(f"load: {file} is not a model that the sentencepiece library reads ({error})") from error
