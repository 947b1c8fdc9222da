"""Modules of torch that compute in pyattn: the same modules, with the same parameters, and another forward."""

import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyattn import _threads
from pyattn.torch.tensors import is_plain, needs_gradients
from pyattn.torch.trees import Tree, difference

WEIGHTS = {torch.bfloat16: "bfloat16", torch.float64: "float64"}  # pyattn's for torch's

DROPS = "dropout: module.eval() goes without"

Call = Callable[[Any], Any]  # what pyattn computes of a call, by what stands in for the module


class PassedOn(Exception):  # noqa: N818
    """Why a module's own forward computes a call."""


class _State:
    """What pyattn knows of a module, and how often it has computed.

    known: the module's tree, and what stands in for it or why nothing does. It is set whole, as other threads may be
    calling.
    """

    def __init__(self, dtype: str | None) -> None:
        self.dtype = dtype  # of pyattn's weights, as it was asked for
        self.known: tuple[Tree, Any] | None = None
        self.trained: Tree | None = (
            None  # the modules, whatever their parameters are, that are as their class makes them
        )
        self.served = 0
        self.passed_on: dict[str, int] = {}


class Accelerated:
    """What accelerated modules add to their class.

    A subclass says how such a module is made (_as_made), what stands in for it (_make) and what that computes of a
    call (_call), or of one that needs gradients (_train). All that is not known to be the same is passed on to the
    module's own forward.
    """

    _pyattn: _State
    _kind: type["Accelerated"]
    _own_class: type
    _dtypes: tuple[Any, ...] = (torch.float32, torch.float16, torch.bfloat16)  # of parameters

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._result(self._call, self._own_forward(), *args, **kwargs)

    def _own_forward(self) -> Callable[..., Any]:
        """The module's forward, as it was."""
        return super().forward  # type: ignore[misc]

    def _result(self, call: Callable[..., Call], own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What pyattn makes of a call, or else the module's own method."""
        if torch.compiler.is_compiling():  # counts would be part of the graph
            return own(*args, **kwargs)
        state = self._pyattn
        try:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
            self._check(tensors)
            with _threads.num_threads(min(_threads.get_num_threads(), torch.get_num_threads())):
                if self._learns(tensors):
                    result = self._train(*args, **kwargs)
                else:
                    result = self._infer(call, *args, **kwargs)
        except PassedOn as error:
            reason = str(error)
        except (TypeError, ValueError, IndexError):  # in which torch has an error of its own, or a result
            reason = "an argument that pyattn refuses"
        else:
            state.served += 1
            return result
        state.passed_on[reason] = state.passed_on.get(reason, 0) + 1
        return own(*args, **kwargs)

    def refresh(self) -> None:
        """Reads the parameters again at the next call; needed where they were written through .data or an array."""
        self._pyattn.known = None

    @property
    def _served(self) -> int:
        return self._pyattn.served

    @property
    def _passed_on(self) -> dict[str, int]:
        return self._pyattn.passed_on

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy, pickled or not, is a module of its own: its state begins anew."""
        reduced = super().__reduce_ex__(max(int(protocol), 2))
        values = {**reduced[2], "_pyattn": _State(self._pyattn.dtype)}  # type: ignore[dict-item]
        return _blank, (self._kind, self._own_class), values

    def _check(self, tensors: list[torch.Tensor]) -> None:
        """Raises PassedOn for calls that pyattn takes of no module."""
        if not is_plain(tensors):
            raise PassedOn("traced, or a kind of tensor")
        if torch.is_autocast_enabled("cpu"):
            raise PassedOn("autocast")
        if nn.modules.module._has_any_global_hook():
            raise PassedOn("hooks on all modules")

    def _learns(self, tensors: list[torch.Tensor]) -> bool:
        """Whether a call of these inputs needs gradients."""
        module: Any = self
        return needs_gradients(tensors) or needs_gradients(module.parameters())

    def _infer(self, call: Callable[..., Call], *args: Any, **kwargs: Any) -> Any:
        """The result of a call that needs none."""
        run = call(*args, **kwargs)
        return run(self._current())

    def _train(self, *args: Any, **kwargs: Any) -> Any:
        """The result of a call that needs gradients."""
        raise PassedOn("gradients: a call under torch.no_grad() needs none")

    def _check_modules(self) -> None:
        """Raises PassedOn unless the modules are what pyattn trains."""
        tree = self._pyattn.trained
        if tree is None or tree.modules[0] is not self or not tree.unchanged(in_contents=False):
            tree = Tree(self)
            if reason := tree.obstacle() or self._misfit(tree):
                raise PassedOn(reason)
            self._pyattn.trained = tree
        if tree.hooked():
            raise PassedOn("hooks on modules inside")

    def _current(self) -> Any:
        """What stands in for the module, made anew where something has changed; else raises PassedOn."""
        state = self._pyattn
        if (known := state.known) is not None and not (known[0].modules[0] is self and known[0].unchanged()):
            known = None  # or the state is another's, as in the replicas of DataParallel
        tree = Tree(self) if known is None else known[0]
        if tree.hooked():
            raise PassedOn("hooks on modules inside")
        if known is None:
            try:
                found = self._obstacle(tree) or self._make(state.dtype or WEIGHTS.get(tree.dtype, "float32"))
            except PassedOn as error:
                found = str(error)
            except (TypeError, ValueError) as error:
                state.known = tree, str(error)  # which the next call need not find out again
                raise
            state.known = known = tree, found
            _see_steps()
            _watched.add(self)
        if isinstance(known[1], str):
            raise PassedOn(known[1])
        return known[1]

    def _obstacle(self, tree: Tree) -> str | None:
        """Why pyattn does not compute the module as it is, or None."""
        if tree.drops():
            return DROPS
        return tree.obstacle() or self._misfit(tree)

    def _misfit(self, tree: Tree) -> str | None:
        """In what the modules are not what pyattn knows, or None."""
        if tree.dtype not in self._dtypes:
            return f"parameters of {tree.dtype}"
        if where := difference(self, self._as_made, class_of):
            return f"not as {self._own_class.__name__} is made: {where}"
        return None

    def _as_made(self) -> nn.Module:
        raise NotImplementedError

    def _make(self, dtype: str) -> Any:
        raise NotImplementedError

    def _call(self, *args: Any, **kwargs: Any) -> Call:
        raise NotImplementedError


def class_of(module: Any) -> Any:
    """The class of a module without what accelerates it."""
    return module._own_class if isinstance(module, Accelerated) else type(module)


@functools.cache
def _accelerated_class(kind: Any, cls: Any) -> Any:
    names = [name for name in ("forward", "generate") if hasattr(kind, name)]
    methods = {name: _signed(getattr(kind, name), getattr(cls, name)) for name in names}
    return type(cls.__name__, (kind, cls), {"__module__": cls.__module__, "_kind": kind, "_own_class": cls, **methods})


def _signed(method: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """A method with the signature of a class's own, at which transformers looks."""

    @functools.wraps(own)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return call


def _blank(kind: Any, cls: Any) -> Any:
    accelerated = _accelerated_class(kind, cls)
    return accelerated.__new__(accelerated)


_watched: weakref.WeakSet[Any] = weakref.WeakSet()


@functools.cache
def _see_steps() -> None:
    """Looks at optimizers' steps from now on: fused ones do not count as changes of a tensor."""
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    changed = {id(x) for group in optimizer.param_groups for x in group["params"]}
    for module in [*_watched]:
        known = module._pyattn.known
        if known is not None and not changed.isdisjoint(map(id, known[0].tensors)):
            module.refresh()


def cloned(module: nn.Module, kind_of: Callable[[nn.Module], type[Accelerated] | None], dtype: str | None) -> Any:
    """A copy of a module, its parameters and buffers shared, in which those modules are accelerated for which kind_of
    has a class; and these."""
    copies: dict[int, nn.Module] = {}
    accelerated: list[Any] = []

    def clone(x: Any, inside: bool) -> Any:
        if id(x) in copies:  # several modules share it
            return copies[id(x)]
        if isinstance(x, torch.jit.ScriptModule):  # its contents are not in Python
            return x
        kind = None if inside else kind_of(x)
        cls: Any = class_of(x)
        copies[id(x)] = result = cls.__new__(cls) if kind is None else _blank(kind, cls)
        for name, value in vars(x).items():
            own = name.startswith("_") and isinstance(value, dict | set | list)  # as all that torch changes in place
            vars(result)[name] = copy.copy(value) if own else value
        vars(result).pop("_pyattn", None)
        for name, child in x._modules.items():
            result._modules[name] = None if child is None else clone(child, inside or kind is not None)
        if kind is not None:
            vars(result)["_pyattn"] = _State(dtype)
            accelerated.append(result)
        return result

    return clone(module, False), accelerated
