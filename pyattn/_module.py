"""What all layers are: named parameters, saved and loaded."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from pyattn._checks import Array, array, is_real
from pyattn.precision import Quantized, values_of

# A string: evaluating it would import numpy.random, which costs more than all the rest of pyattn.
Seed: TypeAlias = "np.random.Generator | int | None"

Setting: TypeAlias = "tuple[Layer, str, Any]"  # an attribute and its new value

# Attributes that a layer computes from others when it is called, and computes again where they are missing.
COMPUTED = ("_plan", "_seen", "_known_layout")

_revision = object()


def revision() -> object:
    """An object that another replaces whenever an attribute of some layer is set.

    What was computed from attributes of layers, a plan, is up to date while the object is the one that it was computed
    with. An object and not a count: threads that set attributes at once never bring an earlier one back.
    """
    return _revision


class Layer:
    """A layer with named parameters: its own, and those of the layers among its attributes, as `name.parameter`.

    `_parameters` holds a layer's own parameters; layers that keep them in another form override the methods
    beginning with _own.
    """

    _parameters: Mapping[str, Array] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        global _revision
        super().__setattr__(name, value)
        _revision = object()

    def __delattr__(self, name: str) -> None:
        global _revision
        super().__delattr__(name)
        _revision = object()

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle: a copy computes its own. Another thread's call may add to the dict meanwhile."""
        return {name: value for name, value in vars(self).copy().items() if name not in COMPUTED}

    def state_dict(self) -> dict[str, Array]:
        """All parameters by name, in torch's names and shapes, of the dtype of the layer's inputs."""
        return {name: values_of(value) for name, value in self._held().items()}

    def _held(self) -> dict[str, Any]:
        """state_dict with weights as they are held."""
        values = self._own_held()
        for name, child in self._children().items():
            values.update({f"{name}.{key}": value for key, value in child._held().items()})
        return values

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copies parameters from arrays by name, converted to the layer's dtype; where that fails, none has changed.

        Other threads' calls meanwhile may see some of the new parameters and some of the old.

        Args:
            state_dict: a torch state dict as NumPy arrays, such as safetensors.numpy.load_file returns.
            strict: raise also when state_dict has names that the layer does not.

        Raises:
            ValueError: a name is missing or, if strict, unknown; a shape differs (all are listed).
            TypeError: an array is not of a real floating dtype.
            MemoryError: the new parameters do not fit beside the old ones.
        """
        function = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{function}: state_dict must map names to arrays, not be {type(state_dict).__name__}")
        shapes = self._shapes()
        missing = sorted(shapes.keys() - state_dict.keys())
        unknown = sorted(state_dict.keys() - shapes.keys()) if strict else []
        if missing or unknown:
            raise ValueError(f"{function}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        given = {name: state_dict[name] for name in shapes}
        values = {name: x if isinstance(x, Quantized) else array(function, name, x) for name, x in given.items()}
        wrong = [f"{n} {v.shape} instead of {shapes[n]}" for n, v in values.items() if v.shape != shapes[n]]
        if wrong:
            raise ValueError(f"{function}: shapes differ: {', '.join(wrong)}")
        for name, value in values.items():
            if isinstance(value, Quantized):
                continue
            if not is_real(value.dtype):
                raise TypeError(f"{function}: {name} has dtype {value.dtype}; a floating dtype is needed")
        self._load(values)

    def _children(self) -> dict[str, "Layer"]:
        children: dict[str, Layer] = {}
        for name, value in vars(self).copy().items():  # another thread's first call may add to them
            if name.startswith("_"):
                continue
            if isinstance(value, Layer):
                children[name] = value
            elif isinstance(value, list):
                children.update({f"{name}.{i}": child for i, child in enumerate(value)})
        return children

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self._own_shapes()
        for name, child in self._children().items():
            shapes.update({f"{name}.{key}": shape for key, shape in child._shapes().items()})
        return shapes

    def _load(self, values: Mapping[str, Any]) -> None:
        for layer, attribute, value in self._made(values):  # everything that could fail has been done
            setattr(layer, attribute, value)
        self._forget()

    def _forget(self) -> None:
        """Drops what was computed of this layer and those in it: a plan holds the parameters that it was made with."""
        for name in COMPUTED:
            vars(self).pop(name, None)
        for child in self._children().values():
            child._forget()

    def _made(self, values: Mapping[str, Any]) -> list[Setting]:
        made = self._own_made({name: values[name] for name in self._own_shapes()})
        for name, child in self._children().items():
            made += child._made({key: values[f"{name}.{key}"] for key in child._shapes()})
        return made

    def _own_held(self) -> dict[str, Any]:
        return {name: value.copy() for name, value in self._parameters.items()}

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self._parameters.items()}

    def _own_made(self, values: Mapping[str, Any]) -> list[Setting]:
        """The layer's own parameters from values, as they will be held, not yet set."""
        made = {
            name: np.array(values_of(values[name]), value.dtype, order="C") for name, value in self._parameters.items()
        }
        return [(self, "_parameters", made)]


def initial(shape: tuple[int, ...], width: int, rng: Seed, dtype: DTypeLike = np.float32) -> Array:
    """Uniform in +-1 / sqrt(width), torch's initialisation of a linear layer of that input width."""
    bound = 1 / np.sqrt(max(1, width))
    return np.random.default_rng(rng).uniform(-bound, bound, shape).astype(dtype)
