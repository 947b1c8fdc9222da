"""pyattn's functions on tensors."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch.autograd import forward_ad

from pyattn import _checks
from pyattn.torch.operators import NOT_COMPUTED, Transformed, attention, compute
from pyattn.torch.tensors import drawn_seed, is_plain, needs_gradients

Result: TypeAlias = Any  # a tensor, or a tuple of it and what else was asked for

SPARSE = (torch.sparse_csr, torch.sparse_coo, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    kv_lengths: Any = None,
    query_offset: Any = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
) -> Result:
    """pyattn.scaled_dot_product_attention of tensors on the CPU: an operator of torch, pyattn::attention.

    Autograd, torch.compile and torch.export keep it.

    Arguments, results and errors are those of pyattn.scaled_dot_product_attention, with tensors for arrays; a sparse
    mask or bias is a torch.sparse_csr tensor. is_causal lets the *last* query see all keys, where torch's own function
    lets the first query see the first key alone, as query_offset=0 does here. Without a
    dropout_seed, one is drawn from torch's generator.

    Gradients flow to query, key, value, a dense floating mask or bias, alibi_slopes and sinks, from the result, its lse
    and its weights. They are pyattn.attention_backward's, in O(n) memory; through
    weights they take many times the work. Second gradients of autograd and gradients in forward mode (jvp)
    raise NotImplementedError.

    Example:
        >>> import torch, pyattn.torch
        >>> query, key, value = torch.randn(3, 1, 8, 256, 64, requires_grad=True)
        >>> out = pyattn.torch.scaled_dot_product_attention(query, key, value, is_causal=True, window=(127, 0))
        >>> out.sum().backward()
    """
    function = "scaled_dot_product_attention"
    sparse: dict[str, torch.Tensor | None] = dict.fromkeys(("crow_indices", "col_indices", "csr_bias"))
    if _is_sparse(mask) and mask is not None:
        _check_csr(function, "mask", mask, query, key)
        sparse["crow_indices"], sparse["col_indices"] = mask.crow_indices(), mask.col_indices()
        if _is_sparse(bias) and bias is not None:
            _check_csr(function, "bias", bias, query, key)
            sparse["csr_bias"], bias = _sparse_values(function, mask, bias), None
        mask = None
    elif _is_sparse(bias):
        seen = "None" if mask is None else "dense"
        raise TypeError(f"{function}: a sparse bias needs a sparse mask of the same structure, mask is {seen}")
    given = {
        "query": query,
        "key": key,
        "value": value,
        "mask": mask,
        "bias": bias,
        "alibi_slopes": _tensor(alibi_slopes),
        "sinks": _tensor(sinks),
        **sparse,
        "cu_seqlens_q": None,
        "cu_seqlens_k": None,
        "kv_lengths": _tensor(kv_lengths),
        "query_offset": _tensor(query_offset),
        **_numbers(function, is_causal, window, scale, softcap),
        **_dropout(function, dropout_p, dropout_seed),
        "return_weights": _checks.flag(function, "return_weights", return_weights),
    }
    out, lse, weights = _attend(function, given)
    results = (out, *[lse] * _checks.flag(function, "return_lse", return_lse), *[weights] * return_weights)
    return results if len(results) > 1 else out


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any = None,
    *,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    kv_lengths: Any = None,
    query_offset: Any = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    return_lse: bool = False,
) -> Result:
    """pyattn.varlen_attention of tensors on the CPU, as scaled_dot_product_attention above is of its namesake.

    Example:
        >>> import torch, pyattn.torch
        >>> query, key, value = torch.randn(3, 12, 4, 16)
        >>> pyattn.torch.varlen_attention(query, key, value, [0, 5, 12], is_causal=True).shape
        torch.Size([12, 4, 16])
    """
    function = "varlen_attention"
    starts = _tensor(cu_seqlens_q)
    given = {
        "query": query,
        "key": key,
        "value": value,
        "mask": None,
        "bias": None,
        "alibi_slopes": _tensor(alibi_slopes),
        "sinks": _tensor(sinks),
        "crow_indices": None,
        "col_indices": None,
        "csr_bias": None,
        "cu_seqlens_q": starts,
        "cu_seqlens_k": starts if cu_seqlens_k is None else _tensor(cu_seqlens_k),
        "kv_lengths": _tensor(kv_lengths),
        "query_offset": _tensor(query_offset),
        **_numbers(function, is_causal, window, scale, softcap),
        **_dropout(function, dropout_p, dropout_seed),
        "return_weights": False,
    }
    out, lse, _ = _attend(function, given)
    return (out, lse) if _checks.flag(function, "return_lse", return_lse) else out


def _attend(function: str, given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The operator, or, where nothing would see it, what it computes: its own work takes longer than a small call's."""
    for name in ("query", "key", "value", "mask", "bias"):
        if not isinstance(given[name], torch.Tensor) and (given[name] is not None or name in ("query", "key", "value")):
            raise TypeError(f"{function}: {name} must be a tensor, not {type(given[name]).__name__}")
    tensors = [x for x in given.values() if isinstance(x, torch.Tensor)]
    for tensor in tensors:
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"{function}: tensors must be on the CPU, not on {tensor.device}; tensor.cpu() copies one")
        if tensor.layout is not torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else tensor.layout
            raise TypeError(f"{function}: a tensor is {kind}; it must be dense, but for a mask or bias")
    if torch.compiler.is_compiling():
        return attention(**given)
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(f"{function}: {NOT_COMPUTED}")
    if torch._C._are_functorch_transforms_active():
        return Transformed.apply(*given.values())
    return (attention if needs_gradients(tensors) or not is_plain(tensors) else compute)(**given)


def _is_sparse(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.layout in SPARSE


def _check_csr(function: str, name: str, x: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> None:
    if x.layout is not torch.sparse_csr:
        raise TypeError(f"{function}: {name} is {x.layout}; {name}.to_sparse_csr() is accepted")
    if x.shape != (needed := (query.shape[-2], key.shape[-2])):
        raise ValueError(
            f"{function}: sparse {name} has shape {tuple(x.shape)}; accepted: (L, S) = {tuple(needed)}, shared by all "
            "batches and heads"
        )
    if needs_gradients([x]):
        raise ValueError(f"{function}: a sparse {name} has no gradient; {name}.detach() is one without")


def _sparse_values(function: str, mask: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if not (
        torch.equal(mask.crow_indices(), bias.crow_indices()) and torch.equal(mask.col_indices(), bias.col_indices())
    ):
        raise ValueError(f"{function}: sparse bias must have exactly the mask's structure")
    return bias.values()


def _numbers(function: str, is_causal: Any, window: Any, scale: Any, softcap: Any) -> dict[str, Any]:
    return {
        "is_causal": _checks.flag(function, "is_causal", is_causal),
        "window": list(_checks.sides(function, window)),
        "scale": None if scale is None else float(_checks.number(function, "scale", scale)),
        "softcap": None if softcap is None else float(_checks.number(function, "softcap", softcap)),
    }


def _dropout(function: str, probability: Any, seed: Any) -> dict[str, Any]:
    if seed is None and probability:
        seed = drawn_seed()
    probability, seed = _checks.dropout(function, probability, seed)
    return {"dropout_p": probability, "dropout_seed": seed - 2**64 if seed >= 2**63 else seed}


def _tensor(x: Any) -> torch.Tensor | None:
    """A number, a list, an array or a tensor as a tensor."""
    return x if x is None or isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x))  # floats of 64 bits
