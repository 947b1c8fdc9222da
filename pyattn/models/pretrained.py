"""What all pretrained models share: layers under names of our own, and files under those of their family."""

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import weight_dtype_name
from pyattn.layers import Layer, LayerNorm, Linear, TransformerEncoder, TransformerEncoderLayer
from pyattn.layers.block import Block
from pyattn.models._files import WEIGHTS, read_json, write_json
from pyattn.models._quantized import QUANTIZATION_KEYS
from pyattn.models._tensors import find_weights, stored_tensors, write_tensors
from pyattn.models.config import EncoderConfig, ModelConfig
from pyattn.models.family import Family
from pyattn.models.naming import (
    Selection,
    Stored,
    Tensors,
    as_stored,
    factor_name,
    refuse_strange,
    selected,
    to_our_names,
    weight_name,
)
from pyattn.precision import MOST_INT8_INPUTS, Quantized, quantized_if_near

# Of "int8" the weights that would move by more of their length stay bfloat16: rows of even spread move by 0.7 %, those
# with a few elements that are far larger than the others by more.
MOST_ROUNDING = 0.02

# One dtype for all layers, or that of each by patterns of names.
WeightDtypes: TypeAlias = DTypeLike | Mapping[str, DTypeLike]


_Model = TypeVar("_Model", bound="Pretrained")


