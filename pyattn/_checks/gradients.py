"""What the gradients of attention take: the forward's results and the gradients that arrive."""

from collections.abc import Iterable, Mapping
from typing import Any

from pyattn._checks.arrays import Array, array, statistics_dtype, wrong_dtype, wrong_shape

LEARNED_OPTIONS = ("mask", "bias", "alibi_slopes", "sinks")


def results_and_gradients(
    function: str, query: Array, value: Array, out: Any, lse: Any, grad_out: Any, grad_lse: Any
) -> dict[str, Array]:
    """out, lse, grad_out and, if given, grad_lse as arrays that fit query and value."""
    statistics, rows = statistics_dtype(query.dtype), query.shape[:-1]
    given = {"out": out, "lse": lse, "grad_out": grad_out, "grad_lse": grad_lse}
    arrays = {name: array(function, name, x) for name, x in given.items() if x is not None or name != "grad_lse"}
    for name, x in arrays.items():
        wide = name in ("out", "grad_out")
        dtype, shape = (query.dtype, (*rows, value.shape[-1])) if wide else (statistics, rows)
        if x.dtype != dtype:
            raise wrong_dtype(function, name, x, f"{dtype} is needed, beside {query.dtype} queries")
        if x.shape != shape:
            raise wrong_shape(function, name, x, f"{shape}, as the forward pass gives it")
    return arrays


def learned_options(function: str, also: Any, options: Mapping[str, Any]) -> list[str]:
    """The names of options whose gradients are asked for, too."""
    if isinstance(also, str) or not isinstance(also, Iterable):
        raise TypeError(f"{function}: also must be a sequence of names, as ('bias',), not {also!r}")
    names = list(also)
    for name in names:
        if name not in LEARNED_OPTIONS:
            raise ValueError(f"{function}: also has {name!r}; accepted are {', '.join(LEARNED_OPTIONS)}")
        if (x := options.get(name)) is None:
            raise ValueError(f"{function}: also has {name!r}, but {name} is not given")
        if hasattr(x, "tocsr"):
            raise ValueError(f"{function}: a sparse {name} has no gradient; {name}.toarray() makes it dense")
        if name == "mask" and x.dtype == bool:
            raise ValueError(f"{function}: a boolean mask has no gradient; what is added to logits has one")
    return names
