"""Multi-head attention."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks, _threads
from pyattn._checks import Array, Options
from pyattn._core import encoder, rowwise
from pyattn._threads import get_num_threads
from pyattn.layers.base import Layer, Seed
from pyattn.layers.linear import Linear
from pyattn.positional import rotary_tables
from pyattn.precision import concatenated, mask_to_bfloat16, to_bfloat16

Rotation: TypeAlias = tuple[Array, Array, Array]


@dataclass
class Sequences:
    """What the rows of a call are: `batch` times the sequences that starts, int64 (sequences + 1,), describes.

    mask is as attention's, for one sequence; relative_bias (H, 2 n + 1), for all: what is added to the logits of a key
    that stands n behind the query up to n ahead, n + 1 or more being the longest sequence.
    """

    batch: int
    starts: Array
    mask: Array | None = None
    is_causal: bool = False
    relative_bias: Array | None = None
    workspace: encoder.Workspace = field(default_factory=encoder.Workspace)
    _tables: dict[tuple[int, float], tuple[Array, Array]] = field(default_factory=dict)
    _options: dict[bool, Options] = field(default_factory=dict)
    _positions: Array | None = None

    def longest(self) -> int:
        return rowwise.longest(self.starts)

    def positions(self) -> Array:
        """That of each row in its sequence, counted from 0."""
        if self._positions is None:
            self._positions = rowwise.positions(self.starts, self.batch)
        return self._positions

    def rotation(self, width: int, base: float | None, dtype: np.dtype[Any]) -> Rotation | None:
        """What turns heads of so many features by rotary positions, the angles of dtype; None for base None."""
        if base is None:
            return None
        if (width, base) not in self._tables:
            self._tables[width, base] = rotary_tables(self.longest(), width, base=base, dtype=dtype)
        return (self.positions(), *self._tables[width, base])

    def options(self, half: bool) -> Options:
        """What they are to attention, apart from the layer's own scale and window; half: for arrays of bfloat16."""
        if half not in self._options:
            options = self._options[half] = {"scale": 1.0}
            if self.is_causal:
                options["right"] = 0
            if self.mask is not None:
                options["mask"] = self.mask if self.mask.dtype == bool or not half else mask_to_bfloat16(self.mask)
            if self.relative_bias is not None:
                table = to_bfloat16(self.relative_bias) if half else self.relative_bias
                view = _by_distance(table, self.longest())
                options["bias"] = np.broadcast_to(view, (self.batch, *view.shape))
                options["bias_of_sequence"] = True
        return self._options[half]


