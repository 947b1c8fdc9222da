"""tokenizer.json: read by the tokenizers library, and kept within bounds, for it may come from strangers.

The library is written in Rust. What it does not expect there it raises as bare Exception or as a panic, which is no
Exception at all; and where memory runs out it ends the process. So what could make it ask for memory without end is
refused before: a table of characters that claims more bytes than there are, steps that make a text longer and longer,
a template that repeats it.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyattn._extras import import_extra
from pyattn._threads import rust_has_threads
from pyattn.models.files import require_file
from pyattn.models.tokenizer_with_settings import with_settings

MOST_GROWTH = 1e5  # of a text's bytes; what published tokenizers say they could is below 1e4

# How many times as many bytes a step may make of a text, at most; those that are not here: 1.
_GROWTH = {
    "BertNormalizer": 5.0,
    "ByteLevel": 4.0,
    "Lowercase": 1.5,
    "Metaspace": 5.0,
    "NFC": 3.0,
    "NFD": 3.0,
    "NFKC": 11.0,
    "NFKD": 11.0,
}
_NORMALIZER = re.compile(r'"normalizer"\s*:\s*(?=[^\s\d])')
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")


@contextmanager
def errors_of_library(function: str, file: Path | str) -> Iterator[None]:
    """Turns what the library raises for the tokenizer of a file into a ValueError that names it."""
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"
        is_ours = isinstance(error, ValueError) and str(error).startswith(f"{function}: ")  # and names its file
        if is_ours or isinstance(error, MemoryError | OSError) or not (isinstance(error, Exception) or is_panic):
            raise
        raise ValueError(
            f"{function}: {file} is not a tokenizer that the tokenizers library reads ({error})"
        ) from error


def read_tokenizer(file: Path, vocab_size: int, max_seq_length: int, alone: bool = False) -> Any:
    """The `tokenizers.Tokenizer` in a file, as tokenizer_config.json beside it has it, set to cut texts, to pad none.

    alone: whatever stands beside it. It may have more tokens than the model: those that it gives for a text are the
    caller's to check, as `check_tokens` does.
    """
    tokenizers = import_extra("tokenizers", f"load: reading {file}")
    require_file(file)
    content = file.read_bytes()
    growth = _growth_by_normalizer(content, file)  # first, since the library normalizes added tokens as it reads them
    with errors_of_library("load", file):
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        check_growth(growth * _growth(steps_of(tokenizer.pre_tokenizer)), file)
        if any(map(_repeats, steps_of(tokenizer.post_processor))):
            raise ValueError(f"load: {file}: its post_processor repeats the text")
        tokenizer, side = (tokenizer, "right") if alone else with_settings(tokenizers, tokenizer, content, file.parent)
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_seq_length < special:  # the library would not cut at all
            raise ValueError(f"load: {file} adds {special} tokens to a text; max_seq_length is only {max_seq_length}")
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_seq_length, direction=side)
        check_tokens("load", tokenizer.encode("").ids, vocab_size, file)  # those that every text has
    return tokenizer


def _repeats(step: dict[str, Any]) -> bool:
    """Whether a step of a post-processor sets a text twice, be it alone or one of a pair."""
    if step["type"] != "TemplateProcessing":
        return False
    templates = ([x["Sequence"]["id"] for x in step[key] if "Sequence" in x] for key in ("single", "pair"))
    return any(len(set(texts)) < len(texts) for texts in templates)


def encode_all(
    function: str, tokenizer: Any, file: Path | str, texts: Sequence[Any], special: bool = True
) -> list[Any]:
    """The library's encodings of texts, or of pairs (tuples) of them; special: with the tokens around them.

    file, for messages: as a str where time counts, for a Path takes as long as a tenth of a layer.
    """
    with errors_of_library(function, file):
        if rust_has_threads():
            # This call omits the places of tokens in the text and is a third faster; older releases lack it.
            encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
            return list(encode(texts, add_special_tokens=special))
        pairs = (text if isinstance(text, tuple) else (text, None) for text in texts)
        return [tokenizer.encode(*pair, add_special_tokens=special) for pair in pairs]


def first_cut(encodings: Sequence[Any], longest: int | None) -> int | None:
    """Which of them is the first that was cut to that length."""
    return next((i for i, x in enumerate(encodings) if len(x) == longest and x.overflowing), None)


def check_tokens(function: str, ids: Any, vocab_size: int, file: Path | str) -> None:
    """Refuses the tokens of a text if the model lacks one of them."""
    if len(ids) and (most := np.max(ids)) >= vocab_size:
        raise ValueError(f"{function}: {file} gives the token {most}; config.json has vocab_size {vocab_size}")


def _growth_by_normalizer(content: bytes, file: Path) -> float:
    """By how much a normalizer makes texts longer: the most of what stands after that key anywhere in the file."""
    try:
        if _ESCAPED_ASCII.search(content):  # behind which a key could hide
            content = json.dumps(json.loads(content, object_pairs_hook=_without_repetition)).encode()
        text, read = content.decode(), json.JSONDecoder(object_pairs_hook=_without_repetition).raw_decode
        growth = max((_growth(_steps(read(text, key.end())[0])) for key in _NORMALIZER.finditer(text)), default=1.0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"load: {file} has no normalizer that is accepted ({error!r})") from error
    check_growth(growth, file)
    return growth


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return values


def check_growth(growth: float, file: Path) -> None:
    if growth > MOST_GROWTH:
        raise ValueError(
            f"load: {file}: its normalizer and pre_tokenizer could make a text {growth:.3g} times as long; at most "
            f"{MOST_GROWTH:.0f} is accepted"
        )


def steps_of(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of the library's tokenizer."""
    return _steps(None if part is None else json.loads(part.__getstate__()))


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of a tokenizer in their order, as tokenizer.json has them."""
    waiting = [] if part is None else [part]
    while waiting:
        step = waiting.pop()
        inner = [steps for steps in step.values() if isinstance(steps, list)] if step["type"] == "Sequence" else []
        waiting += [one for steps in inner for one in steps][::-1]
        yield step


def _growth(steps: Iterable[dict[str, Any]]) -> float:
    """How many times as many bytes all steps may make of a text, beside what they add once."""
    growth = 1.0
    for step in steps:
        if step["type"] == "Replace":
            pattern, content = step["pattern"].get("String"), len(step["content"].encode())
            # without a pattern between any two characters
            growth *= max(1.0, content / len(pattern.encode())) if pattern else 1.0 + content
        elif step["type"] == "Precompiled":
            growth *= growth_of_charsmap(base64.b64decode(step["precompiled_charsmap"]))
        else:
            growth *= _GROWTH.get(step["type"], 1.0)
    return growth


def growth_of_charsmap(charsmap: bytes) -> float:
    """By how much rules of sentencepiece make a text longer: a table's size, the table, and what it leads to."""
    table = int.from_bytes(charsmap[:4], "little")  # bytes for which the library takes memory at once
    if table > len(charsmap):
        raise ValueError("its precompiled_charsmap is not whole")
    return float(max(1, *map(len, charsmap[4 + table :].split(b"\0"))))
