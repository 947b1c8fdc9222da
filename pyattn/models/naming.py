"""What a family's files call our parameters, and in what shape they hold them."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyattn.layers import Layer
from pyattn.models._tensors import SCALES, Tensor, read
from pyattn.models.config import ModelConfig
from pyattn.precision import Quantized, concatenated, scaled, values_of

Tensors = Mapping[str, Tensor]
# Of tensors whose file has them in another shape than ours that shape; None of those that it lacks.
Shapes = Mapping[str, tuple[int, ...] | None]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


# What tools put in front of the names of a model that they wrap (sentence-transformers, torch's parallel modules,
# Lightning), and what torch.compile and others put between the names of its modules.
_WRAPPERS = ("0.auto_model.", "auto_model.", "0.model.", "module.", "model.")
_BETWEEN = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Selection:
    """Which of a file's tensors a model is made of, by their names.

    wanted: a name in the file -> the name without prefixes; unused: the others. strange are those of the latter on
    which the results might depend: they are neither of another head nor known to change nothing.
    """

    wanted: dict[str, str]
    unused: list[str]
    strange: list[str]


def selected(config: ModelConfig, names: Iterable[str], source: str, head: Mapping[str, Collection[str]]) -> Selection:
    """What is wanted of such names; `head` has the modules of a head and, of each, the names of its tensors."""
    family = config.family
    own = {name for of_module in head.values() for name in of_module}
    known = _known_names(config) | own
    plain = _plain_names(names, family.prefix, known)
    if len(short := set(plain.values())) < len(plain):
        twice = min(name for name, count in Counter(plain.values()).items() if count > 1)
        raise ValueError(f"load: {source}: several tensors are {twice}, but for what stands in front of it")
    if family.heads:  # the words, unless they stand under the head's name alone
        known -= {*family.tied[1:]} - own - {*stand_ins(config, short).values()}
    result = Selection({}, [], [])
    for name, inner in plain.items():
        if inner.removesuffix(SCALES) in known:
            result.wanted[name] = inner
            continue
        result.unused.append(name)
        if inner.rpartition(".")[0] in head or not (family.ignores(inner) or inner in family.tied):
            result.strange.append(name)
    return result


def refuse_strange(config: ModelConfig, names: Collection[str], source: str) -> None:
    if names:
        raise ValueError(
            f"load: {source}: tensors that a {config.model_type} model does not have: {listed(names)}; strict=False "
            "passes over them"
        )


def stand_ins(config: ModelConfig, present: Collection[str]) -> dict[str, str]:
    """Of tied names those that a file lacks -> the first that it has."""
    group = config.tied_names
    first = next((name for name in group if name in present), None)
    return {} if first is None else {name: first for name in group if name not in present}


def _known_names(config: ModelConfig) -> set[str]:
    """All names that tensors of such a model may have, and a few more: biases, of modules that have none."""
    family = config.family
    known = set(family.tied)
    layers = range(max(config.num_hidden_layers, getattr(config, "encoder_layers", 0)))
    tables: tuple[Mapping[str, str | tuple[str, ...]], ...] = (family.names, family.names_if_gated, family.scales)
    for names in (names for table in tables for names in table.values()):
        for name in (names,) if isinstance(names, str) else names:
            for module in (name.format(number) for number in (layers if "{}" in name else [""])):
                known |= {module, f"{module}.weight", f"{module}.bias"}
    return known


def _plain_names(names: Iterable[str], prefix: str, known: Collection[str]) -> dict[str, str]:
    """Names in a file -> those without prefixes of the model and of wrappers.

    What looks like a wrapper's is one where more of the names are the model's without it.
    """
    inner = {name: _BETWEEN.sub("", name) for name in names}
    best, most = inner, -1
    while True:
        plain = {name: _plain_name(rest, prefix) for name, rest in inner.items()}
        if (count := sum(name in known for name in plain.values())) > most:
            best, most = plain, count
        wrapper = next((x for x in _WRAPPERS if any(rest.startswith(x) for rest in inner.values())), None)
        if wrapper is None:
            return best
        inner = {name: rest.removeprefix(wrapper) for name, rest in inner.items()}


def _plain_name(name: str, prefix: str) -> str:
    """Without the model's prefix, and with the scale and shift of a LayerNorm as PyTorch calls them."""
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


