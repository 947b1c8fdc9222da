"""Layers of the decoder, and a stack of them."""

import copy
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import layer as _layer
from pyattn.cache import KVCache
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.base import Layer, Seed
from pyattn.layers.block import Block, check_layers, check_numbers, last_norm
from pyattn.layers.norm import Norm
from pyattn.layers.sequences import Sequences
from pyattn.layers.state import DecoderState


class TransformerDecoderLayer(Block):
    """Causal self-attention, attention to an encoder's output and a feed-forward block, each with residual and norm.

    Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.3. Arguments and parameters as torch's
    nn.TransformerDecoderLayer has them (`self_attn.*`, `multihead_attn.*`, `linear1.*`, `linear2.*`, `norm1.*`,
    `norm2.*`, `norm3.*`); the others as TransformerEncoderLayer's. cross_attention: False leaves out multihead_attn and
    norm2, as in models that have no encoder (GPT: Radford et al. 2018).

    A layer is a part of a TransformerDecoder, which runs it.

    Example:
        >>> sorted(TransformerDecoderLayer(64, 4, 128).state_dict())[:3]
        ['linear1.bias', 'linear1.weight', 'linear2.bias']
    """

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
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        rng = np.random.default_rng(rng)
        super().__init__(
            d_model,
            nhead,
            dim_feedforward,
            activation,
            norm_first,
            bias,
            gated,
            dtype,
            rng,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            scale=scale,
            window=window,
            rotary_base=rotary_base,
        )
        self.multihead_attn: MultiHeadAttention | None = None
        self.norm1 = self._make_norm(norm, layer_norm_eps, bias)
        self.norm2: Norm | None = None
        if _checks.flag("TransformerDecoderLayer", "cross_attention", cross_attention):
            self.multihead_attn = MultiHeadAttention(
                d_model, nhead, bias, head_dim=head_dim, scale=scale, dtype=dtype, rng=rng
            )
            self.norm2 = self._make_norm(norm, layer_norm_eps, bias)
        self.norm3 = self._make_norm(norm, layer_norm_eps, bias)

    def _last_norm(self) -> Norm:
        return self.norm3

    def _sizes(self) -> tuple[Any, ...]:
        return *super()._sizes()[:-1], 1 if self.multihead_attn is None else 2

    def _cross(
        self, sequences: Sequences, memory: Sequences | None, cache: KVCache | None = None
    ) -> _layer.Attention | None:
        if self.multihead_attn is None or memory is None:
            return None
        return self.multihead_attn._block(sequences, memory, self.norm2, cache)


