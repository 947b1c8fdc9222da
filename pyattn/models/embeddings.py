"""What turns a model's inputs into the rows that enter its layers: tokens, spectrograms, images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyattn._checks import Array
from pyattn._module import Setting
from pyattn.layers import Layer, LayerNorm, Linear, RMSNorm
from pyattn.layers.embeddings import sum_of_rows
from pyattn.layers.norm import Norm
from pyattn.models.spec import FrameSpec, InputSpec, NormSpec, PatchSpec, TokenSpec
from pyattn.positional import interpolate_positions, sinusoidal_encoding
from pyattn.precision import values_of

MAX_GRIDS = 8  # whose interpolated positions are kept


def make_norm(spec: NormSpec | None, width: int) -> Norm | None:
    if spec is None:
        return None
    if spec.type == "rms":
        return RMSNorm(width, spec.eps, unit_offset=spec.unit_offset)
    return LayerNorm(width, spec.eps, spec.bias)


class Tables(Layer):
    """A layer whose parameters are float32 arrays, which are kept as they are given, not copied.

    Most of the memory of a small model is its vocabulary's.
    """

    _table_shapes: Mapping[str, tuple[int, ...]] = {}

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._table_shapes)

    def _own_made(self, values: Any) -> list[Setting]:
        tables = {name: np.ascontiguousarray(values_of(x), np.float32) for name, x in values.items()}
        return [(self, "_parameters", tables)]


class TokenEmbeddings(Tables):
    """Rows of tokens: the sum of a row of each table, normalised and projected."""

    def __init__(self, spec: TokenSpec) -> None:
        rows = {"words": spec.words, "token_types": spec.token_types}
        rows["positions"] = 0 if spec.sinusoidal else spec.positions
        self._table_shapes = {name: (count, spec.width) for name, count in rows.items() if count}
        self.learns_positions = "positions" in self._table_shapes
        self._spec = spec
        self._computed = np.zeros((0, spec.width), np.float32)  # positions
        self.norm = make_norm(spec.norm, spec.width)
        self.projection = Linear(spec.width, spec.projection) if spec.projection else None

    def apply(self, tokens: Array, positions: Array, types: Array | None = None, words: Array | None = None) -> Array:
        """(n, E) of tokens (n,) at positions (n,), which are counted from 0; words: the table, unless it is its own."""
        spec = self._spec
        table = self._parameters.get("words", words)
        assert table is not None
        tables, indices = [table], [np.ascontiguousarray(tokens)]
        if types is not None and spec.token_types:
            tables.append(self._parameters["token_types"])
            indices.append(types)
        if spec.positions:
            tables.append(self._positions(positions))
            indices.append(positions + spec.first_position)
        width = spec.width if self.norm is None else self.norm.width  # it may have been replaced, and is then refused
        if spec.scale == 1:
            x = sum_of_rows(tables, indices, width)
        else:
            x = tables[0][indices[0]] * np.float32(spec.scale)
            for more, rows in zip(tables[1:], indices[1:], strict=True):
                x += more[rows]
        if self.norm is not None:
            x = self.norm._apply(x, out=x)
        return x if self.projection is None else self.projection._apply(x)

    def _positions(self, positions: Array) -> Array:
        """The table of positions, with rows for these."""
        if not self._spec.sinusoidal:
            return self._parameters["positions"]
        length, computed = int(positions.max(initial=-1)) + 1, self._computed
        if len(computed) < length:
            rows = min(max(256, 2 * length), self._spec.positions)
            computed = sinusoidal_encoding(rows, self._spec.width, halves=True)
            vars(self)["_computed"] = computed  # no attribute is set: plans of layers stay valid
        return computed


class FrameEmbeddings(Tables):
    """Two convolutions along a spectrogram's frames, the second of stride 2.

    Whisper, Radford et al. 2022 (arXiv:2212.04356), section 2.2.
    """

    def __init__(self, spec: FrameSpec, dtype: str) -> None:
        self.bins, self.frames = spec.bins, 2 * spec.positions
        self.shape = (self.frames, self.bins)  # of the greatest input, without the batch
        self._table_shapes = {"positions": (spec.positions, spec.width)}
        self.conv1 = Linear(3 * spec.bins, spec.width, activation="gelu", dtype=dtype)
        self.conv2 = Linear(3 * spec.width, spec.width, activation="gelu", dtype=dtype)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 3 and shape[2] == self.bins and 0 < shape[1] <= self.frames

    def apply(self, frames: Array) -> Array:
        """(B, n / 2, E) of frames (B, n, bins)."""
        batch, count, _ = frames.shape
        padded = np.zeros((count + 2, self.bins), np.float32)
        hidden = np.zeros((count + 2, self.conv1.out_features), np.float32)
        x = np.empty((batch, (count + 1) // 2, hidden.shape[1]), np.float32)
        positions = self._parameters["positions"][: x.shape[1]]
        for part, out in zip(frames, x, strict=True):
            padded[1:-1] = part
            self.conv1._apply(_windows(padded, 1), out=hidden[1:-1])
            self.conv2._apply(_windows(hidden, 2), residual=positions, out=out)
        return x


def _windows(rows: Array, stride: int) -> Array:
    """Each three neighbouring rows as one, where they lie."""
    count = (len(rows) - 3) // stride + 1
    strides = (stride * rows.strides[0], rows.strides[1])
    return np.lib.stride_tricks.as_strided(rows, (count, 3 * rows.shape[1]), strides, writeable=False)


class PatchEmbeddings(Tables):
    """Tokens of an image: one of its class, others that models learn, and one for each patch.

    Dosovitskiy et al. 2020 (arXiv:2010.11929), section 3.1.
    """

    def __init__(self, spec: PatchSpec) -> None:
        width, (rows, columns) = spec.width, spec.grid
        self._spec = spec
        self.shape = (spec.channels, *spec.image_size)  # of an image of the model's size
        self._table_shapes = dict.fromkeys(spec.tokens, (1, width))
        self._table_shapes["positions"] = (len(spec.tokens) + rows * columns, width)
        if spec.registers:
            self._table_shapes["register_tokens"] = (spec.registers, width)
        self.patches = Linear(spec.channels * spec.patch_size[0] * spec.patch_size[1], width)
        self.norm = make_norm(spec.norm, width)
        self._by_grid: dict[tuple[int, int], tuple[Any, Array]] = {}

    def fits(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != 4 or shape[1] != self._spec.channels:
            return False
        return shape[1:] == self.shape if self._spec.fixed else not any(np.less(shape[2:], self._spec.patch_size))

    def apply(self, pixels: Array) -> Array:
        """(B, tokens, E) of pixels (B, channels, height, width)."""
        batch, channels, height, width = pixels.shape
        rows, columns = self._spec.patch_size
        grid = (height // rows, width // columns)
        parts = pixels[:, :, : grid[0] * rows, : grid[1] * columns]
        parts = parts.reshape(batch, channels, grid[0], rows, grid[1], columns).transpose(0, 2, 4, 1, 3, 5)
        parts = parts.reshape(batch, grid[0] * grid[1], channels * rows * columns)
        added = self._added(grid)
        front = len(added) - parts.shape[1]
        x = np.empty((batch, *added.shape), np.float32)
        x[:, :front] = added[:front]
        for part, out in zip(parts, x[:, front:], strict=True):
            self.patches._apply(part, residual=added[front:], out=out)
        if self.norm is not None:
            all_rows = x.reshape(-1, x.shape[2])
            self.norm._apply(all_rows, out=all_rows)
        return x

    def _added(self, grid: tuple[int, int]) -> Array:
        """The tokens in front of the patches of an image of such a grid, then the positions of these."""
        tables = self._parameters
        made_of, added = self._by_grid.get(grid, (None, tables["positions"]))
        if made_of is not tables:  # or another thread has loaded others meanwhile
            spec = self._spec
            placed, positions = np.split(tables["positions"], [len(spec.tokens)])
            tokens = [tables[name] for name in spec.tokens]
            registers = tables.get("register_tokens", placed[:0])
            if grid != spec.grid:
                learned = positions.reshape(*spec.grid, -1)
                positions = interpolate_positions(learned, *grid, antialias=spec.antialias).reshape(-1, spec.width)
            added = np.concatenate([np.concatenate([placed[:0], *tokens]) + placed, registers, positions])
            kept = self._by_grid if len(self._by_grid) < MAX_GRIDS else {}
            vars(self)["_by_grid"] = kept | {grid: (tables, added)}  # another thread may copy the old; plans stay valid
        return added

    def _own_made(self, values: Any) -> list[Setting]:
        return [*super()._own_made(values), (self, "_by_grid", {})]


def make_embeddings(spec: InputSpec | None, dtype: str) -> Tables | None:
    """dtype: of the convolutions of spectrograms; all others are float32."""
    if isinstance(spec, FrameSpec):
        return FrameEmbeddings(spec, dtype)
    if isinstance(spec, PatchSpec):
        return PatchEmbeddings(spec)
    return None if spec is None else TokenEmbeddings(spec)
