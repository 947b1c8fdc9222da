"""First modules of a sentence-transformers directory that look vectors up: StaticEmbedding and WordEmbeddings."""

import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn._extras import import_extra
from pyattn.layers.embeddings import sum_of_rows
from pyattn.models.files import read_json, require_file, write_json
from pyattn.models.tensors import SCALES, write_tensors
from pyattn.models.tokenizer import errors_of_library, read_tokenizer
from pyattn.tasks.batches import Tokenized
from pyattn.tasks.sentence.inputs import Input
from pyattn.tasks.sentence.modules import SENTENCE, TOKENS, check, pool, tensors_of_module

_TOKENIZER = ".WhitespaceTokenizer"  # the only one that is supported


class StaticEmbedding(Input):
    """The mean of a table's rows, one for each token but special ones; reads model2vec's files as well.

    As in sentence-transformers a token that stands for what is unknown has a row; model2vec itself leaves it out.
    """

    type = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    adds_special_tokens = False

    def __init__(self, folder: Path) -> None:
        self.folder, file, tokenizer = folder, folder / "model.safetensors", folder / "tokenizer.json"
        tensors = tensors_of_module(file, lambda name: name not in ("mapping", "embeddings"))
        mapping, weights = _integers(file, "mapping", "I64", "I32"), tensors.get("weights")
        if (rounded := _integers(file, "embeddings", "I8", optional=True)) is None:
            tensors |= tensors_of_module(file, lambda name: name == "embeddings")
        else:  # model2vec's int8: the numbers themselves, without a scale
            tensors["embeddings"] = rounded.astype(np.float32)
        name = next((name for name in ("embedding.weight", "embeddings") if name in tensors), "embedding.weight")
        self.table = _table(file, name, tensors)
        if name == "embedding.weight":  # only model2vec's files have a mapping and weights
            mapping, weights = None, None
        rows = len(self.table) if mapping is None else len(mapping)
        if mapping is not None and (mapping.ndim != 1 or not np.all((mapping >= 0) & (mapping < len(self.table)))):
            raise ValueError(f"load: {file}: mapping must be of rows of the table, 0 to {len(self.table) - 1}")
        if weights is not None and (not isinstance(weights, np.ndarray) or weights.shape != (rows,)):
            raise ValueError(f"load: {file}: weights must be {rows} floats, one for each token")
        self._mapping, self._weights, self.vocab_size = mapping, weights, rows
        self.widths = {SENTENCE: self.table.shape[1]}
        require_file(tokenizer)
        self.tokenizer = read_tokenizer(tokenizer, sys.maxsize, 2**31 - 1, alone=True)
        truncation = read_json(tokenizer, dict).get("truncation")  # without it, texts are not cut
        self.max_seq_length = None
        with errors_of_library("load", tokenizer):
            self.tokenizer.no_truncation()
            if truncation is not None:
                given = {key: truncation[key] for key in ("max_length", "stride") if key in truncation}
                self.tokenizer.enable_truncation(**given, direction=truncation.get("direction", "Right").lower())
                self.max_seq_length = self.tokenizer.truncation["max_length"]

    def features(self, token_ids: Array, cu_seqlens: Array) -> dict[str, Array]:
        indices = token_ids if self._mapping is None else np.ascontiguousarray(self._mapping[token_ids], np.int64)
        rows = sum_of_rows([self.table], [indices], self.table.shape[1])
        if self._weights is not None:
            rows *= self._weights[token_ids][:, None]
        return {SENTENCE: pool(rows, cu_seqlens, ("mean",))}

    def save(self, folder: Path) -> None:
        table = self.table if self._mapping is None else self.table[self._mapping]
        table = table if self._weights is None else table * self._weights[:, None]
        write_tensors(folder / "model.safetensors", {"embedding.weight": np.ascontiguousarray(table, np.float32)})
        self.tokenizer.save(str(folder / "tokenizer.json"))


def _table(file: Path, name: str, tensors: dict[str, Any]) -> NDArray[np.float32]:
    table = tensors.get(name)
    if not isinstance(table, np.ndarray) or table.ndim != 2 or not table.size:
        raise ValueError(f"load: {file}: {name} must be floats of shape (tokens, width), and be there")
    return np.ascontiguousarray(table)


