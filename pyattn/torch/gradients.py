"""Gradients of pyattn's operator on tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyattn import _threads
from pyattn.gradients import attention_backward, varlen_attention_backward
from pyattn.torch.tensors import array_of, tensor_of

Grads = Sequence[Tensor | None]  # of out, lse and, if they were asked for, weights


def attention_gradients(
    results: Sequence[Tensor], grads: Grads, options: dict[str, Any], wanted: Sequence[str]
) -> list[Tensor]:
    """Gradients of the wanted inputs of the operator, given its results, their gradients and all inputs by name."""
    (out, lse, *weights), (grad_out, grad_lse, *grad_weights) = results, grads
    inputs = {name: options[name] for name in ("query", "key", "value")}
    value, width = inputs["value"], inputs["value"].shape[-1]
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    if grad_weights and grad_weights[0] is not None and grad_weights[0].ndim > 1:
        # weights are what values of the unit matrix give
        unit = torch.eye(value.shape[-2], dtype=value.dtype).expand(*value.shape[:-2], -1, -1)
        inputs["value"] = torch.cat([value, unit], dim=-1)
        out, grad_out = torch.cat([out, *weights], dim=-1), torch.cat([grad_out, *grad_weights], dim=-1)
    given = {**options, **inputs, "out": out, "lse": lse, "grad_out": grad_out, "grad_lse": grad_lse}
    arrays: dict[str, Any] = {
        name: array_of(x) if isinstance(x, Tensor) else x for name, x in given.items() if x is not None
    }
    packed = "cu_seqlens_q" in arrays
    also = [name for name in wanted if name not in inputs]
    with _threads.num_threads(min(_threads.get_num_threads(), torch.get_num_threads())):
        found = (varlen_attention_backward if packed else attention_backward)(**arrays, also=also)
    tensors = {name: tensor_of(getattr(found, name)) for name in wanted}
    if "value" in tensors:
        tensors["value"] = tensors["value"][..., :width].contiguous()
    return [x.to(options[name].dtype) for name, x in tensors.items()]
