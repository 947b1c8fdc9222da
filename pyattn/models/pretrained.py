"""What all pretrained models share: layers under names of our own, and files under those of their family."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pyattn import _checks
from pyattn._checks import Array, weight_dtype_name
from pyattn._namespaces import to_copy
from pyattn.layers import Layer, Linear, MultiHeadAttention, TransformerDecoder, TransformerEncoder
from pyattn.layers.sequences import Sequences
from pyattn.layers.stack import Stack
from pyattn.models.config import ModelConfig
from pyattn.models.embeddings import Tables, make_embeddings, make_norm
from pyattn.models.families import IMAGE_FAMILIES, TEXT_FAMILIES
from pyattn.models.family import Family
from pyattn.models.files import WEIGHTS, read_json, write_json
from pyattn.models.naming import FileLayout, Selection, Tensors, refuse_strange, sections_of, select
from pyattn.models.quantized import QUANTIZATION_KEYS
from pyattn.models.spec import ModelSpec, StackSpec
from pyattn.models.tensors import find_weights, stored_tensors, write_tensors
from pyattn.positional import RelativePositionBias
from pyattn.precision import MAX_INT8_INPUTS, Quantized, quantized_if_near

# Of "int8" the weights that would move by more of their length stay bfloat16: rows of even spread move by 0.7 %, those
# with a few elements that are far larger than the others by more.
MOST_ROUNDING = 0.02

# One dtype for all layers, or that of each by patterns of names.
WeightDtypes: TypeAlias = DTypeLike | Mapping[str, DTypeLike]

Group: TypeAlias = list[tuple[str, Any]]  # layers, each with what the names of its parameters begin with
_Config = TypeVar("_Config", bound=ModelConfig)
_Model = TypeVar("_Model", bound="Pretrained")
_Stack = TypeVar("_Stack", bound=Stack)


class EncoderConfig(ModelConfig):
    """An encoder's, of texts or images."""

    families = TEXT_FAMILIES | IMAGE_FAMILIES


