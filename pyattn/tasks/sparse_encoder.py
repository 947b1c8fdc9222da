"""Sparse embeddings (SPLADE): texts to weights of the vocabulary's words."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._extras import import_extra
from pyattn.layers.word_products import WordProducts
from pyattn.models import load_task
from pyattn.models.files import find_directory, read_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.batches import FEW, WINDOW, Cuts, Tokenized, batches, packed, tokenized
from pyattn.tasks.sentence.directory import SETTINGS, listed_modules
from pyattn.tasks.sentence.inputs import Transformer
from pyattn.tasks.sentence.modules import check
from pyattn.tasks.sentence.settings import DOCUMENT_PROMPTS, check_model_type, chosen_prompt, read_prompts
from pyattn.tasks.texts import checked_texts, progress, without_surrogates

_FIRST = ("Transformer", "MLMTransformer")
_ACTIVATIONS = ("relu", "log1p_relu")
_TOGETHER = 64  # texts whose weights of all words are held at once


class MaskedTransformer(Transformer):
    """A Transformer with a head for masked words, and what the head multiplies the words of the vocabulary by."""

    task = "fill-mask"

    def _read_model(self, kind: Any, dtype: WeightDtypes, strict: bool) -> Any:
        self._head = head = load_task(self.folder, "masked-lm", dtype=dtype, strict=strict)
        out = head.out.state_dict()
        self.words = WordProducts(out["weight"], out.get("bias"))
        del head.out  # packed a second time
        return head.encoder

    def states(self, token_ids: Array, cu_seqlens: Array) -> Array:
        """What words are multiplied by, (total, width)."""
        x: Array = self.model(token_ids, cu_seqlens)
        x = x if self._head.dense is None else self._head.dense(x)
        return x if self._head.norm is None else self._head.norm(x)


class SparseEncoder:
    """Texts to sparse vectors of the vocabulary, with the modules of a sentence-transformers directory.

    A word's weight is the largest, or the sum, over the text's tokens of log(1 + max(logit, 0)), the logits being those
    of the head for masked words (SPLADE v2, Formal et al. 2021, arXiv:2109.10086). Logits of tokens x words are not
    stored: their maximum is taken as they are made.

    Attributes:
        prompts, default_prompt_name: as of `SentenceEncoder`.
        max_active_dims: vectors keep so many of their largest weights; None: all. May be set.
        similarity_fn_name: how vectors are compared: "dot" (the default) or "cosine".
    """

    def __init__(self, directory: Path, dtype: WeightDtypes = "float32", strict: bool = True) -> None:
        listed, file = directory / "modules.json", directory / SETTINGS
        has_modules = listed.exists()
        settings = read_json(file, dict) if has_modules and file.exists() else {"model_type": "SparseEncoder"}
        check_model_type(file, settings, "SparseEncoder")
        self.prompts, self.default_prompt_name = read_prompts(file, settings, {"query": "", "document": ""})
        similarity = settings.get("similarity_fn_name") or "dot"
        self.similarity_fn_name: str = _checks.choice(
            "load", f"{file}: similarity_fn_name", similarity, ("dot", "cosine")
        )
        most = settings.get("max_active_dims")
        self.max_active_dims = None if most is None else _checks.size("load", f"{file}: max_active_dims", most)
        folder, self._pooling, self._activation = directory, "max", "relu"
        if has_modules:
            (_, folder), *others = listed_modules(listed, _FIRST, ("SpladePooling",))
            if len(others) != 1:
                raise ValueError(f"load: {listed}: one SpladePooling is needed after the first module")
            self._read_pooling(others[0][1] / "config.json")
        else:
            names = read_json(directory / "config.json", dict).get("architectures") or [""]
            names = names if isinstance(names, list) else [names]
            if not str(names[0]).endswith("ForMaskedLM"):
                raise ValueError(
                    f"load: {directory}: without modules.json, a model with a head for masked words is needed, not "
                    f"{names[0] or 'one without architectures'}; SentenceEncoder reads other models"
                )
        self._first = MaskedTransformer(folder, dtype, strict, has_modules)
        self._cuts = Cuts()

    def _read_pooling(self, file: Path) -> None:
        given = read_json(file, dict)
        names = ("pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension")
        check(file, given, dict.fromkeys((*names, "chunk_size")))  # of which the last three change no vector
        self._pooling = _checks.choice("load", f"{file}: {names[0]}", given.get(names[0], "max"), ("max", "sum"))
        self._activation = _checks.choice("load", f"{file}: {names[1]}", given.get(names[1], "relu"), _ACTIVATIONS)

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], *, dtype: WeightDtypes = "float32", strict: bool = True
    ) -> "SparseEncoder":
        """The sparse encoder in a directory of sentence-transformers' SparseEncoder.

        modules.json lists a Transformer for masked words (or MLMTransformer), of a family that `models.load_task` reads
        for "masked-lm", and a SpladePooling. Without modules.json, the directory of a model for masked words, such as
        BertForMaskedLM, is pooled by the maximum. Whatever the files say is obeyed, or refused by name: Router,
        SparseStaticEmbedding and SparseAutoEncoder are not supported.

        Args:
            path_or_hub_id, dtype, strict: as of `SentenceEncoder.from_pretrained`. The head is float32.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        return cls(find_directory(path_or_hub_id), dtype, strict)

    @property
    def max_seq_length(self) -> int | None:
        """Texts are cut to that many tokens, special tokens and prompt included. May be set."""
        return self._first.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        self._first.set_length(tokens)

    @property
    def words(self) -> int:
        """The size of the vocabulary, and the width of vectors."""
        words: int = self._first.words.words
        return words

    def encode(
        self,
        texts: Iterable[str],
        show_progress: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_active_dims: int | None = None,
    ) -> Any:
        """A sparse vector for each text.

        Args:
            texts, show_progress, batch_tokens, truncate, prompt, prompt_name: as of `SentenceEncoder.encode`.
            max_active_dims: a vector keeps so many of its largest weights, of equal ones those of the first words;
                None: as the attribute says.

        Returns:
            scipy.sparse.csr_array (n, words) of float32, with sorted indices, in the order of the texts: the same bits
            whatever is beside a text.

        Raises:
            TypeError, ValueError: as `SentenceEncoder.encode`; max_active_dims is no positive integer.
            ImportError: SciPy is not installed.
        """
        sparse = import_extra("scipy.sparse", "SparseEncoder.encode")
        _checks.size("encode", "batch_tokens", batch_tokens)
        most = self.max_active_dims if max_active_dims is None else max_active_dims
        most = self.words if most is None else _checks.size("encode", "max_active_dims", most)
        chosen = chosen_prompt("encode", self.prompts, prompt, prompt_name, self.default_prompt_name)
        before = without_surrogates(chosen or "")
        texts = list(checked_texts("encode", texts))
        if show_progress is None and len(texts) <= FEW:
            show_progress = False

        def tokenize(window: list[str]) -> Tokenized[list[int]]:
            return self._first.tokenize([before + without_surrogates(text) for text in window])

        checked = partial(self._cuts.checked, "encode", "texts", self.max_seq_length, truncate)
        found: list[tuple[Array, Array]] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))] * len(texts)
        with progress(len(texts), show_progress, purpose="encode", label="encoding", unit="text") as done:
            for number, window in enumerate(tokenized(texts, tokenize, checked)):
                for batch in batches(list(map(len, window)), batch_tokens):
                    for index, vector in zip(batch, self._vectors(*packed(window, batch), most), strict=True):
                        found[number * WINDOW + index] = vector
                    done(len(batch))
        ends = np.cumsum([0, *(len(indices) for indices, _ in found)])
        indices, weights = (np.concatenate([x[i] for x in found] or [np.zeros(0)]) for i in range(2))
        shape = (len(texts), self.words)
        return sparse.csr_array((weights.astype(np.float32), indices.astype(np.int32), ends), shape)

    def encode_query(self, texts: Iterable[str], **options: Any) -> Any:
        """encode with the prompt "query", unless prompt or prompt_name is given."""
        return self.encode(texts, **self._prompted(("query",), options))

    def encode_document(self, texts: Iterable[str], **options: Any) -> Any:
        """encode with the prompt "document", else "passage" or "corpus", unless prompt or prompt_name is given."""
        return self.encode(texts, **self._prompted(DOCUMENT_PROMPTS, options))

    def _prompted(self, names: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            return options | {"prompt_name": next((name for name in names if name in self.prompts), None)}
        return options

    def _vectors(self, token_ids: Array, cu_seqlens: Array, most: int) -> list[tuple[Array, Array]]:
        """Words and their weights, of each packed sequence."""
        states, words, found = self._first.states(token_ids, cu_seqlens), self._first.words, []
        for first in range(0, len(cu_seqlens) - 1, _TOGETHER):
            starts = cu_seqlens[first : first + _TOGETHER + 1]
            rows, starts = states[starts[0] : starts[-1]], starts - starts[0]
            if self._pooling == "max":
                logits = words.largest(rows, starts)
            else:
                logits = words.summed(rows, starts, self._activated)
            for row in logits:
                indices = np.flatnonzero(~(row <= 0))  # NaN too, which is no small weight
                weights = self._activated(row[indices]) if self._pooling == "max" else row[indices]
                if len(indices) > most:
                    kept = np.sort(np.argsort(-weights, kind="stable")[:most])
                    indices, weights = indices[kept], weights[kept]
                found.append((indices.astype(np.int32), weights))
        return found

    def _activated(self, logits: Array) -> Array:
        weights: Array = np.log1p(np.maximum(logits, 0))
        return np.log1p(weights) if self._activation == "log1p_relu" else weights

    def similarity(self, a: Any, b: Any) -> Array:
        """Scores of the vectors of `encode`, (n, words) and (m, words): their dot products or cosines, (n, m) float32.

        Raises:
            TypeError: a or b is no sparse array.
            ValueError: widths differ.
        """
        for name, x in (("a", a), ("b", b)):
            if not hasattr(x, "tocsr"):
                raise TypeError(f"SparseEncoder.similarity: {name} must be a sparse array, not {type(x).__name__}")
        if a.shape[-1] != b.shape[-1]:
            raise ValueError(f"SparseEncoder.similarity: a has {a.shape[-1]} words, b {b.shape[-1]}")
        scores = np.asarray((a.tocsr() @ b.tocsr().T).todense(), np.float32)
        if self.similarity_fn_name == "cosine":
            norms = [np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel()) for x in (a, b)]
            tiny = np.float32(1e-12)
            scores = scores / np.maximum(norms[0], tiny)[:, None] / np.maximum(norms[1], tiny)
        return scores
