"""pyattn's attention as an operator of torch, which autograd, compile, export and torch.func keep."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyattn import _checks
from pyattn._checks import Array
from pyattn.torch.gradients import attention_gradients
from pyattn.torch.tensors import array_of, empty_output, statistics_dtype, threads_for

NOT_COMPUTED = (
    "second gradients, and those of forward mode (jvp), are not computed; remedy: "
    "torch.nn.functional.scaled_dot_product_attention under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
)
LEARNED = ("query", "key", "value", "mask", "bias", "alibi_slopes", "sinks")  # the inputs that may have gradients


class Csr(NamedTuple):
    """A sparse mask or bias, as scipy would have it."""

    indptr: Array
    indices: Array
    data: Array
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def tocsr(self) -> "Csr":
        return self


def write(query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any], **results: Tensor) -> None:
    """Writes results, out and others, of plain tensors; given holds the options by name, with tensors for arrays."""
    options = {name: array_of(x) if isinstance(x, Tensor) else x for name, x in given.items()}
    written = {name: array_of(x) for name, x in results.items()}
    packed = given.get("cu_seqlens_q") is not None
    function = "varlen_attention" if packed else "scaled_dot_product_attention"
    q, k, v = _checks.attention_arrays(function, query=array_of(query), key=array_of(key), value=array_of(value))
    if packed:
        starts = options["cu_seqlens_q"], options["cu_seqlens_k"]
        call = _checks.packed_call(function, q, k, v, starts, options)
        written = {name: x.swapaxes(0, 1) for name, x in written.items()}  # heads first
    else:
        call = _checks.attention_call(function, q, k, v, options)
    call.run(threads_for, **written)


def compute(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    crow_indices: Tensor | None,
    col_indices: Tensor | None,
    csr_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    kv_lengths: Tensor | None,
    query_offset: Tensor | None,
    is_causal: bool,
    window: Sequence[int],
    scale: float | None,
    softcap: float | None,
    dropout_p: float,
    dropout_seed: int,
    return_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """out, lse and weights, which are empty unless asked for.

    crow_indices and col_indices are a sparse mask, csr_bias the values of a sparse bias; cu_seqlens_q and cu_seqlens_k
    say where packed sequences start, if they are packed. window: -1 for no bound.
    """
    given = options_of(locals().copy())
    out, lse, weights = results_like(query, key, value, return_weights)
    results = {"out": out, "lse": lse} | ({"weights": weights.zero_()} if return_weights else {})
    write(query, key, value, given, **results)
    return out, lse, weights


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """The operator's arguments by name, as functions on arrays call them."""
    rows, columns, values = (given.pop(name) for name in ("crow_indices", "col_indices", "csr_bias"))
    given["dropout_seed"] &= 2**64 - 1  # which torch knows as a number with a sign
    given["window"] = tuple(None if side < 0 else side for side in given["window"])
    if rows is not None:
        places = (array_of(rows), array_of(columns))
        shape = (given["query"].shape[-2], given["key"].shape[-2])
        given["mask"] = Csr(*places, np.ones(len(columns), bool), shape)
        if values is not None:
            given["bias"] = Csr(*places, array_of(values), shape)
    return given


