"""Logits of a few tokens after sequences that begin alike, such as "yes" and "no" after documents of one query."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.cache import KVCache
from pyattn.layers.sequences import Sequences
from pyattn.models.generative import GenerativeConfig
from pyattn.models.naming import Tensors, select, stand_ins
from pyattn.models.pretrained import WeightDtypes, read_directory
from pyattn.models.tensors import FileTensor, Tensor, read
from pyattn.models.token_states import StateConfig, TokenStates
from pyattn.precision import Quantized, values_of


@dataclass(frozen=True, eq=False)
class Beginning:
    """What sequences begin with: its tokens, and for each layer its keys and values, of one sequence."""

    length: int
    caches: list[KVCache]


class TokenLogits:
    """A decoder without an encoder, whose vocabulary is a few tokens.

    Attributes:
        states: the `TokenStates`.
        tokens: those whose logits are given.
    """

    def __init__(
        self,
        config: GenerativeConfig,
        tensors: Tensors,
        tokens: Sequence[int],
        source: str = "tensors",
        dtype: WeightDtypes = "float32",
        strict: bool = True,
    ) -> None:
        head = config.spec.logits
        if config.spec.decoder is None or config.spec.encoder is not None or head is None:
            raise ValueError(f"load: a {config.model_type} model is no decoder alone, whose last token is asked")
        self.tokens = tuple(tokens)
        for token in self.tokens:
            _checks.count("load", "the token that is asked for", token, highest=config.vocab_size - 1)
        self.states = TokenStates(StateConfig.from_dict(config.source, source), tensors, source, dtype, strict)
        present = select(config, tensors, source, strict).tensors
        instead = stand_ins(config, present)
        self._head, self._vocabulary = head, config.vocab_size
        self._rows = np.ascontiguousarray(
            [_row(present, instead, str(config.spec.names["head.weight"]), token, source) for token in self.tokens]
        )
        self._bias: Array | None = None
        if head.bias:
            name = str(config.spec.names["head.bias"])
            self._bias = np.array([_row(present, instead, name, token, source) for token in self.tokens])

    @classmethod
    def from_directory(
        cls, directory: Path, tokens: Sequence[int], dtype: WeightDtypes = "float32", strict: bool = True
    ) -> "TokenLogits":
        config, tensors, source = read_directory(directory, GenerativeConfig)
        return cls(config, tensors, tokens, source, dtype, strict)

    def begin(self, tokens: ArrayLike) -> Beginning:
        """Keys and values of what several sequences begin with, which may be nothing."""
        name = "TokenLogits.begin"
        ids = _checks.indices(name, "tokens", _checks.token_ids(name, "tokens", tokens), self._vocabulary)
        caches = self._caches(1, len(ids))
        if len(ids):
            self._forward(name, ids[None], np.zeros(1, np.int64), np.array([len(ids)]), caches)
        return Beginning(len(ids), caches)

    def __call__(self, beginning: Beginning, endings: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Logits of what follows each sequence.

        A sequence's logits have the same bits wherever its beginning ends, and whatever stands beside it.

        Args:
            beginning: what begin returned.
            endings: n sequences of tokens, one or more each, which follow the beginning.

        Returns:
            (n, tokens) float32.

        Raises:
            TypeError, ValueError: as TokenStates; an ending has no tokens.
        """
        name = "TokenLogits"
        arrays = _checks.token_sequences(name, "endings", endings)
        lengths = np.array([len(x) for x in arrays], np.int64)
        if not len(arrays):
            return np.zeros((0, len(self.tokens)), np.float32)
        if not lengths.all():
            raise ValueError(f"{name}: endings[{int(lengths.argmin())}] has no tokens; one or more are needed")
        ids = np.zeros((len(arrays), lengths.max()), np.int64)
        for row, ending in zip(ids, arrays, strict=True):
            row[: len(ending)] = _checks.indices(name, "endings", ending, self._vocabulary)
        past = np.full(len(arrays), beginning.length, np.int64)
        capacity = beginning.length + ids.shape[1]
        scratch = _Repeated(beginning, self._caches(len(arrays), capacity, most=1)[0]) if beginning.length else None
        caches = self._caches(len(arrays), capacity) if scratch is None else scratch
        hidden = self._forward(name, ids, past, past + lengths, caches)
        last = np.ascontiguousarray(hidden.reshape(*ids.shape, -1)[np.arange(len(ids)), lengths - 1])
        return self._logits(last)

    def _caches(self, batch: int, capacity: int, most: int | None = None) -> list[KVCache]:
        """Empty ones for each layer, or the first, of such sequences."""
        layers = self.states.decoder._planned().in_order[:most]
        return [layer.self_attn._cache(batch, max(1, capacity), None) for _, layer in layers]

    def _forward(self, name: str, ids: Array, past: Array, ends: Array, caches: Sequence[KVCache]) -> Array:
        """Hidden states of padded tokens (n, L), which follow `past` tokens in caches, and of which some are real."""
        states, config = self.states, self.states.config
        if (longest := int(ends.max())) > config.longest:
            raise ValueError(f"{name}: a sequence has {longest} tokens; {config.bound}")
        sequences = Sequences.padded(len(ids), ids.shape[1], is_causal=True, past_len=past, new_len=ends)
        positions = np.minimum(sequences.positions(), config.longest - 1)  # those of padding
        x = states.embeddings.apply(ids.reshape(-1), positions, words=states._parameters.get("words"))
        hidden: Array = states.decoder._forward_rows(x, sequences, None, caches)
        return hidden

    def _logits(self, hidden: Array) -> NDArray[np.float32]:
        # einsum sums each row by itself, whatever stands beside it; a product of matrices may not
        logits = np.einsum("ne,te->nt", hidden * np.float32(self._head.scale), self._rows, optimize=False)
        if self._bias is not None:
            logits = logits + self._bias
        if self._head.softcap:
            logits = np.tanh(logits / np.float32(self._head.softcap)) * np.float32(self._head.softcap)
        return np.asarray(logits, np.float32)


