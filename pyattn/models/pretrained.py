"""What all pretrained models share: layers under names of our own, and files under those of their family."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pyattn import _checks
from pyattn._checks import weight_dtype_name
from pyattn.layers import Layer, LayerNorm, Linear, TransformerEncoder, TransformerEncoderLayer
from pyattn.models._files import read_json, read_tensors, write_tensors
from pyattn.models.config import EncoderConfig
from pyattn.models.families import Family
from pyattn.precision import MOST_INT8_INPUTS, Quantized, concatenated, quantized_if_near, scaled, values_of

Tensors = Mapping[str, NDArray[np.float32] | Quantized]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


# Of "int8" the weights that would move by more of their length stay bfloat16: rows of even spread move by 0.7 %, those
# with a few elements that are far larger than the others by more.
MOST_ROUNDING = 0.02

# One dtype for all layers, or that of each by patterns of names.
WeightDtypes: TypeAlias = DTypeLike | Mapping[str, DTypeLike]


_Model = TypeVar("_Model", bound="Pretrained")


class Pretrained(Layer):
    """An encoder of some family: what a config.json describes, with a safetensors file's parameters.

    Args:
        config: sizes and choices; its family says how tensors are named and how the encoder computes.
        tensors: float32 arrays under Hugging Face's names, with or without the prefix of the encoder ("bert."). What is
            no part of the encoder, such as heads, is ignored.
        source: where the tensors come from, for messages.
        dtype: in what the layers' weights are held and multiplied, as in `pyattn.models.load`.

    Raises:
        ValueError: a tensor is missing, misshapen or not one of this encoder; the message names it.

    Attributes:
        config: the `EncoderConfig`.
        weight_dtypes: in what the weight of each matrix product of the layers is held and multiplied, by its name.
    """

    _families: ClassVar[Mapping[str, Family]]
    config: EncoderConfig
    encoder: TransformerEncoder
    weight_dtypes: dict[str, str]

    def __init__(
        self, config: EncoderConfig, tensors: Tensors, source: str = "tensors", dtype: WeightDtypes = "float32"
    ) -> None:
        if config.model_type not in self._families:
            raise ValueError(
                f"load: {source}: {config.model_type} is not one of {', '.join(self._families)}; pyattn.models.load "
                "reads all families"
            )
        self.config = config
        _check_sizes(config, tensors, source)
        self._make_embeddings(config)
        self.encoder = stack(config, dtype)
        self._fill(tensors, source, dtype)

    @classmethod
    def from_directory(cls: type[_Model], directory: Path, dtype: WeightDtypes = "float32") -> _Model:
        """The model of a directory that holds config.json and model.safetensors; errors as in `pyattn.models.load`."""
        config, weights_file = read_config(Path(directory)), Path(directory) / "model.safetensors"
        prefix, family = config.family.prefix, config.family
        tensors = read_tensors(weights_file, lambda name: family.is_of_encoder(name.removeprefix(prefix)))
        return cls(config, tensors, str(weights_file), dtype)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        # _load keeps what it is given: most of the memory of a small model is its vocabulary's
        if isinstance(state_dict, Mapping):
            state_dict = {name: x if isinstance(x, Quantized) else np.array(x) for name, x in state_dict.items()}
        super().load_state_dict(state_dict, strict)

    def _make_embeddings(self, config: EncoderConfig) -> None:
        """Sets what turns inputs into the rows that enter the layers."""
        raise NotImplementedError

    def _fill(self, tensors: Tensors, source: str, dtype: WeightDtypes) -> None:
        """Sets all parameters from tensors under the family's names; what is no part of an encoder is ignored."""
        family = self.config.family
        given = {}
        for name, tensor in tensors.items():
            name = plain_name(name, family.prefix)
            if family.is_of_encoder(name):
                given[name] = tensor
        state, self._stored_shapes = _to_our_names(self, given, source)
        modules = self._products()
        if isinstance(dtype, Mapping):
            self.weight_dtypes = _by_pattern(modules, dtype)
        else:
            self.weight_dtypes = dict.fromkeys(modules, _dtype_name(dtype))
            for name in modules if _dtype_name(dtype) == "int8" else ():
                weight = state[f"encoder.{_weight(name)}"] = quantized_if_near(
                    state[f"encoder.{_weight(name)}"], MOST_ROUNDING
                )
                self.weight_dtypes[name] = "int8" if isinstance(weight, Quantized) else "bfloat16"
        for name, linears in modules.items():
            for linear in linears:
                if self.weight_dtypes[name] == "int8" and linear.in_features > MOST_INT8_INPUTS:
                    raise ValueError(f"load: {source}: {name} has {linear.in_features} inputs: too many for int8")
                linear.weight_dtype = _checks.weight_dtype("load", self.weight_dtypes[name])
        self._load(state)

    def _products(self) -> dict[str, list[Linear]]:
        """The matrix products of the layers by name."""
        modules: dict[str, list[Linear]] = {}
        for number, layer in enumerate(self.encoder.layers):
            modules[f"layers.{number}.self_attn.in_proj"] = list(layer.self_attn._projections)
            modules[f"layers.{number}.self_attn.out_proj"] = [layer.self_attn.out_proj]
            modules[f"layers.{number}.linear1"] = [layer.linear1]
            modules[f"layers.{number}.linear2"] = [layer.linear2]
        return modules

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors, which `pyattn.models.load` reads; weights as they are held.

        Those of bfloat16 are BF16 there, which other libraries read too; those of int8 are I8, with their rows' scales
        (float32) beside them as `<name>_scale`. Scales of layers (LayerScale) are in the weights, and ones there.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(directory)
        write_config(folder, self.config)
        write_tensors(folder / "model.safetensors", self._stored())

    def _stored(self) -> dict[str, Any]:
        """All parameters under the family's names, as they are held."""
        tensors: dict[str, Any] = {}
        for ours, value in self._held().items():
            names = _their_names(self.config, ours) or ()
            length = value.shape[0] // max(1, len(names))
            for i, name in enumerate(names):
                part = value[i * length : (i + 1) * length]
                stored = self._stored_shapes.get(name, part.shape)
                tensors[name] = part if isinstance(part, Quantized) else part.reshape(stored)
            if (factor := _factor_name(self.config, ours)) is not None:
                tensors[factor] = np.ones(value.shape[0], np.float32)
        return tensors


