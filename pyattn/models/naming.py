"""What a family's files call our parameters, and in what shape they hold them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn.layers import Layer
from pyattn.models.config import ModelConfig
from pyattn.precision import Quantized, concatenated, scaled, values_of

Tensors = Mapping[str, NDArray[np.float32] | Quantized]
# Of tensors whose file has them in another shape than ours that shape; None of those that it lacks.
Shapes = Mapping[str, tuple[int, ...] | None]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def plain_name(name: str, prefix: str) -> str:
    """A tensor's name without its model's, and with the scale and shift of a LayerNorm as PyTorch calls them."""
    return (
        name.removeprefix(prefix)
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias")
    )


def _split(ours: str) -> tuple[str, str, str]:
    """The module of a parameter with {} for its number, the number, and which parameter it is."""
    module, _, parameter = ours.rpartition("_" if "in_proj_" in ours else ".")
    number = _NUMBER.search(ours)
    return _NUMBER.sub("{}", module), "" if number is None else number.group(), parameter


def their_names(config: ModelConfig, ours: str) -> tuple[str, ...] | None:
    """The family's tensors that make one of our parameters, one below the other; None where it has no such bias."""
    module, number, parameter = _split(ours)
    if (
        parameter == "bias"
        and module.rpartition("{}.")[2].removeprefix("encoder.").removeprefix("embeddings.") in config.without_bias
    ):
        return None
    table = {**config.family.names, **(config.family.names_if_gated if config.gated else {})}
    if (whole := _NUMBER.sub("{}", ours)) in table:
        names, ending = table[whole], ""
    else:
        names, ending = table[module], f".{parameter}"
    return tuple(name.format(number) + ending for name in ((names,) if isinstance(names, str) else names))


def factor_name(config: ModelConfig, ours: str) -> str | None:
    """The tensor that a parameter's rows are multiplied by, if it is a weight; None where there is none."""
    module, number, parameter = _split(ours)
    factor = config.family.scales.get(module)
    return factor.format(number) if factor is not None and parameter == "weight" else None


def to_our_names(
    model: Layer, config: ModelConfig, given: Tensors, source: str
) -> tuple[dict[str, Any], dict[str, tuple[int, ...] | None]]:
    """All of the model's parameters, and the shapes of those tensors that are not as ours in the file."""
    shapes = model._shapes()
    given = dict(given)
    stored: dict[str, tuple[int, ...] | None] = {}
    for absent, present in config.family.tied.items() if config.tied else ():
        if absent not in given and present in given:
            given[absent] = given[present]
            stored[absent] = None
    expected: dict[str, tuple[int, ...]] = {}
    for ours, shape in shapes.items():
        names = their_names(config, ours) or ()
        for name, rows in zip(names, part_rows(config, ours, shape[0], len(names)), strict=True):
            turned = _is_transposed(config, ours) and not isinstance(given.get(name), Quantized)
            expected[name] = (*shape[1:], rows) if turned else (rows, *shape[1:])
        if (factor := factor_name(config, ours)) is not None:
            expected[factor] = shape[:1]
    lacking = {name for name in expected if name.endswith(config.family.lacks) and name not in given}
    stored |= dict.fromkeys(lacking)
    if missing := expected.keys() - given.keys() - lacking:
        raise ValueError(f"load: {source}: missing tensors: {listed(missing)}")
    if extra := given.keys() - expected.keys():
        raise ValueError(f"load: {source}: tensors that a {config.model_type} model does not have: {listed(extra)}")
    values = {}
    for name, shape in expected.items():
        tensor: Any = np.zeros(shape, np.float32) if name in lacking else given[name]
        if tensor.shape != shape:
            if not _fits(tensor.shape, shape):
                raise ValueError(f"load: {source}: {name} has shape {tensor.shape}; config.json asks for {shape}")
            stored[name] = tensor.shape
            tensor = values_of(tensor)
            tensor = (tensor.swapaxes(1, 2) if _is_convolution(tensor.shape, shape) else tensor).reshape(shape)
        values[name] = tensor
    state: dict[str, Any] = {}
    for ours, shape in shapes.items():
        names = their_names(config, ours) or ()
        if not names:
            state[ours] = np.zeros(shape, np.float32)
            continue
        turned = _is_transposed(config, ours)
        parts = [x.T if turned and isinstance(x, np.ndarray) else x for x in (values[name] for name in names)]
        state[ours] = parts[0] if len(parts) == 1 else concatenated(parts)
        module, number, _ = _split(ours)
        if module in config.family.scales:  # of biases as well
            state[ours] = scaled(state[ours], values[config.family.scales[module].format(number)])
    return state, stored


def part_rows(config: ModelConfig, ours: str, rows: int, parts: int) -> list[int]:
    """The rows of each of the tensors that make one of our parameters."""
    if parts == 3 and ".self_attn.in_proj" in ours:
        shared = config.num_key_value_heads or config.num_attention_heads
        shared = rows * shared // (config.num_attention_heads + 2 * shared)
        return [rows - 2 * shared, shared, shared]
    return [rows // max(1, parts)] * parts


def as_stored(config: ModelConfig, ours: str, value: Any, names: tuple[str, ...], shapes: Shapes) -> dict[str, Any]:
    """One of our parameters, as it is held, as tensors of the family; int8 is never transposed."""
    tensors: dict[str, Any] = {}
    first = 0
    for name, rows in zip(names, part_rows(config, ours, value.shape[0], len(names)), strict=True):
        part = value[first : first + rows]
        first += rows
        shape = shapes.get(name, part.shape)
        if shape is None:
            continue
        if _is_transposed(config, ours) and not isinstance(part, Quantized):
            part = part.T
        elif name in shapes and not isinstance(part, Quantized):
            convolution = _is_convolution(shape, part.shape)
            part = part.reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2) if convolution else part.reshape(shape)
        tensors[name] = part
    return tensors


def _is_transposed(config: ModelConfig, ours: str) -> bool:
    module, _, parameter = _split(ours)
    return parameter == "weight" and module in config.family.transposed


def _fits(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether it is the same but for leading axes of length 1 or, of a convolution's weight, the inputs' axes."""
    image = len(stored) == 4 and (stored[0], int(np.prod(stored[1:]))) == shape
    return _trimmed(stored, shape) == shape or image or _is_convolution(stored, shape)


def _trimmed(stored: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(stored) > len(shape) and stored[0] == 1:
        stored = stored[1:]
    return stored


def _is_convolution(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Along one axis: (outputs, channels, width), whose inputs are (width, channels) in our rows."""
    fits = len(stored) == 3 and (stored[0], stored[1] * stored[2]) == shape
    return fits and _trimmed(stored, shape) != shape


def listed(names: Iterable[str], most: int = 4) -> str:
    ordered = sorted(names)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")


def weight_name(module: str) -> str:
    """The name of a matrix product's weight."""
    return module + ("_weight" if module.endswith("in_proj") else ".weight")
