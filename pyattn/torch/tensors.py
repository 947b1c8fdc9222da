"""Tensors as arrays, without a copy."""

import functools
from collections.abc import Iterable

import torch
from torch.autograd import forward_ad

from pyattn import _threads
from pyattn._checks import Array
from pyattn._extras import import_extra


@functools.cache
def _other_keys() -> int:
    """All dispatch keys but those of dense tensors on the CPU, as bits."""
    with torch.inference_mode(False):
        keys = torch._C._dispatch_keys(torch.empty(0)).raw_repr()
    with torch.inference_mode():
        return ~(keys | torch._C._dispatch_keys(torch.empty(0)).raw_repr())


def is_plain(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all have memory of their own on the CPU and nobody watches what is done with them.

    Not so: fake tensors, those of torch.func or lazily negated, zeros without memory, sparse and nested ones, and those
    of other devices; and all while a program is traced, or dispatched in a mode.
    """
    keys, other = torch._C._dispatch_keys, _other_keys()
    for tensor in tensors:
        if keys(tensor).raw_repr() & other:
            return False
    return not (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
        or forward_ad._current_level >= 0
    )


def needs_gradients(tensors: Iterable[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def backend_chosen() -> bool:
    """Whether a program has chosen how torch computes attention, as for gradients of gradients."""
    return not (torch._C._get_math_sdp_enabled() and torch._C._get_flash_sdp_enabled())


def array_of(tensor: torch.Tensor) -> Array:
    """A dense tensor on the CPU as an array of the same memory and strides."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        bfloat16 = import_extra("ml_dtypes", "bfloat16 in pyattn.torch", group="torch").bfloat16
        return tensor.view(torch.int16).numpy().view(bfloat16)
    return tensor.numpy()


def tensor_of(array: Array) -> torch.Tensor:
    """The contrary."""
    if array.dtype.itemsize == 2 and array.dtype != "float16":
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def drawn_seed() -> int:
    """For dropout, from torch's generator, so that torch.manual_seed decides."""
    return int(torch.randint(2**63 - 1, ()))


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def empty_output(query: torch.Tensor, width: int) -> torch.Tensor:
    """Memory for a result, laid out as torch's own does it: like a query of four axes and that width, rows whole."""
    if query.ndim == 4 and query.shape[-1] == width and query.stride(-1) == 1:
        return torch.empty_like(query)
    return query.new_empty((*query.shape[:-1], width))


def threads_for(operations: float) -> int:
    """Threads for a call of so many floating-point operations: no more than pyattn's, and no more than torch's."""
    return min(_threads.threads_for(operations), torch.get_num_threads())
