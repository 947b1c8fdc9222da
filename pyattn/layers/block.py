"""A layer of the Transformer: self-attention, attention to a memory where it has that, and a feed-forward block."""

from typing import Any, ClassVar, TypeVar

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import layer as _layer
from pyattn._module import Layer, Seed, revision
from pyattn.activations import ACTIVATIONS
from pyattn.cache import KVCache
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.config import LayerConfig
from pyattn.layers.linear import Linear, check_linear
from pyattn.layers.norm import Norm, check_norm, norm_of
from pyattn.layers.sequences import RotaryTables, Sequences

_Block = TypeVar("_Block", bound="Block")


class Block(Layer):
    """What layers of encoders and decoders share. `_forward_rows` does the work.

    A subclass names the norms of its blocks: of self-attention, of attention to a memory, and of the feed-forward
    block. The norm after a block, before the residual sum, has that name with "post_" in front.
    """

    _norms: ClassVar[tuple[str, str, str]]
    _plan: _layer.LayerPlan | None = None
    multihead_attn: MultiHeadAttention | None = None

    @classmethod
    def from_config(cls: type[_Block], config: LayerConfig, rng: Seed = None) -> _Block:
        """The layer that a LayerConfig describes, of random parameters from rng."""
        if not isinstance(config, LayerConfig):
            raise TypeError(f"{cls.__name__}.from_config: config must be a LayerConfig, not {type(config).__name__}")
        if config.cross_attention and not cls._norms[1]:
            raise ValueError(f"{cls.__name__}.from_config: config.cross_attention needs a decoder's layer")
        layer = cls.__new__(cls)
        layer._make(config, rng)
        return layer

    def _make(self, config: LayerConfig, rng: Seed) -> None:
        rng = np.random.default_rng(rng)
        sizes: dict[str, Any] = {"dtype": config.dtype, "rng": rng}
        self.norm_first = config.norm_placement != "post"
        self.residual_scale = config.residual_scale
        self.gated = config.gated
        self._activation = ACTIVATIONS[config.activation]
        self.self_attn = MultiHeadAttention.from_config(config, rng)
        self.linear1 = Linear(
            config.d_model,
            config.dim_feedforward * (2 if config.gated else 1),
            config.linear_bias,
            activation=None if config.gated else config.activation,
            **sizes,
        )
        self.linear2 = Linear(config.dim_feedforward, config.d_model, config.linear_bias, **sizes)
        if config.cross_attention:
            self.multihead_attn = MultiHeadAttention.from_config(config, rng, cross=True)
        for name, there in zip(self._norms, (config.input_norm, config.cross_attention, True), strict=True):
            if name:
                after = there and config.norm_placement == "sandwich"
                setattr(self, name, norm_of(config, config.d_model) if there else None)
                setattr(self, f"post_{name}", norm_of(config, config.d_model) if after else None)
        self._tables = RotaryTables()

    def _first(self) -> "Block":
        """The layer itself, as a stack has a first one."""
        return self

    def _attention(self) -> MultiHeadAttention:
        """Self-attention, which may have been replaced by something else, or its output projection."""
        attention = self._checked_attention("self_attn")
        check_linear("MultiHeadAttention", "out_proj", attention.out_proj)
        return attention

    def _checked_attention(self, name: str) -> MultiHeadAttention:
        attention = getattr(self, name)
        if not isinstance(attention, MultiHeadAttention):
            raise TypeError(
                f"{type(self).__name__}: {name} must be a MultiHeadAttention, not {type(attention).__name__}"
            )
        return attention

    def _sizes(self) -> tuple[Any, ...]:
        """What is the same in all layers of a stack: width, heads, dtype, and how often a layer attends."""
        attention = self._attention()
        attends = 1 if self.multihead_attn is None else 2
        return attention.embed_dim, attention.num_heads, attention.out_proj.dtype, attends

    def _counts_positions(self) -> bool:
        return self.self_attn._counts_positions()

    def _make_plan(self) -> _layer.LayerPlan:
        """Refuses parts that were replaced by what they cannot be."""
        function, seen = type(self).__name__, revision()
        check_linear(function, "linear1", self.linear1)
        check_linear(function, "linear2", self.linear2)
        cross = None
        if self.multihead_attn is not None:
            attention = self._checked_attention("multihead_attn")
            if attention.left >= 0 or attention.right >= 0 or attention.alibi:
                raise ValueError(f"{function}: multihead_attn has a window or ALiBi; attention to a memory has neither")
            cross = attention._planned()
        _checks.positive(function, "residual_scale", self.residual_scale)
        norms = [self._norms_of(function, name, number) for number, name in enumerate(self._norms)]
        plan = _layer.LayerPlan(self, self._attention()._planned(), cross, norms, seen)
        vars(self)["_plan"] = plan
        return plan

    def _norms_of(self, function: str, name: str, number: int) -> tuple[Norm | None, Norm | None]:
        """The norm of a block, and the one after it; the one of the feed-forward block may not be missing."""
        if not name or (number == 1 and self.multihead_attn is None):
            return None, None
        norm, after = getattr(self, name), getattr(self, f"post_{name}")
        if norm is not None or number == 2:
            check_norm(function, name, norm)
        return norm, None if after is None else check_norm(function, f"post_{name}", after)

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
        plan = self._plan
        if plan is None or plan.revision is not revision():
            plan = self._make_plan()
        x = np.ascontiguousarray(x)
        out = np.empty_like(x) if out is None else out
        attention, bound = plan.self_attention, None
        if memory is not None and plan.cross_attention is not None:
            keys, values = (None, None) if memory_cache is None else (memory_cache._keys, memory_cache._values)
            bound = sequences.memory_of(plan.cross_attention, memory, keys, values)
        keys, values = (None, None) if cache is None else (cache._keys, cache._values)
        rotation = None if attention.rotary is None else sequences.rotation_of(attention)
        plan.run(x, out, sequences.binding(attention.bf16), rotation, bound, keys, values)
        return out
