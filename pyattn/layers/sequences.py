"""The rows of a call: sequences padded or packed, the next tokens of cached ones, or a memory that others attend to."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from pyattn import _threads
from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._core.binding import Binding, Memory, Workspace
from pyattn._core.layer import AttentionPlan
from pyattn._threads import get_num_threads
from pyattn.cache import KVCache
from pyattn.layers.config import Rotary
from pyattn.positional import rotary_tables
from pyattn.positional.relative import by_distance
from pyattn.precision import mask_to_bfloat16, to_bfloat16

LEAST_TABLE = 256  # positions

# What is shown each attention of the calls in this context: pyattn.explain
watching: ContextVar[Callable[..., None] | None] = ContextVar("watching", default=None)


@lru_cache(maxsize=8)
def _kept_tables(*_: Any) -> list[tuple[Array, Array]]:
    """The longest tables that were made of one kind, once there are any."""
    return []


def _tables(rotary: Rotary, width: int, length: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Cosines and sines of at least so many positions, kept for all layers that have them alike."""
    kept = _kept_tables(rotary.base, rotary.scaling, width, dtype)
    tables = kept[0] if kept else None
    if tables is None or len(tables[0]) < length:
        positions = 1 << (max(length, LEAST_TABLE) - 1).bit_length()  # grows seldom
        scaling = dict(rotary.scaling)
        tables = rotary_tables(positions, width, base=rotary.base, scaling=scaling, sequence_length=0, dtype=dtype)
        kept[:] = [tables]
    return tables  # those looked at: another thread may have kept shorter ones since


@dataclass
class Sequences:
    """The rows of a call: `batch` times the sequences that cu_seqlens, int64 (sequences + 1,), describes.

    Attributes:
        mask: as attention's, for one sequence; with is_causal, a token attends to none after it.
        relative_bias: (H, distances), added to the logits: that of a row's own place is in column zero, or for each
            sample in zero (batch,), for its first row, and those of the keys after it follow.
        first: the positions, (batch,) or one for all, of the sequences' first tokens, which their caches may hold.
        past_len, new_len: int64 (batch,): tokens of each sequence in its cache before the call and after it. Rows are
            the tokens in between, followed by padding. Without past_len the cache has been written before.
        rows: of a memory, its keys' and its values' rows, where these are not in a cache.
        workspace: memory that a call uses.
    """

    batch: int
    cu_seqlens: Array
    mask: Array | None = None
    is_causal: bool = False
    relative_bias: Array | None = None
    zero: int | Array = 0
    first: int | Array = 0
    past_len: Array | None = None
    new_len: Array | None = None
    rows: tuple[Array, Array] | None = None
    workspace: Workspace = field(default_factory=Workspace)
    _bindings: dict[tuple[bool, bool], Binding] = field(default_factory=dict)
    _rotations: dict[tuple[int, int], tuple[Rotary, tuple[Array, Array, Array]]] = field(default_factory=dict)
    _positions: Array | None = None

    def __post_init__(self) -> None:
        self.workspace.watch = watching.get()

    @classmethod
    def padded(
        cls, batch: int, length: int, mask: Array | None = None, is_causal: bool = False, **options: Any
    ) -> "Sequences":
        """A batch of sequences of one length."""
        return cls(batch, np.array([0, length], np.int64), mask, is_causal, **options)

    @classmethod
    def packed(cls, cu_seqlens: Array, is_causal: bool) -> "Sequences":
        """Sequences one after the other, without padding."""
        return cls(1, cu_seqlens, is_causal=is_causal)

    def longest(self) -> int:
        return rowwise.longest(self.cu_seqlens)

    def positions(self) -> Array:
        """The position of each row in its sequence."""
        if self._positions is None:
            positions = rowwise.positions(self.cu_seqlens, self.batch)
            if self.past_len is not None:
                positions += np.repeat(self.first + self.past_len, self.cu_seqlens[-1])
            elif self.first:
                positions += self.first
            self._positions = positions
        return self._positions

    def rotation_of(self, plan: AttentionPlan) -> tuple[Array, Array, Array] | None:
        """What rotates heads of these rows in a layer's attention; None where it has no rotary positions."""
        rotary = plan.rotary
        if rotary is None:
            return None
        # By identity, which costs less than a hash for each layer; what is kept here gives its id to no other.
        key = id(rotary), plan.head_dim
        known = self._rotations.get(key)
        if known is None:
            positions = self.positions()
            length = int(positions.max(initial=0)) + 1
            tables = _tables(rotary, rotary.width or plan.head_dim, length, plan.compute_dtype)
            known = self._rotations[key] = rotary, (positions, *tables)
        return known[1]

    def binding(self, bf16: bool, memory: "Sequences | None" = None) -> Binding:
        """These rows attending to themselves, to what their cache holds, or to a memory, as drivers take it.

        bf16: whether masks and biases are of bfloat16. Neighbouring sequences share those of a memory evenly.
        """
        key = bf16, memory is None
        binding = self._bindings.get(key)
        if binding is None:
            keys = self if memory is None else memory
            query_starts = self.cu_seqlens * (self.batch // max(1, keys.batch))
            ends = keys.cu_seqlens if keys.new_len is None else np.array([0, keys.new_len.max(initial=0)], np.int64)
            binding = self._bindings[key] = Binding(keys.batch, query_starts, ends, self.workspace)
            binding.threads, binding.small = get_num_threads(), _threads.SMALL_WORK
            binding.is_causal, binding.past_len, binding.new_len = keys.is_causal, keys.past_len, keys.new_len
            if keys.mask is not None:
                binding.mask = mask_to_bfloat16(keys.mask) if bf16 and keys.mask.dtype != bool else keys.mask
            if keys.relative_bias is not None:
                table = to_bfloat16(keys.relative_bias) if bf16 else keys.relative_bias
                shape = rowwise.longest(query_starts), rowwise.longest(ends)
                views = [by_distance(table, zero, *shape)[None] for zero in np.atleast_1d(keys.zero)]
                bias = views[0] if len(views) == 1 else np.concatenate(views)
                binding.bias = np.broadcast_to(bias, (keys.batch, *bias.shape[1:]))
                binding.bias_of_sequence = True
        return binding

    def memory_of(self, plan: AttentionPlan, memory: "Sequences", cache: KVCache | None = None) -> Memory:
        """A memory as these rows attend to it in a layer: its rows, or the layer's cache of its keys and values."""
        held, scales = (None, None) if cache is None else (cache._held, cache._held_scales)
        of_keys = None if memory.rows is None else memory.rotation_of(plan)
        binding = self.binding(plan.bf16 and scales is None, memory)
        return Memory(binding, memory.rows, held, scales, self.rotation_of(plan), of_keys)
