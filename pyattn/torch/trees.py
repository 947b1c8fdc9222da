"""What a module's results depend on: the modules in it, their attributes and configurations, and all tensors."""

import copy
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

from pyattn.torch.tensors import is_plain

NUMBERS = (bool, int, float)
# Attributes that are compared by value, if they are of such a type; others have to be of the same type.
VALUES = (*NUMBERS, str, type(None), tuple, list, torch.dtype, FunctionType, BuiltinFunctionType)
# What no result without dropout depends on: what every module has, what generate is told, and torch's fast path
FREE = {
    *vars(nn.Module()),
    *("_is_hf_initialized", "_compiled_call_impl", "gradient_checkpointing", "name_or_path", "warnings_issued"),
    *("generation_config", "_pyattn", "enable_nested_tensor", "use_nested_tensor", "mask_check"),
}


class Tree:
    """A module and all modules inside as they are now; that something has been changed since is seen at a glance.

    Attributes:
        modules: all of them.
        tensors: parameters and buffers. They and their memory are held, so that nothing that comes later can be taken
            for them.
        dtype: of the parameters, or of the first of them.
        configs: the configurations that transformers' modules share.
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules = [*root.modules()]
        self.configs = [*{id(x): x for module in self.modules if (x := config_of(module)) is not None}.values()]
        self._attributes = [vars(module).values() for module in self.modules]
        inside = [x for module in self.modules for x in (module._parameters, module._buffers, module._modules)]
        self._inside = [x.values() for x in inside if x]
        self._empty = [x for x in inside if not x]
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        self._hooks = [vars(module)[kind] for module in self.modules[1:] for kind in kinds]
        self._seen = [*chain.from_iterable(self._attributes)]
        self._held = [*chain.from_iterable(self._inside)]
        self._ids = [*map(id, self._held)]
        self._settings = [copy.deepcopy(vars(config)) for config in self.configs]
        self.tensors = [x for x in self._held if isinstance(x, torch.Tensor)]
        self._storages = [x.untyped_storage() for x in self.tensors if x.layout is torch.strided]
        self._contents = None if self._unread() else self._counted()
        self.dtype = next((x.dtype for x in self.tensors if isinstance(x, nn.Parameter)), torch.float32)

    def unchanged(self, in_contents: bool = True) -> bool:
        """Whether modules, attributes, configurations and tensors are what they were, and their numbers too."""
        try:
            return (
                not any(self._empty)
                and self._ids == [*map(id, chain.from_iterable(self._inside))]
                and self._seen == [*chain.from_iterable(self._attributes)]
                and self._settings == [*map(vars, self.configs)]
                and (not in_contents or self._contents is None or self._contents == self._counted())
            )
        except (RuntimeError, ValueError):  # tensors or arrays as attributes, or tensors of another kind
            return False

    def hooked(self) -> bool:
        """Whether a program looks into a module inside.

        What transformers collects hidden states by has no effect otherwise.
        """
        if not any(self._hooks):
            return False
        found = chain.from_iterable(x.values() for x in self._hooks)
        return any(not (getattr(hook, "__module__", None) or "").startswith("transformers.") for hook in found)

    def _counted(self) -> tuple[list[int], list[int]]:
        """What changes where a tensor does: its count of changes, and its memory."""
        return [x._version for x in self.tensors], [x.data_ptr() for x in self.tensors]

    def drops(self) -> bool:
        """Whether there is dropout of any kind, in the modules or by their configuration."""
        if not any(module.training for module in self.modules):
            return False
        named = chain.from_iterable(vars(x).items() for x in (*self.modules, *self.configs))
        rates = [x for name, x in named if "drop" in name]
        rates += [x.p for x in self.modules if isinstance(x, nn.modules.dropout._DropoutNd)]
        return any(isinstance(x, NUMBERS) and x for x in rates)

    def obstacle(self) -> str | None:
        """Why these tensors are not read, or None."""
        if any(x.dtype is not self.dtype for x in self.tensors if isinstance(x, nn.Parameter)):
            return "parameters of several dtypes"
        return self._unread()

    def _unread(self) -> str | None:
        if not is_plain(self.tensors) or any(type(x) not in (nn.Parameter, torch.Tensor) for x in self.tensors):
            return "parameters of another device or kind"
        if any(x.is_inference() for x in self.tensors):
            return "parameters made under inference_mode, of which torch does not know whether they change"
        return None


def config_of(module: nn.Module) -> Any:
    """The configuration of a module of transformers, or None."""
    config = vars(module).get("config")
    return config if hasattr(config, "model_type") else None


def difference(found: nn.Module, make: Callable[[], nn.Module], class_of: Callable[[Any], type] = type) -> str | None:
    """The name of the first module inside that is not as it is made, or None.

    Args:
        make: makes a module such as found should be; on torch's meta device, where nothing is drawn or filled.
        class_of: of a module that was found, the class to compare.
    """
    try:
        with torch.device("meta"):
            made = make()
    except Exception:  # sizes were looked for in modules that are not there, or the class makes none of such a kind
        return "its settings"
    same: dict[tuple[int, int], bool] = {}
    for one, other in zip_longest(named(found), named(made)):
        if one is None or other is None or one[0] != other[0]:
            return (one or other)[0]
        if not (_is_as_made(one[1], other[1], class_of) and _same_configs(one[1], other[1], same)):
            return one[0] or "attributes"
    return None


def named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return module.named_modules(remove_duplicate=False)


def _is_as_made(found: Any, made: nn.Module, class_of: Callable[[Any], type]) -> bool:
    cls, own = type(made), vars(found)
    if class_of(found) is not cls or not cls.forward.__module__.startswith(("torch.", "transformers.")):
        return False
    if any(name not in vars(made) and callable(getattr(cls, name, None)) for name in own) or "forward" in own:
        return False  # a method of this one alone
    if _shapes(found._parameters) != _shapes(made._parameters) or _shapes(found._buffers) != _shapes(made._buffers):
        return False
    for name, x in vars(made).items():
        if name in FREE or "drop" in name or (name == "p" and isinstance(made, nn.modules.dropout._DropoutNd)):
            continue
        if name not in own or type(own[name]) is not type(x) or (isinstance(x, VALUES) and own[name] != x):
            return False
    return True


def _shapes(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: None if x is None else x.shape for name, x in tensors.items()}


def _same_configs(found: nn.Module, made: nn.Module, same: dict[tuple[int, int], bool]) -> bool:
    one, other = config_of(found), config_of(made)
    if one is None or other is None:
        return one is other
    key = id(one), id(other)
    if key not in same:
        same[key] = one.to_dict() == other.to_dict()
    return same[key]
