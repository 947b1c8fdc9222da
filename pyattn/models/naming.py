"""What a family's files call our parameters, and in what shape they hold them."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn.models.config import ModelConfig
from pyattn.models.spec import ModelSpec
from pyattn.models.tensors import SCALES, FileTensor, Tensor, read
from pyattn.precision import Quantized, concatenated, scaled, values_of

Tensors = Mapping[str, Tensor]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

# What tools put in front of the names of a model that they wrap (sentence-transformers, torch's parallel modules,
# Lightning), and what torch.compile and others put between the names of its modules.
_WRAPPERS = ("0.auto_model.", "auto_model.", "0.model.", "module.", "model.")
_BETWEEN = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Selection:
    """Tensors that a model is made of.

    tensors: by their names without prefixes; names: those in the file by these; unused: the file's other names.
    """

    tensors: Tensors
    names: Mapping[str, str]
    unused: list[str]


def select(
    config: ModelConfig, tensors: Tensors, source: str, strict: bool, head: Mapping[str, Collection[str]] | None = None
) -> Selection:
    """Which tensors of a file a model is made of; ValueError where others are none of such a model, if strict.

    head: the modules of a head and, of each, the names of its tensors.
    """
    family, head = config.family, head or {}
    own = {name for of_module in head.values() for name in of_module}
    known = _known_names(config) | own
    without_prefix = _without_prefixes(tensors, (family.prefix, *family.prefixes), known)
    if len(short := set(without_prefix.values())) < len(without_prefix):
        twice = min(name for name, count in Counter(without_prefix.values()).items() if count > 1)
        raise ValueError(f"load: {source}: several tensors are {twice}, but for what stands in front of it")
    if family.heads:  # the words, unless they stand under the head's name alone
        known -= {*family.tied[1:]} - own - {*stand_ins(config, short).values()}
    names = {inner: name for name, inner in without_prefix.items() if inner.removesuffix(SCALES) in known}
    unused = {name: inner for name, inner in without_prefix.items() if inner not in names}
    if _checks.flag("load", "strict", strict):  # results might depend on what is not known to change nothing
        strange = {
            name
            for name, inner in unused.items()
            if inner.rpartition(".")[0] in head or not (family.ignores(inner) or inner in family.tied)
        }
        refuse_strange(config, strange, source)
    wanted = {inner: tensors[name] for inner, name in names.items()}
    wanted = {inner: x.checked() if isinstance(x, FileTensor) else x for inner, x in wanted.items()}
    return Selection(wanted, names, list(unused))


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
    known = set(config.family.tied)
    numbers = range(max(len(stack.layers) for stack in config.spec.stacks))
    for names in (*config.spec.names.values(), *config.family.scales.values()):
        for name in (names,) if isinstance(names, str) else names:
            for module in (name.format(number) for number in (numbers if "{}" in name else [""])):
                known |= {module, f"{module}.weight", f"{module}.bias"}
    return known


def _without_prefixes(names: Iterable[str], prefixes: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Names in a file -> those without prefixes of the model and of wrappers.

    What looks like a wrapper's is one where more of the names are the model's without it.
    """
    inner = {name: _BETWEEN.sub("", name) for name in names}
    best, most = inner, -1
    while True:
        shortened = {name: _without_prefix(rest, prefixes) for name, rest in inner.items()}
        if (count := sum(name in known for name in shortened.values())) > most:
            best, most = shortened, count
        wrapper = next((x for x in _WRAPPERS if any(rest.startswith(x) for rest in inner.values())), None)
        if wrapper is None:
            return best
        inner = {name: rest.removeprefix(wrapper) for name, rest in inner.items()}


def _without_prefix(name: str, prefixes: Iterable[str]) -> str:
    """Without a prefix of the model, and with the scale and shift of a LayerNorm as PyTorch calls them."""
    name = name.removeprefix(next((x for x in prefixes if name.startswith(x)), ""))
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


@dataclass(frozen=True, eq=False)
class Section:
    """Parameters one below another that are tensors of a file one below another: of either side one, or of one side.

    names: the tensors'; shapes: the parameters', by their names. factor: the tensor that rows are multiplied by.
    is_transposed, is_swapped: the file has columns for rows, or the second half of the rows first.
    """

    names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    factor: str | None
    is_transposed: bool
    is_swapped: bool


def sections_of(config: ModelConfig, spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Section]:
    """The section that each parameter of such a shape is in."""
    names, scales, sections = spec.names, config.family.scales, dict[tuple[str, ...], Section]()
    for parameter, shape in shapes.items():
        number = (_NUMBER.findall(parameter) or [""])[0]
        name = _NUMBER.sub("{}", parameter)
        module, _, attribute = name.rpartition(".")
        if not {name, module} & names.keys():  # queries, keys and values are one tensor
            module = f"{module.rpartition('.')[0]}.in_proj"
            name = f"{module}.{attribute}"
        tensors, ending = (names[name], "") if name in names else (names[module], f".{attribute}")
        in_file = tuple(x.format(number) + ending for x in ((tensors,) if isinstance(tensors, str) else tensors))
        factor = scales[module].format(number) if module in scales else None
        is_transposed = attribute == "weight" and module in config.family.transposed
        section = Section(in_file, {}, factor, is_transposed, module in config.family.swapped)
        sections.setdefault(in_file, section).shapes[parameter] = shape
    return {parameter: section for section in sections.values() for parameter in section.shapes}