class Pretrained(Layer):
    """A model of some family: what a config.json describes, with a safetensors file's parameters.

    Args:
        config: sizes and choices; its family says how tensors are named and how the encoder computes.
        tensors: float32 arrays under Hugging Face's names, or tensors of files, read as they are used; with or without
            the prefix of the model ("bert.") and those of wrappers ("module.", "_orig_mod.", "model.",
            "0.auto_model."). An encoder's heads are not used.
        source: where the tensors come from, for messages.
        dtype, strict: as in `pyattn.models.load`.

    Raises:
        ValueError: a tensor is missing, misshapen or, if strict, not one of this model; the message names it.

    Attributes:
        config: the `EncoderConfig` or `GenerativeConfig`.
        weight_dtypes: in what the weight of each matrix product of the layers is held and multiplied, by its name.
        unused_tensors: the names of those tensors, sorted, of which nothing was made: an encoder's heads, what every
            program computes for itself, and unless strict what is no part of such a model.
    """

    _families: ClassVar[Mapping[str, Family]]
    _configs: ClassVar[type[ModelConfig]] = EncoderConfig
    _products_of: ClassVar[str] = "encoder."
    config: Any
    encoder: TransformerEncoder
    weight_dtypes: dict[str, str]
    unused_tensors: tuple[str, ...]
    _stored_as: Stored

    def __init__(
        self,
        config: ModelConfig,
        tensors: Tensors,
        source: str = "tensors",
        dtype: WeightDtypes = "float32",
        strict: bool = True,
    ) -> None:
        if config.model_type not in self._families:
            raise ValueError(
                f"load: {source}: {config.model_type} is not one of {', '.join(self._families)}; pyattn.models.load "
                "reads all families"
            )
        selection = select(config, tensors, source, strict)
        given = {short: tensors[name] for name, short in selection.wanted.items()}
        _check_sizes(config, given, source)
        self.config = config.with_positions(given)
        self._make(self.config, dtype)
        strange = self._fill(given, source, dtype)
        if strict:
            refuse_strange(config, strange, source)
        more = (name for name, short in selection.wanted.items() if short in strange)
        self.unused_tensors = tuple(sorted([*selection.unused, *more]))

    @classmethod
    def from_directory(
        cls: type[_Model], directory: Path, dtype: WeightDtypes = "float32", strict: bool = True
    ) -> _Model:
        """The model of a directory that holds config.json and weights; errors as in `pyattn.models.load`."""
        config, more = read_config(Path(directory), cls._configs), cls._from_other_files(Path(directory))
        tensors, unused, source = read_selected(Path(directory), config, strict)
        model = cls(config, tensors, source, dtype, strict, **more)
        model.unused_tensors = tuple(sorted([*model.unused_tensors, *unused]))
        return model

    @classmethod
    def _from_other_files(cls, directory: Path) -> dict[str, Any]:
        """Further arguments of the class."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        # _load keeps what it is given: most of the memory of a small model is its vocabulary's
        if isinstance(state_dict, Mapping):
            state_dict = {name: x if isinstance(x, Quantized) else np.array(x) for name, x in state_dict.items()}
        super().load_state_dict(state_dict, strict)
        # what the file lacked, 0 or the same as another tensor, need not be so any more
        shapes = {name: shape for name, shape in self._stored_as.shapes.items() if shape is not None}
        self._stored_as = Stored(shapes, {})

    def _make(self, config: Any, dtype: WeightDtypes) -> None:
        """Sets the model's layers, whose parameters are never drawn if others are loaded."""
        raise NotImplementedError

    def _fill(self, given: Tensors, source: str, dtype: WeightDtypes) -> set[str]:
        """Sets all parameters from tensors under the family's names; the names of what is none of them."""
        parameter, self._stored_as, strange = to_our_names(self, self.config, given, source)
        modules = self._products()
        if isinstance(dtype, Mapping):
            self.weight_dtypes = _by_pattern(modules, dtype)
        else:
            self.weight_dtypes = dict.fromkeys(modules, _dtype_name(dtype))
        products = {self._products_of + weight_name(name): name for name in modules}
        for prefix, layer in _layers_of(self):  # what is read for one is let go before the next
            values = {name: parameter(prefix + name) for name in layer._own_shapes()}
            for name in values:
                if (module := products.get(prefix + name)) is not None:
                    if self.weight_dtypes[module] == "int8" and not isinstance(dtype, Mapping):
                        values[name] = quantized_if_near(values[name], MOST_ROUNDING)
                        self.weight_dtypes[module] = "int8" if isinstance(values[name], Quantized) else "bfloat16"
                    self._set_dtype(module, modules[module], source)
            for owner, attribute, value in layer._own_made(values):
                setattr(owner, attribute, value)
        return strange

    def _set_dtype(self, module: str, linears: list[Linear], source: str) -> None:
        for linear in linears:
            if self.weight_dtypes[module] == "int8" and linear.in_features > MOST_INT8_INPUTS:
                raise ValueError(f"load: {source}: {module} has {linear.in_features} inputs: too many for int8")
            linear.weight_dtype = _checks.weight_dtype("load", self.weight_dtypes[module])

    def _products(self) -> dict[str, list[Linear]]:
        """The matrix products whose weights dtype is about, by their names behind _products_of."""
        return products_of(self.encoder.layers)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors, which `pyattn.models.load` reads; weights as they are held.

        Those of bfloat16 are BF16 there, which other libraries read too; those of int8 are I8, with their rows' scales
        (float32) beside them as `<name>_scale`. Scales of layers (LayerScale) are in the weights, and ones there.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(directory)
        write_config(folder, self.config)
        write_tensors(folder / WEIGHTS, self._stored())

    def _stored(self) -> dict[str, Any]:
        """All parameters under the family's names, as they are held."""
        tensors: dict[str, Any] = {}
        for ours, value in self._held().items():
            # of tied ones the first, the words, which are float32
            tensors = as_stored(self.config, ours, value, self._stored_as) | tensors
            if (factor := factor_name(self.config, ours)) is not None:
                tensors[factor] = np.ones(value.shape[0], np.float32)
        return tensors


