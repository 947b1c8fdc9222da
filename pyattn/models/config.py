"""The sizes and choices of a model, read from config.json by the family's table of keys."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from pyattn import _checks
from pyattn.layers.config import LayerConfig, Rotary
from pyattn.models.family import ACTIVATIONS, Family
from pyattn.models.spec import FrameSpec, ModelSpec, PatchSpec, TokenSpec
from pyattn.positional.scaling import BY_LENGTH, frequencies_for, rope_type

_Config = TypeVar("_Config", bound="ModelConfig")

# What keys of all families must be, if they are there: other values would make layers that differ among each other.
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {"per_layer_config": ({},), "pruned_heads": ({},)}
MAX_LAYERS, MAX_SIZE = 4096, 2**31 - 1
UNBOUNDED = 2**30  # tokens of a sequence that nothing in the model bounds


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and choices under one name for all families; 0 is of what a model has not.

    hidden_act is the name of an activation of pyattn's layers, `longest` the longest sequence in tokens; of sizes that
    both sides of a model have, those that do not begin with encoder_ are the decoder's. `source` is the config.json
    that from_dict read, `spec` what the family builds of it.
    """

    families: ClassVar[Mapping[str, Family]]
    causal: ClassVar[tuple[Any, ...]] = ()  # what is_causal may be; (): it is not read

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 0  # 0: as many
    head_dim: int = 0  # of attention; 0: hidden_size / num_attention_heads
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    vocab_size: int = 0
    max_position_embeddings: int = 0
    first_position: int = 0  # the row of the first token's position
    tie_word_embeddings: bool = True  # whether the head may be the words' matrix
    embedding_size: int = 0
    type_vocab_size: int = 0
    relative_buckets: int = 0
    relative_distance: int = 0
    distinct_layers: int = 0  # each of them is run num_hidden_layers / distinct_layers times in a row
    is_causal: bool = True
    # of what a decoder attends to
    encoder_layers: int = 0
    encoder_attention_heads: int = 0
    encoder_ffn_dim: int = 0
    source_vocab_size: int = 0  # 0: vocab_size
    num_mel_bins: int = 0
    max_source_positions: int = 0
    # images: (height, width)
    image_size: tuple[int, int] = (0, 0)
    patch_size: tuple[int, int] = (0, 0)
    num_channels: int = 0
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    spec: ModelSpec = field(default=ModelSpec({}), hash=False, repr=False)

    @property
    def family(self) -> Family:
        return self.families[self.model_type]

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The contents of config.json, keys that it leaves out with their defaults."""
        return {**self.family.defaults, **self.source}

    @property
    def tied_names(self) -> tuple[str, ...]:
        """Tensors that are one matrix, as far as a file does not have several of them."""
        names, separate = self.family.tied, self.spec.separate
        if not self.tie_word_embeddings and names:
            separate = separate | {names[-1]}
        return tuple(name for name in names if name not in separate)

    @property
    def encoder_input(self) -> str:
        """What an encoder in front of a decoder reads: "tokens", "frames" of a spectrogram, "patches"; "": none."""
        names: dict[type, str] = {TokenSpec: "tokens", FrameSpec: "frames", PatchSpec: "patches"}
        return names.get(type(self.spec.encoder_embeddings), "")

    @cached_property
    def longest(self) -> int:
        """The tokens of the longest sequence that can be computed.

        That is max_position_embeddings where positions are rows of a table, and where the frequencies of rotary ones
        would change with the length. Others go on for ever, as in transformers.
        """
        tables = (isinstance(x, TokenSpec) and x.positions > 0 for x in self.spec.inputs)
        return self.max_position_embeddings if any(tables) or self._type_by_length else UNBOUNDED

    @property
    def bound(self) -> str:
        """What bounds the length, for messages."""
        by_length = self._type_by_length
        why = f'; rope_type "{by_length}", whose frequencies change beyond them, is not supported there'
        return f"the model has positions for {self.longest}{why if by_length else ''}"

    @property
    def _layers(self) -> list[LayerConfig]:
        return [layer for stack in self.spec.stacks for layer in stack.layers]

    @property
    def _rotaries(self) -> set[tuple[Rotary, int]]:
        """The rotary positions of layers, and how many features of a head rotate."""
        return {
            (layer.rotary, layer.rotary.width or layer.head_dim or layer.d_model // layer.nhead)
            for layer in self._layers
            if layer.rotary is not None
        }

    @property
    def _type_by_length(self) -> str:
        """The type of rotary positions whose frequencies depend on the sequence's length; "" if there are none."""
        types = (rope_type("load", dict(rotary.scaling)) for rotary, _ in self._rotaries)
        return next((name for name in types if name in BY_LENGTH), "")

    def least_elements(self) -> int:
        """Fewer cannot be in the tensors of a model of these sizes."""
        layers = sum(layer.d_model + layer.dim_feedforward for layer in self._layers)
        tokens = [x for x in self.spec.inputs if isinstance(x, TokenSpec)]
        rows = max([self.vocab_size, *(x.positions for x in tokens if not x.sinusoidal)])
        biases = [x.relative.buckets * x.relative.heads for x in self.spec.stacks if x.relative is not None]
        return max(layers, rows + max(x.width for x in self.spec.inputs), *biases)

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any], source: str = "config") -> _Config:
        """Check the contents of a config.json; `source` names it in the ValueError for whatever is not supported."""
        sizes = _sizes(values, source, cls.families)
        if cls.causal:
            sizes["is_causal"] = _checks.choice(
                "load", f"{source}: is_causal", values.get("is_causal", True), cls.causal
            )
        config = cls(**{"embedding_size": sizes["hidden_size"], "distinct_layers": sizes["num_hidden_layers"]} | sizes)
        divided = {"num_key_value_heads": "num_attention_heads"}
        if not config.head_dim:
            divided |= {"num_attention_heads": "hidden_size", "encoder_attention_heads": "hidden_size"}
        for part, whole in divided.items():
            size, count = getattr(config, whole), getattr(config, part)
            if count and size % count:
                raise ValueError(f"load: {source}: {whole} {size} must be a multiple of {part} {count}")
        with _named(source, config.model_type):
            config = replace(config, spec=config.family.build(config))
            if not config.is_causal and any(layer.window is not None for layer in config._layers):
                raise ValueError("is_causal false is not supported together with sliding_window")
            for rotary, width in config._rotaries:
                frequencies_for("load", width, rotary.base, dict(rotary.scaling), None)
        return config


