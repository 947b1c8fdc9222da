"""What a model consists of, whatever its family: its stacks of layers, embeddings, head, and the names of tensors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pyattn.layers.config import LayerConfig

# A parameter of ours, with {} for the number of its layer, or a module, a parameter without its ".weight" and ".bias"
# -> a tensor or a module of the file; several are parts of one, along its first axis.
Names: TypeAlias = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class NormSpec:
    """A norm outside of layers: "layer" or "rms", which has no bias, as in LayerConfig."""

    type: str
    eps: float
    bias: bool = True
    unit_offset: bool = False


@dataclass(frozen=True)
class TokenSpec:
    """Rows of tokens: the sum of a row of each table, normalised and projected where there are such parts.

    Tables that have no rows are absent, apart from the words, which are then the model's.
    """

    width: int
    words: int = 0
    positions: int = 0
    first_position: int = 0  # the row of the first token's position; positions counts those before it
    sinusoidal: bool = False  # positions are computed, unless a file has their table
    token_types: int = 0
    scale: float = 1.0  # of words
    norm: NormSpec | None = None
    projection: int = 0  # the width that rows are projected to; 0: they are not


@dataclass(frozen=True)
class FrameSpec:
    """Rows of a spectrogram of at most 2 * positions frames of so many bins, by two convolutions."""

    width: int
    bins: int
    positions: int


@dataclass(frozen=True)
class PatchSpec:
    """Rows of the patches of an image, after those of tokens that are the same for all images.

    tokens: names of those that have positions; registers: how many have none. fixed: images have image_size.
    """

    width: int
    channels: int
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    tokens: tuple[str, ...] = ()
    registers: int = 0
    antialias: bool = False  # of positions that are interpolated
    norm: NormSpec | None = None
    fixed: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of image_size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


InputSpec: TypeAlias = TokenSpec | FrameSpec | PatchSpec


@dataclass(frozen=True)
class RelativeSpec:
    """Biases of logits by distance, the same in all layers: the arguments of RelativePositionBias."""

    buckets: int
    distance: int
    heads: int
    bidirectional: bool


@dataclass(frozen=True)
class StackSpec:
    """Layers, each of a configuration of its own, and the norm after the last.

    order: the numbers of layers in the order in which they run, where some run several times. bidirectional: tokens of
    a decoder see those after them too, where it gives hidden states.
    """

    layers: tuple[LayerConfig, ...]
    norm: NormSpec | None = None
    relative: RelativeSpec | None = None
    order: tuple[int, ...] = ()
    bidirectional: bool = False


@dataclass(frozen=True)
class LogitsSpec:
    """The head of a model that generates: logits of so many tokens, of hidden states times scale.

    softcap: logits become softcap * tanh(logits / softcap), unless it is 0.
    """

    tokens: int
    bias: bool = False
    scale: float = 1.0
    softcap: float = 0.0


@dataclass(frozen=True)
class ModelSpec:
    """A model: a stack of an encoder, of a decoder, or both; what makes the rows that enter each; a head for logits.

    names: those of the tensors of files. embeddings: the decoder's, or those of an encoder of texts or images;
    encoder_embeddings: of the encoder in front of a decoder. separate: of the family's tied names those that are
    matrices of their own. pooling: how a head reads a sequence, "cls" or "mean".
    """

    names: Names
    encoder: StackSpec | None = None
    encoder_embeddings: InputSpec | None = None
    decoder: StackSpec | None = None
    embeddings: InputSpec | None = None
    logits: LogitsSpec | None = None
    separate: frozenset[str] = frozenset()
    pooling: str = "cls"

    @property
    def stacks(self) -> list[StackSpec]:
        return [stack for stack in (self.encoder, self.decoder) if stack is not None]

    @property
    def inputs(self) -> list[InputSpec]:
        return [spec for spec in (self.encoder_embeddings, self.embeddings) if spec is not None]

    def without_computed_positions(self, tensors: Collection[str]) -> "ModelSpec":
        """For a file of such tensors: positions that it has tables of are not computed."""
        learned: dict[str, Any] = {
            name: replace(spec, sinusoidal=False)
            for name in ("encoder_embeddings", "embeddings")
            if isinstance(spec := getattr(self, name), TokenSpec) and self.names.get(f"{name}.positions") in tensors
        }
        return replace(self, **learned)
