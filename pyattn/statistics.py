"""What attention looks at: statistics of the softmax's weights, without the L x S matrix of them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array, Sparse
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """What attention_statistics returns: w are a row's weights, its softmax; a row is a query of a head.

    Attributes:
        out: (..., H, L, Dv) in query's dtype, what scaled_dot_product_attention returns; None without value.
        lse: (..., H, L), as scaled_dot_product_attention returns it.
        max: (..., H, L), the row's largest logit, sinks not counted; -inf for a row that may attend to nothing.
        entropy: (..., H, L), -sum w ln w over the keys in nats, where a sink is no term; 0 for a row without keys.
        received: (..., H, S), for each key the sum of the weights that the queries of query_range give it.
        top_keys: (..., H, L, k), int64, the keys of the k largest weights, largest first, equal ones by ascending key;
            -1 where a row may attend to fewer.
        top_weights: (..., H, L, k), their weights; 0 where there is none.
        pooled: (..., H, rows, columns), sums of the weights in blocks: row i has the queries from i L // rows to
            (i + 1) L // rows, and so do columns have keys. All of it sums to the number of rows with a key, less what
            sinks take.

    All but out and top_keys are float32, float64 for float64 queries. The last five are None unless asked for.
    """

    out: Array | None
    lse: Array
    max: Array
    entropy: Array | None = None
    received: Array | None = None
    top_keys: Array | None = None
    top_weights: Array | None = None
    pooled: Array | None = None


@in_namespace
def attention_statistics(
    query: Array,
    key: Array,
    value: Array | None = None,
    mask: Array | Sparse | None = None,
    *,
    bias: Array | Sparse | None = None,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    query_offset: ArrayLike | None = None,
    entropy: bool = False,
    received: bool = False,
    top_k: int | None = None,
    query_range: tuple[int, int] | None = None,
    pooled: tuple[int, int] | None = None,
) -> AttentionStatistics:
    """Statistics of attention's weights, exactly, in memory that does not grow with L times S.

    A head's entropy says how broadly it attends (Clark et al. 2019, arXiv:1906.04341, section 3.3); the weights that
    keys receive say which of them a cache should keep (Zhang et al. 2023, H2O, arXiv:2306.14048), by the vote of the
    last queries alone in Li et al. 2024, SnapKV (arXiv:2404.14469).

    Args:
        query, key, mask, and the options from bias to query_offset: as in scaled_dot_product_attention.
        value: (..., Hkv, S, Dv), to compute out as well; None: out is not computed.
        entropy: compute each row's entropy.
        received: compute the sum of weights that each key receives.
        top_k: an integer from 1 to S: find the keys of each row's top_k largest weights.
        query_range: (start, stop), 0 <= start <= stop <= L: the queries that `received` sums over; None means all.
        pooled: (rows, columns), integers from 1 to L and to S: sum the weights over so many blocks of queries and of
            keys, a picture of attention of that size for sequences of any length; as much work as `received`.

    Returns:
        AttentionStatistics, whose bits do not depend on the number of threads.

    Raises:
        TypeError, ValueError: as scaled_dot_product_attention; top_k, query_range or pooled are no integers or out of
            range.

    Example:
        >>> import numpy as np, pyattn
        >>> query = np.array([[[0.0, 0.0], [9.0, 0.0]]])  # attend to all keys and to the last two
        >>> key = np.array([[[0.0, 1.0], [9.0, 0.0], [9.0, 2.0]]])
        >>> found = pyattn.attention_statistics(query, key, entropy=True, received=True, top_k=1)
        >>> found.entropy.round(3), found.received.round(3)
        (array([[1.099, 0.693]]), array([[0.333, 0.833, 0.833]]))
        >>> found.top_keys
        array([[[0],
                [1]]])
    """
    given = locals().copy()
    function = "attention_statistics"
    if value is None:
        query, key = _checks.attention_arrays(function, query=query, key=key)
    else:
        query, key, value = _checks.attention_arrays(function, query=query, key=key, value=value)
    call = _checks.attention_call(function, query, key, value, given)
    entropy = _checks.flag(function, "entropy", entropy)
    received = _checks.flag(function, "received", received)
    keys = key.shape[-2]
    if top_k is not None and not 1 <= _checks.integer(function, "top_k", top_k, "an integer or None") <= keys:
        raise ValueError(f"{function}: top_k must be from 1 to S ({keys}), not {top_k}")
    call.sum_queries(*_checks.row_range(function, query_range, query.shape[-2]))
    blocks = None if pooled is None else _checks.counts(function, "pooled", pooled, {"L": query.shape[-2], "S": keys})

    rows, dtype = query.shape[:-1], _checks.statistics_dtype(query.dtype)
    results = {"lse": np.empty(rows, dtype), "max": np.empty(rows, dtype)}
    if value is not None:
        results["out"] = np.empty((*rows, value.shape[-1]), query.dtype)
    if entropy:
        results["entropy"] = np.empty(rows, dtype)
    if received:
        results["column_sums"] = np.zeros((*rows[:-1], keys), dtype)
        results["moments"] = np.empty((*rows, 2), dtype)
    if top_k is not None:
        results["top_keys"] = np.empty((*rows, top_k), np.int64)
        results["top_weights"] = np.empty((*rows, top_k), dtype)
    call.run(threads_for, **results)
    results.pop("moments", None)
    if blocks is not None:
        if query_offset is None:  # a part of the queries has to know where it stands
            lengths = np.asarray(keys if kv_lengths is None else kv_lengths, np.int64)  # those of 8 bits wrap around
            given["query_offset"] = lengths - query.shape[-2]
        call = _checks.attention_call(function, query, key, None, given)  # without value, of which nothing is asked
        results["pooled"] = _pooled(call, blocks, (*rows, keys), dtype)
    return AttentionStatistics(results.pop("out", None), received=results.pop("column_sums", None), **results)


def _pooled(call: Any, counts: tuple[int, ...], shape: tuple[int, ...], dtype: Any) -> Array:
    """Sums of weights (..., H, L, S) over blocks, one block of queries after the other."""
    *leading, length, keys = shape
    starts = [np.arange(count + 1) * size // count for count, size in zip(counts, (length, keys), strict=True)]
    result: Array = np.empty((*leading, *counts), dtype)
    for row, (first, end) in enumerate(pairwise(starts[0].tolist())):
        sums = np.zeros((*leading, keys), dtype)
        moments = np.empty((*leading, end - first, 2), dtype)
        call.of_queries(first, end).run(threads_for, column_sums=sums, moments=moments)
        result[..., row, :] = np.add.reduceat(sums, starts[1][:-1], axis=-1)
    return result
