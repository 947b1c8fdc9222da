"""Sentence embeddings: texts -> tokens -> encoder -> one vector per text."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._core import rowwise
from pyattn._threads import one_ahead, rust_has_threads, threads_for
from pyattn.models import TextEncoder
from pyattn.models._files import find_directory, import_extra, read_json
from pyattn.models._tensors import find_weights, weight_files
from pyattn.models._tokenizer import errors_of_library, read_tokenizer
from pyattn.models.pretrained import WeightDtypes

# The switches of a pooling's config.json, of which exactly one is on -> the names used here.
_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}

# Texts that are tokenized and sorted together, while those before are encoded: enough to fill a batch.
_WINDOW = 128

_FEW = 8  # texts that are encoded within a second everywhere


class SentenceEncoder:
    """Texts to vectors, with the encoder, the tokenizer and the pooling of a model directory; see `from_pretrained`.

    Attributes:
        model: the `TextEncoder`.
        pooling: "mean", "cls", "max" or "mean_sqrt_len".
    """

    def __init__(self, directory: Path, dtype: WeightDtypes = "float32") -> None:
        model_directory, pooling_directory = _read_modules(directory / "modules.json")
        self.pooling = _read_pooling(pooling_directory / "config.json")
        self.model = TextEncoder.from_directory(model_directory, dtype)
        self._dtypes = sorted(self.model.weight_dtypes.items())
        config = self.model.config
        settings_file = model_directory / "sentence_bert_config.json"
        self._longest, self._lower_case = _read_settings(settings_file, config.max_position_embeddings)
        self._tokenizer_file = model_directory / "tokenizer.json"
        self._tokenizer = read_tokenizer(self._tokenizer_file, config.vocab_size, self._longest)
        # without the places of tokens in the text, a third faster; older releases of the library lack it
        self._encode_batch = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)
        self._warned = False
        weights = weight_files(find_weights(model_directory, config.source))
        self._files = [model_directory / "config.json", *weights, self._tokenizer_file]

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], *, dtype: WeightDtypes = "float32"
    ) -> "SentenceEncoder":
        """The sentence encoder in a model directory as sentence-transformers writes it.

        Args:
            path_or_hub_id: a local directory, else the id of a repository on the Hugging Face hub. It holds
                config.json, model.safetensors and tokenizer.json; modules.json, which lists a Transformer, a Pooling
                and perhaps a Normalize; the pooling's own config.json; and perhaps sentence_bert_config.json, which
                sets max_seq_length.
            dtype: "float32", "bfloat16" or "int8", or patterns, as in `pyattn.models.load`: in what the layers' weights
                are held and multiplied. Where the CPU has dot products of them (pyattn info), bfloat16 halves the time
                of float32 at best, int8 quarters it.

        Raises:
            TypeError: dtype is none of these.
            OSError: a file is missing (FileNotFoundError) or cannot be read or fetched.
            ValueError: a file is damaged or describes something that is not supported; the message names both.
            ImportError: an optional package is not installed; the message says how to install it.
        """
        return cls(find_directory(path_or_hub_id), dtype)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes a model directory that `from_pretrained` reads, the weights as they are held (see TextEncoder).

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(directory)
        self.model.save_pretrained(folder)
        (folder / "1_Pooling").mkdir(exist_ok=True)
        for name, value in {
            "modules.json": [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("", "Normalize")))
            ],
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.model.config.hidden_size,
                **{mode: name == self.pooling for mode, name in _POOLING.items()},
            },
            "sentence_bert_config.json": {"max_seq_length": self._longest, "do_lower_case": self._lower_case},
        }.items():
            (folder / name).write_text(json.dumps(value, indent=2) + "\n")
        self._tokenizer.save(str(folder / "tokenizer.json"))

    @property
    def max_seq_length(self) -> int:
        """Texts are cut to that many tokens, special tokens included; may be set, up to the model's positions."""
        return self._longest

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        least = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        most = self.model.config.max_position_embeddings
        if not least <= _checks.size("SentenceEncoder", "max_seq_length", tokens) <= most:
            raise ValueError(f"SentenceEncoder: max_seq_length must be from {least} to {most}, not {tokens}")
        self._longest = tokens
        self._tokenizer.enable_truncation(tokens)

    @property
    def fingerprint(self) -> str:
        """A digest of the model's files and settings: encoders with the same fingerprint make the same vectors."""
        import hashlib  # here, as below, since it takes a part of the time to the first embedding

        digest = hashlib.sha256(repr((self.pooling, self._longest, self._lower_case, self._dtypes)).encode())
        for file in self._files:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def encode(
        self,
        texts: Iterable[str],
        normalize: bool = True,
        show_progress: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
    ) -> NDArray[np.float32]:
        """One vector for each text.

        Args:
            texts: n strings; no single one.
            normalize: True gives unit vectors, whose dot products are cosines. False gives what the pooling gives, even
                where the directory's modules.json ends in Normalize.
            show_progress: whether to draw a progress bar on standard error. None means: on a terminal, when the work
                takes longer than a second.
            batch_tokens: at most that many tokens are computed at once, though never less than one text. It bounds the
                memory; the result does not depend on it.
            truncate: whether texts of more than max_seq_length tokens are cut, with a warning the first time; an error
                otherwise.

        Returns:
            (n, hidden_size) float32, in the order of the texts. A text without a single token gives zeros.

        Raises:
            TypeError: texts is a str, or holds something else than str; the message names its index and type.
            ValueError: batch_tokens is not a positive integer; a text is too long and truncate is False.
        """
        texts = list(_checked_texts("encode", texts))
        _checks.size("encode", "batch_tokens", batch_tokens)
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        if show_progress is None and len(texts) <= _FEW:  # making a bar would take longer than to encode one text
            show_progress = False
        bar = None if show_progress is False else _progress_bar(len(texts), show_progress)
        with nullcontext() if bar is None else bar:
            done = 0
            for window in self._tokenized("encode", texts, truncate):
                part = vectors[done : done + len(window)]
                self._encode_window(window, normalize, batch_tokens, part, bar.update if bar is not None else None)
                done += len(window)
        return vectors

    def encode_stream(
        self, texts: Iterable[str], normalize: bool = True, batch_tokens: int = 2048, truncate: bool = True
    ) -> Iterator[NDArray[np.float32]]:
        """encode for any number of texts, such as a generator's, in memory that does not grow with it.

        Args:
            texts: strings, taken as they are needed: at most 256 ahead of the vectors.
            normalize, batch_tokens, truncate: as in encode.

        Yields:
            For each text, in order, its vector (hidden_size,), the same bits that encode gives.

        Raises:
            TypeError, ValueError: as encode; for a text when it is taken.
        """
        texts = _checked_texts("encode_stream", texts)
        _checks.size("encode_stream", "batch_tokens", batch_tokens)
        return self._stream(texts, normalize, batch_tokens, truncate)

    def _stream(
        self, texts: Iterable[str], normalize: bool, batch_tokens: int, truncate: bool
    ) -> Iterator[NDArray[np.float32]]:
        for window in self._tokenized("encode_stream", texts, truncate):
            vectors = np.empty((len(window), self.model.config.hidden_size), np.float32)
            self._encode_window(window, normalize, batch_tokens, vectors, None)
            yield from vectors

    def _tokenized(self, function: str, texts: Iterable[str], truncate: bool) -> Iterator[list[list[int]]]:
        """The tokens of windows of texts; those of the next window are made while the caller computes with the last."""
        windows = _windows(texts)
        first = next(windows, None)
        if first is None:
            return
        tokens = self._checked_length(function, self._tokenize(first), 0, truncate)
        second = next(windows, None)
        if second is None:  # most calls: no thread
            yield tokens
            return
        with one_ahead() as begin:
            done = len(first)
            for window in chain([second], windows):
                coming = begin(self._tokenize, window)
                yield tokens
                tokens = self._checked_length(function, coming(), done, truncate)
                done += len(window)
        yield tokens

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], int | None]:
        """The tokens of each text, and the first text that was cut."""
        texts = [text.encode(errors="replace").decode() for text in texts]  # the tokenizer refuses lone surrogates
        if self._lower_case:
            texts = [text.lower() for text in texts]
        with errors_of_library("encode", self._tokenizer_file):
            batch = rust_has_threads()
            encodings = self._encode_batch(texts) if batch else [self._tokenizer.encode(text) for text in texts]
        longest = self.max_seq_length
        cut = (i for i, encoding in enumerate(encodings) if len(encoding) == longest and encoding.overflowing)
        return [encoding.ids for encoding in encodings], next(cut, None)

    def _checked_length(
        self, function: str, tokenized: tuple[list[list[int]], int | None], before: int, truncate: bool
    ) -> list[list[int]]:
        """The tokens, unless a text was cut that must not be; before: how many texts there were in front of these."""
        tokens, cut = tokenized
        if cut is not None and not (truncate and self._warned):
            what = f"{function}: texts[{before + cut}] has more than {self.max_seq_length} tokens"
            if not truncate:
                raise ValueError(f"{what}; truncate=True cuts it")
            self._warned = True
            warnings.warn(f"{what}; such texts are cut (said once)", stacklevel=4)  # where encode is called
        return tokens

    def _encode_window(
        self,
        sequences: list[list[int]],
        normalize: bool,
        batch_tokens: int,
        vectors: NDArray[np.float32],
        progress: Callable[[int], object] | None,
    ) -> None:
        """Fills vectors, one for each sequence of tokens; tells progress how many more are done."""
        for batch in _batches(sequences, batch_tokens):
            cu_seqlens = np.array([0, *accumulate(len(sequences[i]) for i in batch)], np.int64)
            token_ids = np.array(list(chain.from_iterable(sequences[i] for i in batch)), np.int64)
            if token_ids.size and token_ids.max() >= self.model.config.vocab_size:
                raise ValueError(
                    f"encode: {self._tokenizer_file} gives the token {token_ids.max()}; config.json has vocab_size "
                    f"{self.model.config.vocab_size}"
                )
            vectors[batch] = _pool(self.model(token_ids, cu_seqlens), cu_seqlens, self.pooling)
            if progress is not None:
                progress(len(batch))
        if normalize:
            norms = np.sqrt(np.einsum("nh,nh->n", vectors, vectors))
            vectors /= np.maximum(norms, np.float32(1e-30))[:, None]  # zeros stay zeros


