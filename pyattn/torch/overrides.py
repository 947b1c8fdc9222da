"""pyattn under torch's own attention: three of its operators on the CPU, replaced while that is enabled.

aten::scaled_dot_product_attention is what F.scaled_dot_product_attention calls; where no gradient is needed it is
served as it is called, with masks that are still boolean, and with any axes and strides. Else torch decomposes it, on
the CPU mostly to aten::_scaled_dot_product_flash_attention_for_cpu, which autograd, compile and export know: that is
served too, and so are its gradients, another operator. What torch would compose of operators on n x n numbers, as masks
that need gradients, is pyattn's own operator instead.
"""

import contextlib
import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyattn import _checks
from pyattn.torch.accelerated import Accelerated
from pyattn.torch.gradients import attention_gradients
from pyattn.torch.operators import attention, write
from pyattn.torch.tensors import backend_chosen, drawn_seed, empty_output, is_plain, needs_gradients, statistics_dtype

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NOT_COUNTED = "not counted"  # a reason
OPERATOR = ("gradients", "dropout")  # reasons to call pyattn's operator, where torch has no kernel that is served


class Served(NamedTuple):
    """How many calls of torch's attention on the CPU pyattn has computed, and how many torch, by reason."""

    calls: int
    passed_on: dict[str, int]


def enable(*, fast_path: bool = True) -> None:
    """Lets pyattn compute torch's attention on the CPU, in the whole process, until disable().

    Every caller of torch.nn.functional.scaled_dot_product_attention is served, in Python and C++, compiled programs
    too, but for ahead-of-time compiled ones, which call torch's kernels by name. Results are torch's within rounding,
    and errors are torch's: what pyattn does not take, torch computes as before; served() says why. Processes that are
    forked inherit it.

    Args:
        fast_path: False also switches off the fused path that nn.TransformerEncoder and nn.MultiheadAttention take for
            inference, which calls no such function: they are served then, faster but where much of the input is
            padding.

    Raises:
        ImportError: this version of torch does not let its operators be replaced (2.9 or newer is needed).

    Example:
        >>> import torch, pyattn.torch
        >>> query, key, value = torch.randn(3, 1, 8, 256, 64)
        >>> with pyattn.torch.enabled():
        ...     out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        >>> pyattn.torch.served().calls > 0
        True
    """
    fast_path = _checks.flag("enable", "fast_path", fast_path)
    with _lock:
        _state.install()
        _state.asked = True
        if not fast_path and torch.backends.mha.get_fastpath_enabled():
            torch.backends.mha.set_fastpath_enabled(False)
            _state.left_fast_path = True


def disable() -> None:
    """Gives torch its own attention back, once all `with enabled()` have ended.

    Its operators stay wrapped, as other threads may be calling them: a call takes a few microseconds more than before
    the first enable().
    """
    with _lock:
        _state.asked = False
        if _state.left_fast_path:
            torch.backends.mha.set_fastpath_enabled(True)
            _state.left_fast_path = False


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """enable() within a with statement, for all threads; it stays enabled if it was, or while another one is open."""
    with _lock:
        _state.install()
        _state.open += 1
    try:
        yield
    finally:
        with _lock:
            _state.open -= 1


def served(model: torch.nn.Module | None = None) -> Served:
    """How often pyattn and torch have computed: torch's attention on the CPU while that was enabled; or, of a model
    that `accelerate` gave, the modules that it accelerated.

    Calls are not counted while a program is traced or compiled, but whenever that program runs.
    """
    if model is None:
        with _lock:
            return Served(_state.calls, dict(_state.passed_on))
    counts: Counter[str] = Counter()
    modules = [module for module in model.modules() if isinstance(module, Accelerated)]
    for module in modules:
        counts.update(module._passed_on)
    return Served(sum(module._served for module in modules), dict(counts))


