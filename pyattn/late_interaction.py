"""Late interaction: texts are compared token by token, as ColBERT does."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import linear as _linear
from pyattn._core import maxsim as _maxsim
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for

_GROUP = 384  # tokens of queries that are packed together, about: with 128 features they stay in second-level cache


@in_namespace
def maxsim(
    queries: Array,
    documents: Array,
    cu_seqlens_q: ArrayLike | None = None,
    cu_seqlens_d: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Of each query and each document, the sum over the query's tokens of the largest product with a document's token.

        scores[q, d] = sum_i max_j queries[q][i] . documents[d][j]

    Khattab and Zaharia 2020 (arXiv:2004.12832), section 3.3. The products are not stored: what a call needs beside its
    arguments and its result is a packed copy of the queries, and some hundred KB for each thread.

    Args:
        queries: float32, float16 or bfloat16, (tokens, width) of one query; or of n queries one after the other, with
            cu_seqlens_q; or (n, tokens, width).
        documents: of m documents, in the same ways; float32, float16 or bfloat16, which are widened to float32 as they
            are read. Rows that are contiguous are not copied: a memory-mapped array stays on the disk.
        cu_seqlens_q, cu_seqlens_d: integers (n + 1,) and (m + 1,), where the tokens of each begin, from 0, and the last
            end: as in `varlen_attention`.

    Returns:
        (n, m) float32. A product is a sum in float32, the sum of a query's maxima in float64. A score has the same bits
        whatever other queries and documents are beside it. A query without tokens has 0, a document without any -inf
        for all other queries; NaN among the features gives NaN.

    Raises:
        TypeError: another dtype; cu_seqlens are no integers.
        ValueError: widths differ; shapes or cu_seqlens do not fit.

    Example:
        >>> query = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
        >>> documents = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 0.25]], np.float32)
        >>> maxsim(query, documents, cu_seqlens_d=[0, 2, 3])
        array([[1.5 , 0.25]], dtype=float32)
    """
    query, query_starts = _packed("queries", queries, cu_seqlens_q)
    rows, starts = _packed("documents", documents, cu_seqlens_d)
    if query.shape[1] != rows.shape[1]:
        raise ValueError(f"maxsim: queries have {query.shape[1]} features, documents {rows.shape[1]}")
    out = np.empty((len(query_starts) - 1, len(starts) - 1), np.float32)
    if not out.size:
        return out
    query = query.astype(np.float32, copy=False)
    firsts = _groups(query_starts)
    tokens = [query[query_starts[a] : query_starts[b]] for a, b in pairwise(firsts)]
    packed = [_linear.Packed(x, narrow=False) for x in tokens]
    if rows.strides[1] != rows.itemsize:
        rows = np.ascontiguousarray(rows)
    bits = rows.view(np.uint16) if _checks.is_bfloat16(rows.dtype) else rows
    threads = threads_for(2.0 * query.size * len(rows))
    _maxsim.maxsim(packed, query_starts, np.array(firsts, np.int64), bits, starts, out, threads)
    return out


def _packed(name: str, x: Any, cu_seqlens: Any) -> tuple[Array, Array]:
    """Tokens (total, width), and where each text begins."""
    x = _checks.real_array("maxsim", name, x)
    short = name[0]
    if x.dtype not in (np.float32, np.float16) and not _checks.is_bfloat16(x.dtype):
        needed = f"float32, float16 or bfloat16 in native byte order is needed ({name}.astype(np.float32) converts)"
        raise _checks.wrong_dtype("maxsim", name, x, needed)
    if x.ndim not in (2, 3) or (x.ndim == 3 and cu_seqlens is not None):
        accepted = f"(tokens, width), with cu_seqlens_{short} for several, or (texts, tokens, width)"
        raise _checks.wrong_shape("maxsim", name, x, accepted)
    if x.ndim == 3:
        texts, tokens, width = x.shape
        x = x.reshape(texts * tokens, width)
        starts = np.arange(texts + 1, dtype=np.int64) * tokens
    else:
        starts = np.array([0, len(x)], np.int64) if cu_seqlens is None else cu_seqlens
    return x, _checks.sequence_starts("maxsim", starts, x.shape[:1], f"cu_seqlens_{short}", f"rows of {name}")


def _groups(starts: Array) -> list[int]:
    """Whole queries of about _GROUP tokens, where each group begins, and the last end."""
    firsts = [0]
    for number in range(1, len(starts)):
        if starts[number] - starts[firsts[-1]] > _GROUP and number - 1 > firsts[-1]:
            firsts.append(number - 1)
    return [*firsts, len(starts) - 1]