def _progress_bar(total: int, show: bool | None) -> Any:
    """Drawn if show; if that is None, on a terminal when the work takes longer than a second."""
    tqdm = import_extra("tqdm", "encode").tqdm
    return tqdm(total=total, desc="encoding", unit="text", disable=None if show is None else not show, delay=not show)


def _checked_texts(function: str, texts: Iterable[str]) -> Iterator[str]:
    """The texts, each checked when it is taken; what is no iterable of texts is an error at once."""
    if isinstance(texts, str):
        raise TypeError(f"{function}: texts must be a list of str, not a single one: {function}([text])")
    try:
        iterator = iter(texts)
    except TypeError:
        raise TypeError(f"{function}: texts must be a list of str, not {type(texts).__name__}") from None

    def checked() -> Iterator[str]:
        for index, text in enumerate(iterator):
            if not isinstance(text, str):
                raise TypeError(f"{function}: texts[{index}] must be a str, not {type(text).__name__}")
            yield text

    return checked()


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while window := list(islice(iterator, _WINDOW)):
        yield window


def _batches(sequences: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences, longest first, so that each batch has like lengths and at most batch_tokens (or is one)."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    start = tokens = 0
    for place, index in enumerate(order):
        if place > start and tokens + len(sequences[index]) > batch_tokens:
            yield order[start:place]
            start, tokens = place, 0
        tokens += len(sequences[index])
    yield order[start:]


def _pool(hidden: NDArray[np.float32], cu_seqlens: NDArray[np.int64], pooling: str) -> NDArray[np.float32]:
    """One vector per sequence of packed rows, (total, width) -> (n, width); zeros for a sequence without tokens."""
    lengths = cu_seqlens[1:] - cu_seqlens[:-1]
    pooled = np.zeros((lengths.size, hidden.shape[1]), np.float32)
    if pooling in ("cls", "max"):
        filled = lengths > 0  # reduceat takes an empty segment for one row
        starts = cu_seqlens[:-1][filled]
        pooled[filled] = hidden[starts] if pooling == "cls" else np.maximum.reduceat(hidden, starts)
    else:
        rowwise.sum_sequences(hidden, cu_seqlens, pooled, threads_for(hidden.size))
        divisor = np.maximum(lengths, 1)[:, None].astype(np.float32)
        pooled /= np.sqrt(divisor) if pooling == "mean_sqrt_len" else divisor
    return pooled


def _read_modules(file: Path) -> tuple[Path, Path]:
    """The directories of the transformer and of the pooling that a modules.json names."""
    modules = read_json(file, list)
    try:
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        paths = [Path(module["path"]) for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f'load: {file}: each module must be an object with strings "type" and "path"') from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"load: {file}: the modules are {', '.join(kinds) or 'none'}; "
            "supported is Transformer, Pooling and optionally Normalize, in this order"
        )
    if wrong := [path for path in paths if path.is_absolute() or ".." in path.parts]:
        raise ValueError(f"load: {file}: the path of a module must be inside the directory, not {str(wrong[0])!r}")
    return file.parent / paths[0], file.parent / paths[1]


def _read_pooling(file: Path) -> str:
    config = read_json(file, dict)
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise ValueError(
            f"load: {file}: switched on are {', '.join(modes) or 'no pooling modes'}; "
            f"supported is exactly one of {', '.join(_POOLING)}"
        )
    return _POOLING[modes[0]]


def _read_settings(file: Path, max_positions: int) -> tuple[int, bool]:
    """The longest sequence in tokens, and whether texts are lower-cased before the tokenizer sees them."""
    settings = read_json(file, dict) if file.exists() else {}
    length = settings.get("max_seq_length")
    length = max_positions if length is None else _checks.size("load", f"{file}: max_seq_length", length)
    return min(length, max_positions), bool(settings.get("do_lower_case"))
