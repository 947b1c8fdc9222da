"""pyattn's attention inside of jax programs: under jit and vmap, on the CPU, by jax.pure_callback."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pyattn import _checks, functional
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
    come when the program runs. It has no gradient. vmap adds a batch axis to all arrays, for one call.

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
    vmap_method: str = "broadcast_all",
) -> tuple[Any, ...]:
    jax = import_extra("jax", "pyattn.jax", group="jax")

    def call(*given: Any) -> tuple[Any, ...]:
        results = function(**{name: np.asarray(x) for name, x in zip(arrays, given, strict=True)}, **options)
        return results if isinstance(results, tuple) else (results,)

    wanted = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
    return jax.pure_callback(call, wanted, *arrays.values(), vmap_method=vmap_method)  # type: ignore[no-any-return]
