"""A layer of the Transformer: self-attention, attention to a memory where it has that, and a feed-forward block."""

from dataclasses import replace
from typing import ClassVar, TypeVar

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import layer as _layer
from pyattn._module import Layer, Seed, check_part
from pyattn.activations import ACTIVATIONS
from pyattn.cache import KVCache
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.config import LayerConfig
from pyattn.layers.linear import Linear
from pyattn.layers.norm import check_norm, norm_of
from pyattn.layers.sequences import Sequences

_Block = TypeVar("_Block", bound="Block")


class Block(Layer):
    """What layers of encoders and decoders share. `_forward_rows` does the work.

    A subclass names the norms of its blocks: of self-attention, of attention to a memory ("" for none), and of the
    feed-forward block. The norm after a block, before the residual sum, has that name with "post_" in front.
    """

    _norms: ClassVar[tuple[str, str, str]]
    multihead_attn: MultiHeadAttention | None = None

    @classmethod
    def from_config(cls: type[_Block], config: LayerConfig, rng: Seed = None) -> _Block:
        """The layer that a LayerConfig describes, of random parameters from rng."""
        check_part(f"{cls.__name__}.from_config", "config", config, LayerConfig)
        if config.cross_attention and not cls._norms[1]:
            raise ValueError(f"{cls.__name__}.from_config: config.cross_attention needs a decoder's layer")
        layer = cls.__new__(cls)
        layer._make(config, rng)
        return layer

    def _make(self, config: LayerConfig, rng: Seed) -> None:
        rng = np.random.default_rng(rng)
        self.norm_first = config.norm_placement != "post"
        self.residual_scale = config.residual_scale
        self.gated = config.gated
        self._activation = ACTIVATIONS[config.activation]
        self.self_attn = MultiHeadAttention.from_config(config, rng)
        width, inner, bias = config.d_model, config.dim_feedforward, config.linear_bias
        outputs, activation = (2 * inner, None) if config.gated else (inner, config.activation)
        self.linear1 = Linear(width, outputs, bias, activation=activation, dtype=config.dtype, rng=rng)
        self.linear2 = Linear(inner, width, bias, dtype=config.dtype, rng=rng)
        if config.cross_attention:
            cross = replace(config, num_key_value_heads=None, window=None, rotary=None, sinks=False, alibi=False)
            self.multihead_attn = MultiHeadAttention.from_config(cross, rng)
        for name, there in zip(self._norms, (config.input_norm, config.cross_attention, True), strict=True):
            if name:
                after = there and config.norm_placement == "sandwich"
                setattr(self, name, norm_of(config, config.d_model) if there else None)
                setattr(self, f"post_{name}", norm_of(config, config.d_model) if after else None)

    def _first(self) -> "Block":
        """The layer itself, checked, as a stack has a first one."""
        self._planned()
        return self

    def _rows(self, function: str, x: Array) -> tuple[Array, tuple[int, ...]]:
        """x (..., E), which must be such as the layer takes, as rows (n, E), and its leading shape."""
        return _checks.rows(function, x, self.self_attn.embed_dim, self.self_attn.out_proj.dtype)

    def _attention(self, name: str = "self_attn") -> MultiHeadAttention:
        """An attention of the layer, which may have been replaced by something else, or its output projection."""
        attention = check_part(type(self).__name__, name, getattr(self, name), MultiHeadAttention)
        check_part("MultiHeadAttention", "out_proj", attention.out_proj, Linear)
        return attention

    def _sizes(self) -> str:
        """What is the same in all layers of a stack, in words."""
        attention = self._attention()
        width, heads, dtype = attention.embed_dim, attention.num_heads, attention.out_proj.dtype
        attends = 1 if self.multihead_attn is None else 2
        return f"width {width}, {heads} heads, dtype {dtype} and {attends} attention layers"

    def _counts_positions(self) -> bool:
        return self.self_attn._counts_positions()

    def _make_plan(self, revision: object) -> _layer.LayerPlan:
        function = type(self).__name__
        check_part(function, "linear1", self.linear1, Linear)
        check_part(function, "linear2", self.linear2, Linear)
        cross = None
        if self.multihead_attn is not None:
            attention = self._attention("multihead_attn")
            if attention.left >= 0 or attention.right >= 0 or attention.alibi:
                raise ValueError(f"{function}: multihead_attn has a window or ALiBi; attention to a memory has neither")
            cross = attention._planned()
        _checks.positive(function, "residual_scale", self.residual_scale)
        norms = [(getattr(self, x), getattr(self, f"post_{x}")) if x else (None, None) for x in self._norms]
        for name, (norm, after) in zip(self._norms, norms, strict=True):
            if norm is not None or name == self._norms[2]:  # the one of the feed-forward block may not be missing
                check_norm(function, name, norm)
            if after is not None:
                check_norm(function, f"post_{name}", after)
        return _layer.LayerPlan(self, self._attention()._planned(), cross, norms, revision)

    def _forward_rows(
        self,
        x: Array,
        sequences: Sequences,
        out: Array | None = None,
        memory: Sequences | None = None,
        cache: KVCache | None = None,
        memory_cache: KVCache | None = None,
    ) -> Array:
        """Checked rows through the layer: out, an array like x, or a new one.

        cache: where keys and values of the sequences are, if these continue others. memory: what the layer attends to,
        whose keys and values are in memory_cache unless it has rows.
        """
        plan = self._planned()
        x = np.ascontiguousarray(x)
        out = np.empty_like(x) if out is None else out
        attention, bound = plan.self_attention, None
        if memory is not None and plan.cross_attention is not None:
            bound = sequences.memory_of(plan.cross_attention, memory, memory_cache)
        rotation = None if attention.rotary is None else sequences.rotation_of(attention)
        held, scales = (None, None) if cache is None else (cache._held, cache._held_scales)
        own = sequences.binding(attention.bf16 and scales is None)
        plan.run(x, out, own, rotation, bound, held, scales)
        return out