class _State:
    """Whether calls are served, and what has become of them."""

    def __init__(self) -> None:
        self.asked = False  # by enable()
        self.open = 0  # with statements
        self.left_fast_path = False  # whether enable() switched it off
        self.calls = 0
        self.passed_on: Counter[str] = Counter()
        self.library: torch.library.Library | None = None

    def install(self) -> None:
        """Wraps torch's operators, once and for all: nothing says when other threads have left them."""
        if self.library is not None:
            return
        if not hasattr(torch.library, "get_kernel"):
            raise ImportError(
                f"pyattn.torch.enable: torch {torch.__version__} does not let its operators be replaced; "
                'remedy: pip install "torch>=2.9"'
            )
        library = torch.library.Library("aten", "IMPL")
        for name, key, wrapper in (
            ("scaled_dot_product_attention", "CompositeImplicitAutograd", _wrapped_attention),
            ("_scaled_dot_product_flash_attention_for_cpu", "CPU", _wrapped_kernel),
            ("_scaled_dot_product_flash_attention_for_cpu_backward", "CPU", _wrapped_backward),
        ):
            original = torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed
            with warnings.catch_warnings():  # torch says that an operator is replaced, which is what was asked for
                warnings.simplefilter("ignore", UserWarning)
                library.impl(name, wrapper(original), key, allow_override=True, with_keyset=True)
        self.library = library

    def count(self, reason: str | None = None) -> None:
        """One call more that was served, or passed on for a reason."""
        with _lock:
            if reason is None:
                self.calls += 1
            else:
                self.passed_on[reason] += 1


class _Here(threading.local):
    """Of each thread: how many calls torch has passed on to its kernel, so that one call is counted once."""

    kernels = 0


_lock = threading.Lock()
_state = _State()
_here = _Here()


