"""Multi-head attention."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import layer as _layer
from pyattn._module import Layer, Seed, Setting, check_part
from pyattn._namespaces import in_namespace
from pyattn.cache import KVCache
from pyattn.layers.config import LayerConfig, check_rotary, torch_config
from pyattn.layers.linear import Linear
from pyattn.layers.norm import Norm, check_norm, norm_of
from pyattn.layers.sequences import Sequences
from pyattn.positional import alibi_slopes
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
    positions that rotate queries and keys; feature i of a head is paired with i + head_dim / 2 (see rotary_tables).
    Positions are those of is_causal and window: the last query has the position of the last key.

    softcap: as in scaled_dot_product_attention, or None. sinks: a parameter `sinks` (num_heads,), zeros until it is
    loaded, as scaled_dot_product_attention has it. alibi: the biases of ALiBi, with the slopes of alibi_slopes.
    qk_norm: an RMSNorm over the features of each head of queries and of keys, before rotary positions (Henry et al.
    2020, arXiv:2010.04245, as in Qwen 3); parameters `q_norm.weight` and `k_norm.weight` (head_dim,). With it,
    attention computes in float32 where weights are bfloat16 or int8.

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
        softcap: float | None = None,
        sinks: bool = False,
        alibi: bool = False,
        qk_norm: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        others = {"d_model": embed_dim, "nhead": num_heads, "dim_feedforward": 1, "norm": "rms", "layer_norm_eps": 1e-6}
        config = torch_config("MultiHeadAttention", locals(), **others)
        widths = [
            config.d_model if width is None else _checks.size("MultiHeadAttention", argument, width)
            for argument, width in (("kdim", kdim), ("vdim", vdim))
        ]
        self._make(config, np.random.default_rng(rng), widths)

    @classmethod
    def from_config(cls, config: LayerConfig, rng: Seed = None) -> "MultiHeadAttention":
        """A layer's self-attention, of random parameters from rng."""
        attention = cls.__new__(cls)
        attention._make(config, np.random.default_rng(rng), [config.d_model] * 2)
        return attention

    def _make(self, config: LayerConfig, rng: "np.random.Generator", widths: list[int]) -> None:
        self.embed_dim, self.num_heads, self.softcap = config.d_model, config.nhead, config.softcap
        self.head_dim = int(config.head_dim or self.embed_dim // self.num_heads)
        self.num_key_value_heads = int(config.num_key_value_heads or self.num_heads)
        self.scale = _checks.finite_scale("MultiHeadAttention", config.scale, self.head_dim, np.dtype(np.float32))
        self.left, self.right = _checks.sides("MultiHeadAttention", config.window)
        self.rotary, self.alibi = config.rotary, config.alibi
        inner, shared = self.num_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        sizes = zip([self.embed_dim, *widths], (inner, shared, shared), strict=True)
        self._projections = tuple(
            Linear(inputs, outputs, config.in_proj_bias, dtype=config.dtype, rng=rng) for inputs, outputs in sizes
        )
        self.out_proj = Linear(inner, self.embed_dim, config.out_proj_bias, dtype=config.dtype, rng=rng)
        if config.sinks:
            self._parameters = {"sinks": np.zeros(self.num_heads, self.out_proj.dtype)}
        self.q_norm: Norm | None = norm_of(config, self.head_dim) if config.qk_norm else None
        self.k_norm: Norm | None = norm_of(config, self.head_dim) if config.qk_norm else None

    @in_namespace
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
        key = query if key is None else key
        value = key if value is None else value
        plan, dtype = self._planned(), self.out_proj.dtype
        parts = zip((query, key, value), self._projections, strict=True)
        rows, shapes = zip(*(_checks.rows(name, x, p.in_features, dtype) for x, p in parts), strict=True)
        batch, lengths = _checks.batches(name, *shapes)
        mask = _checks.combined_mask(name, mask, key_mask, (batch, self.num_heads, *lengths), dtype)
        # the last query and the last key have the same position, and none is negative
        queries, keys = (
            Sequences.padded(batch, length, mask, is_causal, first=max(lengths) - length) for length in lengths
        )
        memory = None
        if key is not query or value is not query:
            keys.rows = rows[1], rows[2]
            memory = queries.memory_of(plan, keys)
        out: Array = plan.run(rows[0], queries.binding(plan.bf16), queries.rotation_of(plan), memory)
        return out.reshape(*shapes[0], self.embed_dim)

    def _make_plan(self, revision: object) -> _layer.AttentionPlan:
        name = "MultiHeadAttention"
        for attribute in ("num_heads", "num_key_value_heads", "head_dim"):
            _checks.size(name, attribute, getattr(self, attribute))
        for attribute in ("left", "right"):
            _checks.count(name, attribute, getattr(self, attribute), lowest=-1, highest=2**31 - 1)
        _checks.number(name, "scale", self.scale, "a real number")
        _checks.finite_scale(name, self.scale, self.head_dim, np.dtype(np.float32))
        if self.softcap is not None:
            _checks.finite_softcap(name, self.softcap, self.out_proj.dtype)
        if self.rotary is not None:
            check_rotary(name, self.rotary, self.head_dim)
        check_part(name, "out_proj", self.out_proj, Linear)
        if self.q_norm is not None or self.k_norm is not None:
            check_norm(name, "q_norm", self.q_norm), check_norm(name, "k_norm", self.k_norm)
        return _layer.AttentionPlan(self, revision)

    def _slopes(self) -> Array | None:
        return alibi_slopes(self.num_heads, dtype=self.out_proj.dtype) if self.alibi else None

    def _attends_in_bf16(self) -> bool:
        """Whether queries, keys and values are rounded to bfloat16. Norms of queries and keys compute in float32."""
        return self.q_norm is None and self.out_proj._weights().dtype.itemsize < 4

    def _counts_positions(self) -> bool:
        """Whether it matters how far apart tokens are."""
        return self.rotary is not None or self.alibi or self.left >= 0 or self.right >= 0

    def _layout(self) -> tuple[Any, ...]:
        """What keys and values in a cache depend on, apart from parameters."""
        shape, norm = (self.embed_dim, self.num_heads, self.num_key_value_heads, self.head_dim), self.k_norm
        of_keys = None if norm is None else (type(norm), norm.eps, norm.unit_offset)
        return *shape, self.scale, self.left, self.right, self.rotary, of_keys, self._attends_in_bf16()

    def _cache(self, batch_size: int, capacity: int, dtype: str | None, of_steps: bool = False) -> KVCache:
        """An empty cache of int8 or, for None, the element type of attention; of steps, with a window, for twice its
        keys."""
        held = 2 * (self.left + 1)
        window = self.left + 1 if of_steps and 0 < held < capacity else None
        own: Any = "bfloat16" if self._attends_in_bf16() else self.out_proj.dtype
        capacity = capacity if window is None else held
        sizes = batch_size, self.num_key_value_heads, capacity, self.head_dim
        return KVCache(*sizes, dtype=dtype or own, window=window)

    def _cache_of_memory(self, rows: Array, memory: Sequences, dtype: str | None) -> KVCache:
        """The keys and values of a memory's rows (batch S, E), of which memory.new_len are real."""
        plan = self._planned()
        cache = self._cache(memory.batch, max(1, int(memory.cu_seqlens[-1])), dtype)
        held, scales = cache._held, cache._held_scales
        binding = memory.binding(plan.bf16 and scales is None)
        plan.precompute(rows, binding, memory.rotation_of(plan), held, scales)
        assert memory.new_len is not None
        cache.lengths = memory.new_len
        return cache

    def _stacked(self) -> dict[str, tuple[Linear, ...]]:
        """The names of weights, each with the projections whose weights stand in it one after another."""
        if all(p.in_features == self.embed_dim for p in self._projections):
            return {"in_proj_weight": self._projections}
        return {f"{x}_proj_weight": (p,) for x, p in zip("qkv", self._projections, strict=True)}

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            name: (sum(p.out_features for p in parts), parts[0].in_features) for name, parts in self._stacked().items()
        }
        if self._projections[0]._has_bias:
            shapes["in_proj_bias"] = (sum(p.out_features for p in self._projections),)
        return shapes | super()._own_shapes()

    def _own_held(self) -> dict[str, Any]:
        held = {p: p._own_held() for p in self._projections}
        values = {name: concatenated([held[p]["weight"] for p in parts]) for name, parts in self._stacked().items()}
        if self._projections[0]._has_bias:
            values["in_proj_bias"] = np.concatenate([own["bias"] for own in held.values()])
        return values | super()._own_held()

    def _own_made(self, values: Mapping[str, Any]) -> list[Setting]:
        settings = super()._own_made(values) if self._parameters else []
        first = 0
        for letter, projection in zip("qkv", self._projections, strict=True):
            part = slice(first, first := first + projection.out_features)
            name = f"{letter}_proj_weight"
            own = {"weight": values[name] if name in values else values["in_proj_weight"][part]}
            if "in_proj_bias" in values:
                own["bias"] = values["in_proj_bias"][part]
            settings += projection._own_made(own)
        return settings