def _layers_of(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """A layer and all those in it, with what the names of their own parameters begin with."""
    yield prefix, layer
    for name, child in layer._children().items():
        yield from _layers_of(child, f"{prefix}{name}.")


def products_of(layers: Sequence[Block], prefix: str = "layers") -> dict[str, list[Linear]]:
    """The matrix products of layers by name."""
    modules: dict[str, list[Linear]] = {}
    for number, layer in enumerate(layers):
        for name in ("self_attn", "multihead_attn"):
            if (attention := getattr(layer, name, None)) is not None:
                modules[f"{prefix}.{number}.{name}.in_proj"] = list(attention._projections)
                modules[f"{prefix}.{number}.{name}.out_proj"] = [attention.out_proj]
        modules[f"{prefix}.{number}.linear1"] = [layer.linear1]
        modules[f"{prefix}.{number}.linear2"] = [layer.linear2]
    return modules


def read_config(directory: Path, kind: Any = EncoderConfig) -> Any:
    file = directory / "config.json"
    return kind.from_dict(read_json(file, dict), str(file))


def select(
    config: ModelConfig,
    names: Iterable[str],
    source: str,
    strict: bool,
    head: Mapping[str, Collection[str]] | None = None,
) -> Selection:
    """Which tensors a model is made of; ValueError where others are none of such a model, if strict."""
    selection = selected(config, names, source, head or {})
    if _checks.flag("load", "strict", strict):
        refuse_strange(config, selection.strange, source)
    return selection


def read_selected(
    directory: Path, config: ModelConfig, strict: bool, head: Mapping[str, Collection[str]] | None = None
) -> tuple[Tensors, list[str], str]:
    """The tensors that a model is made of, the names of the others, and where they come from."""
    file = find_weights(directory, config.source)
    names: list[str] = []

    def listen(name: str) -> bool:
        names.append(name)
        return False

    stored_tensors(file, listen)
    selection = select(config, names, str(file), strict, head)
    return stored_tensors(file, selection.wanted.__contains__), selection.unused, str(file)


def _check_sizes(config: ModelConfig, tensors: Tensors, source: str) -> None:
    """Sizes that the tensors cannot have are refused before memory is taken for them."""
    if not tensors:
        raise ValueError(f"load: {source}: missing tensors: it has none of a model's")
    elements = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if config.least_elements() > elements:
        raise ValueError(f"load: {source}: its tensors have {elements} elements; config.json asks for more")


def write_config(folder: Path, config: ModelConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = {key: value for key, value in config.source.items() if key not in QUANTIZATION_KEYS}
    write_json(folder / "config.json", told)  # weights are written in a way of their own


def _dtype_name(dtype: Any) -> str:
    """What models take: float64 is of single layers only."""
    name = weight_dtype_name("load", dtype)
    if name == "float64":
        raise TypeError('load: dtype must be "float32", "bfloat16" or "int8", not float64')
    return name


def _by_pattern(modules: Iterable[str], dtypes: Mapping[str, Any]) -> dict[str, str]:
    """In what each weight is to be held: the last pattern that fits its name says it."""
    names = {str(pattern): _dtype_name(value) for pattern, value in dtypes.items()}
    kinds = sorted(set(names.values()))
    if len(kinds) > 1 and kinds != ["bfloat16", "int8"]:
        raise ValueError(f"load: of dtypes bfloat16 and int8 only may be mixed, not {', '.join(kinds)}")
    chosen = {}
    for module in modules:
        fitting = [name for pattern, name in names.items() if fnmatchcase(module, pattern)]
        if not fitting:
            raise ValueError(f"load: no pattern of dtype fits {module}; {{'*': 'int8'}} fits all")
        chosen[module] = fitting[-1]
    return chosen


def any_dtype(dtype: WeightDtypes) -> str:
    """One of the dtypes: the others differ in what layers hold, not in what they take and give."""
    names = [_dtype_name(value) for value in (dtype.values() if isinstance(dtype, Mapping) else [dtype])]
    return names[0] if names else "float32"


def stack(config: EncoderConfig, dtype: WeightDtypes) -> TransformerEncoder:
    """The layers of an encoder, with random parameters that are never drawn if others are loaded."""
    norm_first = config.family.norm_first
    layer = TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.layer_norm_eps,
        norm_first,
        gated=config.gated,
        dtype=any_dtype(dtype),
    )
    norm = LayerNorm(config.hidden_size, config.layer_norm_eps) if "encoder.norm" in config.family.names else None
    encoder = TransformerEncoder(layer, config.distinct_layers, norm)
    for i, (rotary, window) in enumerate(zip(config.rotaries, config.windows or repeat(None), strict=False)):
        encoder.layers[i].self_attn.rotary = rotary
        if window is not None:
            encoder.layers[i].self_attn.left = encoder.layers[i].self_attn.right = window
    if not config.first_norm:
        encoder.layers[0].norm1 = None
    if (each := config.num_hidden_layers / config.distinct_layers) > 1:
        encoder._order = [int(i / each) for i in range(config.num_hidden_layers)]
    return encoder
