"""Modules of torch that compute in pyattn: the same modules, with the same parameters, and another forward."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from pyattn import _threads
from pyattn.torch.tensors import is_plain, needs_gradients

Reason = str | None  # why a module's own forward computes a call; None: pyattn does


class Accelerated:
    """What accelerated modules add to their class.

    A subclass says what stands in for the module (_make), whether it takes a call (_reason) and how (_run).
    """

    _dtype: Any  # of pyattn's weights
    _twin: Any = None  # what computes, and the state of parameters that it was made of
    _served = 0
    _passed_on: dict[str, int]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        reason = self._general(tensors) or self._reason(*args, **kwargs)
        if reason is not None:
            self._pass_on(reason)
            return self._own_forward()(*args, **kwargs)
        with self._bounded():
            result = self._run(self._current(), *args, **kwargs)
        self._served += 1
        return result

    def _pass_on(self, reason: str) -> None:
        self._passed_on[reason] = self._passed_on.get(reason, 0) + 1

    def _bounded(self) -> Any:
        """As many threads as torch may use, at most."""
        return _threads.num_threads(min(_threads.get_num_threads(), torch.get_num_threads()))

    def _own_forward(self) -> Callable[..., Any]:
        """The module's forward, as it was."""
        return super().forward  # type: ignore[misc]

    def refresh(self) -> None:
        """Reads the parameters again at the next call; needed where they were written through .data or an array."""
        self._twin = None

    def _general(self, tensors: list[torch.Tensor]) -> Reason:
        """Why no call of any module like that is taken."""
        module: Any = self
        if torch.compiler.is_compiling() or not is_plain(tensors):
            return "traced, or a kind of tensor"
        if torch.is_grad_enabled() and (needs_gradients(tensors) or any(x.requires_grad for x in module.parameters())):
            return "gradients: a call under torch.no_grad() needs none"
        if module.training and any(map(_drops, module.modules())):
            return "dropout: module.eval() goes without"
        if any(map(_has_hooks, (x for x in module.modules() if x is not module))):
            return "hooks on modules inside"
        return None

    def _current(self) -> Any:
        """What stands in for the module, made anew where parameters have changed."""
        twin, stamp = self._twin, _stamp(self)
        if twin is None or twin[1] != stamp:
            self._twin = twin = self._make(), stamp
        return twin[0]

    def _make(self) -> Any:
        raise NotImplementedError

    def _reason(self, *args: Any, **kwargs: Any) -> Reason:
        raise NotImplementedError

    def _run(self, twin: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def _has_hooks(module: torch.nn.Module) -> bool:
    """Whether a program looks into a module; what transformers collects hidden states by has no effect otherwise."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not (getattr(hook, "__module__", None) or "").startswith("transformers.") for hook in hooks)


def _drops(module: torch.nn.Module) -> bool:
    return bool(
        (isinstance(module, torch.nn.Dropout) and module.p)
        or (isinstance(module, torch.nn.MultiheadAttention) and module.dropout)
    )


def _stamp(module: Any) -> list[Any]:
    """What changes where parameters do: each one's memory, number type and count of changes."""
    return [(x.data_ptr(), x.dtype, 0 if x.is_inference() else x._version) for x in module.parameters()]


def replaced(
    module: torch.nn.Module,
    kind_of: Callable[[torch.nn.Module], type | None],
    prepare: Callable[[Any], None],
) -> tuple[Any, int]:
    """A copy of a module that shares all parameters and buffers, with those modules inside accelerated for which
    kind_of has a class, each prepared, and how many these are."""
    made: dict[int, torch.nn.Module] = {}
    count = 0

    def copied(x: torch.nn.Module) -> torch.nn.Module:
        nonlocal count
        if id(x) in made:  # several modules share it
            return made[id(x)]
        made[id(x)] = result = copy.copy(x)
        if (kind := kind_of(x)) is not None:
            cls = type(x)
            result.__class__ = type(cls.__name__, (kind, cls), {"__module__": cls.__module__})
            result._twin, result._served, result._passed_on = None, 0, {}
            prepare(result)
            count += 1
        else:
            result._modules = {name: child and copied(child) for name, child in x._modules.items()}
        return result

    return copied(module), count