def _by_distance(table: Array, length: int) -> Array:
    """table (H, 2 n + 1) seen as (H, length, length): element i, j is that of distance j - i."""
    heads, step = table.strides
    middle = table[:, table.shape[1] // 2 :]
    return np.lib.stride_tricks.as_strided(middle, (len(table), length, length), (heads, -step, step), writeable=False)


class MultiHeadAttention(Layer):
    """Multi-head attention, of a sequence to itself or to another.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.

    Parameters as torch's nn.MultiheadAttention has them: `in_proj_weight` (3 E, E) (or `q_proj_weight` (E, E),
    `k_proj_weight` (E, kdim), `v_proj_weight` (E, vdim) where kdim or vdim differs from E), `in_proj_bias` (3 E,),
    `out_proj.weight` (E, E), `out_proj.bias` (E,). E must be a multiple of num_heads.

    Masks are pyattn's: True = may attend. torch's boolean masks say the opposite: pass ~attn_mask, ~key_padding_mask.

    window: (left, right) as in scaled_dot_product_attention, or None. rotary_base: None, or the base of the rotary
    positions that turn queries and keys, each counted from the start of its sequence; feature i of a head is paired
    with i + E / 2H (see rotary_tables).

    Example:
        >>> attention = MultiHeadAttention(384, 12)
        >>> x = np.ones((2, 7, 384), np.float32)
        >>> attention(x, is_causal=True).shape
        (2, 7, 384)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        *,
        window: tuple[int | None, int | None] | None = None,
        rotary_base: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "MultiHeadAttention"
        self.embed_dim = _checks.size(name, "embed_dim", embed_dim)
        self.num_heads = _checks.size(name, "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"{name}: embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.left, self.right = _checks.sides(name, window)
        self.rotary_base = _checks.rotary_base(name, rotary_base, embed_dim // num_heads)
        rng = np.random.default_rng(rng)
        widths = [
            embed_dim if width is None else _checks.size(name, argument, width)
            for argument, width in (("embed_dim", embed_dim), ("kdim", kdim), ("vdim", vdim))
        ]
        self._projections = tuple(Linear(width, embed_dim, bias, dtype=dtype, rng=rng) for width in widths)
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, rng=rng)

    def __call__(
        self,
        query: Array,
        key: Array | None = None,
        value: Array | None = None,
        mask: Array | None = None,
        *,
        key_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        """Attention of query (B, L, E) to key (B, S, kdim) and value (B, S, vdim); without the batch axis as well.

        Args:
            query: queries; also keys and values where those are None. value None: key is also the value.
            mask: as in scaled_dot_product_attention: (L, S), (B, L, S) or broadcasting to (B, H, L, S).
            key_mask: boolean (B, S), or (S,) without a batch: True where the key is real, False where it is padding.
                Together with mask it makes a mask of its own for each sample, B times (L, S) elements.
            is_causal: as in scaled_dot_product_attention.

        Returns:
            (B, L, E). A query that may attend to nothing gets out_proj.bias.

        Raises:
            TypeError, ValueError: as scaled_dot_product_attention; widths or batches do not fit.
        """
        name = "MultiHeadAttention"
        is_causal = _checks.flag(name, "is_causal", is_causal)
        given = (query, query if key is None else key)
        arrays = (*given, given[1] if value is None else value)
        dtype = self.out_proj.dtype
        pairs = [_checks.rows(name, x, p.in_features, dtype) for x, p in zip(arrays, self._projections, strict=True)]
        shapes = [shape for _, shape in pairs]
        batch, lengths = _checks.batches(name, *shapes)
        logits = (batch, self.num_heads, *lengths)
        mask = _checks.combined_mask(name, mask, key_mask, logits, dtype)
        same = arrays[1] is query and arrays[2] is query
        rows = [pairs[0][0]] if same else [x for x, _ in pairs]
        queries, keys = (Sequences(batch, np.array([0, length]), mask, is_causal) for length in lengths)
        keys = queries if same else keys
        width = self.embed_dim // self.num_heads
        out = encoder.multi_head_attention(
            rows,
            [p._weights() for p in self._projections],
            self.out_proj._weights(),
            self.num_heads,
            batch,
            queries.starts,
            keys.starts,
            self._options(queries),
            queries.rotation(width, self.rotary_base, dtype),
            keys.rotation(width, self.rotary_base, dtype),
            get_num_threads(),
            _threads.SMALL_WORK,
        )
        return out.reshape(*shapes[0], self.embed_dim)

    def _options(self, sequences: Sequences) -> Options:
        """Attention's options for queries that are those sequences."""
        options = sequences.options(self.out_proj.computes_in_halves).copy()
        options["scale"] = (self.embed_dim // self.num_heads) ** -0.5
        options["left"] = self.left
        options.setdefault("right", self.right)
        return options

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.embed_dim
        widths = [p.in_features for p in self._projections]
        if widths == [width] * 3:
            shapes: dict[str, tuple[int, ...]] = {"in_proj_weight": (3 * width, width)}
        else:
            shapes = {f"{x}_proj_weight": (width, w) for x, w in zip("qkv", widths, strict=True)}
        return shapes | {"in_proj_bias": (3 * width,)} if self.out_proj._has_bias else shapes

    def _own_held(self) -> dict[str, Any]:
        parts = [p._own_held() for p in self._projections]
        values: dict[str, Any]
        if "in_proj_weight" in self._own_shapes():
            values = {"in_proj_weight": concatenated([part["weight"] for part in parts])}
        else:
            values = {f"{x}_proj_weight": part["weight"] for x, part in zip("qkv", parts, strict=True)}
        if self.out_proj._has_bias:
            values["in_proj_bias"] = np.concatenate([part["bias"] for part in parts])
        return values

    def _own_load(self, values: Mapping[str, Any]) -> None:
        width = self.embed_dim
        for i, projection in enumerate(self._projections):
            part = slice(i * width, (i + 1) * width)
            name = f"{'qkv'[i]}_proj_weight"
            own = {"weight": values[name] if name in values else values["in_proj_weight"][part]}
            if "in_proj_bias" in values:
                own["bias"] = values["in_proj_bias"][part]
            projection._own_load(own)