def read_config(directory: Path) -> EncoderConfig:
    file = directory / "config.json"
    return EncoderConfig.from_dict(read_json(file, dict), str(file))


def _check_sizes(config: EncoderConfig, tensors: Tensors, source: str) -> None:
    """Sizes that the tensors cannot have are refused before memory is taken for them."""
    elements = sum(math.prod(tensor.shape) for tensor in tensors.values())
    rows = max(config.vocab_size, config.max_position_embeddings * ("embeddings.positions" in config.family.names))
    least = config.hidden_size * config.distinct_layers + config.intermediate_size * config.distinct_layers
    if tensors and max(least, rows + config.embedding_size, config.distinct_layers) > elements:
        raise ValueError(f"load: {source}: its tensors have {elements} elements; config.json asks for more")


def write_config(folder: Path, config: EncoderConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config.source), indent=2) + "\n")


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


def _weight(module: str) -> str:
    """The name of a matrix product's weight."""
    return module + ("_weight" if module.endswith("in_proj") else ".weight")


def stack(config: EncoderConfig, dtype: WeightDtypes) -> TransformerEncoder:
    """The layers of an encoder, with random parameters that are never drawn if others are loaded."""
    norm_first = config.family.norm_first
    names = [_dtype_name(value) for value in (dtype.values() if isinstance(dtype, Mapping) else [dtype])]
    layer = TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.layer_norm_eps,
        norm_first,
        gated=config.gated,
        dtype=names[0] if names else "float32",  # the others differ in what layers hold, not in what they take and give
    )
    norm = LayerNorm(config.hidden_size, config.layer_norm_eps) if "encoder.norm" in config.family.names else None
    encoder = TransformerEncoder(layer, config.distinct_layers, norm)
    for i, (base, window) in enumerate(zip(config.rotary_bases, config.windows or repeat(None), strict=False)):
        encoder.layers[i].self_attn.rotary_base = base
        if window is not None:
            encoder.layers[i].self_attn.left = encoder.layers[i].self_attn.right = window
    if not config.first_norm:
        encoder.layers[0].norm1 = None
    each = config.num_hidden_layers / config.distinct_layers
    encoder._order = [int(i / each) for i in range(config.num_hidden_layers)]
    return encoder


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


