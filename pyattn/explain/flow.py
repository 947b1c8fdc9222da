"""Attention through all layers at once, for chosen queries."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn.explain.attended import Attended
from pyattn.functional import scaled_dot_product_attention
from pyattn.gradients import attention_backward


def rollout(seen: Sequence[Attended], queries: Sequence[int], sequence: int = 0) -> Array:
    """How much each token has to do with some tokens of the last layer: Abnar and Zuidema 2020 (arXiv:2005.00928).

    Section 3, attention rollout: the weights of each layer, averaged over heads, half of them and half the identity for
    the residual connection, multiplied from the last layer to the first. Only the rows of `queries` are followed, in
    memory that grows with the sequence, not with its square: a row times a matrix of weights is what
    `attention_backward` gives to values.

    Args:
        seen: the self-attention of an encoder's layers in order, as `watch` gives it.
        queries: positions from 0 to L - 1.
        sequence: which one of the call's.

    Returns:
        (len(queries), L), of the dtype of the model's queries; each row sums to 1, but for what sinks take.

    Raises:
        TypeError, ValueError: no layers, a query or sequence out of range, or attention to other rows than its own.

    Example:
        >>> import numpy as np, pyattn, pyattn.explain
        >>> encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(32, 4, 64, rng=0), 2)
        >>> with pyattn.explain.watch(encoder) as seen:
        ...     out = encoder(np.ones((1, 5, 32), np.float32))
        >>> pyattn.explain.rollout(seen, [0, 4]).sum(axis=-1).round(3)
        array([1., 1.], dtype=float32)
    """
    if not seen:
        raise ValueError("rollout: seen has no layers; they are those of a call within pyattn.explain.watch")
    rows: Array | None = None
    for attended in reversed(seen):
        query, key, options = attended.operands(sequence)
        length = query.shape[-2]
        if key.shape[-2] != length:
            raise ValueError(f"rollout: {attended.layer} attends from {length} rows to {key.shape[-2]}, not to its own")
        if rows is None:
            places = _checks.indices("rollout", "queries", queries, length)
            rows = np.zeros((length, len(places)), query.dtype)
            rows[places, np.arange(len(places))] = 1
        rows = (rows + _through(query, key, options, rows)) / 2
    return np.ascontiguousarray(rows.T)  # type: ignore[union-attr]


def _through(query: Array, key: Array, options: dict[str, Any], rows: Array) -> Array:
    """The mean over heads of weights^T rows."""
    value = np.zeros((*key.shape[:-1], rows.shape[-1]), key.dtype)
    out, lse = scaled_dot_product_attention(query, key, value, **options, return_lse=True)
    grad = np.broadcast_to(rows, out.shape)
    of_values: Array = attention_backward(grad, query, key, value, out, lse, **options).value
    mean: Array = of_values.sum(axis=0) / query.shape[0]
    return mean
