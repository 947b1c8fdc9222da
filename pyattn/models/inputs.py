"""What turns a generative model's inputs into the rows that enter its layers: tokens, spectrograms, images."""

from typing import Any

import numpy as np

from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._module import Setting
from pyattn._threads import threads_for
from pyattn.layers import Layer, LayerNorm, Linear
from pyattn.models.config import GenerativeConfig
from pyattn.positional import sinusoidal_encoding
from pyattn.precision import values_of


class Positions(Layer):
    """What is added to the rows that enter a stack of layers, and the norm behind the sum, where there are such."""

    def __init__(self, config: GenerativeConfig, side: str, count: int) -> None:
        names = config.family.names
        self._first = config.first_position
        self._shape = (count + self._first, config.hidden_size)
        self._sinusoidal = f"{side}.positions" in config.sinusoidal
        self._learned = f"{side}.positions" in names and not self._sinusoidal
        self._table: Array | None = None
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps) if f"{side}.norm" in names else None

    def table(self, length: int) -> Array | None:
        """(length or more, E), or None where there are no such positions."""
        if self._sinusoidal and (self._table is None or len(self._table) < length):
            rows = min(max(256, 2 * length), self._shape[0])
            self._table = sinusoidal_encoding(rows, self._shape[1], halves=True)
        return self._table

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"positions": self._shape} if self._learned else {}

    def _own_held(self) -> dict[str, Any]:
        return {"positions": self._table} if self._learned else {}

    def _own_made(self, values: Any) -> list[Setting]:
        table = np.ascontiguousarray(values_of(values["positions"]), np.float32) if self._learned else None
        return [(self, "_table", table)]


class TokenEmbeddings(Positions):
    """Rows of tokens and their positions; words are those of the decoder, scaled, unless the encoder has its own."""

    def __init__(self, config: GenerativeConfig, side: str) -> None:
        super().__init__(config, side, config.max_position_embeddings)
        own = config.source_vocab_size if side == "encoder_embeddings" else 0
        self._vocabulary = (own or config.vocab_size, config.hidden_size)
        self._scale = np.float32(config.embedding_scale)
        self._has_words = f"{side}.words" in config.family.names
        self._words: Array | None = None

    def apply(self, words: Array, tokens: Array, positions: Array) -> Array:
        """(n, E) of tokens (n,) at positions (n,)."""
        words = words if self._words is None else self._words
        table = self.table(int(positions.max(initial=-1)) + 1)
        tokens = np.ascontiguousarray(tokens)
        tables, numbers = [words], [tokens]
        if table is not None:
            tables, numbers = [words, table], [tokens, positions + self._first]
        x = np.empty((len(tokens), words.shape[1]), np.float32)
        if self._scale == 1:
            rowwise.embed(tables, numbers, x, threads_for(20.0 * x.size))
        else:
            np.multiply(words[tokens], self._scale, out=x)
            if table is not None:
                x += table[positions + self._first]
        return x if self.norm is None else self.norm._apply(x, out=x)

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return super()._own_shapes() | ({"words": self._vocabulary} if self._has_words else {})

    def _own_held(self) -> dict[str, Any]:
        return super()._own_held() | ({"words": self._words} if self._has_words else {})

    def _own_made(self, values: Any) -> list[Setting]:
        words = np.ascontiguousarray(values_of(values["words"]), np.float32) if self._has_words else None
        return [*super()._own_made(values), (self, "_words", words)]


class FrameEmbeddings(Positions):
    """Two convolutions along a spectrogram's frames, the second of stride 2.

    Whisper, Radford et al. 2022 (arXiv:2212.04356), section 2.2.
    """

    def __init__(self, config: GenerativeConfig, dtype: str) -> None:
        super().__init__(config, "encoder_embeddings", config.max_source_positions)
        width = config.hidden_size
        self.bins, self.frames = config.num_mel_bins, 2 * config.max_source_positions
        self.conv1 = Linear(3 * config.num_mel_bins, width, activation="gelu", dtype=dtype)
        self.conv2 = Linear(3 * width, width, activation="gelu", dtype=dtype)

    def apply(self, frames: Array) -> Array:
        """(B n / 2, E) of frames (B, n, bins)."""
        batch, count, _ = frames.shape
        padded = np.zeros((count + 2, self.bins), np.float32)
        hidden = np.zeros((count + 2, self.conv1.out_features), np.float32)
        table = self.table(self._shape[0])
        assert table is not None
        x = np.empty((batch, (count + 1) // 2, hidden.shape[1]), np.float32)
        for part, out in zip(frames, x, strict=True):
            padded[1:-1] = part
            self.conv1._apply(_windows(padded, 1), out=hidden[1:-1])
            self.conv2._apply(_windows(hidden, 2), residual=table[: len(out)], out=out)
        return x.reshape(batch * x.shape[1], x.shape[2])


def _windows(rows: Array, stride: int) -> Array:
    """Each three neighbouring rows as one, where they lie."""
    count = (len(rows) - 3) // stride + 1
    strides = (stride * rows.strides[0], rows.strides[1])
    return np.lib.stride_tricks.as_strided(rows, (count, 3 * rows.shape[1]), strides, writeable=False)


class PatchEmbeddings(Positions):
    """One row for each patch of an image: Dosovitskiy et al. 2020 (arXiv:2010.11929), section 3.1."""

    def __init__(self, config: GenerativeConfig) -> None:
        grid = tuple(side // patch for side, patch in zip(config.image_size, config.patch_size, strict=True))
        super().__init__(config, "encoder_embeddings", grid[0] * grid[1])
        self.shape = (config.num_channels, *config.image_size)
        self._patch, self._grid = config.patch_size, grid
        self.patches = Linear(config.num_channels * config.patch_size[0] * config.patch_size[1], config.hidden_size)

    def apply(self, pixels: Array) -> Array:
        """(B patches, E) of pixels (B, channels, height, width)."""
        batch, channels, *_ = pixels.shape
        (rows, columns), (down, across) = self._patch, self._grid
        parts = pixels.reshape(batch, channels, down, rows, across, columns).transpose(0, 2, 4, 1, 3, 5)
        x = self.patches._apply(parts.reshape(batch * down * across, self.patches.in_features))
        table = self.table(self._shape[0])
        if table is not None:
            x.reshape(batch, *table.shape)[:] += table
        return x if self.norm is None else self.norm._apply(x, out=x)
