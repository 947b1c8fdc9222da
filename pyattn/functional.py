"""Attention on arrays."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array, Sparse
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PackedOptions(TypedDict, total=False):
    """The options of attention that packed sequences have too, and the array for the result."""

    is_causal: bool
    window: tuple[int | None, int | None] | None
    scale: float | None
    softcap: float | None
    alibi_slopes: ArrayLike | None
    sinks: ArrayLike | None
    kv_lengths: ArrayLike | None
    query_offset: ArrayLike | None
    dropout_p: float
    dropout_seed: int | None
    out: Array | None


class AttentionOptions(PackedOptions, total=False):
    """The options of attention beside the mask; scaled_dot_product_attention says what they mean."""

    bias: Array | Sparse | None


@overload
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | Sparse | None = None,
    *,
    return_lse: Literal[False] = False,
    return_weights: Literal[False] = False,
    **options: "Unpack[AttentionOptions]",
) -> Array: ...
@overload
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | Sparse | None = None,
    *,
    return_lse: Literal[True],
    return_weights: Literal[False] = False,
    **options: "Unpack[AttentionOptions]",
) -> tuple[Array, Array]: ...
@overload
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | Sparse | None = None,
    *,
    return_lse: bool = False,
    return_weights: bool = False,
    **options: "Unpack[AttentionOptions]",
) -> Any: ...
@in_namespace
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
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
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
    out: Array | None = None,
) -> Array | tuple[Array, ...]:
    """softmax(scale Q K^T + ...) V, exactly, in memory that does not grow with L or S.

    Vaswani et al. 2017, Attention Is All You Need (arXiv:1706.03762), section 3.2.1, equation 1; streamed over blocks
    of keys, as in Dao et al. 2022, FlashAttention (arXiv:2205.14135). B batch, H heads, L queries, S keys, D head
    width, Dv value width. The logit of a query and a key is, in this order, what is given of

        x = scale q.k,  softcap tanh(x / softcap),  + bias,  + ALiBi,  + a floating mask

    and the query may attend to the key if mask, bias, is_causal, window and kv_lengths all allow it. Positions: key j
    stands at j, query i at p = query_offset + i.

    Args:
        query: (..., H, L, D), float32, float64, float16 or bfloat16 (that of ml_dtypes); (L, D) and (H, L, D) work as
            well. 16 bits are computed in float32. L, S and D are below 2**30.
        key: (..., Hkv, S, D) of the same dtype. H is a multiple of Hkv: query heads h share key head h // (H / Hkv)
            (grouped-query attention, arXiv:2305.13245), without repeating it.
        value: (..., Hkv, S, Dv) of the same dtype. All three may have any strides; none is copied, but for keys and
            values of a sparse mask, a head at a time, where it pays.
        mask: boolean, True = may attend, or of query's dtype, added to the logits, where -inf masks. (L, S); or one
            axis less than query, one for each batch element, as (B, L, S); or as many axes as query, broadcasting to
            (B, H, L, S). Or a scipy.sparse array or matrix (L, S), for all batches and heads: the entries that it
            stores as CSR, whatever their values, zeros too, may be attended to; other formats are converted each time.
        bias: of query's dtype, in the same shapes, added to the logits; -inf masks. Beside a sparse mask it may be
            sparse, of any real floating dtype, storing exactly the same entries.
        is_causal: key j is visible if j <= p. Without query_offset and kv_lengths the last query sees all keys, the one
            before it all but the last, and so on.

                L = 3, S = 5:  1 1 1 0 0      L = 5, S = 3:  0 0 0
                               1 1 1 1 0                     0 0 0
                               1 1 1 1 1                     1 0 0
                                                             1 1 0
                                                             1 1 1
        window: (left, right), each an integer of 0 or more, or None for no bound: key j is visible if
            p - left <= j <= p + right (sliding windows: Beltagy et al. 2020, Longformer, arXiv:2004.05150).
        scale: finite, not zero; None means 1 / sqrt(D).
        softcap: positive, finite: bounds the scaled products to +-softcap (Gemma 2, arXiv:2408.00118, section 2).
        alibi_slopes: real floating, finite, broadcasting to query.shape[:-2], as (H,): adds -slope |p - j| to the
            logits (ALiBi: Press et al. 2021, arXiv:2108.12409).
        sinks: real floating, broadcasting to query.shape[:-2], as (H,): one more logit in the denominator of each row,
            without a value; -inf is none (Xiao et al. 2023, arXiv:2309.17453; learned: gpt-oss, arXiv:2508.10925).
        kv_lengths: integers from 0 to S, broadcasting to query.shape[:-3], as (B,): keys j >= kv_lengths are masked.
        query_offset: integers below 2**30 in magnitude, broadcasting to query.shape[:-3]: the position of query 0. None
            means kv_lengths - L (S - L without them): the last query stands at the last key.
        dropout_p: the probability that a weight is dropped, for training; the others are divided by 1 - dropout_p, and
            the lse is that without dropout (Srivastava et al. 2014, Dropout, section 4).
        dropout_seed: an integer from 0 to 2**64 - 1, needed where dropout_p is not 0: it, the number of the head, batch
            elements and heads counted together, of the query and of the key decide, as in pyattn.reference.kept_pairs,
            whatever is computed beside them.
        return_lse: also return the logarithm of each row's sum of exponentials, sink included, with which
            merge_attention merges results over disjoint keys.
        return_weights: also return the softmax, L x S numbers a head.
        out: array to write the result to; of the result's shape and dtype, any strides, not overlapping an input.

    Returns:
        (..., H, L, Dv) in query's dtype; or a tuple of it, then lse (..., H, L) if asked for, in float32 (float64 for
        float64), then weights (..., H, L, S) if asked for, in query's dtype. A row that may attend to nothing is 0, its
        weights are 0, and its lse is -inf, or its sink. What stands in a masked key or value is never read into a
        result, be it NaN; NaN and inf in what a row may see come out in that row. A result's bits do not depend on the
        number of threads or on the other rows.

    Raises:
        TypeError: dtypes are mixed or unsupported; the mask is of integers; window is no pair; only bias is sparse.
        ValueError: shapes do not fit; L, S or D is 2**30 or more; scale, softcap, a slope or a sink is out of range or
            not finite; window, kv_lengths or query_offset is out of range; sparse mask and bias store different
            entries; out does not fit or overlaps an input. Nothing has been written then.

    Example:
        >>> import numpy as np, pyattn
        >>> rng = np.random.default_rng(0)
        >>> query = rng.standard_normal((2, 8, 256, 64), dtype=np.float32)
        >>> key, value = rng.standard_normal((2, 2, 2, 1024, 64), dtype=np.float32)  # 4 query heads a key head
        >>> pyattn.scaled_dot_product_attention(query, key, value, is_causal=True).shape
        (2, 8, 256, 64)

        One query for each of two sequences, against caches that hold 700 and 1024 keys, of which it sees the last 512:

        >>> out, lse = pyattn.scaled_dot_product_attention(
        ...     query[:, :, :1], key, value, kv_lengths=[700, 1024], window=(511, 0), return_lse=True
        ... )
        >>> out.shape, lse.shape
        ((2, 8, 1, 64), (2, 8, 1))
    """
    given = locals().copy()  # the arguments by name: the options, and what out must not overlap
    function = "scaled_dot_product_attention"
    query, key, value = _checks.attention_arrays(function, query=query, key=key, value=value)
    results: Array | tuple[Array, ...] = attend(function, query, key, value, given)
    return results


def attend(
    function: str, query: Array, key: Array, value: Array, given: dict[str, Any], scales: Mapping[str, Array] = {}
) -> Any:
    """scaled_dot_product_attention of arrays, given the other arguments, all by name.

    scales: of int8 keys and values to a float32 query, key_scales and value_scales (..., Hkv, S), float32.
    """
    call = _checks.attention_call(function, query, key, value, given)
    for name, x in scales.items():
        call.bind(name, x)
    return_lse = _checks.flag(function, "return_lse", given.get("return_lse", False))
    return_weights = _checks.flag(function, "return_weights", given.get("return_weights", False))
    if return_weights and given.get("dropout_p"):
        raise ValueError(f"{function}: return_weights gives those without dropout, so that dropout_p must be 0")
    shape = (*query.shape[:-1], value.shape[-1])
    results = {"out": _checks.output(function, given.get("out"), shape, query.dtype, given)}
    if return_lse:
        results["lse"] = np.empty(query.shape[:-1], _checks.statistics_dtype(query.dtype))
    if return_weights:
        results["weights"] = np.zeros((*query.shape[:-1], key.shape[-2]), query.dtype)
    call.run(threads_for, **results)
    return tuple(results.values()) if len(results) > 1 else results["out"]


@overload
def varlen_attention(
    query: Array,
    key: Array,
    value: Array,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = None,
    *,
    return_lse: Literal[False] = False,
    **options: "Unpack[PackedOptions]",
) -> Array: ...
@overload
def varlen_attention(
    query: Array,
    key: Array,
    value: Array,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = None,
    *,
    return_lse: Literal[True],
    **options: "Unpack[PackedOptions]",
) -> tuple[Array, Array]: ...
@in_namespace
def varlen_attention(
    query: Array,
    key: Array,
    value: Array,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    query_offset: ArrayLike | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    return_lse: bool = False,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """scaled_dot_product_attention of many sequences that stand one after the other, without padding.

    Sequence s is rows cu_seqlens_q[s]:cu_seqlens_q[s + 1] of query against rows cu_seqlens_k[s]:cu_seqlens_k[s + 1] of
    key and value; either may be empty. That is the layout of flash_attn_varlen_func in the code of FlashAttention (Dao
    et al. 2022, arXiv:2205.14135). L, S and positions of the options are each sequence's own.

    Args:
        query: (total_q, H, D), float32, float64, float16 or bfloat16 (that of ml_dtypes); less than 2**30 rows.
        key: (total_k, Hkv, D) of the same dtype, H a multiple of Hkv.
        value: (total_k, Hkv, Dv) of the same dtype. All three may have any strides; none is copied.
        cu_seqlens_q: integers (sequences + 1,), ascending from 0 to total_q.
        cu_seqlens_k: integers (sequences + 1,), ascending from 0 to total_k. None: cu_seqlens_q.
        is_causal, window, scale, softcap, out: as in scaled_dot_product_attention.
        alibi_slopes, sinks: real floating, (H,) or a scalar.
        kv_lengths: integers (sequences,), from 0 to the sequence's number of keys: only its first so many are used.
        query_offset: integers below 2**30 in magnitude, (sequences,) or a scalar: the position of a sequence's query 0.
        dropout_p, dropout_seed: as in scaled_dot_product_attention, where sequences count as batch elements.
        return_lse: also return the logarithm of each row's sum of exponentials.

    Returns:
        (total_q, H, Dv) in query's dtype, or the pair of it and lse (total_q, H) in float32 (float64 for float64). A
        sequence's bits are those it has alone.

    Raises:
        TypeError, ValueError: as scaled_dot_product_attention; cu_seqlens are not as above, or differ in length.

    Example:
        >>> import numpy as np, pyattn
        >>> rng = np.random.default_rng(0)
        >>> query, key, value = rng.standard_normal((3, 12, 4, 16), dtype=np.float32)
        >>> out = pyattn.varlen_attention(query, key, value, [0, 5, 5, 12], is_causal=True)  # 5, 0 and 7 rows
        >>> first = [x[:5].swapaxes(0, 1) for x in (query, key, value)]
        >>> alone = pyattn.scaled_dot_product_attention(*first, is_causal=True)
        >>> np.array_equal(out[:5], alone.swapaxes(0, 1))
        True
    """
    given = locals().copy()
    function = "varlen_attention"
    query, key, value = _checks.attention_arrays(function, query=query, key=key, value=value)
    call = _checks.packed_call(function, query, key, value, (cu_seqlens_q, cu_seqlens_k), given)
    return_lse = _checks.flag(function, "return_lse", return_lse)
    result = _checks.output(function, out, (*query.shape[:-1], value.shape[-1]), query.dtype, given)
    results = {"out": result.swapaxes(0, 1)}  # heads first
    if return_lse:
        results["lse"] = np.empty(query.shape[:-1], _checks.statistics_dtype(query.dtype)).T
    call.run(threads_for, **results)
    return (result, results["lse"].T) if return_lse else result


@in_namespace
def merge_attention(outputs: Sequence[Array] | Array, lses: Sequence[Array] | Array) -> tuple[Array, Array]:
    """Attention over all keys from attention over parts of them, exactly.

    The parts' keys must be disjoint: splits of a long cache, or shards on several machines. With lse_i the logarithm of
    part i's sum of exponentials, lse = ln sum_i exp(lse_i) and out = sum_i exp(lse_i - lse) out_i: Dao et al. 2022,
    FlashAttention (arXiv:2205.14135), section 3.1; Milakov & Gimelshein 2018 (arXiv:1805.02867). Sinks count once: give
    them to one part only.

    Args:
        outputs: a sequence of arrays (..., L, Dv), or one array with the parts on axis 0; float32, float64, float16 or
            bfloat16, all of one shape and dtype.
        lses: as many arrays (..., L), float32 (float64 for float64 outputs), as return_lse gives them. Where one is
            -inf its part has seen nothing, and its output is not read, be it NaN.

    Returns:
        The pair of out (..., L, Dv), of the outputs' dtype, computed in that of the lses, and lse (..., L). Rows that
        saw nothing in any part are 0, with lse -inf.

    Raises:
        TypeError: dtypes are mixed or unsupported.
        ValueError: there are no parts, not as many outputs as lses, or shapes do not fit.

    Example:
        >>> import numpy as np, pyattn
        >>> rng = np.random.default_rng(0)
        >>> query, key, value = rng.standard_normal((3, 8, 100, 64), dtype=np.float32)
        >>> halves = [slice(0, 50), slice(50, 100)]
        >>> attention = pyattn.scaled_dot_product_attention
        >>> parts = [attention(query, key[:, half], value[:, half], return_lse=True) for half in halves]
        >>> out, lse = pyattn.merge_attention(*zip(*parts))
        >>> np.allclose(out, attention(query, key, value), atol=1e-6)
        True
    """
    outputs, lses = _checks.merge_parts("merge_attention", outputs, lses)
    top = functools.reduce(np.maximum, lses)
    top = np.where(top == -np.inf, 0, top)  # -inf - -inf would be NaN
    with np.errstate(all="ignore"):
        lse = top + np.log(sum(np.exp(part - top) for part in lses))
        merged = np.zeros(outputs[0].shape, lse.dtype)
        term = np.empty_like(merged)
        for output, part in zip(outputs, lses, strict=True):
            live = (part != -np.inf)[..., None]
            np.multiply(output, np.exp(part - lse)[..., None], out=term, where=live)
            np.add(merged, term, out=merged, where=live)
        return merged.astype(outputs[0].dtype, copy=False), lse
