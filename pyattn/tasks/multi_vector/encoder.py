"""Texts -> tokens -> a vector for each token; and scores of them."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.late_interaction import maxsim
from pyattn.models.files import find_directory
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tokenizer import encode_all, first_cut
from pyattn.tasks.batches import FEW, WINDOW, Cuts, Tokenized, batches, packed, tokenized
from pyattn.tasks.multi_vector.directory import Directory
from pyattn.tasks.sentence.modules import TOKENS, Features
from pyattn.tasks.sentence.settings import DOCUMENT_PROMPTS, chosen_prompt
from pyattn.tasks.texts import checked_texts, progress, without_surrogates

_Tokens = tuple[list[int], int]  # ids, and how many of them others see


class MultiVectorEncoder:
    """Texts to a vector for each token, which `maxsim` compares (ColBERT, Khattab and Zaharia 2020, arXiv:2004.12832).

    Attributes:
        prompts: name -> text that is put in front; "query" and "document" are always there, a ColBERT's [Q] and [D].
        similarity_fn_name: "maxsim", or "meanmaxsim": divided by the number of the query's vectors.
        width: of the vectors.
    """

    def __init__(self, directory: Directory) -> None:
        self._first, self._modules, self._files = directory.first, directory.modules, directory
        self.prompts, self.default_prompt_name = directory.prompts, directory.default_prompt_name
        self.similarity_fn_name, self.width = directory.similarity_fn_name, directory.width
        self._cuts = Cuts()

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | os.PathLike[str], *, dtype: WeightDtypes = "float32", strict: bool = True
    ) -> "MultiVectorEncoder":
        """The encoder in a directory of sentence-transformers' MultiVectorEncoder, of PyLate, or of Stanford's ColBERT.

        modules.json lists a Transformer, then Dense and Normalize of token_embeddings and a MultiVectorMask; PyLate's
        has a Transformer and a Dense, and its settings beside the prompts; Stanford's is a model with linear.weight,
        and artifact.metadata. These files say how queries grow by [MASK], to which lengths texts are cut, and which
        punctuation of documents has no vector. What they say is obeyed, or refused by name.

        Args:
            path_or_hub_id, dtype, strict: as of `SentenceEncoder.from_pretrained`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        return cls(Directory(find_directory(path_or_hub_id), dtype, strict))

    def encode_query(self, queries: Iterable[str], **options: Any) -> list[NDArray[np.float32]]:
        """The vectors of each query, after the prompt "query".

        Args:
            queries: strings; no single one.
            options: prompt, prompt_name, batch_tokens, truncate and show_progress, as of `SentenceEncoder.encode`.

        Returns:
            (tokens, width) float32 for each query, in order, the same bits whatever is beside it. Queries that grow
            have vectors of the tokens that were added as well.

        Raises:
            TypeError, ValueError: as `SentenceEncoder.encode`.
        """
        return self._encode("encode_query", "queries", 0, ("query",), queries, **options)

    def encode_document(self, documents: Iterable[str], **options: Any) -> list[NDArray[np.float32]]:
        """The vectors of each document, after the prompt "document", else "passage" or "corpus", as encode_query's.

        Tokens of the skiplist, usually punctuation, have none.
        """
        return self._encode("encode_document", "documents", 1, DOCUMENT_PROMPTS, documents, **options)

    def _encode(
        self,
        function: str,
        name: str,
        side: int,
        usual: tuple[str, ...],
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
        show_progress: bool | None = None,
    ) -> list[NDArray[np.float32]]:
        _checks.size(function, "batch_tokens", batch_tokens)
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in usual if name in self.prompts), None)
        chosen = chosen_prompt(function, self.prompts, prompt, prompt_name, self.default_prompt_name)
        before = without_surrogates(chosen or "")
        texts = list(checked_texts(function, texts, name))
        if show_progress is None and len(texts) <= FEW:
            show_progress = False
        tokenizer, length = self._files.tokenizers[side]
        file = f"{self._first.folder}/tokenizer.json"

        def tokenize(window: list[str]) -> Tokenized[_Tokens]:
            whole = [before + without_surrogates(text) for text in window]
            encodings = encode_all(function, tokenizer, file, whole)
            return [self._grown(x.ids, side) for x in encodings], first_cut(encodings, length)

        checked = partial(self._cuts.checked, function, name, length, truncate)
        found: list[NDArray[np.float32]] = [np.zeros((0, self.width), np.float32)] * len(texts)
        with progress(len(texts), show_progress, purpose=function, label="encoding", unit="text") as done:
            for number, window in enumerate(tokenized(texts, tokenize, checked)):
                ids, seen = [tokens for tokens, _ in window], [count for _, count in window]
                for batch in batches(list(map(len, ids)), batch_tokens):
                    token_ids, cu_seqlens = packed(ids, batch)
                    if token_ids.size and token_ids.max() >= self._first.vocab_size:
                        raise ValueError(
                            f"{function}: {file} gives the token {token_ids.max()}; config.json has vocab_size "
                            f"{self._first.vocab_size}"
                        )
                    vectors = self._vectors(token_ids, cu_seqlens, [seen[i] for i in batch])
                    kept = ~np.isin(token_ids, self._files.skipped[side])
                    for place, index in enumerate(batch):
                        part = slice(cu_seqlens[place], cu_seqlens[place + 1])
                        found[number * WINDOW + index] = vectors[part][kept[part]]
                    done(len(batch))
        return found

    def _grown(self, ids: list[int], side: int) -> _Tokens:
        """The tokens of a text, and how many of them others see."""
        expansion = None if side else self._files.expansion
        if expansion is None or len(ids) >= expansion.length:
            return ids, len(ids)
        grown = ids + [expansion.token] * (expansion.length - len(ids))
        return grown, len(grown) if expansion.attends else len(ids)

    def _vectors(self, token_ids: Array, cu_seqlens: Array, seen: list[int]) -> Array:
        """Of all tokens of packed sequences, (total, width)."""
        lengths, counts = np.diff(cu_seqlens), np.array(seen, np.int64)
        if (lengths == counts).all():
            states = self._first.features(token_ids, cu_seqlens)[TOKENS]
        else:  # tokens that others do not see, which see those that are: by sequences of the same length
            states = np.empty((len(token_ids), self._first.widths[TOKENS]), np.float32)
            for length in np.unique(lengths):
                chosen = np.flatnonzero(lengths == length)
                places = cu_seqlens[chosen][:, None] + np.arange(length)
                live = np.arange(length) < counts[chosen][:, None]
                states[places] = self._first.model.states_of_all(token_ids[places], live)
        features = Features(cu_seqlens, {TOKENS: states}, 0)
        for module in self._modules:
            module(features)
        return features.vectors[TOKENS]

    def similarity(self, queries: Any, documents: Any) -> NDArray[np.float32]:
        """(queries, documents) float32: the scores of all pairs, by `similarity_fn_name`.

        Args:
            queries, documents: what encode_query and encode_document return; or an array, as of `maxsim`.

        Raises:
            TypeError, ValueError: as `maxsim`.
        """
        query, query_starts = _joined(queries, self.width)
        document, starts = _joined(documents, self.width)
        scores: Array = maxsim(query, document, query_starts, starts)
        if self.similarity_fn_name == "meanmaxsim":
            if query_starts is None:
                counts = np.array([query.shape[-2]] * len(scores))
            else:
                counts = np.diff(query_starts)
            scores /= np.maximum(counts, 1).astype(np.float32)[:, None]
        return scores

    def rank(
        self, query: str, documents: Iterable[str], top_k: int | None = None, return_documents: bool = False
    ) -> list[dict[str, Any]]:
        """The documents by their scores for a query, best first, of equal ones the earlier: as `Reranker.rank`.

        Returns:
            [{"corpus_id": the document's index, "score": a float}, ...], with "text" where return_documents is true.

        Raises:
            TypeError: query is no str; documents are no list of str.
            ValueError: top_k is negative.
        """
        function = "MultiVectorEncoder.rank"
        if not isinstance(query, str):
            raise TypeError(f"{function}: query must be a str, not {type(query).__name__}")
        texts = list(checked_texts(function, documents, "documents", "rank(query, [text])"))
        count = len(texts) if top_k is None else _checks.count(function, "top_k", top_k)
        has_text = _checks.flag(function, "return_documents", return_documents)
        (scores,) = self.similarity(self.encode_query([query]), self.encode_document(texts))
        best = np.argsort(-scores, kind="stable")[:count].tolist()
        return [{"corpus_id": i, "score": float(scores[i])} | ({"text": texts[i]} if has_text else {}) for i in best]


def _joined(vectors: Any, width: int) -> tuple[Array, Array | None]:
    """Texts' vectors one after another, and where each begins."""
    if not isinstance(vectors, Sequence) or isinstance(vectors, np.ndarray):
        return np.asarray(vectors), None
    starts = np.cumsum([0, *map(len, vectors)])
    return np.concatenate(vectors) if vectors else np.zeros((0, width), np.float32), starts