class _Repeated(Sequence[KVCache]):
    """A beginning's keys and values in several sequences, in one cache, which the layers use one after the other.

    The layers of a model have caches of one shape; a cache for each would take memory for all tokens of all layers.
    """

    def __init__(self, beginning: Beginning, cache: KVCache) -> None:
        self._beginning, self._cache = beginning, cache

    def __len__(self) -> int:
        return len(self._beginning.caches)

    def __iter__(self) -> Iterator[KVCache]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, step: int) -> KVCache:  # type: ignore[override]
        length = self._beginning.length
        self._cache._stored[:, :, :, :length] = self._beginning.caches[step]._stored[:, :, :, :length]
        return self._cache


def _row(tensors: Tensors, instead: Mapping[str, str], name: str, token: int, source: str) -> Array:
    """A row of a tensor, of which a file's others are not read."""
    tensor: Tensor | None = tensors.get(instead.get(name, name))
    if tensor is None:
        raise ValueError(f"load: {source}: missing tensors: {name}")
    if token >= tensor.shape[0]:
        raise ValueError(f"load: {source}: {name} has shape {tensor.shape}; the token {token} is asked for")
    if isinstance(tensor, FileTensor) and tensor.scales is None:
        rest = tensor.shape[1:]
        size = {"F32": 4, "F64": 8}.get(tensor.type, 2) * math.prod(rest)
        values = replace(tensor, shape=(1, *rest), offset=tensor.offset + token * size).read()
        row: Array = values_of(values)[0]
        return row
    values = read(tensor)
    if isinstance(values, Quantized):
        values = values_of(Quantized(values.elements[token : token + 1], values.scales[token : token + 1]))
        token = 0
    return np.asarray(values[token], np.float32)