def _integers(file: Path, name: str, *types: str, optional: bool = False) -> NDArray[np.int64] | None:
    """A tensor of such types in a file that tensors_of_module has read; None if there is none.

    optional: None for one of another type too, and for one that has scales.
    """
    safetensors = import_extra("safetensors", f"load: reading {file}")
    with safetensors.safe_open(file, framework="numpy") as tensors:
        names = tensors.keys()
        if name not in names or (optional and name + SCALES in names):
            return None
        if tensors.get_slice(name).get_dtype() not in types:
            if optional:
                return None
            raise ValueError(f"load: {file}: {name} must be of integers")
        return np.asarray(tensors.get_tensor(name)).astype(np.int64)


class WordEmbeddings(Input):
    """A table's rows, one for each known word of sentence-transformers' WhitespaceTokenizer."""

    type = "sentence_transformers.sentence_transformer.modules.word_embeddings.WordEmbeddings"

    def __init__(self, folder: Path) -> None:
        self.folder, file = folder, folder / "wordembedding_config.json"
        settings = read_json(file, dict)
        check(file, settings, dict.fromkeys(("tokenizer_class", "update_embeddings", "max_seq_length")))
        kind = settings.get("tokenizer_class")
        if not (isinstance(kind, str) and kind.startswith("sentence_transformers.") and kind.endswith(_TOKENIZER)):
            raise ValueError(f"load: {file}: tokenizer_class {kind!r} is not supported; WhitespaceTokenizer is")
        length = settings.get("max_seq_length", 1_000_000)
        self.max_seq_length = None if length is None else _checks.size("load", f"{file}: max_seq_length", length)
        self._read_words(folder / "whitespacetokenizer_config.json")
        file, name = folder / "model.safetensors", "emb_layer.weight"
        self.table = _table(file, name, tensors_of_module(file, lambda stored: stored == name))
        self.vocab_size, width = self.table.shape
        self.widths = {TOKENS: width}

    def _read_words(self, file: Path) -> None:
        self._config = config = read_json(file, dict)
        check(file, config, {"vocab": None, "stop_words": None, "do_lower_case": (True, False)})
        for key in ("vocab", "stop_words"):
            words = config.get(key)
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"load: {file}: {key} must be a list of strings")
        self._lower = config.get("do_lower_case", False)
        self._words = {word: i for i, word in enumerate(config["vocab"])}
        self._stop_words = frozenset(config["stop_words"])

    def set_length(self, tokens: int) -> None:
        self.max_seq_length = _checks.size("SentenceEncoder", "max_seq_length", tokens)

    def tokenize(self, texts: list[str]) -> Tokenized[list[int]]:
        found = [self._word_ids(text.lower() if self._lower else text) for text in texts]
        longest = self.max_seq_length
        cut = (i for i, tokens in enumerate(found) if longest is not None and len(tokens) > longest)
        return [tokens[:longest] for tokens in found], next(cut, None)

    def _word_ids(self, text: str) -> list[int]:
        """Looks words up as they are, then without punctuation around them, then in lower case; skips unknown ones."""
        ids = []
        for word in text.split():
            stripped = word.strip(string.punctuation)
            forms = (word, stripped or word, stripped.lower())
            found = next((form for form in forms if form in self._stop_words or form in self._words), None)
            if found is not None and found not in self._stop_words:
                ids.append(self._words[found])
        return ids

    def features(self, token_ids: Array, cu_seqlens: Array) -> dict[str, Array]:
        return {TOKENS: sum_of_rows([self.table], [token_ids], self.table.shape[1])}

    def save(self, folder: Path) -> None:
        name = f"sentence_transformers.sentence_transformer.modules.tokenizer.whitespace{_TOKENIZER}"
        settings = {"tokenizer_class": name, "update_embeddings": False, "max_seq_length": self.max_seq_length}
        write_json(folder / "wordembedding_config.json", settings)
        write_json(folder / "whitespacetokenizer_config.json", self._config)
        write_tensors(folder / "model.safetensors", {"emb_layer.weight": self.table})
