"""Encoders of texts: embeddings of words and positions, then the layers, over packed tokens."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._threads import threads_for
from pyattn.layers import Layer, LayerNorm, Linear
from pyattn.layers.base import Setting
from pyattn.layers.sequences import Sequences
from pyattn.models.config import EncoderConfig
from pyattn.models.families import TEXT_FAMILIES
from pyattn.models.pretrained import Pretrained, WeightDtypes, stack
from pyattn.positional import relative_position_buckets
from pyattn.precision import values_of


class TextEmbeddings(Layer):
    """The sum of a token's vectors, normalised; those that a family lacks are absent."""

    def __init__(self, config: EncoderConfig) -> None:
        width, names = config.embedding_size, config.family.names
        rows = {"words": config.vocab_size, "token_types": config.type_vocab_size}
        rows["positions"] = config.first_position + config.max_position_embeddings
        self._tables = {name: (count, width) for name, count in rows.items() if f"embeddings.{name}" in names and count}
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.projection = Linear(width, config.hidden_size) if config.projected else None

    def _apply(self, words: Array, positions: Array, types: Array) -> Array:
        """Rows of packed tokens; positions are those in their sequences."""
        rows = {"words": words, "positions": positions, "token_types": types}
        numbers = [rows[name] for name in self._tables]
        x = np.empty((len(words), self.norm.width), np.float32)
        rowwise.embed([self._parameters[name] for name in self._tables], numbers, x, threads_for(20.0 * x.size))
        x = self.norm._apply(x, out=x)
        return x if self.projection is None else self.projection._apply(x)

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._tables)

    def _own_made(self, values: Any) -> list[Setting]:
        # not copied: most of the memory of a small model is its vocabulary's
        made = {name: np.ascontiguousarray(values_of(x), np.float32) for name, x in values.items()}
        return [(self, "_parameters", made)]


class TextEncoder(Pretrained):
    """An encoder of texts, over packed tokens: all sequences one after another, without padding.

    Arguments, attributes and errors are those of `Pretrained`; `pyattn.models.load` makes one from a directory.
    """

    _families = TEXT_FAMILIES
    embeddings: TextEmbeddings

    def _make(self, config: EncoderConfig, dtype: WeightDtypes) -> None:
        self.encoder = stack(config, dtype)
        self.embeddings = TextEmbeddings(config)
        if config.relative_buckets:
            shape = (config.relative_buckets, config.num_attention_heads)
            self._parameters = {"relative_bias": np.zeros(shape, np.float32)}

    def __call__(
        self,
        token_ids: ArrayLike,
        cu_seqlens: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        *,
        attention_mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """The last layer's hidden state of every token, behind the norm at the end if the family has one.

        Args:
            token_ids: (total,) integers, the n sequences one after another; or (n, L), padded.
            cu_seqlens: (n + 1,) integers: sequence i is token_ids[cu_seqlens[i]:cu_seqlens[i + 1]]. Its positions
                start at 0, every token counting, and it attends to itself alone. Of packed token_ids, unless lengths is
                given.
            token_type_ids: integers in the shape of token_ids; None means 0 for all. What a family without token types
                is given is not used.
            attention_mask: of padded token_ids, (n, L), 0 or False where there is padding, which is dropped before
                anything is computed; None where there is none.
            lengths: (n,) integers, instead of either: of how many tokens each sequence is, padding behind them.

        Returns:
            (total, hidden_size) float32; of padded token_ids (n, L, hidden_size), padding being 0.

        Raises:
            TypeError: an argument is not made of integers.
            ValueError: shapes do not fit together, an id is outside its embedding table, or a sequence is longer than
                max_position_embeddings.
        """
        x, _, live = self._forward(
            "TextEncoder", token_ids, cu_seqlens, token_type_ids, attention_mask=attention_mask, lengths=lengths
        )
        return self._unpacked(x, live)

    def _forward(
        self,
        name: str,
        token_ids: ArrayLike,
        cu_seqlens: ArrayLike | None,
        token_type_ids: ArrayLike | None,
        **padding: ArrayLike | None,
    ) -> tuple[Array, Array, Array | None]:
        """Hidden states of packed tokens, where sequences start, and which of padded tokens are real."""
        config = self.config
        words = _checks.indices(name, "token_ids", token_ids, config.vocab_size)
        types = None
        if token_type_ids is not None:
            types = _checks.indices(name, "token_type_ids", token_type_ids, config.type_vocab_size or 2**31)
            if types.shape != words.shape:
                raise ValueError(f"{name}: token_type_ids has shape {types.shape}; token_ids has {words.shape}")
        live, starts = _checks.packing(name, words.shape, cu_seqlens, **padding)
        if live is not None:
            words = words[live]
            types = None if types is None else types[live]
        sequences = Sequences(1, starts)
        if (longest := sequences.longest()) > config.max_position_embeddings:
            raise ValueError(
                f"{name}: a sequence has {longest} tokens; the model has positions for {config.max_position_embeddings}"
            )
        if "relative_bias" in self._parameters:
            distances = np.arange(1 - longest, longest) if longest else np.zeros(1, np.int64)
            buckets = relative_position_buckets(distances, config.relative_buckets)
            sequences.relative_bias = np.ascontiguousarray(self._parameters["relative_bias"][buckets].T)
        positions = sequences.positions()
        if config.first_position:
            positions = positions + config.first_position
        types = np.zeros(len(words), np.int64) if types is None else np.ascontiguousarray(types)
        x = self.embeddings._apply(np.ascontiguousarray(words), positions, types)
        return self.encoder._forward_rows(x, sequences), starts, live

    @staticmethod
    def _unpacked(x: Array, live: Array | None) -> Array:
        """Rows of packed tokens where padded ones stand, unless they came packed."""
        if live is None:
            return x
        padded = np.zeros((*live.shape, x.shape[1]), x.dtype)
        padded[live] = x
        return padded