def _wrapped_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    def scaled_dot_product_attention(
        keyset: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        reason: str | None = NOT_COUNTED
        if _state.asked or _state.open:
            tensors = [query, key, value] if attn_mask is None else [query, key, value, attn_mask]
            reason = _obstacle(tensors, dropout_p, is_causal, scale) or _misfit(tensors, enable_gqa)
        if reason in OPERATOR and not (_misfit(tensors, enable_gqa) or _has_kernel(tensors, dropout_p)):
            mask, offset = _of_all_axes(attn_mask, query), torch.tensor(0) if is_causal else None
            numbers = scale, None, dropout_p, drawn_seed() if dropout_p else 0, False
            _state.count()
            return attention(query, key, value, mask, *[None] * 9, offset, is_causal, [-1, -1], *numbers)[0]
        if reason is None:
            out = empty_output(query, value.shape[-1])
            write(query, key, value, _options(_of_all_axes(attn_mask, query), is_causal, scale), out=out)
            _state.count()
            return out
        kernels = _here.kernels
        result = original(
            keyset, query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        if reason != NOT_COUNTED and _here.kernels == kernels:
            _state.count(reason)
        return result

    return scaled_dot_product_attention


def _wrapped_kernel(original: Callable[..., Any]) -> Callable[..., Any]:
    def flash_attention_for_cpu(
        keyset: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Any:
        _here.kernels += 1
        reason: str | None = NOT_COUNTED
        if _state.asked or _state.open:
            tensors = [query, key, value] if attn_mask is None else [query, key, value, attn_mask]
            reason = _obstacle(tensors, dropout_p, is_causal, scale, above=False)
            if key.shape[:-1] != value.shape[:-1]:  # torch's kernel would read beyond the smaller one
                raise RuntimeError(
                    "scaled_dot_product_attention: key and value must agree on all axes but the last, not be of shapes "
                    f"{tuple(key.shape)} and {tuple(value.shape)}"
                )
            mask, exact = _of_dtype(attn_mask, query.dtype)
            reason = reason if exact else "mask of more bits than query"
        if reason is None:
            batch, heads, rows, _ = query.shape
            out = empty_output(query, value.shape[-1])
            lse = query.new_empty((batch, rows, heads), dtype=statistics_dtype(query.dtype)).transpose(1, 2)
            write(query, key, value, _options(mask, is_causal, scale), out=out, lse=lse)
            if mask is not None:
                lse.masked_fill_(lse == -math.inf, 0)  # with which torch's gradients of an empty row are not NaN
            _state.count()
            return out, lse
        if reason != NOT_COUNTED:
            _state.count(reason)
        return original(keyset, query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)

    return flash_attention_for_cpu


def _wrapped_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    def flash_attention_for_cpu_backward(
        keyset: Any,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        dropout_p: float,
        is_causal: bool,
        *,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Any:
        inputs = [query, key, value]
        tensors = [*inputs, attn_mask] if attn_mask is not None else inputs
        mask, exact = _of_dtype(attn_mask, query.dtype)
        served = (
            (_state.asked or _state.open)
            and exact
            and is_plain([grad_out, out, logsumexp])
            and _obstacle(tensors, dropout_p, is_causal, scale, above=False) is None
        )
        if not served:
            return original(
                *(keyset, grad_out, query, key, value, out, logsumexp, dropout_p, is_causal),
                attn_mask=attn_mask,
                scale=scale,
            )
        given = {"query": query, "key": key, "value": value, **_options(mask, is_causal, scale)}
        grads = attention_gradients((out, logsumexp), (grad_out, None), given, ("query", "key", "value"))
        # in memory the heads of a row lie side by side, as compiled programs expect of this operator
        return tuple(grad.transpose(1, 2).contiguous().transpose(1, 2) for grad in grads)

    return flash_attention_for_cpu_backward


def _of_all_axes(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A mask of fewer axes than query, with ones in front: to pyattn the first of three were a batch."""
    if mask is None or mask.ndim == query.ndim:
        return mask
    return mask.expand((1,) * (query.ndim - mask.ndim) + mask.shape)


def _of_dtype(mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, bool]:
    """A mask in query's dtype, and whether it is the same there."""
    if mask is None or mask.dtype is dtype:
        return mask, True
    converted = mask.to(dtype)
    return converted, torch.equal(converted.to(mask.dtype), mask)


def _has_kernel(tensors: list[Tensor], dropout_p: float) -> bool:
    """Whether torch has a kernel for a call that needs gradients, which is served in its place."""
    query, _, value, *masks = tensors
    return (
        not dropout_p
        and query.ndim == 4
        and query.shape[-1] == value.shape[-1]
        and all(x.numel() and x.stride(-1) == 1 for x in tensors[:3])
        and not any(mask.requires_grad or mask.ndim not in (2, 4) for mask in masks)
    )


def _options(mask: Tensor | None, is_causal: bool, scale: float | None) -> dict[str, Any]:
    return {"mask": mask, "is_causal": is_causal, "scale": scale, "query_offset": 0 if is_causal else None}


def _obstacle(
    tensors: list[Tensor], dropout_p: float, is_causal: bool, scale: float | None, above: bool = True
) -> str | None:
    """Why pyattn does not take a call, whatever its shapes, or None; above: it has not passed autograd yet."""
    query = tensors[0]
    if not is_plain(tensors):
        if torch._C._are_functorch_transforms_active():
            return "torch.func"
        fake = torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() or query.device.type != "cpu"
        return NOT_COUNTED if fake else "kind of tensor"
    if dropout_p and not (above and 0 < dropout_p < 1):
        return "dropout of all"
    if query.dtype not in DTYPES or not query.dtype == tensors[1].dtype == tensors[2].dtype:
        return "dtype"
    if scale is not None and not 0 < abs(scale) <= torch.finfo(statistics_dtype(query.dtype)).max / 2:
        return "scale of 0 or beyond"
    if is_causal and len(tensors) > 3:
        return "mask beside is_causal"
    if above and backend_chosen():
        return "backend chosen"
    if above and needs_gradients(tensors):
        return "gradients"
    if above and dropout_p:
        return "dropout"
    return None


def _misfit(tensors: list[Tensor], enable_gqa: bool) -> str | None:
    """Why pyattn does not take the shapes of a call, or None."""
    query, key, value, *masks = (tensor.shape for tensor in tensors)
    if (
        not len(query) == len(key) == len(value) >= 2 + enable_gqa
        or not query[-1] == key[-1] > 0
        or key[:-1] != value[:-1]
    ):
        return "shapes"
    if query[:-3] != key[:-3]:
        return "batches that broadcast"
    if query[-3:-2] != key[-3:-2] and not (enable_gqa and key[-3] and query[-3] % key[-3] == 0):
        return "heads that broadcast"
    for mask in masks:
        logits = (*query[:-1], key[-2])
        if not 2 <= len(mask) <= len(logits) or any(
            size not in (1, whole) for size, whole in zip(reversed(mask), reversed(logits), strict=False)
        ):
            return "mask that broadcasts"
        if tensors[3].dtype not in (torch.bool, tensors[0].dtype):
            return "dtype of mask"
    return None
