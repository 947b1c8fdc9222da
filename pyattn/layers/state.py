"""The state of sequences that a decoder makes longer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core.binding import Workspace
from pyattn.cache import KVCache
from pyattn.layers.sequences import Sequences


@dataclass(eq=False, repr=False)
class DecoderState:
    """Sequences that a TransformerDecoder makes longer: keys and values of their tokens and of what they attend to.

    `TransformerDecoder.start` makes one, for that decoder. A step that raises leaves all sequences as they were. It
    serves one call at a time; copies of it (copy.deepcopy) go their own ways.

    Attributes:
        bias_by_distance: None, or where a model has biases by distance, what gives those (heads, last - first) of keys
            that are first ... last - 1 after the query, for (first, last).
    """

    _caches: list[KVCache]
    _memory: Sequences | None
    _cross: list[KVCache]
    _made_for: tuple[Any, ...]  # TransformerDecoder._layout
    bias_by_distance: Callable[[int, int], Array] | None

    def __post_init__(self) -> None:
        self._samples = np.arange(len(self.lengths) if self._memory is None else self._memory.batch)
        self._workspaces = [Workspace()]  # none while a call has it
        self._reorders = False  # whether a reorder has begun and not ended

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle: a copy belongs to no call. One of a state that a reorder left in pieces is of no use."""
        workspaces = [] if self._reorders else [Workspace()]
        return vars(self) | {"_workspaces": workspaces}

    @property
    def lengths(self) -> Array:
        """(B,), in tokens."""
        return self._caches[0].lengths + self._caches[0].base

    def reorder(self, rows: ArrayLike) -> None:
        """Makes sequence i what sequence rows[i] was, as KVCache.reorder: beams, or those that have not ended.

        Raises:
            TypeError, ValueError: as KVCache.reorder; another call has the state; nothing has changed then.
            MemoryError: there is no room for what moves; the state is of no use any more.
        """
        rows = self._caches[0]._rows(rows)
        workspace = self._take("DecoderState.reorder")
        self._reorders = True
        for cache in self._caches:
            cache.reorder(rows)
        if self._memory is not None:
            self._reorder_memory(self._memory, self._samples[rows])
        self._reorders = False
        self._workspaces.append(workspace)  # not before all has moved

    def _reorder_memory(self, memory: Sequences, samples: Array) -> None:
        # Neighbours that attend to one sample read its keys together, if all samples have as many.
        firsts = samples[np.flatnonzero(np.diff(samples, prepend=-1))]
        each = len(samples) // max(1, len(firsts))
        if not np.array_equal(np.repeat(firsts, each), samples):
            firsts, each = samples, 1
        if not np.array_equal(firsts, np.arange(memory.batch)):
            for cache in self._cross:
                cache._take(firsts)
            self._memory = Sequences.padded(len(firsts), int(memory.cu_seqlens[-1]), new_len=self._cross[0].lengths)
        self._samples = np.repeat(np.arange(len(firsts)), each)

    def _take(self, function: str) -> Workspace:
        """The workspace, which one call at a time has, until it gives it back."""
        try:
            return self._workspaces.pop()
        except IndexError:
            raise ValueError(
                f"{function}: another call has the state, or a reorder of it was not finished; use one state for each "
                "thread (copy.deepcopy makes another)"
            ) from None

    def _next(
        self, function: str, caches: list[KVCache], length: int, more: Array, workspace: Workspace
    ) -> list[Sequences]:
        """For each layer the rows of the next `length` tokens of every sequence, of which so many are real."""
        seen: dict[int | None, Sequences] = {}
        for cache in caches:
            if cache.window is None and None in seen:
                continue  # those without a window are alike; one that has it makes room
            new_len = cache._new_len(function, length, more)
            if cache.window not in seen:
                options = self._biases(function, cache.lengths, length, new_len)
                options |= {"first": cache.base, "past_len": cache.lengths, "new_len": new_len, "workspace": workspace}
                seen[cache.window] = Sequences.padded(len(new_len), length, is_causal=True, **options)
        return [seen[cache.window] for cache in caches]

    def _biases(self, function: str, past_len: Array, length: int, new_len: Array) -> dict[str, Any]:
        """Those of the new tokens to all, as Sequences takes them."""
        if self.bias_by_distance is None or not len(past_len) or not length:
            return {}
        keys = int(new_len.max())
        last, first = int(past_len.min()), int(past_len.max())
        given = self.bias_by_distance(1 - first - length, keys - last)  # element first + length - 1 is of distance 0
        given = _checks.array(function, "what bias_by_distance gave", given)
        needed = (self._made_for[1], keys - last + first + length - 1)
        if given.shape != needed or not _checks.is_real(given.dtype):
            raise ValueError(
                f"{function}: bias_by_distance gave {given.dtype} {given.shape}; floating numbers {needed} are needed"
            )
        table = np.ascontiguousarray(given, self._caches[0]._compute_type)
        return {"relative_bias": table, "zero": first + length - 1 - (past_len[:1] if first == last else past_len)}
