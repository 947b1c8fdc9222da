"""Sentence encoders with the methods that LangChain and Chroma look for; neither is imported here.

BERTopic takes pipelines of scikit-learn: make_pipeline(pyattn.sklearn.SentenceVectorizer(model)) is one.
"""

import asyncio
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.loaded import loaded, name_of
from pyattn.tasks.sentence import SentenceEncoder

__all__ = ["ChromaEmbeddingFunction", "LangChainEmbeddings"]

# Chroma's words for how vectors are compared
_SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}


class _Embedder:
    """A path and settings: what is kept, and pickled, of an encoder that each process loads at its first use."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        normalize: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
        truncate_dim: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        function = type(self).__name__
        self._name = name_of(function, model, dtype)
        self._options: dict[str, Any] = {
            "normalize": None if normalize is None else _checks.flag(function, "normalize", normalize),
            "batch_tokens": _checks.size(function, "batch_tokens", batch_tokens),
            "truncate": _checks.flag(function, "truncate", truncate),
            "truncate_dim": None if truncate_dim is None else _checks.size(function, "truncate_dim", truncate_dim),
        }
        self._prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
        for name, prompt in self._prompts.items():
            if not isinstance(prompt, str | None):
                raise TypeError(f"{function}: {name} must be a str or None, not {type(prompt).__name__}")

    @property
    def _encoder(self) -> SentenceEncoder:
        return loaded(self._name)

    def _documents(self, texts: Iterable[str]) -> NDArray[np.float32]:
        prompt = self._prompts["document_prompt"]
        return self._encoder.encode_document(texts, prompt=prompt, show_progress=False, **self._options)

    def _queries(self, texts: Iterable[str]) -> NDArray[np.float32]:
        prompt = self._prompts["query_prompt"]
        return self._encoder.encode_query(texts, prompt=prompt, show_progress=False, **self._options)


class LangChainEmbeddings(_Embedder):
    """The interface of LangChain's Embeddings over a SentenceEncoder: for its vector stores and retrievers.

    Where langchain_core has been imported before one is made, it is an Embeddings for isinstance too.

    Args:
        model: a directory, or an id on the Hugging Face hub, which each process loads at its first use, and keeps.
        dtype: "float32", "bfloat16" or "int8", or patterns, as in SentenceEncoder.from_pretrained.
        normalize, batch_tokens, truncate, truncate_dim: as in SentenceEncoder.encode.
        query_prompt, document_prompt: what is put in front of queries and of documents, as E5's "query: "; None: what
            the directory says, as in SentenceEncoder.encode_query and encode_document.

    Raises:
        TypeError, ValueError: a setting is none of these. What is wrong with the model is said at its first use.

    Example:
        >>> from pyattn.integrations import LangChainEmbeddings
        >>> embeddings = LangChainEmbeddings("sentence-transformers/all-MiniLM-L6-v2", dtype="int8")
        >>> # InMemoryVectorStore(embeddings).add_texts([...])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "LangChainEmbeddings":
        # A store may ask whether it is one, and take what is none for a function. Pickles pass here too.
        if (langchain := sys.modules.get("langchain_core.embeddings")) is not None:
            langchain.Embeddings.register(cls)
        return super().__new__(cls)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts, as lists of numbers."""
        vectors: list[list[float]] = self._documents(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        if not isinstance(text, str):
            raise TypeError(f"LangChainEmbeddings.embed_query: text must be a str, not {type(text).__name__}")
        vector: list[float] = self._queries([text])[0].tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """embed_documents in a thread."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """embed_query in a thread."""
        return await asyncio.to_thread(self.embed_query, text)


class ChromaEmbeddingFunction(_Embedder):
    """Chroma's EmbeddingFunction over a SentenceEncoder.

    A collection keeps its name and settings. Who opens the collection in another process names it again, or calls
    chromadb.utils.embedding_functions.register_embedding_function(ChromaEmbeddingFunction) first.

    Args:
        model, dtype, normalize, batch_tokens, truncate, truncate_dim, query_prompt, document_prompt: as in
            LangChainEmbeddings.

    Raises:
        TypeError, ValueError: a setting is none of these. What is wrong with the model is said at its first use.

    Example:
        >>> from pyattn.integrations import ChromaEmbeddingFunction
        >>> function = ChromaEmbeddingFunction("sentence-transformers/all-MiniLM-L6-v2", dtype="int8")
        >>> # chromadb.Client().create_collection("texts", embedding_function=function)
        >>> function.get_config()["dtype"]
        'int8'
    """

    def __call__(self, input: list[str]) -> list[NDArray[np.float32]]:
        """The vectors of documents."""
        return list(self._documents(input))

    def embed_query(self, input: list[str]) -> list[NDArray[np.float32]]:
        """The vectors of queries."""
        return list(self._queries(input))

    @staticmethod
    def name() -> str:
        """By which Chroma finds the class of a collection's function."""
        return "pyattn"

    def get_config(self) -> dict[str, Any]:
        """The settings, for JSON: those that __init__ takes."""
        path, dtypes = self._name
        dtype = dict(dtypes) if isinstance(dtypes, tuple) else dtypes
        return {"model": path, "dtype": dtype, **self._options, **self._prompts}

    @staticmethod
    def build_from_config(config: Mapping[str, Any]) -> "ChromaEmbeddingFunction":
        """The function of these settings."""
        ChromaEmbeddingFunction.validate_config(config)
        return ChromaEmbeddingFunction(**config)

    @staticmethod
    def validate_config(config: Mapping[str, Any]) -> None:
        """ValueError unless these are settings that get_config gives."""
        known = {"model", "dtype", "normalize", "batch_tokens", "truncate", "truncate_dim"}
        known |= {"query_prompt", "document_prompt"}
        if strange := sorted(config.keys() - known):
            raise ValueError(f"ChromaEmbeddingFunction: the settings {', '.join(strange)} are unknown")
        if "model" not in config:
            raise ValueError("ChromaEmbeddingFunction: the setting model is missing")

    def validate_config_update(self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]) -> None:
        """ValueError if a collection's settings would change so that old and new vectors do not fit together."""
        for name in ("model", "normalize", "truncate_dim", "query_prompt", "document_prompt"):
            if name in new_config and new_config[name] != old_config.get(name):
                raise ValueError(
                    f"ChromaEmbeddingFunction: {name} was {old_config.get(name)!r} where the collection was made, and "
                    f"cannot be {new_config[name]!r} now"
                )

    def default_space(self) -> str:
        """How the model's vectors are to be compared, as Chroma calls it: "cosine", "ip" or "l2"."""
        similarity = self._encoder.similarity_fn_name
        if similarity not in _SPACES:
            raise ValueError(
                f"ChromaEmbeddingFunction: the model's vectors are to be compared by {similarity}; Chroma compares by "
                f"{', '.join(_SPACES.values())}"
            )
        return _SPACES[similarity]

    def supported_spaces(self) -> list[str]:
        """Those of Chroma."""
        return list(_SPACES.values())

    def is_legacy(self) -> bool:
        """Whether Chroma could not keep the settings: no."""
        return False