def _their_names(config: EncoderConfig, ours: str) -> tuple[str, ...] | None:
    """The family's tensors that make one of our parameters, one below the other; None where it has no such bias."""
    module, number, parameter = _split(ours)
    if (
        parameter == "bias"
        and module.rpartition("{}.")[2].removeprefix("encoder.").removeprefix("embeddings.") in config.without_bias
    ):
        return None
    table = {**config.family.names, **(config.family.names_if_gated if config.gated else {})}
    if ours in table:
        names, ending = table[ours], ""
    else:
        names, ending = table[module], f".{parameter}"
    return tuple(name.format(number) + ending for name in ((names,) if isinstance(names, str) else names))


def _factor_name(config: EncoderConfig, ours: str) -> str | None:
    """The tensor that a parameter's rows are multiplied by, if it is a weight; None where there is none."""
    module, number, parameter = _split(ours)
    factor = config.family.scales.get(module)
    return factor.format(number) if factor is not None and parameter == "weight" else None


def _to_our_names(model: Pretrained, given: Tensors, source: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """All of the model's parameters, and the shapes of those tensors whose file has them in another."""
    config = model.config
    shapes = model._shapes()
    expected: dict[str, tuple[int, ...]] = {}
    for ours, shape in shapes.items():
        names = _their_names(config, ours) or ()
        expected.update({name: (shape[0] // len(names), *shape[1:]) for name in names})
        if (factor := _factor_name(config, ours)) is not None:
            expected[factor] = shape[:1]
    if missing := expected.keys() - given.keys():
        raise ValueError(f"load: {source}: missing tensors: {listed(missing)}")
    if extra := given.keys() - expected.keys():
        raise ValueError(f"load: {source}: tensors that a {config.model_type} encoder does not have: {listed(extra)}")
    stored, values = {}, {}
    for name, shape in expected.items():
        tensor: Any = given[name]
        if tensor.shape != shape:
            if not _fits(tensor.shape, shape):
                raise ValueError(f"load: {source}: {name} has shape {tensor.shape}; config.json asks for {shape}")
            stored[name] = tensor.shape
            tensor = values_of(tensor).reshape(shape)
        values[name] = tensor
    state: dict[str, Any] = {}
    for ours, shape in shapes.items():
        names = _their_names(config, ours) or ()
        if not names:
            state[ours] = np.zeros(shape, np.float32)
            continue
        parts = [values[name] for name in names]
        state[ours] = parts[0] if len(parts) == 1 else concatenated(parts)
        module, number, _ = _split(ours)
        if module in config.family.scales:
            state[ours] = scaled(state[ours], values[config.family.scales[module].format(number)])
    return state, stored


def _fits(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether it is the same but for leading axes of length 1 or, of a convolution's weight, the inputs' axes."""
    trimmed = stored
    while len(trimmed) > len(shape) and trimmed[0] == 1:
        trimmed = trimmed[1:]
    convolution = len(stored) == 4 and (stored[0], int(np.prod(stored[1:]))) == shape
    return trimmed == shape or convolution


def listed(names: Iterable[str], most: int = 4) -> str:
    ordered = sorted(names)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")
