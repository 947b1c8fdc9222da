"""pyattn's attention inside of jax programs: under jit and vmap, on the CPU, by jax.pure_callback."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pyattn import _checks, functional
from pyattn._checks import Array
from pyattn._extras import import_extra

# Options that are arrays: they may be traced; all others are known when a program is compiled
ARRAYS = ("mask", "bias", "alibi_slopes", "sinks", "kv_lengths", "query_offset")


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    *,
    return_lse: bool = False,
    return_weights: bool = False,
    **options: Any,
) -> Any:
    """pyattn.scaled_dot_product_attention as a function of jax's arrays and tracers.

    Arguments, results and errors are those of its namesake, but for out and sparse masks, which are refused; errors
    come when the program runs. It has no gradient. vmap makes one call of all elements, which may share some arrays.

    Example:
        >>> import jax, pyattn.jax
        >>> query, key, value = jax.random.normal(jax.random.key(0), (3, 8, 256, 64))
        >>> causal = jax.jit(lambda *x: pyattn.jax.scaled_dot_product_attention(*x, is_causal=True))
        >>> causal(query, key, value).shape
        (8, 256, 64)
    """
    function = "scaled_dot_product_attention"
    given = {"query": query, "key": key, "value": value, "mask": mask, **options}
    lse, weights = (
        _checks.flag(function, "return_lse", return_lse),
        _checks.flag(function, "return_weights", return_weights),
    )
    arrays, others = _split(function, given)
    shapes = [(*query.shape[:-1], value.shape[-1])]
    shapes += [query.shape[:-1]] * lse + [(*query.shape[:-1], key.shape[-2])] * weights
    dtypes = [query.dtype] + [_checks.statistics_dtype(query.dtype)] * lse + [query.dtype] * weights
    results = _called(
        functional.scaled_dot_product_attention,
        arrays,
        others | {"return_lse": lse, "return_weights": weights},
        shapes,
        dtypes,
    )
    return results if len(results) > 1 else results[0]


def varlen_attention(
    query: Any,
    key: Any,
    value: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any = None,
    *,
    return_lse: bool = False,
    **options: Any,
) -> Any:
    """pyattn.varlen_attention as a function of jax's arrays and tracers; vmap calls it for one element after another.

    Example:
        >>> import jax, pyattn.jax
        >>> query, key, value = jax.random.normal(jax.random.key(0), (3, 12, 4, 16))
        >>> packed = jax.jit(pyattn.jax.varlen_attention)
        >>> packed(query, key, value, jax.numpy.array([0, 5, 12])).shape
        (12, 4, 16)
    """
    function = "varlen_attention"
    lse = _checks.flag(function, "return_lse", return_lse)
    given = {"query": query, "key": key, "value": value, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    arrays, others = _split(function, given | options, "cu_seqlens_q", "cu_seqlens_k")
    shapes = [(*query.shape[:-1], value.shape[-1])] + [query.shape[:-1]] * lse
    dtypes = [query.dtype] + [_checks.statistics_dtype(query.dtype)] * lse
    results = _called(functional.varlen_attention, arrays, others | {"return_lse": lse}, shapes, dtypes, "sequential")
    return results if lse else results[0]


def _split(function: str, given: dict[str, Any], *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that are arrays, and the others."""
    if given.get("out") is not None:
        raise TypeError(f"{function}: arrays of jax are not written to; out is for NumPy's")
    for name in ("mask", "bias"):
        if hasattr(given.get(name), "tocsr"):
            raise TypeError(f"{function}: a sparse {name} is no array of jax; {name}.toarray() != 0 makes a dense one")
    names = {"query", "key", "value", *ARRAYS, *more}
    arrays = {name: x for name, x in given.items() if name in names and x is not None}
    return arrays, {name: x for name, x in given.items() if name not in names}


def _called(
    function: Callable[..., Any],
    arrays: dict[str, Any],
    options: dict[str, Any],
    shapes: list[tuple[int, ...]],
    dtypes: list[Any],
    vmap_method: str = "expand_dims",
) -> tuple[Any, ...]:
    jax = import_extra("jax", "pyattn.jax", group="jax")
    axes = {name: np.ndim(x) for name, x in arrays.items()}  # of an element, which is what vmap shows

    def call(*given: Any) -> tuple[Any, ...]:
        named = {name: np.asarray(x) for name, x in zip(arrays, given, strict=True)}
        batch: tuple[int, ...] = ()
        if vmapped := named["query"].ndim - axes["query"]:
            batch = np.broadcast_shapes(*(x.shape[:vmapped] for x in named.values()))
            named = _aligned(named, axes, batch)
        results = function(**named, **options)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(x.reshape(batch + shape) for x, shape in zip(results, shapes, strict=True))

    wanted = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
    return jax.pure_callback(call, wanted, *arrays.values(), vmap_method=vmap_method)  # type: ignore[no-any-return]


def _aligned(arrays: dict[str, Array], axes: dict[str, int], batch: tuple[int, ...]) -> dict[str, Array]:
    """Arrays that vmap gave leading axes, or ones in their place, as those of one call whose batch begins with them.

    What an element leaves out, heads or a batch of its own, stands between them and its axes, as ones.
    """
    vmapped, own = len(batch), axes["query"]
    whole = max(3, own)  # with heads, for which the batch would be taken else
    per_head, per_batch = whole - 2, whole - 3
    full = {"alibi_slopes": per_head, "sinks": per_head, "kv_lengths": per_batch, "query_offset": per_batch}
    aligned = {}
    for name, x in arrays.items():
        first = vmapped
        if name in ("mask", "bias"):
            if axes[name] not in (2, own) and not 3 <= axes[name] == own - 1:  # an element will be refused, so it is
                return {key: np.zeros(y.shape[vmapped:], y.dtype) for key, y in arrays.items()}
            first += own - 3 if 3 <= axes[name] == own - 1 else 0  # (batch, L, S), beside heads
        ones = range(first, first + full.get(name, whole) - axes[name])
        x = np.expand_dims(x, tuple(ones))
        aligned[name] = np.broadcast_to(x, batch + x.shape[vmapped:]) if name in ("query", "key", "value") else x
    return aligned
