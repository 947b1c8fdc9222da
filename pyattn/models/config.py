"""What decides the computation of a model, whatever its family: read from config.json by the family's table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from pyattn import _checks
from pyattn.layers.config import Rotary
from pyattn.models.defaults import DEFAULTS
from pyattn.models.families import FAMILIES
from pyattn.models.family import ACTIVATIONS, Family
from pyattn.models.generative_families import GENERATIVE_FAMILIES
from pyattn.positional.scaling import BY_LENGTH, rope_type, rotary_frequencies

_Config = TypeVar("_Config", bound="ModelConfig")

# What keys of all families must be, if they are there: other values would make layers that differ among each other.
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {"per_layer_config": ({},), "pruned_heads": ({},)}
MOST_LAYERS, MOST = 4096, 2**31 - 1
UNBOUNDED = 2**30  # tokens of a sequence that nothing in the model bounds


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What all models have; `source` is the config.json that from_dict read it from."""

    families: ClassVar[Mapping[str, Family]]
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 0  # 0: as many
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    vocab_size: int = 0
    max_position_embeddings: int = 0
    first_position: int = 0  # the row of the first token's position
    gated: bool = False
    rotaries: tuple[Rotary, ...] = ()  # of each layer
    windows: tuple[int | None, ...] = ()  # of each layer: how far a token sees, on either side or back
    without_bias: frozenset[str] = frozenset()
    tied: bool = True  # whether the head may be the words' matrix
    apart: frozenset[str] = frozenset()  # of the family's tied names those that are not
    sinusoidal: frozenset[str] = frozenset()  # our names of positions that are computed where a file lacks them
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def family(self) -> Family:
        return self.families[self.model_type]

    @property
    def tied_names(self) -> tuple[str, ...]:
        """Tensors that are one matrix, as far as a file does not have several of them."""
        apart = self.apart if self.tied or not self.family.tied else {*self.apart, self.family.tied_head}
        return tuple(name for name in self.family.tied if name not in apart)

    @cached_property
    def longest(self) -> int:
        """The tokens of the longest sequence that can be computed.

        That is max_position_embeddings where positions are rows of a table, and where the frequencies of rotary ones
        would change with the length. Others go on for ever, as in transformers.
        """
        bounded = "embeddings.positions" in self.family.names or self._type_by_length
        return self.max_position_embeddings if bounded else UNBOUNDED

    @property
    def bound(self) -> str:
        """What bounds the length, for messages."""
        kind = self._type_by_length
        why = f'; rope_type "{kind}", whose frequencies change beyond them, is not supported there' if kind else ""
        return f"the model has positions for {self.longest}{why}"

    @property
    def _type_by_length(self) -> str:
        """The type of rotary positions whose frequencies depend on the sequence's length; "" if there are none."""
        kinds = (rope_type("load", dict(rotary.scaling)) for rotary in set(self.rotaries))
        return next((kind for kind in kinds if kind in BY_LENGTH), "")

    def value(self, key: str) -> Any:
        """What config.json says under a key, or the default of the family."""
        return self.source.get(key, DEFAULTS[self.model_type].get(key))

    def with_positions(self: _Config, names: Iterable[str]) -> _Config:
        """The configuration for a file with such tensors: what it has of positions is not computed."""
        given = {ours for ours in self.sinusoidal if self.family.names[ours] in set(names)}
        return replace(self, sinusoidal=self.sinusoidal - given) if given else self

    def check_rotaries(self, source: str, width: int) -> None:
        """Of heads of so many features."""
        for rotary in set(self.rotaries):
            _checks.rotary_base(f"load: {source}", rotary.base, width)
            try:
                rotary_frequencies(width, base=rotary.base, scaling=dict(rotary.scaling))
            except (TypeError, ValueError) as error:
                raise ValueError(f"load: {source}: {error}") from error

    def least_elements(self) -> int:
        """Fewer cannot be in the tensors of a model of these sizes."""
        layers = (self.hidden_size + self.intermediate_size) * self.num_hidden_layers
        learned = "embeddings.positions" in self.family.names.keys() - self.sinusoidal
        positions = self.max_position_embeddings * learned
        return max(layers, self.hidden_size + max(self.vocab_size, positions))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """Sizes and choices under one name for all families; `source` is the config.json that from_dict read them from.

    hidden_act is the name of an activation of pyattn's layers, longest the longest sequence in tokens.
    """

    # texts
    embedding_size: int = 0
    projected: bool = False  # embeddings to hidden_size
    type_vocab_size: int = 0
    relative_buckets: int = 0
    # images: (height, width)
    image_size: tuple[int, int] = (0, 0)
    patch_size: tuple[int, int] = (0, 0)
    num_channels: int = 0
    num_register_tokens: int = 0
    antialias: bool = False  # of positions that are interpolated
    # layers
    first_norm: bool = True  # whether the first layer has a norm in front of its attention
    distinct_layers: int = 0  # each of them is run num_hidden_layers / distinct_layers times in a row
    pooling: str = "cls"  # of sequences that a head classifies

    families = FAMILIES

    def least_elements(self) -> int:
        rows = max(self.vocab_size, self.max_position_embeddings * ("embeddings.positions" in self.family.names))
        least = (self.hidden_size + self.intermediate_size) * self.distinct_layers
        biases = self.relative_buckets * self.num_attention_heads
        return max(least, rows + self.embedding_size, self.distinct_layers, biases)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "EncoderConfig":
        """Check the contents of a config.json; `source` names it in the ValueError for whatever is not supported."""
        fields = _fields(values, source, cls.families)
        config = cls(
            **{"embedding_size": fields["hidden_size"], "distinct_layers": fields["num_hidden_layers"]} | fields
        )
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"load: {source}: hidden_size {config.hidden_size} must be a multiple of "
                f"num_attention_heads {config.num_attention_heads}"
            )
        config.check_rotaries(source, config.hidden_size // config.num_attention_heads)
        if any(np.less(config.image_size, config.patch_size)):
            raise ValueError(
                f"load: {source}: image_size {config.image_size} is smaller than a patch, {config.patch_size}"
            )
        return config


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig(ModelConfig):
    """Sizes and choices of a decoder, and of the encoder in front of it if encoder_layers is not 0."""

    head_dim: int = 0  # of attention; 0: hidden_size / num_attention_heads
    scale: float | None = None  # of logits of attention
    norm: str = "layer"
    bias: bool = True
    head_bias: bool = True
    logits_scale: float = 1.0
    embedding_scale: float = 1.0
    relative_buckets: int = 0
    relative_distance: int = 0
    # the encoder
    encoder_layers: int = 0
    encoder_attention_heads: int = 0
    encoder_ffn_dim: int = 0
    source_vocab_size: int = 0  # 0: vocab_size
    encoder_input: str = ""  # "tokens", "frames" of a spectrogram, or "patches" of an image
    num_mel_bins: int = 0
    max_source_positions: int = 0
    image_size: tuple[int, int] = (0, 0)
    patch_size: tuple[int, int] = (0, 0)
    num_channels: int = 0

    families = GENERATIVE_FAMILIES
    causal: ClassVar[tuple[bool, ...]] = (True,)  # what is_causal may be; transformers reads it of every decoder

    def least_elements(self) -> int:
        return super().least_elements() + (self.hidden_size + self.encoder_ffn_dim) * self.encoder_layers

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "GenerativeConfig":
        """Check the contents of a config.json; `source` names it in the ValueError for whatever is not supported."""
        fields = _fields(values, source, cls.families)
        _checks.choice("load", f"{source}: is_causal", values.get("is_causal", True), cls.causal)
        config = cls(**fields)
        for heads in (config.num_attention_heads, config.encoder_attention_heads or 1):
            if not config.head_dim and config.hidden_size % heads:
                raise ValueError(
                    f"load: {source}: hidden size {config.hidden_size} must be a multiple of {heads} heads"
                )
        if any(side % patch for side, patch in zip(config.image_size, config.patch_size, strict=True) if patch):
            raise ValueError(
                f"load: {source}: image_size {config.image_size} must be a multiple of patch_size {config.patch_size}"
            )
        if config.num_attention_heads % (config.num_key_value_heads or 1):
            raise ValueError(
                f"load: {source}: num_attention_heads {config.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {config.num_key_value_heads}"
            )
        config.check_rotaries(source, config.head_dim or config.hidden_size // config.num_attention_heads)
        return config


def _fields(values: Mapping[str, Any], source: str, families: Mapping[str, Family]) -> dict[str, Any]:
    """What config.json and the family's table say, by our names."""
    model_type = _checks.choice("load", f"{source}: model_type", values.get("model_type"), families)
    family, told = families[model_type], {**DEFAULTS[model_type], **values}
    for key, supported in {**_SUPPORTED, **family.supported}.items():
        if values.get(key) is not None:
            _checks.choice("load", f"{source}: {key}", values[key], supported or (None,))
    fields: dict[str, Any] = dict(family.fixed)
    for name, keys in family.keys.items():
        key = _key(values, keys, source)
        if told.get(key) is not None or name not in family.nullable:
            fields[name] = _field(name, told.get(key), f"{source}: {key}")
    try:
        fields |= family.derive(told, fields)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"load: {source} is not a whole configuration of {model_type} ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"load: {source}: {error}") from None
    return {"model_type": model_type, "source": dict(values)} | fields


def _key(values: Mapping[str, Any], keys: tuple[str, ...], source: str) -> str:
    """That of keys of one meaning which config.json has; several must not contradict one another."""
    given = [key for key in keys if values.get(key) is not None]
    given = given or [key for key in keys if key in values] or [keys[0]]
    if any(values[key] != values[given[0]] for key in given[1:]):
        told = " and ".join(f"{key} {values[key]!r}" for key in given)
        raise ValueError(f"load: {source}: {told} contradict one another")
    return given[0]


def _field(name: str, value: Any, what: str) -> Any:
    """A field of the configuration, from the value of its key."""
    if name == "hidden_act":
        return ACTIVATIONS[_checks.choice("load", what, value, ACTIVATIONS)]
    if name == "tied":
        return _checks.choice("load", what, value, (True, False))
    if name == "layer_norm_eps":
        return _fraction(what, value)
    if name in ("image_size", "patch_size"):
        pair = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
        return tuple(_checks.size("load", what, side) for side in pair)
    size = _checks.size("load", what, value)
    if size > (MOST_LAYERS if name.endswith("_layers") else MOST):
        raise ValueError(f"load: {what} is {value}, which is more than any model's")
    return size


def _fraction(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"load: {what} must be a number in [0, 1), not {value!r}")
    return float(value)
