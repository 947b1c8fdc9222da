"""The shapes to measure, each with its seeded inputs and its count of useful work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from bench.options import STATISTICS, Keywords, keywords, live_fraction, title
from bench.roofline import Work

Arrays = tuple[np.ndarray, ...]
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def as_numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@dataclass(frozen=True)
class Case:
    """One attention call: L queries, S keys, head width D; all else is what most calls do not need.

    ``options`` are names of bench.options. With fewer ``key_heads`` than heads, groups of query heads share one.
    """

    heads: int
    L: int
    S: int
    D: int
    options: tuple[str, ...] = ()
    dtype: str = "float32"
    batch: int = 1
    key_heads: int = 0  # 0 for as many as heads

    @property
    def name(self) -> str:
        heads = f"{self.heads}/{self.key_heads}" if self.grouped else f"{self.heads}"
        size = " x ".join([str(self.batch)] * (self.batch > 1) + [heads, *map(str, (self.L, self.S, self.D))])
        return " ".join([size, *([self.dtype] * (self.dtype != "float32")), title(self.options)]).strip()

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return as_numpy_dtype(self.dtype)

    @property
    def grouped(self) -> bool:
        return self.key_heads not in (0, self.heads)

    @property
    def rows(self) -> int:
        """Rows of one head's output."""
        return self.L

    @cached_property
    def keywords(self) -> Keywords:
        """The arguments of a call beside query, key and value."""
        return keywords(self)

    @property
    def statistics(self) -> bool:
        """Whether the call is one of pyattn.attention_statistics."""
        return any(name in self.keywords for name in STATISTICS)

    @cached_property
    def live_fraction(self) -> float:
        """The part of all pairs of a query and a key that may attend."""
        return live_fraction(self)

    @property
    def flops(self) -> float:
        """Useful work: a multiply and an add for each element of q.k and of p.v, over the pairs that may attend."""
        return 4 * self.batch * self.heads * self.L * self.S * self.D * self.live_fraction

    @property
    def work(self) -> Work:
        return Work({self.dtype: self.flops}, self.key_value_bytes)

    @property
    def score_bytes(self) -> int:
        """Size of the L x S score matrices, for those who store them."""
        return self.batch * self.heads * self.L * self.S * self.numpy_dtype.itemsize

    @property
    def key_value_bytes(self) -> int:
        """What a call that reads every key and value once reads."""
        return 2 * self.batch * (self.key_heads or self.heads) * self.S * self.D * self.numpy_dtype.itemsize

    def arrays(self, seed: int = 0) -> Arrays:
        """Query, key and value, each (batch, heads, length, D), standard normal."""
        rng = np.random.default_rng(seed)
        key_heads = self.key_heads or self.heads
        shapes = [(self.heads, self.L), (key_heads, self.S), (key_heads, self.S)]
        return tuple(self._normal(rng, self.batch, heads, length, self.D) for heads, length in shapes)

    def _normal(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        if self.dtype == "float64":
            return rng.standard_normal(shape)
        return rng.standard_normal(shape, np.float32).astype(self.numpy_dtype, copy=False)

    def answer(self, result: Any) -> np.ndarray:
        """The output (..., rows, D) in what a contender's call returned."""
        return returned_arrays(result)[0]


@dataclass(frozen=True)
class RaggedCase(Case):
    """Self-attention of sequences of ``lengths``, up to L == S: one a batch element, or packed behind one another."""

    lengths: tuple[int, ...] = field(kw_only=True)

    @property
    def name(self) -> str:
        size = f"{self.batch} x {self.L} at {self.rows / (self.batch * self.L):.0%}, {self.heads} x {self.D}"
        return " ".join([size, *([self.dtype] * (self.dtype != "float32")), title(self.options)]).strip()

    @property
    def rows(self) -> int:
        """Tokens that are no padding."""
        return sum(self.lengths)

    @property
    def flops(self) -> float:
        """The useful work without options."""
        return 4 * self.heads * self.D * sum(length * length for length in self.lengths)

    @property
    def key_value_bytes(self) -> int:
        return 2 * self.rows * (self.key_heads or self.heads) * self.D * self.numpy_dtype.itemsize

    @property
    def cu_seqlens(self) -> np.ndarray:
        """Where each sequence starts among the packed tokens, and where the last one ends."""
        return np.cumsum([0, *self.lengths])

    @property
    def slices(self) -> list[slice]:
        return [slice(start, stop) for start, stop in pairwise(self.cu_seqlens)]

    def arrays(self, seed: int = 0) -> Arrays:
        """Query, key and value, packed: each (rows, heads, D), standard normal."""
        rng = np.random.default_rng(seed)
        heads = self.heads, self.key_heads or self.heads, self.key_heads or self.heads
        return tuple(self._normal(rng, self.rows, number, self.D) for number in heads)

    def sequences(self, packed: np.ndarray) -> list[np.ndarray]:
        """Contiguous copies of each sequence, (heads, length, D)."""
        return [np.ascontiguousarray(packed[part].swapaxes(0, 1)) for part in self.slices]

    def padded(self, packed: np.ndarray) -> np.ndarray:
        """(batch, heads, L, D) with zeros behind each sequence."""
        batch = np.zeros((self.batch, packed.shape[1], self.L, self.D), packed.dtype)
        for element, sequence in zip(batch, self.sequences(packed), strict=True):
            element[:, : sequence.shape[1]] = sequence
        return batch

    def answer(self, result: Any) -> np.ndarray:
        """The tokens' outputs (heads, rows, D): of packed tokens, a list of sequences or a padded batch."""
        output = result if isinstance(result, list) else returned_arrays(result)[0]
        if not isinstance(output, list) and output.ndim == 3:
            return output.swapaxes(0, 1)
        return np.concatenate([x[:, :length] for x, length in zip(output, self.lengths, strict=True)], axis=1)


@dataclass(frozen=True)
class LinearCase:
    """One linear layer: ``rows`` inputs of ``in_features`` to ``out_features``, with bias; dtype is the weight's."""

    rows: int
    in_features: int
    out_features: int
    dtype: str = "float32"
    gelu: bool = False

    @property
    def name(self) -> str:
        size = f"{self.rows} x {self.in_features} x {self.out_features}"
        return " ".join([size, *[self.dtype] * (self.dtype != "float32"), *["GELU"] * self.gelu])

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.in_features * self.out_features

    @property
    def work(self) -> Work:
        return Work({self.dtype: self.flops}, self.in_features * self.out_features * BYTES[self.dtype])

    def arrays(self, seed: int = 0) -> Arrays:
        """Input (rows, in), weight (out, in) and bias (out,), standard normal, in float32."""
        rng = np.random.default_rng(seed)
        shapes = (self.rows, self.in_features), (self.out_features, self.in_features), (self.out_features,)
        return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)

    def answer(self, result: np.ndarray) -> np.ndarray:
        return result


