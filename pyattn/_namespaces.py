"""Arrays of other libraries: read where they lie, and results given back in the library of the first one.

The array API standard and DLPack, which hands memory over without a copy: data-apis.org/array-api/latest.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from pyattn._checks import Array, is_bfloat16
from pyattn._extras import import_extra

_Function = TypeVar("_Function", bound=Callable[..., Any])

PLAIN = (np.ndarray, np.generic, list, tuple, int, float, type(None))
USUAL = {np.ndarray, type(None), bool, int, float, str, tuple, list}  # what stands beside NumPy's arrays
CPU = 1  # DLPack's kDLCPU


def in_namespace(function: _Function) -> _Function:
    """A public function or method whose results are arrays of the library that its first array is of.

    torch's tensors, jax's arrays, and whatever has __dlpack__ on the CPU: any argument may be such. NumPy's arrays, and
    what it makes arrays of, give NumPy's. An array that is given as out is what is returned.
    """
    place = int(function.__code__.co_varnames[0] == "self")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        first = args[place] if len(args) > place else next(iter(kwargs.values()), None)
        if type(first) is np.ndarray:
            for x in (*args[place:], *kwargs.values()):  # the fastest way for a few
                if type(x) not in USUAL:
                    break
            else:
                return function(*args, **kwargs)
        name = type(args[0]).__name__ if place else function.__name__
        if isinstance(first, list | tuple) and first:
            first = first[0]
        library = _library_of(name, first)
        given: dict[int, Any] = {}  # arguments, by what has become of them
        arrays = [*args[:place], *(_read(name, x, given) for x in args[place:])]
        results = function(*arrays, **{key: _read(name, x, given, key == "out") for key, x in kwargs.items()})
        return _given_back(library, results, given)

    return call  # type: ignore[return-value]


def to_copy(function: str, x: Any) -> Any:
    """An array of another library as NumPy's, for its numbers: a tensor's gradient is left behind."""
    library = _library_of(function, x)
    return x if library is None else library.read(function, x.detach() if hasattr(x, "detach") else x)


def _read(function: str, x: Any, given: dict[int, Any], written: bool = False) -> Any:
    """An argument, an array if it is another library's."""
    if isinstance(x, list | tuple):
        return type(x)(_read(function, part, given) for part in x) if type(x) in (list, tuple) else x
    if (library := _library_of(function, x)) is None:
        return x
    array = library.read(function, x, written)
    given[id(array)] = x
    return array


def _given_back(library: "_Library | None", results: Any, given: dict[int, Any]) -> Any:
    if isinstance(results, np.ndarray):
        if id(results) in given:
            return given[id(results)]
        return results if library is None else library.give(results)
    if isinstance(results, tuple):
        parts = [_given_back(library, x, given) for x in results]
        return type(results)(*parts) if hasattr(results, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(results) and not isinstance(results, type):  # of statistics
        fields = {field.name: getattr(results, field.name) for field in dataclasses.fields(results)}
        return type(results)(**{name: _given_back(library, x, given) for name, x in fields.items()})
    return results


class _Library(Protocol):
    def read(self, function: str, x: Any, written: bool = False) -> Array: ...
    def give(self, array: Array) -> Any: ...


def _library_of(function: str, x: Any) -> _Library | None:
    """What reads x, or None for what NumPy does."""
    if isinstance(x, PLAIN):
        return None
    if (torch := sys.modules.get("torch")) is not None and isinstance(x, torch.Tensor):
        return _Torch(torch)
    if (jax := sys.modules.get("jax")) is not None:
        if isinstance(x, jax.core.Tracer):
            raise TypeError(
                f"{function}: a tracer of jax has no numbers; under jit and vmap pyattn.jax.{function} takes it, where "
                "that exists, else jax.pure_callback"
            )
        if isinstance(x, jax.Array):
            return _Jax(jax)
    return _Standard(x) if hasattr(x, "__dlpack__") and hasattr(x, "__array_namespace__") else None


class _Torch:
    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def read(self, function: str, x: Any, written: bool = False) -> Array:
        if x.requires_grad and self.torch.is_grad_enabled():
            raise TypeError(
                f"{function}: a tensor needs a gradient, which arrays have not; pyattn.torch has functions with "
                "gradients; x.detach(), or a call under torch.no_grad(), goes without"
            )
        if x.device.type != "cpu" or x.layout is not self.torch.strided:
            raise TypeError(
                f"{function}: a tensor is {x.layout} on {x.device}; dense ones on the CPU are accepted (x.cpu(), "
                "x.to_dense())"
            )
        if written and x.is_neg():
            raise TypeError(f"{function}: out is a view that negates what is written to it; out.resolve_neg() is none")
        x = x.detach().resolve_neg()
        if x.dtype is self.torch.bfloat16:
            bfloat16 = import_extra("ml_dtypes", f"{function}: bfloat16 of torch", group="torch").bfloat16
            array: Array = x.view(self.torch.int16).numpy().view(bfloat16)
            return array
        try:
            return x.numpy()  # type: ignore[no-any-return]
        except (RuntimeError, TypeError) as error:  # of torch.func, fake or quantized
            raise TypeError(f"{function}: a tensor of {x.dtype} cannot be read as an array: {error}") from None

    def give(self, array: Array) -> Any:
        if is_bfloat16(array.dtype):
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)


class _Jax:
    def __init__(self, jax: Any) -> None:
        self.jax = jax

    def read(self, function: str, x: Any, written: bool = False) -> Array:
        if {device.platform for device in x.devices()} != {"cpu"}:
            raise TypeError(f"{function}: an array is on {x.devices()}; those on the CPU are accepted")
        return np.asarray(x)

    def give(self, array: Array) -> Any:
        return self.jax.numpy.asarray(array)


class _Standard:
    """A library of the array API standard."""

    def __init__(self, x: Any) -> None:
        self.namespace = x.__array_namespace__()

    def read(self, function: str, x: Any, written: bool = False) -> Array:
        if x.__dlpack_device__()[0] != CPU:
            raise TypeError(
                f"{function}: an array is on DLPack's device {x.__dlpack_device__()}; {CPU} is needed, the CPU"
            )
        return np.from_dlpack(x)

    def give(self, array: Array) -> Any:
        return self.namespace.from_dlpack(array)
