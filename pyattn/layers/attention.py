"""Multi-head attention."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks, _threads
from pyattn._checks import Array
from pyattn._core import layer as _layer
from pyattn._threads import get_num_threads
from pyattn.cache import KVCache
from pyattn.layers.base import Layer, Seed, Setting
from pyattn.layers.linear import Linear
from pyattn.layers.norm import Norm
from pyattn.layers.sequences import Rotary, Sequences
from pyattn.precision import concatenated


class MultiHeadAttention(Layer):
    """Multi-head attention, of a sequence to itself or to another.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.

    Parameters as torch's nn.MultiheadAttention has them: `in_proj_weight` (3 E, E) (or `q_proj_weight` (E, E),
    `k_proj_weight` (E, kdim), `v_proj_weight` (E, vdim) where kdim or vdim differs from E), `in_proj_bias` (3 E,),
    `out_proj.weight` (E, E), `out_proj.bias` (E,). E must be a multiple of num_heads unless head_dim is given.

    num_key_value_heads: how many heads of keys and values the query heads share, evenly (grouped-query attention:
    Ainslie et al. 2023, arXiv:2305.13245); None: one each. head_dim: features of a head, None for E / num_heads. Where
    either is given, `in_proj_weight` has ((num_heads + 2 num_key_value_heads) head_dim, E): queries, keys, values, and
    `out_proj.weight` (E, num_heads head_dim). scale: of the logits, None for 1 / sqrt(head_dim).

    Masks are pyattn's: True = may attend. torch's boolean masks say the opposite: pass ~attn_mask, ~key_padding_mask.

    window: (left, right) as in scaled_dot_product_attention, or None. rotary_base: None, or the base of the rotary
    positions that turn queries and keys; feature i of a head is paired with i + head_dim / 2 (see rotary_tables).
    Positions are those of is_causal and window: the last query stands at the last key.

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
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        scale: float | None = None,
        window: tuple[int | None, int | None] | None = None,
        rotary_base: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "MultiHeadAttention"
        self.embed_dim = _checks.size(name, "embed_dim", embed_dim)
        self.num_heads = _checks.size(name, "num_heads", num_heads)
        if head_dim is None and embed_dim % num_heads:
            raise ValueError(f"{name}: embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.head_dim = embed_dim // num_heads if head_dim is None else _checks.size(name, "head_dim", head_dim)
        shared = num_heads if num_key_value_heads is None else num_key_value_heads
        self.num_key_value_heads = _checks.size(name, "num_key_value_heads", shared)
        if num_heads % shared:
            raise ValueError(f"{name}: num_heads {num_heads} must be a multiple of num_key_value_heads {shared}")
        self.scale = _checks.finite_scale(name, scale, self.head_dim, np.dtype(np.float32))
        self.left, self.right = _checks.sides(name, window)
        base = _checks.rotary_base(name, rotary_base, self.head_dim)
        self.rotary = None if base is None else Rotary(base)
        rng = np.random.default_rng(rng)
        inputs = [
            embed_dim if width is None else _checks.size(name, argument, width)
            for argument, width in (("embed_dim", embed_dim), ("kdim", kdim), ("vdim", vdim))
        ]
        inner, shared = num_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        self._projections = tuple(
            Linear(width, outputs, bias, dtype=dtype, rng=rng)
            for width, outputs in zip(inputs, (inner, shared, shared), strict=True)
        )
        self.out_proj = Linear(inner, embed_dim, bias, dtype=dtype, rng=rng)

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
        # the last query and the last key have the same position, and none is negative
        queries, keys = (
            Sequences(batch, np.array([0, length]), mask, is_causal, max(lengths) - length) for length in lengths
        )
        block = self._block(queries, queries if same else keys)
        out = _layer.multi_head_attention(block, rows, get_num_threads(), _threads.SMALL_WORK)
        return out.reshape(*shapes[0], self.embed_dim)

    def _block(
        self, queries: Sequences, keys: Sequences, norm: Norm | None = None, cache: KVCache | None = None
    ) -> _layer.Attention:
        """Attention of queries to keys for one call of a layer; queries is keys: of sequences to themselves.

        A cache is of the sequences' own keys, or else holds those of `keys` already.
        """
        own = queries is keys
        rows = queries.starts if own else queries.starts * (queries.batch // max(1, keys.batch))  # beams share keys
        projections = self._projections if own or cache is None else self._projections[:1]
        dtype = self.out_proj.dtype
        return _layer.Attention(
            [p._weights() for p in projections],
            self.out_proj._weights(),
            self.num_heads,
            self.num_key_value_heads,
            self.head_dim,
            None if norm is None else norm._arguments(),
            keys.batch,
            rows,
            keys.key_starts(),
            self._options(keys),
            queries.rotation(self.head_dim, self.rotary, dtype),
            None if own else keys.rotation(self.head_dim, self.rotary, dtype),
            None if cache is None else cache._keys,
            None if cache is None else cache._values,
            queries.past if own and cache is not None else None,
            queries.until if own and cache is not None else None,
        )

    def _layout(self) -> tuple[Any, ...]:
        """What keys and values in a cache depend on, apart from parameters."""
        shape = self.embed_dim, self.num_heads, self.num_key_value_heads, self.head_dim
        return *shape, self.scale, self.left, self.right, self.rotary, self.out_proj.computes_in_halves

    def _cache(self, batch_size: int, capacity: int) -> KVCache:
        """For the keys of sequences to themselves, of the element type that attention reads."""
        dtype: Any = "bfloat16" if self.out_proj.computes_in_halves else self.out_proj.dtype
        window = self.left + 1 if self.left >= 0 and capacity > 2 * (self.left + 1) else None
        capacity = capacity if window is None else 2 * window
        return KVCache(batch_size, self.num_key_value_heads, capacity, self.head_dim, dtype=dtype, window=window)

    def _remember(self, rows: Array, keys: Sequences) -> KVCache:
        """The keys and values of another sequence's rows (batch S, E), of which keys.until are real."""
        _, key, value = self._projections
        cache = KVCache(
            keys.batch,
            self.num_key_value_heads,
            max(1, int(keys.starts[-1])),
            self.head_dim,
            dtype="bfloat16" if self.out_proj.computes_in_halves else self.out_proj.dtype,
        )
        block = _layer.Attention(
            [key._weights(), value._weights()],
            self.out_proj._weights(),
            self.num_heads,
            self.num_key_value_heads,
            self.head_dim,
            None,
            keys.batch,
            keys.starts,
            keys.starts,
            {"scale": self.scale},
            None,
            keys.rotation(self.head_dim, self.rotary, self.out_proj.dtype),
            cache._keys,
            cache._values,
            cache.lengths,
            keys.until,
        )
        _layer.cache_memory(block, rows, keys.workspace, get_num_threads(), _threads.SMALL_WORK)
        assert keys.until is not None
        cache.lengths = keys.until
        return cache

    def _options(self, sequences: Sequences) -> dict[str, Any]:
        """Attention's options for keys that are of those sequences."""
        options = sequences.options(self.out_proj.computes_in_halves, self.num_heads).copy()
        options["scale"] = self.scale
        options["left"] = self.left
        options.setdefault("right", self.right)
        return options

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        outputs = [p.out_features for p in self._projections]
        inputs = [p.in_features for p in self._projections]
        if inputs == [self.embed_dim] * 3:
            shapes: dict[str, tuple[int, ...]] = {"in_proj_weight": (sum(outputs), self.embed_dim)}
        else:
            shapes = {
                f"{x}_proj_weight": shape for x, shape in zip("qkv", zip(outputs, inputs, strict=True), strict=True)
            }
        return shapes | {"in_proj_bias": (sum(outputs),)} if self.out_proj._has_bias else shapes

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

    def _own_made(self, values: Mapping[str, Any]) -> list[Setting]:
        made: list[Setting] = []
        first = 0
        for letter, projection in zip("qkv", self._projections, strict=True):
            part = slice(first, first := first + projection.out_features)
            name = f"{letter}_proj_weight"
            own = {"weight": values[name] if name in values else values["in_proj_weight"][part]}
            if "in_proj_bias" in values:
                own["bias"] = values["in_proj_bias"][part]
            made += projection._own_made(own)
        return made
