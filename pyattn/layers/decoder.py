"""Decoders: a layer, and a stack of layers that also makes sequences longer step by step."""

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Seed, check_part
from pyattn._namespaces import in_namespace
from pyattn.cache import KVCache
from pyattn.layers.block import Block
from pyattn.layers.config import torch_config
from pyattn.layers.norm import Norm
from pyattn.layers.sequences import Sequences
from pyattn.layers.stack import Runs, Stack
from pyattn.layers.state import DecoderState


class Decodes:
    """The call that a decoder has in common with its layers."""

    @in_namespace
    def __call__(
        self: Runs,
        tgt: Array,
        memory: Array | None = None,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        *,
        tgt_key_mask: Array | None = None,
        memory_key_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        """tgt (B, L, E) attending to itself and to memory (B, S, E); both without the batch axis as well.

        Args:
            tgt: of the layers' dtype, any strides.
            memory: an encoder's output; None for layers without cross-attention.
            tgt_mask, tgt_key_mask: as an encoder's mask and key_mask, such as (L, L) and (B, L).
            memory_mask, memory_key_mask: the same for attention to memory, such as (L, S) and (B, S).
            is_causal: a token sees itself and those before it.

        Returns:
            The shape of tgt. Unlike an encoder's, padding of tgt is computed as any token is, and not 0.

        Raises:
            TypeError: an input is not of the layers' dtype; a mask's dtype is unsupported.
            ValueError: shapes do not fit; memory is missing, or given to layers that have no cross-attention.
        """
        name = type(self).__name__
        first = self._first()
        check_memory(name, first, memory)
        heads = first.self_attn.num_heads
        rows, shape = first._rows(name, tgt)
        batch, (length, _) = _checks.batches(name, shape)
        mask = _checks.combined_mask(name, tgt_mask, tgt_key_mask, (batch, heads, length, length), rows.dtype)
        is_causal = _checks.flag(name, "is_causal", is_causal)
        sequences, keys = Sequences.padded(batch, length, mask, is_causal), None
        if memory is not None:
            memory_rows, memory_shape = first._rows(name, memory)
            _, lengths = _checks.batches(name, shape, memory_shape)
            mask = _checks.combined_mask(name, memory_mask, memory_key_mask, (batch, heads, *lengths), rows.dtype)
            keys = Sequences.padded(batch, lengths[1], mask, rows=(memory_rows, memory_rows))
        return self._forward_rows(rows, sequences, memory=keys).reshape(*shape, rows.shape[1])


def check_memory(function: str, layer: Block, memory: Array | None) -> None:
    if (layer.multihead_attn is None) != (memory is None):
        wrong = "memory is needed" if memory is None else "memory is given, but there is no cross-attention"
        raise ValueError(f"{function}: {wrong}")


class TransformerDecoderLayer(Decodes, Block):
    """Causal self-attention, attention to an encoder's output and a feed-forward block, each with residual and norm.

    Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.3. Arguments and parameters as torch's
    nn.TransformerDecoderLayer has them (`self_attn.*`, `multihead_attn.*`, `linear1.*`, `linear2.*`, `norm1.*`,
    `norm2.*`, `norm3.*`); the others as TransformerEncoderLayer's (`post_norm1.*`, `post_norm2.*` and `post_norm3.*` of
    sandwich_norm). num_key_value_heads: of self-attention; cross-attention has nhead. cross_attention: False leaves out
    multihead_attn and norm2, as in models that have no encoder (GPT: Radford et al. 2018).

    Example:
        >>> layer = TransformerDecoderLayer(64, 4, 128)
        >>> sorted(layer.state_dict())[:3]
        ['linear1.bias', 'linear1.weight', 'linear2.bias']
        >>> layer(np.ones((2, 7, 64), np.float32), np.ones((2, 9, 64), np.float32), is_causal=True).shape
        (2, 7, 64)
    """

    _norms = ("norm1", "norm2", "norm3")
    norm1: Norm | None
    norm2: Norm | None
    norm3: Norm
    post_norm1: Norm | None
    post_norm2: Norm | None
    post_norm3: Norm | None

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        *,
        cross_attention: bool = True,
        gated: bool = False,
        norm: str = "layer",
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        scale: float | None = None,
        window: tuple[int | None, int | None] | None = None,
        rotary_base: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        alibi: bool = False,
        qk_norm: bool = False,
        unit_offset: bool = False,
        sandwich_norm: bool = False,
        residual_scale: float = 1.0,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        self._make(torch_config(type(self).__name__, locals()), rng)


class TransformerDecoder(Decodes, Stack):
    """A stack of num_layers copies of decoder_layer, with a norm after the last if one is given.

    Parameters as torch's nn.TransformerDecoder has them (`layers.0.self_attn. ...`, `norm.weight`, `norm.bias`).
    Called, it runs over whole sequences; `start` and `step` make sequences longer at the cost of the new tokens.
    `from_configs` makes a stack of layers that differ.

    Attributes:
        check_finite: as TransformerEncoder has it; a step that raises leaves all sequences as they were.

    Example:
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(64, 4, 128, rng=0), 2)
        >>> x, memory = np.random.default_rng(0).standard_normal((2, 3, 7, 64), dtype=np.float32)
        >>> whole = decoder(x, memory, is_causal=True)
        >>> state = decoder.start(memory, capacity=100)
        >>> first, second = decoder.step(x[:, :4], state), decoder.step(x[:, 4:], state)
        >>> np.allclose(np.concatenate([first, second], axis=1), whole, atol=1e-6)
        True
    """

    _layer_type = TransformerDecoderLayer
    layers: list[TransformerDecoderLayer]

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Norm | None = None) -> None:
        self._copies(decoder_layer, "decoder_layer", num_layers, norm)

    def _make(self, *arguments: Any) -> None:
        super()._make(*arguments)
        self._name = os.urandom(16)  # by which states know it and its copies

    def start(
        self,
        memory: Array | None = None,
        *,
        capacity: int,
        batch_size: int | None = None,
        memory_lengths: ArrayLike | None = None,
        cache_dtype: DTypeLike | None = None,
    ) -> DecoderState:
        """A state without tokens; keys and values of memory are computed here, once.

        Args:
            memory: (B, S, E), an encoder's output; None for layers without cross-attention.
            capacity: the most tokens that a sequence will have.
            batch_size: the most sequences that there will be, those beyond B by reorder. None: B; without memory, 1.
            memory_lengths: (B,) integers: how many rows of each sample are real, followed by padding; None: all.
            cache_dtype: "int8": keys and values, those of memory too, are held as KVCache holds them in int8: half the
                memory of bfloat16, and about half the time where reading them is most of a step. Queries are float32
                then. None: the dtype in which the layers attend, bfloat16 where weights are bfloat16 or int8.

        Raises:
            TypeError: as a call; cache_dtype is neither.
            ValueError: as a call; a size is not a positive integer; cache_dtype is "int8", and the layers are float64.
        """
        name = "TransformerDecoder.start"
        check_memory(name, self._first(), memory)
        dtype = _checks.cache_dtype(name, cache_dtype, self._first().self_attn.out_proj.dtype)
        batch = most = 1 if batch_size is None else _checks.size(name, "batch_size", batch_size)
        keys, cross_caches = None, list[KVCache]()
        if memory is not None:
            keys, cross_caches = self._cached_memory(name, memory, memory_lengths, dtype)
            batch, most = keys.batch, max(most, keys.batch)
        capacity = _checks.size(name, "capacity", capacity)
        attentions = [layer.self_attn for _, layer in self._planned().in_order]
        caches = [attention._cache(most, capacity, dtype, of_steps=True) for attention in attentions]
        for cache in caches:
            cache.reorder(np.arange(batch))
        bias = None if self.position_bias is None else self.position_bias.by_distance
        return DecoderState(caches, keys, cross_caches, self._layout(), bias)

    def _cached_memory(
        self, function: str, memory: Array, memory_lengths: ArrayLike | None, dtype: str | None
    ) -> tuple[Sequences, list[KVCache]]:
        """A memory's sequences, and each layer's keys and values of its rows."""
        rows, shape = self._first()._rows(function, memory)
        batch, (_, length) = _checks.batches(function, shape)
        every = np.full(batch, length, np.int64)
        lengths = _checks.lengths_of(function, "memory_lengths", memory_lengths, every, "the rows of memory")
        if self.check_finite:
            self._check_numbers("memory", rows)
        keys = Sequences.padded(batch, length, past_len=np.zeros(batch, np.int64), new_len=lengths)
        attentions = [layer.multihead_attn for layer in self.layers if layer.multihead_attn]
        caches = [attention._cache_of_memory(rows, keys, dtype) for attention in attentions]
        return Sequences.padded(batch, length, new_len=lengths), caches  # without what the caches' computation needed

    @in_namespace
    def step(self, x: Array, state: DecoderState, lengths: ArrayLike | None = None) -> Array:
        """The next tokens of a state's sequences: x (B, L, E) to (B, L, E); they see all before them.

        Args:
            x: of the layers' dtype.
            state: what start of this decoder, or of a copy, made; its sequences have these tokens afterwards.
            lengths: (B,) integers: how many of each sequence's tokens are real, followed by padding; None: all.

        Raises:
            TypeError: x is not of the layers' dtype; state is something else.
            ValueError: shapes do not fit; a sequence would be longer than the state's capacity; the state is another
                decoder's, or was made before layers were replaced; another call has it.
        """
        name = "TransformerDecoder.step"
        self._check_state(name, state)
        rows, shape = self._first()._rows(name, x)
        width = rows.shape[1]
        if len(shape) != 2 or shape[0] != len(state.lengths):
            raise ValueError(f"{name}: x has shape {np.shape(x)}; ({len(state.lengths)}, L, {width}) is needed")
        more = state._caches[0]._more(name, length := shape[1], lengths)
        return self._step_rows(name, rows, state, length, more).reshape(*shape, width)

    def _step_rows(self, function: str, rows: Array, state: DecoderState, length: int, more: Array) -> Array:
        """step for checked rows (B L, E), of which each sequence takes so many, in parts that fit windows. The state
        changes in one step, at the end."""
        workspace = state._take(function)
        try:
            most = min(c.capacity - c.window + 1 if c.window else c.capacity for c in state._caches)  # at once
            for cache in state._caches:
                if cache.window is None:  # has room for all, or none is appended; others without a window are alike
                    cache._new_len(function, length, more)
                    break
            caches = [cache._branch(apart=length > most) for cache in state._caches]
            whole = rows.reshape(len(more), length, rows.shape[1])
            outs = []
            for first in range(0, max(1, length), most):
                part = whole[:, first : first + most]
                here = more if length <= most else np.clip(more - first, 0, part.shape[1])
                sequences = state._next(function, caches, part.shape[1], here, workspace)
                flat = part.reshape(-1, part.shape[2])
                out = self._forward_rows(flat, sequences, state._memory, caches, state._cross)
                outs.append(out.reshape(part.shape))
                for cache, own in zip(caches, sequences, strict=True):
                    assert own.new_len is not None
                    cache.lengths = own.new_len
            state._caches = caches
        finally:
            state._workspaces.append(workspace)
        out = outs[0] if len(outs) == 1 else np.concatenate(outs, axis=1)
        return out.reshape(rows.shape)

    def _layout(self) -> tuple[Any, ...]:
        """What a state is made for: this decoder or a copy, its heads, its layers' order, and their keys and values."""
        plan = self._planned()
        if plan.layout is None:
            attentions = [part for layer in plan.layers for part in (layer.self_attn, layer.multihead_attn)]
            layouts = [None if part is None else part._layout() for part in attentions]
            plan.layout = self._name, plan.layers[0].self_attn.num_heads, self._order, layouts
        return plan.layout

    def _check_state(self, function: str, state: DecoderState) -> None:
        check_part(function, "state", state, DecoderState, "what start returned")
        if state._made_for != self._layout():
            made = "before layers were replaced" if state._made_for[0] == self._name else "by another decoder"
            raise ValueError(f"{function}: state was made {made}; start makes one that fits")