def returned_arrays(result: Any) -> list[np.ndarray]:
    """The arrays that a call returned, alone, in a tuple or in a dataclass; the output is the first."""
    if is_dataclass(result):
        result = [getattr(result, entry.name) for entry in fields(result)]
    return [array for array in (result if isinstance(result, list | tuple) else [result]) if array is not None]


ATTENTION = [
    Case(384, 32, 32, 32),
    Case(12, 128, 128, 64),
    Case(96, 128, 128, 64),
    Case(12, 512, 512, 64),
    Case(8, 2048, 2048, 64),
    Case(8, 2048, 2048, 64, ("causal",)),
    Case(8, 2048, 2048, 64, dtype="float64"),
    Case(8, 2048, 2048, 128),
    Case(8, 8192, 8192, 64),
]

# The three products of a 384-wide encoder layer, over a batch and over one sentence; the first also with its GELU.
LINEAR = [
    LinearCase(rows, in_features, out_features, dtype, gelu)
    for dtype in ("float32", "bfloat16", "int8")
    for rows in (2048, 13)
    for in_features, out_features in ((384, 1536), (384, 384), (1536, 384))
    for gelu in ((False, True) if out_features == 1536 and rows > 13 else (False,))
]

# Time and memory against the sequence length. Four heads, so that 8192 x 8192 scores are 1 GiB.
SCALING = [Case(4, length, length, 64) for length in (256, 512, 1024, 2048, 4096, 8192, 16384)]
