"""The rows of a call: sequences padded or packed, the next tokens of cached ones, or a memory that others attend to."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyattn import _threads
from pyattn._checks import Array
from pyattn._core import sequences as _sequences
from pyattn._core.binding import Binding, Memory, Rotation, Workspace
from pyattn._core.layer import AttentionPlan
from pyattn._threads import get_num_threads
from pyattn.layers.config import Rotary
from pyattn.positional import rotary_tables
from pyattn.positional.relative import by_distance
from pyattn.precision import mask_to_bfloat16, to_bfloat16

LEAST_TABLE = 256  # positions: a table that must grow grows to twice what is needed, and to this at least


class RotaryTables:
    """Cosines and sines of rotary positions, kept from call to call. A copy begins without any."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Any, ...], tuple[Array, Array]] = {}

    def __reduce__(self) -> tuple[type["RotaryTables"], tuple[()]]:
        return RotaryTables, ()

    def get(self, rotary: Rotary, head_dim: int, length: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Those of at least `length` positions."""
        key = rotary.base, rotary.scaling, rotary.width or head_dim, dtype.char
        tables = self._tables.get(key)
        if tables is None or len(tables[0]) < length:
            tables = self._tables[key] = rotary_tables(
                max(LEAST_TABLE, 2 * length),
                rotary.width or head_dim,
                base=rotary.base,
                scaling=dict(rotary.scaling),
                sequence_length=0,
                dtype=dtype,
            )
        return tables


@dataclass
class Sequences:
    """The rows of a call: `batch` times the sequences that cu_seqlens, int64 (sequences + 1,), describes.

    `padded`, `packed`, `step` and `memory` make them.

    Attributes:
        mask: as attention's, for one sequence; with is_causal, a token attends to none after it.
        relative_bias: (H, 2 n + 1), added to the logits of a key that is n before the query up to n after it,
            n + 1 or more being the longest sequence.
        first: the position of each sequence's first row.
        past_len, new_len: int64 (batch,): tokens of each sequence in its cache before the call and after it. Rows are
            the tokens in between, followed by padding. Without past_len the cache has been written before.
        base: int64 (batch,), the positions of the caches' first tokens.
        bias: (batch, H, L, S), instead of relative_bias.
        rows: of a memory, its keys' and its values' rows, where these are not in a cache.
        workspace, tables: memory that a call uses, and rotary tables that calls share.
    """

    batch: int
    cu_seqlens: Array
    mask: Array | None = None
    is_causal: bool = False
    relative_bias: Array | None = None
    first: int = 0
    past_len: Array | None = None
    new_len: Array | None = None
    base: Array | None = None
    bias: Array | None = None
    rows: tuple[Array, Array] | None = None
    workspace: Workspace = field(default_factory=Workspace)
    tables: RotaryTables = field(default_factory=RotaryTables)
    _bindings: dict[tuple[bool, bool], Binding] = field(default_factory=dict)
    _rotations: dict[tuple[int, int], tuple[Rotary, Rotation]] = field(default_factory=dict)
    _positions: Array | None = None

    @classmethod
    def padded(cls, batch: int, length: int, mask: Array | None, is_causal: bool, tables: RotaryTables) -> "Sequences":
        """A batch of sequences of one length."""
        return cls(batch, np.array([0, length]), mask, is_causal, tables=tables)

    @classmethod
    def packed(cls, cu_seqlens: Array, is_causal: bool, tables: RotaryTables) -> "Sequences":
        """Sequences one after the other, without padding."""
        return cls(1, cu_seqlens, is_causal=is_causal, tables=tables)

    @classmethod
    def step(cls, length: int, past_len: Array, new_len: Array, base: Array, **shared: Any) -> "Sequences":
        """The next `length` rows of each sequence, whose cache has past_len tokens and will have new_len."""
        cu_seqlens = np.array([0, length])
        return cls(len(new_len), cu_seqlens, is_causal=True, past_len=past_len, new_len=new_len, base=base, **shared)

    @classmethod
    def memory(cls, batch: int, length: int, lengths: Array) -> "Sequences":
        """What cached keys and values are of: (batch, length) rows, of which lengths (batch,) are real."""
        return cls(batch, np.array([0, length]), new_len=lengths)

    def longest(self) -> int:
        return _sequences.longest(self.cu_seqlens)

    def positions(self) -> Array:
        """The position of each row in its sequence."""
        if self._positions is None:
            positions = _sequences.positions(self.cu_seqlens, self.batch)
            if self.first:
                positions += self.first
            if self.past_len is not None:
                first = self.past_len if self.base is None else self.past_len + self.base
                positions += np.repeat(first, self.cu_seqlens[-1])
            self._positions = positions
        return self._positions

    def rotation_of(self, plan: AttentionPlan) -> Rotation | None:
        """What rotates heads of these rows in a layer's attention; None where it has no rotary positions."""
        rotary = plan.rotary
        if rotary is None:
            return None
        # By identity, which costs less than a hash for each layer; what is kept here gives its id to no other.
        key = id(rotary), plan.head_dim
        known = self._rotations.get(key)
        if known is None:
            positions = self.positions()
            length = int(positions.max(initial=-1)) + 1
            tables = self.tables.get(rotary, plan.head_dim, length, plan.compute_dtype)
            known = self._rotations[key] = rotary, Rotation(positions, *tables)
        return known[1]

    def binding(self, bf16: bool, memory: "Sequences | None" = None) -> Binding:
        """These rows attending to themselves, to what their cache holds, or to a memory, as drivers take it.

        bf16: masks and biases are of bfloat16, as attention's operands are. Neighbouring sequences share those of a
        memory evenly.
        """
        key = bf16, memory is None
        binding = self._bindings.get(key)
        if binding is None:
            keys = self if memory is None else memory
            query_starts = self.cu_seqlens * (self.batch // max(1, keys.batch))
            binding = self._bindings[key] = Binding(keys.batch, query_starts, keys._ends(), self.workspace)
            binding.threads, binding.small = get_num_threads(), _threads.SMALL_WORK
            keys._fill(binding, bf16)
        return binding

    def memory_of(self, plan: AttentionPlan, memory: "Sequences", keys: Array | None, values: Array | None) -> Memory:
        """A memory as these rows attend to it in a layer: its rows, or the layer's cache of its keys and values."""
        key_rows, value_rows = (None, None) if memory.rows is None else memory.rows
        bound = Memory(self.binding(plan.bf16, memory), key_rows, value_rows, keys, values)
        if plan.rotary is not None:
            bound.query_rotation = self.rotation_of(plan)
            bound.key_rotation = None if memory.rows is None else memory.rotation_of(plan)
        return bound

    def _ends(self) -> Array:
        """Where the keys of each sequence begin, and the last ends."""
        return self.cu_seqlens if self.new_len is None else np.array([0, self.new_len.max(initial=0)])

    def _fill(self, binding: Binding, bf16: bool) -> None:
        binding.is_causal, binding.past_len, binding.new_len = self.is_causal, self.past_len, self.new_len
        if self.mask is not None:
            binding.mask = self.mask if self.mask.dtype == bool or not bf16 else mask_to_bfloat16(self.mask)
        if self.bias is not None:
            binding.bias = mask_to_bfloat16(self.bias) if bf16 else self.bias
        elif self.relative_bias is not None:
            table = to_bfloat16(self.relative_bias) if bf16 else self.relative_bias
            view = by_distance(table, table.shape[1] // 2, *[self.longest()] * 2)
            binding.bias = np.broadcast_to(view, (self.batch, *view.shape))
            binding.bias_of_sequence = True
