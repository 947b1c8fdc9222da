"""Gradients of attention by torch's operators, from logits that are n x n in memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Grads = Sequence[Tensor | None]  # of out, lse and weights


def attention_gradients(inputs: dict[str, Any], grads: Grads, wanted: Sequence[str]) -> list[Tensor]:
    """Gradients of the wanted inputs of the operator, given those of its results.

    Dao et al. 2022 (arXiv:2205.14135), appendix B.2, with that of the logarithm of the denominator.
    """
    crow_indices, col_indices, csr_bias = (inputs.pop(name) for name in ("crow_indices", "col_indices", "csr_bias"))
    cu_seqlens = inputs.pop("cu_seqlens_q"), inputs.pop("cu_seqlens_k")
    if crow_indices is not None:
        shape = inputs["query"].shape[-2], inputs["key"].shape[-2]
        places = torch.repeat_interleave(torch.arange(shape[0]), crow_indices.diff()), col_indices.long()
        inputs["mask"] = torch.zeros(shape, dtype=torch.bool).index_put(places, torch.tensor(True))
        if csr_bias is not None:
            inputs["bias"] = torch.zeros(shape, dtype=csr_bias.dtype).index_put(places, csr_bias)
    found = _gradients(grads, **inputs) if cu_seqlens[0] is None else _of_packed(inputs, grads, cu_seqlens)
    return [found[name].to(inputs[name].dtype) for name in wanted]


def _of_packed(inputs: dict[str, Any], grads: Grads, cu_seqlens: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of packed sequences (total, H, D), one after the other."""
    rows = {"query": cu_seqlens[0].tolist(), "key": cu_seqlens[1].tolist(), "value": cu_seqlens[1].tolist()}
    parts = []
    for i in range(len(rows["query"]) - 1):
        own = {name: inputs[name][ends[i] : ends[i + 1]].transpose(0, 1) for name, ends in rows.items()}
        own |= {
            name: x[i] if (x := inputs[name]) is not None and x.ndim else x for name in ("kv_lengths", "query_offset")
        }
        first, end = rows["query"][i : i + 2]
        part = [None if grad is None else grad[first:end].transpose(0, 1) for grad in grads[:2]]
        parts.append(_gradients([*part, None], **{**inputs, **own}))
    zeros = {name: torch.zeros_like(inputs[name]) for name in rows}
    packed = {name: torch.cat([zeros[name][:0], *(part[name].transpose(0, 1) for part in parts)]) for name in rows}
    shared = {name for part in parts for name in part} - set(rows)
    return packed | {name: sum(part[name] for part in parts) for name in shared}


def _gradients(
    grads: Grads,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    scale: float | None,
    softcap: float | None,
    **options: Any,
) -> dict[str, Tensor]:
    """By name: of all inputs that are given and not boolean, in the dtype that is computed in."""
    dtype = torch.float64 if query.dtype is torch.float64 else torch.float32
    scale = max(1, query.shape[-1]) ** -0.5 if scale is None else scale
    grouped = query.ndim > 2 and key.shape[-3] != query.shape[-3]
    group = query.shape[-3] // key.shape[-3] if grouped else 1
    q, k, v = (x.to(dtype) for x in (query, key, value))
    if grouped:
        k, v = (x.repeat_interleave(group, dim=-3) for x in (k, v))
    logits = scale * (q @ k.mT)
    capped = logits if softcap is None else softcap * (logits / softcap).tanh()
    seen, distance = _visible_keys(logits, mask, **options)
    summed = capped
    for added in (bias, mask):
        if added is not None and added.dtype is not torch.bool:
            summed = summed + _aligned(added, logits.ndim).to(dtype)
    if alibi_slopes is not None:
        summed = summed - alibi_slopes.to(dtype)[..., None, None] * distance
    summed = summed.masked_fill(~seen, -torch.inf)
    sink = None if sinks is None else torch.broadcast_to(sinks.to(dtype)[..., None, None], (*summed.shape[:-1], 1))
    lse = torch.cat([summed, *[sink] * (sink is not None)], dim=-1).logsumexp(dim=-1, keepdim=True)
    lse = lse.masked_fill(lse == -torch.inf, 0)  # an empty row has no weights, and no gradient
    weights = (summed - lse).exp().masked_fill(~seen, 0)

    grad_out, grad_lse, grad_weights = (None if grad is None else grad.to(dtype) for grad in grads)
    asked = grad_weights is not None and grad_weights.ndim > 1  # else they were not asked for
    of_weights = grad_weights if asked else torch.zeros_like(weights)
    found = {"value": torch.zeros_like(v)}
    if grad_out is not None:
        of_weights = of_weights + grad_out @ v.mT
        found["value"] = weights.mT @ grad_out
    inner = (weights * of_weights).sum(dim=-1, keepdim=True)
    inner = inner if grad_lse is None else inner - grad_lse[..., None]
    of_logits = weights * (of_weights - inner)
    for name, added in (("bias", bias), ("mask", mask)):
        if added is not None and added.dtype is not torch.bool:
            found[name] = of_logits.sum_to_size(_aligned(added, logits.ndim).shape).reshape(added.shape)
    if alibi_slopes is not None:
        found["alibi_slopes"] = -(of_logits * distance).sum(dim=(-1, -2)).sum_to_size(alibi_slopes.shape)
    if sinks is not None:
        found["sinks"] = -((sink - lse).exp() * inner).sum(dim=(-1, -2)).sum_to_size(sinks.shape)
    if softcap is not None:
        of_logits = of_logits * (1 - (capped / softcap) ** 2)
    found["query"], found["key"] = scale * (of_logits @ k), scale * (of_logits.mT @ q)
    if grouped:
        for name in ("key", "value"):
            found[name] = found[name].unflatten(-3, (key.shape[-3], group)).sum(dim=-3)
    return found


def _visible_keys(
    logits: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    window: Sequence[int],
    kv_lengths: Tensor | None,
    query_offset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Which keys each query may attend to, and how far they are from it."""
    rows, keys = logits.shape[-2:]

    def per_batch(x: Tensor) -> Tensor:
        return x.reshape(*x.shape, *(1,) * min(3, logits.ndim))

    lengths = torch.tensor(keys) if kv_lengths is None else per_batch(kv_lengths)
    offset = lengths - rows if query_offset is None else per_batch(query_offset)
    ahead = torch.arange(keys) - torch.arange(rows)[:, None] - offset
    left, right = window[0], 0 if is_causal else window[1]
    seen = torch.arange(keys) < lengths
    if left >= 0:
        seen = seen & (ahead >= -left)
    if right >= 0:
        seen = seen & (ahead <= right)
    if mask is not None and mask.dtype is torch.bool:
        seen = seen & _aligned(mask, logits.ndim)
    return seen, ahead.abs()


def _aligned(mask: Tensor, ndim: int) -> Tensor:
    """A mask (B, L, S), one for each batch element, beside heads."""
    return mask.unsqueeze(-3) if 3 <= mask.ndim == ndim - 1 else mask