class TransformerDecoder(Layer):
    """A stack of num_layers copies of decoder_layer, with a norm behind the last if one is given.

    Parameters as torch's nn.TransformerDecoder has them (`layers.0.self_attn. ...`, `norm.weight`, `norm.bias`).
    Called, it runs over whole sequences; `start` and `step` make sequences longer at the cost of the new tokens.

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

    check_finite = False

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Norm | None = None) -> None:
        name = "TransformerDecoder"
        _checks.size(name, "num_layers", num_layers)
        if not isinstance(decoder_layer, TransformerDecoderLayer):
            raise TypeError(
                f"{name}: decoder_layer must be a TransformerDecoderLayer, not {type(decoder_layer).__name__}"
            )
        if norm is not None and not isinstance(norm, Norm):
            raise TypeError(f"{name}: norm must be a LayerNorm, an RMSNorm or None, not {type(norm).__name__}")
        width, dtype = decoder_layer.norm3.width, decoder_layer.norm3.dtype
        if norm is not None and (norm.width, norm.dtype) != (width, dtype):
            raise ValueError(f"{name}: norm is for {norm.width} {norm.dtype}, the layers for {width} {dtype}")
        self.layers = [copy.deepcopy(decoder_layer) for _ in range(num_layers)]
        self.norm = norm
        self._name = os.urandom(16)  # by which states know it and its copies

    def __call__(
        self,
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
            tgt_mask, memory_mask: as in scaled_dot_product_attention: (L, L) and (L, S), (B, L, S), or broadcasting to
                (B, H, L, S).
            tgt_key_mask, memory_key_mask: boolean (B, L) and (B, S): True where a token is real, False where it is
                padding (torch's key_padding_masks are their negations).
            is_causal: a token sees itself and those before it.

        Returns:
            The shape of tgt. Unlike an encoder's, padding of tgt is computed as any token is, and not 0.

        Raises:
            TypeError: an input is not of the layers' dtype; a mask's dtype is unsupported.
            ValueError: shapes do not fit; memory is missing, or given to layers that have no cross-attention.
        """
        name = "TransformerDecoder"
        self._check_memory(name, memory)
        attention = self.layers[0].self_attn
        width, dtype, heads = attention.embed_dim, attention.out_proj.dtype, attention.num_heads
        rows, shape = _checks.rows(name, tgt, width, dtype)
        batch, (length, _) = _checks.batches(name, shape, shape, shape)
        mask = _checks.combined_mask(name, tgt_mask, tgt_key_mask, (batch, heads, length, length), dtype)
        sequences = Sequences(batch, np.array([0, length]), mask, _checks.flag(name, "is_causal", is_causal))
        keys, memory_rows = None, None
        if memory is not None:
            memory_rows, memory_shape = _checks.rows(name, memory, width, dtype)
            _, lengths = _checks.batches(name, shape, memory_shape, memory_shape)
            mask = _checks.combined_mask(name, memory_mask, memory_key_mask, (batch, heads, *lengths), dtype)
            keys = Sequences(batch, np.array([0, lengths[1]]), mask, workspace=sequences.workspace)
        out = self._forward_rows(rows, [sequences] * len(self.layers), keys, memory_rows)
        return out.reshape(*shape, width)

    def start(
        self,
        memory: Array | None = None,
        *,
        capacity: int,
        batch_size: int | None = None,
        memory_lengths: ArrayLike | None = None,
    ) -> DecoderState:
        """A state without tokens; keys and values of memory are computed here, once.

        Args:
            memory: (B, S, E), an encoder's output; None for layers without cross-attention.
            capacity: the most tokens that a sequence will have.
            batch_size: the most sequences that there will be; with memory, those beyond B come from reorder. None: B,
                or 1 without memory.
            memory_lengths: (B,) integers: how many rows of each sample are real, padding behind them; None: all.

        Raises:
            TypeError, ValueError: as a call; a size is not a positive integer.
        """
        name = "TransformerDecoder.start"
        self._check_memory(name, memory)
        first = self.layers[0].self_attn
        batch, keys, rows = 1, None, None
        if memory is not None:
            rows, shape = _checks.rows(name, memory, first.embed_dim, first.out_proj.dtype)
            batch, (_, length) = _checks.batches(name, shape, shape, shape)
            lengths = np.full(batch, length) if memory_lengths is None else memory_lengths
            lengths = _checks.integers(name, "memory_lengths", lengths, (batch,), f"{(batch,)}, one for each sample")
            _checks.within(name, "memory_lengths", lengths, 0, np.full(batch, length), "the rows of memory")
            keys = Sequences(batch, np.array([0, length]), until=np.array(lengths, np.int64))
        elif batch_size is not None:
            batch = _checks.size(name, "batch_size", batch_size)
        most = batch if batch_size is None else max(batch, _checks.size(name, "batch_size", batch_size))
        capacity = _checks.size(name, "capacity", capacity)
        caches = [layer.self_attn._cache(most, capacity) for layer in self.layers]
        for cache in caches:
            cache.reorder(np.arange(batch))
        cross = []
        if keys is not None and rows is not None:
            if self.check_finite:
                check_numbers(self, "memory", rows)
            cross = [layer.multihead_attn._remember(rows, keys) for layer in self.layers if layer.multihead_attn]
        return DecoderState(caches, keys, cross, self._layout())

    def step(self, x: Array, state: DecoderState, lengths: ArrayLike | None = None) -> Array:
        """The next tokens of a state's sequences: x (B, L, E) to (B, L, E); they see all before them.

        Args:
            x: of the layers' dtype.
            state: what start of this decoder, or of a copy, made; its sequences have these tokens afterwards.
            lengths: (B,) integers: how many of each sequence's tokens are real, padding behind them; None: all.

        Raises:
            TypeError: x is not of the layers' dtype; state is something else.
            ValueError: shapes do not fit; a sequence would be longer than the state's capacity; the state is another
                decoder's, or was made before layers were replaced; another call has it.
        """
        name = "TransformerDecoder.step"
        self._check_state(name, state)
        attention = self.layers[0].self_attn
        rows, shape = _checks.rows(name, x, attention.embed_dim, attention.out_proj.dtype)
        if len(shape) != 2 or shape[0] != len(state.lengths):
            raise ValueError(
                f"{name}: x has shape {np.shape(x)}; ({len(state.lengths)}, L, {attention.embed_dim}) is needed"
            )
        return self._step_rows(name, rows, state, shape[1], lengths).reshape(*shape, attention.embed_dim)

    def _step_rows(
        self, function: str, rows: Array, state: DecoderState, length: int, lengths: ArrayLike | None = None
    ) -> Array:
        """step for checked rows (B L, E): in parts where a layer's window has not room for all at once.

        The state's caches are replaced when all is done, in one step: until then it is as it was.
        """
        workspace = state._take(function)
        try:
            more, most = state._caches[0]._more(function, length, lengths), state._most()
            for cache in state._caches:
                if cache.window is None:  # has room for all, or none is appended
                    cache._until(function, length, more)
            caches = [cache._branch(apart=length > most) for cache in state._caches]
            if length <= most:
                out = self._step_part(function, rows, state, caches, length, more, workspace)
            else:
                whole = rows.reshape(len(more), length, rows.shape[1])
                out = np.empty_like(whole)
                for first in range(0, length, most):
                    part = whole[:, first : first + most]
                    count = part.shape[1]
                    here = np.clip(more - first, 0, count)
                    done = self._step_part(
                        function, part.reshape(-1, part.shape[2]), state, caches, count, here, workspace
                    )
                    out[:, first : first + most] = done.reshape(part.shape)
            state._caches = caches
        finally:
            state._workspaces.append(workspace)
        return out.reshape(rows.shape)

    def _step_part(
        self,
        function: str,
        rows: Array,
        state: DecoderState,
        caches: list[KVCache],
        length: int,
        more: Array,
        workspace: _layer.Workspace,
    ) -> Array:
        """The next `length` rows of each sequence, of which so many are real, into the caches of a step."""
        sequences = state._next(function, caches, length, more, workspace)
        out = self._forward_rows(rows, sequences, state._memory, None, caches, state._cross)
        for cache, own in zip(caches, sequences, strict=True):
            assert own.until is not None
            cache.lengths = own.until
        return out

    def _forward_rows(
        self,
        x: Array,
        sequences: list[Sequences],
        memory: Sequences | None = None,
        memory_rows: Array | None = None,
        caches: list[KVCache] | None = None,
        cross_caches: list[KVCache] | None = None,
    ) -> Array:
        """Checked rows through the layers, each with its own view of the sequences, and the norm behind them."""
        check_layers(self, self.layers, TransformerDecoderLayer)
        arrays = [np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)]
        if self.check_finite:
            check_numbers(self, "the input", x)
            if memory_rows is not None:
                check_numbers(self, "memory", memory_rows)
        for number, (layer, own) in enumerate(zip(self.layers, sequences, strict=True)):
            cache = None if caches is None else caches[number]
            cross = cross_caches[number] if cross_caches else None
            x = layer._forward_rows(
                x,
                own,
                arrays[number % 2],
                cache,
                layer._cross(own, memory, cross),
                None if memory_rows is None else [memory_rows, memory_rows],
            )
            if self.check_finite:
                check_numbers(self, f"the output of layers.{number}", x)
        return x if self.norm is None else last_norm(self, self.norm, x, self.check_finite)

    def _layout(self) -> tuple[Any, ...]:
        """What a state is made for: this decoder or a copy, its heads, and what keys and values of its layers are."""
        check_layers(self, self.layers, TransformerDecoderLayer)
        layouts = [
            [
                None if attention is None else attention._layout()
                for attention in (layer.self_attn, layer.multihead_attn)
            ]
            for layer in self.layers
        ]
        return self._name, self.layers[0].self_attn.num_heads, layouts

    def _check_state(self, function: str, state: DecoderState) -> None:
        if not isinstance(state, DecoderState):
            raise TypeError(f"{function}: state must be what start returned, not {type(state).__name__}")
        layout = self._layout()
        if state._made_for != layout:
            made = "before layers were replaced" if state._made_for[0] == self._name else "by another decoder"
            raise ValueError(f"{function}: state was made {made}; start makes one that fits")

    def _check_memory(self, function: str, memory: Array | None) -> None:
        check_layers(self, self.layers[:1], TransformerDecoderLayer)
        wanted = self.layers[0].multihead_attn is not None
        if wanted != (memory is not None):
            raise ValueError(
                f"{function}: " + ("memory is needed" if wanted else "memory is given, but there is no cross-attention")
            )
