"""What all layers are: named parameters, saved and loaded."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from pyattn._checks import Array, real_array
from pyattn._namespaces import to_copy
from pyattn.precision import Quantized, values_of

# A string: evaluating it would import numpy.random, which costs more than all the rest of pyattn.
Seed: TypeAlias = "np.random.Generator | int | None"

Setting: TypeAlias = "tuple[Layer, str, Any]"  # an attribute and its new value

# Another replaces it whenever an attribute of some layer is set: a plan is up to date while this is the object that it
# was made with. An object and not a count: threads that set attributes at once never bring an earlier one back.
_revision = object()

_Part = TypeVar("_Part")


class Layer:
    """A layer with named parameters: its own, and those of the layers among its attributes, as `name.parameter`.

    `_parameters` holds a layer's own parameters; layers that keep them in another form override the methods
    beginning with _own.
    """

    _parameters: Mapping[str, Array] = {}
    _plan: Any = None  # what is computed from attributes when the layer is called; it has a `revision`

    def __setattr__(self, name: str, value: Any) -> None:
        global _revision
        super().__setattr__(name, value)
        _revision = object()

    def __delattr__(self, name: str) -> None:
        global _revision
        super().__delattr__(name)
        _revision = object()

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle: a copy makes its own plan. Another thread's call may add to the dict meanwhile."""
        return {name: value for name, value in vars(self).copy().items() if name != "_plan"}

    def _planned(self) -> Any:
        """The plan, made anew if an attribute of a layer was set since."""
        plan = self._plan
        return plan if plan is not None and plan.revision is _revision else self._renew_plan()

    def _renew_plan(self) -> Any:
        vars(self)["_plan"] = plan = self._make_plan(_revision)
        return plan

    def _make_plan(self, revision: object) -> Any:
        """What calls need of the attributes; refuses those that were replaced by what they cannot be."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """All parameters by name, in torch's names and shapes, of the dtype of the layer's inputs."""
        return {name: values_of(value) for name, value in self._held().items()}

    def _held(self) -> dict[str, Any]:
        """state_dict with weights as they are held."""
        return {prefix + name: x for prefix, layer in self._parts() for name, x in layer._own_held().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copies parameters from arrays by name, converted to the layer's dtype; where that fails, none has changed.

        Other threads' calls meanwhile may see some of the new parameters and some of the old.

        Args:
            state_dict: a torch state dict, of tensors or of arrays, such as safetensors.numpy.load_file returns.
            strict: raise also when state_dict has names that the layer does not.

        Raises:
            ValueError: a name is missing or, if strict, unknown; a shape differs (all are listed).
            TypeError: an array is not of a real floating dtype.
            MemoryError: the new parameters do not fit beside the old ones.
        """
        function = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{function}: state_dict must map names to arrays, not be {type(state_dict).__name__}")
        parts, shapes = list(self._parts()), self._shapes()
        missing = sorted(shapes.keys() - state_dict.keys())
        unknown = sorted(state_dict.keys() - shapes.keys()) if strict else []
        if missing or unknown:
            raise ValueError(f"{function}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        given = {name: state_dict[name] for name in shapes}
        values = {
            name: x if isinstance(x, Quantized) else real_array(function, name, to_copy(function, x))
            for name, x in given.items()
        }
        wrong = [f"{n} {v.shape} instead of {shapes[n]}" for n, v in values.items() if v.shape != shapes[n]]
        if wrong:
            raise ValueError(f"{function}: shapes differ: {', '.join(wrong)}")
        made: list[Setting] = []
        for prefix, layer in parts:
            made += layer._own_made({name: values[prefix + name] for name in layer._own_shapes()})
        for owner, attribute, value in made:  # everything that could fail has been done
            setattr(owner, attribute, value)
        for _, layer in parts:
            vars(layer).pop("_plan", None)  # it holds the old parameters

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {prefix + name: shape for prefix, layer in self._parts() for name, shape in layer._own_shapes().items()}

    def _parts(self, prefix: str = "") -> Iterator[tuple[str, "Layer"]]:
        """The layer and those in it, each with what the names of its parameters begin with."""
        yield prefix, self
        for name, child in self._children().items():
            yield from child._parts(f"{prefix}{name}.")

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


def check_part(function: str, name: str, part: Any, kind: type[_Part], accepted: str = "") -> _Part:
    """part, refused unless it is of its kind."""
    if not isinstance(part, kind):
        raise TypeError(f"{function}: {name} must be {accepted or f'a {kind.__name__}'}, not {type(part).__name__}")
    return part