class Pretrained(Tables):
    """A model of some family: what a config.json describes, with a safetensors file's parameters.

    Args:
        config: sizes and choices; its family says how tensors are named and how the encoder computes.
        tensors: float32 arrays under Hugging Face's names, or tensors of files, read as they are used; prefixes as in
            `pyattn.models.load`. An encoder's heads are not used.
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
    _config_class: ClassVar[type[ModelConfig]] = EncoderConfig
    _other_files: ClassVar[Mapping[str, str]] = {}  # further arguments of the class
    config: Any
    encoder: Any
    decoder: Any
    embeddings: Any
    encoder_embeddings: Any
    head: Any
    weight_dtypes: dict[str, str]
    unused_tensors: tuple[str, ...]
    _layout: FileLayout

    def __init__(
        self,
        config: ModelConfig,
        tensors: Tensors | Selection,
        source: str = "tensors",
        dtype: WeightDtypes = "float32",
        strict: bool = True,
    ) -> None:
        if config.model_type not in self._families:
            raise ValueError(
                f"load: {source}: {config.model_type} is not one of {', '.join(self._families)}; pyattn.models.load "
                "reads all families"
            )
        selection = tensors if isinstance(tensors, Selection) else select(config, tensors, source, strict)
        selected = selection.tensors
        if not selected:
            raise ValueError(f"load: {source}: missing tensors: it has none of a model's")
        elements = sum(math.prod(tensor.shape) for tensor in selected.values())
        if config.least_elements() > elements:  # for which memory would be taken
            raise ValueError(f"load: {source}: its tensors have {elements} elements; config.json asks for more")
        self.config = config
        spec = self._spec = config.spec.without_computed_positions(selected)
        words = (config.vocab_size, config.hidden_size)  # which the sides of a model that generates share
        self._table_shapes = {"words": words} if "words" in spec.names else {}
        patterns = dtype if isinstance(dtype, Mapping) else {"*": dtype}
        dtypes = {str(pattern): _dtype_name(x) for pattern, x in patterns.items()}
        # one of them: the others differ in what layers hold, not in what they take and give
        self._make(spec, next(iter(dtypes.values()), "float32"))
        strange = self._fill(selected, source, dtypes, may_round=not isinstance(dtype, Mapping))
        if strict:
            refuse_strange(config, strange, source)
        self.unused_tensors = tuple(sorted([*selection.unused, *(selection.names[name] for name in strange)]))

    @classmethod
    def from_directory(
        cls: type[_Model], directory: Path, dtype: WeightDtypes = "float32", strict: bool = True
    ) -> _Model:
        """The model of a directory that holds config.json and weights; errors as in `pyattn.models.load`."""
        config, tensors, source = read_directory(Path(directory), cls._config_class)
        files = {name: Path(directory) / file for name, file in cls._other_files.items()}
        more: dict[str, Any] = {name: read_json(file, dict) for name, file in files.items() if file.exists()}
        return cls(config, tensors, source, dtype, strict, **more)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        # _load keeps what it is given: most of the memory of a small model is its vocabulary's
        if isinstance(state_dict, Mapping):
            function = f"{type(self).__name__}.load_state_dict"
            state_dict = {
                name: x if isinstance(x, Quantized) else np.array(to_copy(function, x))
                for name, x in state_dict.items()
            }
        super().load_state_dict(state_dict, strict)
        self._layout = self._layout.changed()

    def _make(self, spec: ModelSpec, dtype: str) -> None:
        """Sets the model's layers, whose parameters are never drawn if others are loaded."""
        self.embeddings = make_embeddings(spec.embeddings, dtype)
        self.decoder = make_stack(TransformerDecoder, spec.decoder, dtype)
        self.head = None
        if spec.logits is not None:
            self.head = Linear(self.config.hidden_size, spec.logits.tokens, spec.logits.bias, dtype=dtype)
        self.encoder_embeddings = make_embeddings(spec.encoder_embeddings, dtype)
        self.encoder = make_stack(TransformerEncoder, spec.encoder, dtype)

    def _fill(self, tensors: Tensors, source: str, dtypes: Mapping[str, str], may_round: bool) -> set[str]:
        """Sets all parameters from tensors under the family's names; the names of what is none of them."""
        groups = list(_groups_of(self))
        shapes = {
            prefix + name: shape
            for group in groups
            for prefix, layer in group
            for name, shape in layer._own_shapes().items()
        }
        self._layout = FileLayout(self.config, sections_of(self.config, self._spec, shapes), tensors, source)
        self.weight_dtypes = _by_pattern(filter(None, map(self._product_of, groups)), dtypes)
        for group in groups:  # what is read for one is let go before the next
            read = self._layout.read(
                tensors, [prefix + name for prefix, layer in group for name in layer._own_shapes()]
            )
            values = [{name: read.pop(prefix + name) for name in layer._own_shapes()} for prefix, layer in group]
            if product := self._product_of(group):
                if self.weight_dtypes[product] == "int8" and may_round:
                    self.weight_dtypes[product] = _round(values)
                for _, linear in group:
                    if self.weight_dtypes[product] == "int8" and linear.in_features > MAX_INT8_INPUTS:
                        raise ValueError(
                            f"load: {source}: {product} has {linear.in_features} inputs: too many for int8"
                        )
                    linear.weight_dtype = _checks.weight_dtype("load", self.weight_dtypes[product])
            for (_, layer), own in zip(group, values, strict=True):
                for owner, attribute, value in layer._own_made(own):
                    setattr(owner, attribute, value)
            del values, own, value
        return self._layout.strange

    def _product_of(self, group: Group) -> str:
        """The name of the matrix product whose weights dtype is about, and which a group has; "": it has none."""
        name = group[0][0].rstrip(".").replace("q_proj", "in_proj")
        if not isinstance(group[0][1], Linear) or name.endswith(("embeddings.projection", "embeddings.patches")):
            return ""
        return name.removeprefix("encoder.") if isinstance(self.config, EncoderConfig) else name

    def _states(
        self, name: str, embeddings: Any, stack: Stack, tokens: Array, starts: Array, is_causal: bool = False
    ) -> Array:
        """Hidden states of packed tokens, of which each sequence attends to itself alone."""
        sequences = Sequences.packed(starts, is_causal)
        if (longest := sequences.longest()) > self.config.longest:
            raise ValueError(f"{name}: a sequence has {longest} tokens; {self.config.bound}")
        x = embeddings.apply(tokens, sequences.positions(), words=self._parameters.get("words"))
        return stack._forward_rows(x, sequences)

    def _states_of_all(self, embeddings: Any, inputs: Array) -> NDArray[np.float32]:
        """The encoder's hidden states of images or spectrograms, (B, rows, E)."""
        x = embeddings.apply(inputs)
        batch, length, width = x.shape
        sequences = Sequences.padded(batch, length, None, False)
        out: NDArray[np.float32] = self.encoder._forward_rows(x.reshape(batch * length, width), sequences)
        return out.reshape(x.shape)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors, which `pyattn.models.load` reads; weights as they are held.

        Those of bfloat16 are BF16 there, which other libraries read too; those of int8 are I8, with their rows' scales
        (float32) beside them as `<name>_scale`. Scales of layers (LayerScale) are in the weights, and ones there.

        Raises:
            OSError: a file cannot be written.
        """
        write_directory(directory, self.config, self._stored())

    def _stored(self) -> dict[str, Any]:
        """All parameters under the family's names, as they are held."""
        held = (
            {prefix + name: value for prefix, layer in group for name, value in layer._own_held().items()}
            for group in _groups_of(self)
        )
        return self._layout.written(held)


