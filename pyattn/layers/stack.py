"""A list of layers that run one after the other."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Layer, Seed, check_part
from pyattn.cache import KVCache
from pyattn.layers.block import Block
from pyattn.layers.config import LayerConfig
from pyattn.layers.norm import Norm
from pyattn.layers.sequences import Sequences
from pyattn.positional import RelativePositionBias

_Stack = TypeVar("_Stack", bound="Stack")


class Runs(Protocol):
    """What a layer and a stack of layers have in common, on which their calls rest."""

    def _first(self) -> Block: ...
    def _counts_positions(self) -> bool: ...
    def _forward_rows(self, x: Array, sequences: Sequences, *, memory: Sequences | None = None) -> Array: ...


@dataclass
class StackPlan:
    """The layers of a stack as they were checked, and as they run, each with its number."""

    revision: object
    layers: list[Block]
    in_order: list[tuple[int, Block]]
    layout: tuple[Any, ...] | None = None  # of a decoder, once it is asked for


class Stack(Layer):
    """What stacks of encoders and decoders share: layers, which may differ, and a norm after the last or None.

    position_bias: None, or the biases by distance that all layers add to their logits. `_forward_rows` does the work.
    """

    _layer_type: ClassVar[type[Block]]
    check_finite = False

    @classmethod
    def from_configs(
        cls: type[_Stack],
        configs: Iterable[LayerConfig],
        norm: Norm | None = None,
        *,
        order: Sequence[int] | None = None,
        position_bias: RelativePositionBias | None = None,
        rng: Seed = None,
    ) -> _Stack:
        """A stack of layers that differ, of random parameters from rng.

        Args:
            configs: of each layer.
            norm: what follows the last layer, or None.
            order: the numbers of layers as they run, some more than once (ALBERT: arXiv:1909.11942); None: each once.
            position_bias: what all layers add to their logits (T5: Raffel et al. 2020, arXiv:1910.10683).

        Raises:
            TypeError: an argument is something else.
            ValueError: there are no configs, or they differ in width, heads, dtype or cross-attention; order is empty
                or names a layer that there is not; position_bias is for another number of heads.
        """
        name, rng, configs = cls.__name__, np.random.default_rng(rng), list(configs)
        if order is not None:
            check_part(name, "order", order, Iterable, "the numbers of layers or None")  # type: ignore[type-abstract]
            order = tuple(_checks.count(name, "order", number) for number in order)
            if not order:
                raise ValueError(f"{name}: order is empty; None runs each layer once")
        stack = cls.__new__(cls)
        stack._make([cls._layer_type.from_config(config, rng) for config in configs], norm, order, position_bias)
        return stack

    def _copies(self, layer: Any, argument: str, count: int, norm: Norm | None) -> None:
        """Makes the stack of so many copies of a layer."""
        name = type(self).__name__
        _checks.size(name, "num_layers", count)
        check_part(name, argument, layer, self._layer_type)
        self._make([copy.deepcopy(layer) for _ in range(count)], norm)

    def _make(
        self,
        layers: list[Any],
        norm: Norm | None,
        order: Sequence[int] | None = None,
        position_bias: RelativePositionBias | None = None,
    ) -> None:
        name = type(self).__name__
        if norm is not None:
            check_part(name, "norm", norm, Norm, "a LayerNorm, an RMSNorm or None")
        self.layers, self._order = layers, order
        attention = self._first().self_attn
        width, dtype, heads = attention.embed_dim, attention.out_proj.dtype, attention.num_heads
        if norm is not None and (norm.width, norm.dtype) != (width, dtype):
            raise ValueError(f"{name}: norm is for {norm.width} {norm.dtype}, the layers for {width} {dtype}")
        if position_bias is not None:
            check_part(name, "position_bias", position_bias, RelativePositionBias)
            if (given := position_bias._parameters["weight"].shape[1]) != heads:
                raise ValueError(f"{name}: position_bias is for {given} heads, the layers have {heads}")
        self.norm, self.position_bias = norm, position_bias

    def _first(self) -> Block:
        """The first layer: widths, heads and dtype are the same in all."""
        return self._planned().layers[0]

    def _counts_positions(self) -> bool:
        """Whether it matters how far apart tokens are."""
        return self.position_bias is not None or any(layer._counts_positions() for layer in self.layers)

    def _planned(self) -> StackPlan:
        plan: StackPlan = super()._planned()
        return plan if plan.layers == self.layers else self._renew_plan()  # a list that may be changed

    def _make_plan(self, revision: object) -> StackPlan:
        name, layers = type(self).__name__, list(self.layers)
        if not layers:
            raise ValueError(f"{name}: layers is empty")
        for number, layer in enumerate(layers):
            check_part(name, f"layers.{number}", layer, self._layer_type)
            if (sizes := layer._sizes()) != (needed := layers[0]._sizes()):
                raise ValueError(f"{name}: layers.{number} has {sizes}; layers.0 has {needed}")
        order = range(len(layers)) if self._order is None else self._order
        if max(order) >= len(layers):  # some may have been taken away
            raise ValueError(f"{name}: there are {len(layers)} layers; {max(order) + 1} are needed")
        return StackPlan(revision, layers, [(number, layers[number]) for number in order])

    def _forward_rows(
        self,
        x: Array,
        sequences: Sequences | list[Sequences],
        memory: Sequences | None = None,
        caches: Sequence[KVCache] | None = None,
        memory_caches: list[KVCache] | None = None,
    ) -> Array:
        """Checked rows through the layers and the norm.

        sequences: what the rows are to all layers, or to each run of one, where windows differ. memory, caches,
        memory_caches: as Block's. A layer that runs twice has two caches, of other keys, but one memory cache.
        """
        if self.check_finite:
            self._check_numbers("the input", x)
            if memory is not None and memory.rows is not None:
                self._check_numbers("memory", memory.rows[0])
        if self.position_bias is not None and isinstance(sequences, Sequences) and sequences.relative_bias is None:
            farthest = max(1, sequences.longest())
            sequences.relative_bias = self.position_bias.by_distance(1 - farthest, farthest).astype(x.dtype, copy=False)
            sequences.zero = farthest - 1
        arrays = [np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)]  # layers write to one and read the other
        for step, (number, layer) in enumerate(self._planned().in_order):
            own = sequences if isinstance(sequences, Sequences) else sequences[step]
            cache = None if caches is None else caches[step]
            memory_cache = memory_caches[number] if memory_caches else None
            x = layer._forward_rows(x, own, arrays[step % 2], memory, cache, memory_cache)
            if self.check_finite:
                self._check_numbers(f"the output of layers.{number}", x)
        if self.norm is not None:
            self.norm._apply(x, out=x)
            if self.check_finite:
                self._check_numbers("the output of norm", x)
        return x

    def _check_numbers(self, what: str, x: Array) -> None:
        """FloatingPointError that says what made rows x (n, E), unless all are finite."""
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            where = f"in {bad.sum()} of {len(x)} rows, first in {bad.argmax()}"
            raise FloatingPointError(f"{type(self).__name__}: {what} has NaN or infinity {where}")
