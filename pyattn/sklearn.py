"""Sentence embeddings as a step of scikit-learn's pipelines."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn._extras import import_extra
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.loaded import loaded, name_of
from pyattn.tasks.sentence import SentenceEncoder
from pyattn.tasks.texts import checked_texts

import_extra("sklearn", "pyattn.sklearn", group="sklearn")

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402


class SentenceVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """SentenceEncoder.encode as a transformer of scikit-learn: texts to a dense matrix, without fitting.

    It holds a path and settings, and so do its clones and pickles. Each process loads the model at its first use and
    keeps it: clones share it, such as those of a grid search, and one process holds at most four.

    Args:
        model: a directory, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16" or "int8", or patterns, as in SentenceEncoder.from_pretrained.
        normalize, batch_tokens, truncate, prompt, prompt_name, truncate_dim: as in SentenceEncoder.encode.

    Raises:
        TypeError, ValueError, OSError: as SentenceEncoder.from_pretrained and encode, when it is fitted or transforms.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from pyattn.sklearn import SentenceVectorizer
        >>> vectorizer = SentenceVectorizer("sentence-transformers/all-MiniLM-L6-v2", dtype="int8")
        >>> classifier = make_pipeline(vectorizer, LogisticRegression())
        >>> classifier[0].get_params()["dtype"]
        'int8'
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        normalize: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.normalize = normalize
        self.batch_tokens = batch_tokens
        self.truncate = truncate
        self.prompt = prompt
        self.prompt_name = prompt_name
        self.truncate_dim = truncate_dim

    def fit(self, X: Iterable[str], y: Any = None) -> "SentenceVectorizer":  # noqa: N803
        """Checks the settings; nothing is learned, and of the texts only their being a list is looked at."""
        _column("fit", X)
        self._encode([])
        return self

    def transform(self, X: Iterable[str]) -> NDArray[np.float32]:  # noqa: N803
        """One vector for each text: (n, width) float32, what SentenceEncoder.encode gives.

        set_output(transform="pandas") or "polars" makes a table of it, whose columns have the names that
        get_feature_names_out gives: sentencevectorizer0, sentencevectorizer1, and so on.

        Raises:
            TypeError: X is a str, or an element of it is none.
            ValueError: X is a table, not one column.
        """
        return self._encode(_column("transform", X))

    @property
    def _n_features_out(self) -> int:  # what the names of columns are counted by
        return int(self._encode([]).shape[1])

    def _encode(self, texts: Iterable[str]) -> NDArray[np.float32]:
        encoder: SentenceEncoder = loaded(name_of("SentenceVectorizer", self.model, self.dtype))
        return encoder.encode(
            texts,
            normalize=self.normalize,
            show_progress=False,
            batch_tokens=self.batch_tokens,
            truncate=self.truncate,
            prompt=self.prompt,
            prompt_name=self.prompt_name,
            truncate_dim=self.truncate_dim,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []  # texts become float32
        return tags


def _column(method: str, X: Iterable[str]) -> Iterable[str]:  # noqa: N803
    """The texts, each checked when it is taken; a table would give its columns' names for texts."""
    function = f"SentenceVectorizer.{method}"
    if getattr(X, "ndim", 1) != 1:
        raise ValueError(f"{function}: X must be a list of str, or one column of a table, not {type(X).__name__}")
    return checked_texts(function, X, "X")
