"""Attention as it happens in a model's call: queries, keys and options of each layer, kept for those who look."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Layer
from pyattn.functional import scaled_dot_product_attention
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.sequences import watching
from pyattn.statistics import AttentionStatistics, attention_statistics


class Attended:
    """One attention of a call: that of a layer's rows to themselves, to a cache, or to a memory.

    Attributes:
        layer: the name of the MultiHeadAttention in the model, such as "encoder.layers.3.self_attn".
        sequences: how many sequences there were; each attended by itself.
        heads: of the queries.
    """

    def __init__(self, layer: str, module: MultiHeadAttention, binding: Any, query: Array, key: Array) -> None:
        self.layer = layer
        self._query, self._key = query, key
        self._starts = binding.query_starts, binding.key_starts
        self._past, self._new = binding.past_len, binding.new_len
        self._mask, self._bias = (None if x is None else _real(x) for x in (binding.mask, binding.bias))
        self._bias_of_sequence = binding.bias_of_sequence
        left, right = module.left, 0 if binding.is_causal else module.right
        self._options: dict[str, Any] = {
            "scale": module.scale,
            "softcap": module.softcap,
            "window": (None if left < 0 else left, None if right < 0 else right),
            "alibi_slopes": module._slopes(),
            "sinks": module._parameters.get("sinks"),
        }
        self.heads = query.shape[1]
        self.sequences = len(query) * (len(self._starts[0]) - 1)

    def weights(self, sequence: int = 0) -> Array:
        """The weights (H, L, S) of a sequence, float32 or float64: all of them, n x n.

        Raises:
            TypeError, ValueError: sequence is not one of the call's.
        """
        query, key, options = self.operands(sequence)
        value = np.zeros((*key.shape[:-1], 1), key.dtype)
        weights: Array = scaled_dot_product_attention(query, key, value, **options, return_weights=True)[1]
        return weights

    def statistics(self, sequence: int = 0, **asked: Any) -> AttentionStatistics:
        """pyattn.attention_statistics of a sequence, with axes (H, L) and (H, S), in linear memory.

        Args:
            asked: entropy, received, top_k, query_range, pooled.

        Raises:
            TypeError, ValueError: as attention_statistics; sequence is not one of the call's.
        """
        query, key, options = self.operands(sequence)
        return attention_statistics(query, key, **options, **asked)

    def operands(self, sequence: int = 0) -> tuple[Array, Array, dict[str, Any]]:
        """Queries (H, L, D), keys (Hkv, S, D) and the options of scaled_dot_product_attention of a sequence.

        Raises:
            TypeError, ValueError: sequence is not one of the call's.
        """
        number = _checks.integer("Attended", "sequence", sequence)
        if not 0 <= number < self.sequences:
            raise ValueError(f"Attended: sequence must be from 0 to {self.sequences - 1}, not {sequence}")
        sample, part = divmod(number, len(self._starts[0]) - 1)
        (first, end), (first_key, end_key) = ((int(x[part]), int(x[part + 1])) for x in self._starts)
        options = dict(self._options)
        if self._new is not None:
            end_key = first_key + int(self._new[sample])
        if self._past is not None:
            end = first + int(self._new[sample] - self._past[sample])
            options["query_offset"] = int(self._past[sample])
        query, key = self._query[sample, :, first:end], self._key[sample, :, first_key:end_key]
        if self._mask is not None:
            options["mask"] = self._mask[sample, :, first:end, first_key:end_key]
        if self._bias is not None:
            origin = (0, 0) if self._bias_of_sequence else (first, first_key)
            rows, columns = (slice(x, x + n) for x, n in zip(origin, (end - first, end_key - first_key), strict=True))
            options["bias"] = self._bias[sample, :, rows, columns]
        return query, key, options


@contextmanager
def watch(model: Layer, layers: Callable[[str], bool] | None = None) -> Iterator[list[Attended]]:
    """Within it, each attention of the model's calls on this thread is added to the list that it gives.

    Queries and keys are copied, and nothing is computed of them before somebody asks: a call takes little longer than
    without. Masks and biases are kept as they are.

    Args:
        model: any model or layer of pyattn, such as what `pyattn.models.load` gives.
        layers: of an attention's name, whether it is wanted; None: all are.

    Raises:
        TypeError: model is neither, or layers cannot be called.

    Example:
        >>> import numpy as np, pyattn, pyattn.explain
        >>> encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(32, 4, 64, rng=0), 2)
        >>> with pyattn.explain.watch(encoder) as seen:
        ...     out = encoder(np.ones((1, 5, 32), np.float32))
        >>> [attended.layer for attended in seen]
        ['layers.0.self_attn', 'layers.1.self_attn']
        >>> seen[1].weights().shape, seen[1].statistics(entropy=True).entropy.shape
        ((4, 5, 5), (4, 5))
    """
    if not isinstance(model, Layer):
        raise TypeError(f"watch: model must be a model or layer of pyattn, not {type(model).__name__}")
    if layers is not None and not callable(layers):
        raise TypeError(f"watch: layers must be a function of a name, not {type(layers).__name__}")
    modules = [(name.removesuffix("."), part) for name, part in model._parts() if isinstance(part, MultiHeadAttention)]
    seen: list[Attended] = []

    def show(plan: Any, binding: Any, query: Array, key: Array, scales: Array | None) -> None:
        for name, module in modules:
            if module._planned() is plan and (layers is None or layers(name)):
                key = _real(key) if scales is None else key.astype(np.float32) * scales[..., None]
                seen.append(Attended(name, module, binding, _real(query), key))
                return

    token = watching.set(show)
    try:
        yield seen
    finally:
        watching.reset(token)


def _real(x: Array) -> Array:
    """Bits of bfloat16 as float32; else x."""
    if x.dtype != np.uint16:
        return x
    return (x.astype(np.uint32) << 16).view(np.float32)
