"""Dropout, of activations too, as one operator of torch: for gradients nothing is kept but the input and a seed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pyattn import _checks
from pyattn._core import rowwise
from pyattn.torch.tensors import array_of, drawn_seed, threads_for

OPERATIONS = 20.0  # of a number
SECOND = "dropout: gradients of gradients are not computed; torch.nn.functional.dropout has them"
DTYPES = (torch.float32, torch.float64)


def dropout(x: Tensor, p: float = 0.5, *, activation: str | None = None, seed: int | None = None) -> Tensor:
    """Zero for each number with probability p, else that of activation(x) divided by 1 - p.

    Srivastava et al. 2014, Dropout (JMLR 15, pages 1929 to 1958). torch.nn.functional.dropout draws one number after
    the other from a generator, on one thread; here a hash of the seed and of a number's place decides, on all, and the
    derivative of the activation is computed in the same pass. A number is dropped where
    `pyattn.reference.kept_pairs((rows, width), p, seed)` is 0, x being (..., width), or (width,) for one row.

    Args:
        x: float32 or float64 on the CPU, of any shape and strides.
        p: 0 <= p < 1; 0 leaves the activation alone.
        activation: "relu", "gelu", "gelu_tanh" or "silu", or None.
        seed: 0 <= seed < 2^64; None draws one from torch's generator, so that torch.manual_seed makes it repeatable.

    Returns:
        The shape and dtype of x, contiguous, with a gradient where x has one. Gradients of gradients are refused.

    Raises:
        TypeError, ValueError: x, p, activation or seed is none of these.

    Example:
        >>> import torch, pyattn.torch
        >>> x = torch.ones(2, 5, requires_grad=True)
        >>> pyattn.torch.dropout(x, 0.5, seed=1).sum().backward()
        >>> x.grad
        tensor([[0., 0., 0., 0., 2.],
                [0., 2., 0., 2., 0.]])
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"dropout: x must be a tensor, not {type(x).__name__}")
    if x.dtype not in DTYPES or x.device.type not in ("cpu", "meta") or x.layout is not torch.strided or x.is_nested:
        raise TypeError(f"dropout: x must be dense, on the CPU, of float32 or float64, not {x.dtype} on {x.device}")
    if activation is not None:
        _checks.choice("dropout", "activation", activation, tuple(filter(None, rowwise.ACTIVATIONS)))
    p, number = _checks.dropout("dropout", p, drawn_seed() if seed is None and p else seed, ("p", "seed"))
    arguments = x, None, p, number - 2**64 if number >= 2**63 else number, activation
    if not torch.compiler.is_compiling() and (
        forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    ):
        return Transformed.apply(*arguments)
    return _dropped(*arguments)


def _compute(x: Tensor, grad: Tensor | None, p: float, seed: int, activation: str | None) -> Tensor:
    width = x.shape[-1] if x.ndim else 1
    out = torch.empty(x.shape, dtype=x.dtype)
    rows, written, *grads = (array_of(t.contiguous()).reshape(-1, width or 1) for t in (x, out, grad) if t is not None)
    code = rowwise.ACTIVATIONS[activation]
    threads = threads_for(OPERATIONS * x.numel())
    rowwise.drop(rows, grads[0] if grads else None, written, seed & (2**64 - 1), p, code, threads)
    return out


_dropped = torch.library.custom_op("pyattn::dropout", _compute, mutates_args=(), device_types="cpu")


@_dropped.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, grad, *ctx.others = inputs
    ctx.is_gradient = grad is not None
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor, operator: Callable[..., Tensor]) -> tuple[Any, ...]:
    if ctx.is_gradient:
        raise NotImplementedError(SECOND)
    return operator(*ctx.saved_tensors, grad, *ctx.others), None, None, None, None


_dropped.register_autograd(partial(_backward, operator=_dropped), setup_context=_save)


class Transformed(torch.autograd.Function):
    """The operator in forward mode and under torch.func's transforms, which would leave it out, or refuse it."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return _dropped(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return _backward(ctx, grad, Transformed.apply)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        if ctx.is_gradient:
            raise NotImplementedError(SECOND)
        result: Tensor = Transformed.apply(*ctx.saved_tensors, tangent, *ctx.others)
        return result

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        places = [*zip(inputs, in_dims, strict=True)]
        calls = ([x if dim is None else x.select(dim, i) for x, dim in places] for i in range(info.batch_size))
        return torch.stack([Transformed.apply(*call) for call in calls]), 0