@contextmanager
def _named(source: str, model_type: str) -> Iterator[None]:
    """Names the file in the errors of a family's functions, which read what may be anything."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"load: {source} is not a whole configuration of {model_type} ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"load: {source}: {str(error).removeprefix('LayerConfig: ').removeprefix('load: ')}") from None


def _sizes(values: Mapping[str, Any], source: str, families: Mapping[str, Family]) -> dict[str, Any]:
    """What config.json and the family's table say, under our names."""
    model_type = _checks.choice("load", f"{source}: model_type", values.get("model_type"), families)
    family = families[model_type]
    all_values = {**family.defaults, **values}
    for key, supported in {**_SUPPORTED, **family.supported}.items():
        if values.get(key) is not None:
            _checks.choice("load", f"{source}: {key}", values[key], supported or (None,))
    sizes: dict[str, Any] = dict(family.constants)
    own = {x.name: (x.name,) for x in fields(ModelConfig) if x.name in family.defaults}
    for name, keys in {**own, **family.keys}.items():
        key = _key(values, keys, source)
        if all_values.get(key) is not None or name not in family.nullable:
            sizes[name] = _size(name, all_values.get(key), f"{source}: {key}")
    with _named(source, model_type):
        sizes |= family.derive(all_values, sizes)
    return {"model_type": model_type, "source": dict(values)} | sizes


def _key(values: Mapping[str, Any], keys: tuple[str, ...], source: str) -> str:
    """That of keys of one meaning which config.json has; several must not contradict one another."""
    present = [key for key in keys if values.get(key) is not None]
    present = present or [key for key in keys if key in values] or [keys[0]]
    if any(values[key] != values[present[0]] for key in present[1:]):
        pairs = " and ".join(f"{key} {values[key]!r}" for key in present)
        raise ValueError(f"load: {source}: {pairs} contradict one another")
    return present[0]


def _size(name: str, value: Any, what: str) -> Any:
    """A field of the configuration, from the value of its key."""
    if name == "hidden_act":
        return ACTIVATIONS[_checks.choice("load", what, value, ACTIVATIONS)]
    if name == "tie_word_embeddings":
        return _checks.choice("load", what, value, (True, False))
    if name == "layer_norm_eps":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"load: {what} must be a number in [0, 1), not {value!r}")
        return float(value)
    if name in ("image_size", "patch_size"):
        pair = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
        return tuple(_checks.size("load", what, side) for side in pair)
    size = _checks.size("load", what, value)
    if size > (MAX_LAYERS if name.endswith("_layers") else MAX_SIZE):
        raise ValueError(f"load: {what} is {value}, which is more than any model's")
    return size
