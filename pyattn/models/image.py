"""Encoders of images: patches and their positions, then the layers."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Setting
from pyattn.layers import Layer, Linear
from pyattn.layers.sequences import Sequences
from pyattn.models.config import EncoderConfig
from pyattn.models.image_families import IMAGE_FAMILIES
from pyattn.models.pretrained import Pretrained, WeightDtypes, stack
from pyattn.positional import interpolate_positions
from pyattn.precision import values_of

MOST_GRIDS = 8  # whose positions are kept


class PatchEmbeddings(Layer):
    """Tokens of an image: one of its class, others that models learn, and one for each patch."""

    def __init__(self, config: EncoderConfig) -> None:
        width = config.hidden_size
        self._grid = tuple(side // patch for side, patch in zip(config.image_size, config.patch_size, strict=True))
        self._patch, self._channels = config.patch_size, config.num_channels
        placed = [name for name in ("class_token", "distillation_token") if f"embeddings.{name}" in config.family.names]
        self._antialias = config.antialias
        self._placed = len(placed)  # tokens in front of the patches that have positions
        self._sizes = dict.fromkeys(placed, (1, width))
        self._sizes["positions"] = (self._placed + self._grid[0] * self._grid[1], width)
        if config.num_register_tokens:
            self._sizes["register_tokens"] = (config.num_register_tokens, width)
        self.patches = Linear(config.num_channels * config.patch_size[0] * config.patch_size[1], width)
        self._front = np.zeros((0, width), np.float32)
        self._places: dict[tuple[int, int], Array] = {}

    def _apply(self, pixels: Array) -> Array:
        """(B, tokens, width) of pixels (B, channels, height, width)."""
        batch, channels, height, width = pixels.shape
        rows, columns = self._patch
        grid = (height // rows, width // columns)
        parts = pixels[:, :, : grid[0] * rows, : grid[1] * columns]
        parts = parts.reshape(batch, channels, grid[0], rows, grid[1], columns).transpose(0, 2, 4, 1, 3, 5)
        parts = parts.reshape(batch, grid[0] * grid[1], channels * rows * columns)
        front = len(self._front)
        x = np.empty((batch, front + parts.shape[1], self._front.shape[1]), np.float32)
        x[:, :front] = self._front
        positions = self._positions(grid)
        for part, out in zip(parts, x[:, front:], strict=True):
            self.patches._apply(part, residual=positions, out=out)
        return x

    def _positions(self, grid: tuple[int, int]) -> Array:
        """Those of the patches of an image of such a grid."""
        places = self._places.get(grid)
        if places is None:
            places = self._parameters["positions"][self._placed :]
            if grid != self._grid:
                learned = places.reshape(*self._grid, -1)
                places = interpolate_positions(learned, *grid, antialias=self._antialias)
            places = np.ascontiguousarray(places.reshape(grid[0] * grid[1], -1))
            if len(self._places) >= MOST_GRIDS:
                self._places = {}
            self._places[grid] = places
        return places

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._sizes)

    def _own_made(self, values: Any) -> list[Setting]:
        made = {name: np.ascontiguousarray(values_of(x), np.float32) for name, x in values.items()}
        tokens = [made[n] for n in ("class_token", "distillation_token") if n in self._sizes]
        placed = np.concatenate(tokens) + made["positions"][: self._placed]
        registers = made.get("register_tokens", np.zeros((0, placed.shape[1]), np.float32))
        front = np.concatenate([placed, registers])
        return [(self, "_parameters", made), (self, "_front", front), (self, "_places", {})]


class ImageEncoder(Pretrained):
    """An encoder of images: ViT, DeiT, DINOv2.

    Dosovitskiy et al. 2020 (arXiv:2010.11929); Touvron et al. 2020 (arXiv:2012.12877); Oquab et al. 2023
    (arXiv:2304.07193), with registers Darcet et al. 2023 (arXiv:2309.16588). Arguments, attributes and errors are those
    of `Pretrained`; `pyattn.models.load` makes one from a directory.
    """

    _families = IMAGE_FAMILIES
    embeddings: PatchEmbeddings

    def _make(self, config: EncoderConfig, dtype: WeightDtypes) -> None:
        self.encoder = stack(config, dtype)
        self.embeddings = PatchEmbeddings(config)

    def __call__(self, pixel_values: ArrayLike) -> NDArray[np.float32]:
        """The last layer's hidden state of every token, behind the norm at the end.

        Args:
            pixel_values: (B, channels, height, width) real numbers, scaled and normalised as the model was trained.
                Sides may differ from config.image_size: positions are then interpolated. What is left over beside
                whole patches is not seen.

        Returns:
            (B, tokens, hidden_size) float32: the class token, others that the model has, then the patches, row by row.

        Raises:
            TypeError: pixel_values is not of a real dtype.
            ValueError: its shape is another, or an image is smaller than a patch.
        """
        config = self.config
        pixels = _checks.array("ImageEncoder", "pixel_values", pixel_values)
        if pixels.dtype.kind != "f":
            raise TypeError(f"ImageEncoder: pixel_values has dtype {pixels.dtype}; real numbers are needed")
        if (
            pixels.ndim != 4
            or pixels.shape[1] != config.num_channels
            or (any(np.less(pixels.shape[2:], config.patch_size)))
        ):
            raise ValueError(
                f"ImageEncoder: pixel_values has shape {pixels.shape}; (B, {config.num_channels}, height, width) of at "
                f"least one patch, {config.patch_size}, is needed"
            )
        x = self.embeddings._apply(pixels.astype(np.float32, copy=False))
        batch, tokens, width = x.shape
        sequences = Sequences(batch, np.array([0, tokens]))
        out: NDArray[np.float32] = self.encoder._forward_rows(x.reshape(batch * tokens, width), sequences)
        return out.reshape(batch, tokens, width)