def _groups_of(layer: Layer, prefix: str = "") -> Iterator[Group]:
    """A layer and all those in it; the projections of queries, keys and values of an attention layer together."""
    if isinstance(layer, MultiHeadAttention):
        yield [(f"{prefix}{x}_proj.", projection) for x, projection in zip("qkv", layer._projections, strict=True)]
    else:
        yield [(prefix, layer)]
    for name, child in layer._children().items():
        yield from _groups_of(child, f"{prefix}{name}.")


def _round(values: list[dict[str, Any]]) -> str:
    """Makes the weights of a matrix product int8 unless that moves them too far; the dtype that they are to have."""
    weights = quantized_if_near([x["weight"] for x in values], MOST_ROUNDING)
    for x, weight in zip(values, weights, strict=True):
        x["weight"] = weight
    return "int8" if isinstance(weights[0], Quantized) else "bfloat16"


def make_stack(stack_class: type[_Stack], spec: StackSpec | None, dtype: str) -> _Stack | None:
    """A TransformerEncoder or a TransformerDecoder."""
    if spec is None:
        return None
    if any(layer.sinks for layer in spec.layers):
        raise ValueError("load: layers have sinks, which are not read from files or written to them")
    return stack_class.from_configs(
        [replace(layer, dtype=dtype) for layer in spec.layers],
        make_norm(spec.norm, spec.layers[0].d_model),
        order=spec.order or None,
        position_bias=None if spec.relative is None else RelativePositionBias(*astuple(spec.relative)),
    )


def read_directory(directory: Path, config_class: type[_Config]) -> tuple[_Config, Tensors, str]:
    """The configuration in a directory, its tensors, which are not read yet, and where these are."""
    file = directory / "config.json"
    config = config_class.from_dict(read_json(file, dict), str(file))
    weights = find_weights(directory, config.source)
    return config, stored_tensors(weights), str(weights)


def write_directory(directory: str | os.PathLike[str], config: ModelConfig, tensors: Mapping[str, Any]) -> None:
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in config.source.items() if key not in QUANTIZATION_KEYS}
    write_json(folder / "config.json", values)  # weights are written in a way of their own
    write_tensors(folder / WEIGHTS, tensors)


def _dtype_name(dtype: Any) -> str:
    """What models take: float64 is of single layers only."""
    name = weight_dtype_name("load", dtype)
    if name == "float64":
        raise TypeError('load: dtype must be "float32", "bfloat16" or "int8", not float64')
    return name


def _by_pattern(modules: Iterable[str], dtypes: Mapping[str, str]) -> dict[str, str]:
    """In what each weight is to be held: the last pattern that fits its name says it."""
    used = sorted(set(dtypes.values()))
    if len(used) > 1 and used != ["bfloat16", "int8"]:
        raise ValueError(f"load: of dtypes bfloat16 and int8 only may be mixed, not {', '.join(used)}")
    chosen = {}
    for module in modules:
        fitting = [dtype for pattern, dtype in dtypes.items() if fnmatchcase(module, pattern)]
        if not fitting:
            raise ValueError(f"load: no pattern of dtype fits {module}; {{'*': 'int8'}} fits all")
        chosen[module] = fitting[-1]
    return chosen