class FileLayout:
    """How a file has a model's parameters: names and shapes are checked at once, values are read when asked for.

    Args:
        config, sections: the model's, and those of its parameters by their names.
        tensors: those of the file, by their names without prefixes; source: where they come from, for messages.

    Attributes:
        strange: the names of tensors that are no parameter.
    """

    def __init__(self, config: ModelConfig, sections: Mapping[str, Section], tensors: Tensors, source: str) -> None:
        # tied tensors that a file has several times, alike, are held once, under the first of their names
        group = [name for name in config.tied_names if name in tensors]
        alike = {name: group[0] for name in group[1:] if _is_same(tensors[name], tensors[group[0]])}
        present = tensors.keys() - alike.keys()
        self._instead = {**stand_ins(config, tensors), **alike}
        self._sections, self._expected = sections, dict[str, tuple[int, ...]]()
        for section in dict.fromkeys(sections.values()):
            columns = next(iter(section.shapes.values()))[1:]
            rows = sum(shape[0] for shape in section.shapes.values()) // len(section.names)
            for name in (self._instead.get(x, x) for x in section.names):
                is_transposed = section.is_transposed and not _is_int8(tensors.get(name))
                self._expected[name] = (*columns, rows) if is_transposed else (rows, *columns)
            if section.factor is not None:
                self._expected[section.factor] = (rows,)
        for name in present & set(config.tied_names) - self._expected.keys():  # not read: there are others
            self._expected[name] = (config.vocab_size, config.hidden_size)
        self._lacking = {x for x in self._expected.keys() - present if x.endswith(config.family.lacks)}
        if missing := self._expected.keys() - present - self._lacking:
            raise ValueError(f"load: {source}: missing tensors: {listed(missing)}")
        self._shapes = {}  # of tensors that have others than their rows have
        for name in self._expected.keys() - self._lacking:
            seen, needed = tensors[name].shape, self._expected[name]
            if seen != needed:
                if not _fits(seen, needed):
                    raise ValueError(f"load: {source}: {name} has shape {seen}; config.json asks for {needed}")
                self._shapes[name] = seen
        # an encoder is saved without the head under whose name its words stood
        self._saved_as = {} if config.family.heads else self._instead
        self.strange = present - self._expected.keys()

    def read(self, tensors: Tensors, parameters: Iterable[str]) -> dict[str, Any]:
        """The values of parameters, of sections as a whole."""
        values = {}
        for section in dict.fromkeys(self._sections[x] for x in parameters):
            parts = [self._tensor(tensors, self._instead.get(name, name)) for name in section.names]
            if section.is_transposed:
                parts = [part.T if isinstance(part, np.ndarray) else part for part in parts]
            value = _swapped(_joined(parts)) if section.is_swapped else _joined(parts)
            if section.factor is not None:
                value = scaled(value, self._tensor(tensors, section.factor))
            first = 0
            for parameter, shape in section.shapes.items():
                values[parameter] = value if len(section.shapes) == 1 else value[first : first + shape[0]]
                first += shape[0]
        return values

    def _tensor(self, tensors: Tensors, name: str) -> Any:
        shape = self._expected[name]
        if name in self._lacking:
            return np.zeros(shape, np.float32)
        values = read(tensors[name])
        if values.shape == shape:
            return values
        values = values_of(values)
        return (values.swapaxes(1, 2) if _is_convolution(values.shape, shape) else values).reshape(shape)

    def changed(self) -> "FileLayout":
        """The layout once parameters were replaced: what the file lacked, 0 or the same as others, may not be so."""
        layout = copy(self)
        layout._lacking, layout._saved_as = set(), {}
        return layout

    def written(self, held: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Parameters, as they are held, as tensors of the family; int8 is never transposed.

        Those of a section come together. Of tied tensors the first is written.
        """
        tensors: dict[str, Any] = {}
        for values in held:
            for section in dict.fromkeys(self._sections[x] for x in values):
                value = _joined([values[x] for x in section.shapes])
                value = _swapped(value) if section.is_swapped else value
                rows = value.shape[0] // len(section.names)
                for i, name in enumerate(section.names):
                    if name not in self._lacking:
                        part = value[i * rows : (i + 1) * rows]
                        part = _as_in_file(section, part, self._shapes.get(name, part.shape))
                        tensors.setdefault(self._saved_as.get(name, name), part)
                if section.factor is not None:
                    tensors[section.factor] = np.ones(value.shape[0], np.float32)
        return tensors


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else concatenated(parts)


def _swapped(value: Any) -> Any:
    """The second half of the rows in front of the first."""
    half = value.shape[0] // 2
    return concatenated([value[half:], value[:half]])


def _is_same(first: Tensor, second: Tensor) -> bool:
    comparable = first.shape == second.shape and not _is_int8(first) and not _is_int8(second)
    return comparable and np.array_equal(values_of(read(first)), values_of(read(second)))


def _is_int8(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.dtype == np.int8


def _as_in_file(section: Section, part: Any, shape: tuple[int, ...]) -> Any:
    """Rows of a parameter in the shape that the file has them in."""
    if isinstance(part, Quantized):
        return part
    if section.is_transposed:
        return part.T
    if _is_convolution(shape, part.shape):
        return part.reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)
    return part.reshape(shape)


def _fits(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether it is the same but for leading axes of length 1 or, of a convolution's weight, the inputs' axes."""
    is_weight = len(stored) in (3, 4) and (stored[0], math.prod(stored[1:])) == shape
    return is_weight or stored == (1,) * (len(stored) - len(shape)) + shape


def _is_convolution(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Along one axis: (outputs, channels, width), whose inputs are (width, channels) in our rows."""
    return len(stored) == 3 and (stored[0], stored[1] * stored[2]) == shape


def listed(names: Iterable[str], most: int = 4) -> str:
    ordered = sorted(names)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")