def results_like(query: Tensor, key: Tensor, value: Tensor, with_weights: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for out, lse and weights."""
    rows = query.shape[:-1]
    lse = query.new_empty(rows, dtype=statistics_dtype(query.dtype))
    weights = query.new_empty((*rows, key.shape[-2]) if with_weights else 0)
    return empty_output(query, value.shape[-1]), lse, weights


attention = torch.library.custom_op("pyattn::attention", compute, mutates_args=(), device_types="cpu")


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return results_like(query, key, value, others[-1])


def gradients_of(
    results: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    crow_indices: Tensor | None,
    col_indices: Tensor | None,
    csr_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    kv_lengths: Tensor | None,
    query_offset: Tensor | None,
    is_causal: bool,
    window: Sequence[int],
    scale: float | None,
    softcap: float | None,
    dropout_p: float,
    dropout_seed: int,
) -> list[Tensor]:
    """Gradients of those inputs of LEARNED that are wanted, given out, lse and weights, and their gradients or None."""
    given = {name: x for name, x in locals().items() if name not in ("results", "grads", "wanted")}
    names = [name for name, asked in zip(LEARNED, wanted, strict=True) if asked]
    return attention_gradients(results, grads, options_of(given), names)


attention_backward = torch.library.custom_op(
    "pyattn::attention_backward", gradients_of, mutates_args=(), device_types="cpu"
)


@attention_backward.register_fake
def _(results: Sequence[Tensor], grads: Sequence[Tensor | None], wanted: Sequence[bool], *inputs: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, asked in zip(inputs[: len(LEARNED)], wanted, strict=True) if asked]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    inputs = inputs[:-1]  # without return_weights
    ctx.save_for_backward(*output, *(x for x in inputs if isinstance(x, Tensor)))
    ctx.others = [None if isinstance(x, Tensor) else (x,) for x in inputs]


def _backward(ctx: Any, *grads: Tensor | None, backward: Callable[..., list[Tensor]]) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors  # once: checkpoints compute them anew and give them away
    results, saved = tensors[:3], iter(tensors[3:])
    inputs = [next(saved) if other is None else other[0] for other in ctx.others]
    wanted = [bool(x) for x in ctx.needs_input_grad[: len(LEARNED)]]
    found = iter(backward(results, grads, wanted, *inputs))
    return *(next(found) if asked else None for asked in wanted), *[None] * (len(inputs) + 1 - len(LEARNED))


def _one_by_one(operator: Any) -> Callable[..., Any]:
    """How torch.func.vmap calls an operator: for one element of the batch after the other."""

    def call(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        def element(x: Any, dim: Any, i: int) -> Any:
            if isinstance(dim, list | tuple):
                return [element(part, place, i) for part, place in zip(x, dim, strict=True)]
            return x if dim is None else x.select(dim, i)

        batch = range(info.batch_size)
        calls = [operator(*(element(x, dim, i) for x, dim in zip(inputs, in_dims, strict=True))) for i in batch]
        results = type(calls[0])(torch.stack(parts) for parts in zip(*calls, strict=True))
        return results, type(calls[0])(0 for _ in results)

    return call


def _save_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """For gradients of gradients, which are refused."""


def _refuse(*_: Any) -> Any:
    raise NotImplementedError(f"pyattn::attention: {NOT_COMPUTED}")


attention.register_autograd(partial(_backward, backward=attention_backward), setup_context=_save)
attention_backward.register_autograd(_refuse)
for operator in (attention, attention_backward):
    operator.register_vmap(_one_by_one(operator))


class TransformedBackward(torch.autograd.Function):
    """The same of gradients: their operator, with its arguments one after the other."""

    @staticmethod
    def forward(wanted: Sequence[bool], *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(attention_backward(list(inputs[:3]), list(inputs[3:6]), wanted, *inputs[6:]))

    setup_context = staticmethod(_save_nothing)
    backward = jvp = staticmethod(_refuse)
    vmap = staticmethod(_one_by_one(forward))


def _transformed_backward(
    results: Sequence[Tensor], grads: Sequence[Tensor | None], wanted: Sequence[bool], *inputs: Any
) -> Any:
    return TransformedBackward.apply(wanted, *results, *grads, *inputs)


class Transformed(torch.autograd.Function):
    """The operator under torch.func's transforms, which know operators of Python in this form alone."""

    setup_context = staticmethod(_save)
    backward = staticmethod(partial(_backward, backward=_transformed_backward))
    vmap = staticmethod(_one_by_one(attention))
    jvp = staticmethod(_refuse)

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return attention(*inputs)