@dataclass(frozen=True)
class Stored:
    """How a file has what is not as ours: shapes of tensors, None of those that it lacks, and names that stand in."""

    shapes: Shapes
    names: Mapping[str, str]


def to_our_names(
    model: Layer, config: ModelConfig, given: Tensors, source: str
) -> tuple[Callable[[str], Any], Stored, set[str]]:
    """What reads a parameter by its name, how the file has them, and the names of what is none of them.

    All names and shapes are checked here; values are read when a parameter is asked for.
    """
    shapes = model._shapes()
    instead = stand_ins(config, given)
    given, instead = _once(config, given, instead)
    stored: dict[str, tuple[int, ...] | None] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for ours, shape in shapes.items():
        names = their_names(config, ours) or ()
        for name, rows in zip(names, part_rows(config, ours, shape[0], len(names)), strict=True):
            name = instead.get(name, name)
            turned = _is_transposed(config, ours) and not _is_int8(given.get(name))
            expected[name] = (*shape[1:], rows) if turned else (rows, *shape[1:])
        if (factor := factor_name(config, ours)) is not None:
            expected[factor] = shape[:1]
    for name in given.keys() & set(config.tied_names) - expected.keys():  # of which there are others: it is not read
        expected[name] = shapes["words"]
    lacking = {name for name in expected if name.endswith(config.family.lacks) and name not in given}
    stored |= dict.fromkeys(lacking)
    if missing := expected.keys() - given.keys() - lacking:
        raise ValueError(f"load: {source}: missing tensors: {listed(missing)}")
    for name in expected.keys() - lacking:
        seen = given[name].shape
        if seen != expected[name]:
            if not _fits(seen, expected[name]):
                raise ValueError(f"load: {source}: {name} has shape {seen}; config.json asks for {expected[name]}")
            stored[name] = seen

    def tensor(name: str) -> Any:
        shape = expected[name]
        if name in lacking:
            return np.zeros(shape, np.float32)
        values = read(given[name])
        if values.shape == shape:
            return values
        values = values_of(values)
        return (values.swapaxes(1, 2) if _is_convolution(values.shape, shape) else values).reshape(shape)

    def parameter(ours: str) -> Any:
        names = their_names(config, ours) or ()
        if not names:
            return np.zeros(shapes[ours], np.float32)
        turned = _is_transposed(config, ours)
        parts = [
            x.T if turned and isinstance(x, np.ndarray) else x
            for x in (tensor(instead.get(name, name)) for name in names)
        ]
        value = parts[0] if len(parts) == 1 else concatenated(parts)
        module, number, _ = _split(ours)
        if module in config.family.scales:  # of biases as well
            value = scaled(value, tensor(config.family.scales[module].format(number)))
        return value

    # an encoder is saved without the head under whose name its words stood
    kept = {} if config.family.heads else instead
    return parameter, Stored(stored, kept), set(given.keys() - expected.keys())


def _once(config: ModelConfig, given: Tensors, instead: dict[str, str]) -> tuple[Tensors, dict[str, str]]:
    """Tied tensors that a file has several times, alike, are held once, under the first of their names."""
    group = [name for name in config.tied_names if name in given]
    alike = {name: group[0] for name in group[1:] if _is_same(given[name], given[group[0]])}
    return {name: x for name, x in given.items() if name not in alike}, {**instead, **alike}


def _is_same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or _is_int8(first) or _is_int8(second):
        return False
    return np.array_equal(values_of(read(first)), values_of(read(second)))


def _is_int8(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.dtype == np.int8


def part_rows(config: ModelConfig, ours: str, rows: int, parts: int) -> list[int]:
    """The rows of each of the tensors that make one of our parameters."""
    if parts == 3 and ".self_attn.in_proj" in ours:
        shared = config.num_key_value_heads or config.num_attention_heads
        shared = rows * shared // (config.num_attention_heads + 2 * shared)
        return [rows - 2 * shared, shared, shared]
    return [rows // max(1, parts)] * parts


def as_stored(config: ModelConfig, ours: str, value: Any, stored: Stored) -> dict[str, Any]:
    """One of our parameters, as it is held, as tensors of the family; int8 is never transposed."""
    tensors: dict[str, Any] = {}
    first = 0
    shapes, names = stored.shapes, their_names(config, ours) or ()
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
        tensors[stored.names.get(name, name)] = part
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
