"""Keys and values of sequences that grow token by token."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn.functional import merge_attention, scaled_dot_product_attention
from pyattn.precision import BFLOAT16_BITS, INT8, from_bfloat16, to_bfloat16, to_int8

PIECE = 1024  # keys that are made reals at a time


class KVCache:
    """Keys and values of sequences that grow: preallocated, appended to in place, attended to where they lie.

    Incremental decoding: Vaswani et al. 2017 (arXiv:1706.03762), section 3.1; Shazeer 2019 (arXiv:1911.02150), section
    2.4. B sequences, H heads of keys, D features of a head. Memory is taken once: 2 B H capacity D elements.

    Args:
        batch_size: B, sequences; each has a length of its own.
        num_heads: H.
        capacity: keys that a sequence may have, or with a window that are held at most.
        width: D.
        dtype: "float32", "float64", "bfloat16", or "int8" with a scale for each key and each value of a head.
        window: None, or how many of the last keys are still needed: older ones are dropped when room is wanted, so that
            a sequence may grow without end.

    Raises:
        TypeError: dtype is none of these.
        ValueError: a size is not a positive integer; capacity is below window.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> cache = KVCache(2, 4, 100, 16)
        >>> key, value = rng.standard_normal((2, 2, 4, 7, 16), dtype=np.float32)
        >>> cache.append(key, value)
        >>> cache.append(key[:, :, :1], value[:, :, :1])
        >>> cache.attend(rng.standard_normal((2, 8, 1, 16), dtype=np.float32)).shape  # 2 query heads a key head
        (2, 8, 1, 16)
        >>> cache.lengths
        array([8, 8])
    """

    def __init__(
        self,
        batch_size: int,
        num_heads: int,
        capacity: int,
        width: int,
        *,
        dtype: DTypeLike = "float32",
        window: int | None = None,
    ) -> None:
        name = "KVCache"
        sizes = {"batch_size": batch_size, "num_heads": num_heads, "capacity": capacity, "width": width}
        shape = tuple(_checks.size(name, argument, value) for argument, value in sizes.items())
        self.capacity = shape[2]
        self.window = None if window is None else _checks.size(name, "window", window)
        if self.window is not None and self.capacity < self.window:
            raise ValueError(f"{name}: capacity {capacity} is below window {window}")
        self._dtype = _checks.weight_dtype(name, dtype)
        self._real = np.dtype(np.float64 if self._dtype == np.float64 else np.float32)
        # Zeros cost no memory before they are written.
        self._stored = np.zeros((2, *shape), self._dtype)
        self._scales = np.zeros((2, *shape[:3]), np.float32)
        self._keep(shape[0])
        self.lengths = np.zeros(shape[0], np.int64)
        self.begins = np.zeros(shape[0], np.int64)

    def _keep(self, rows: int) -> None:
        """From now on the sequences are the first so many."""
        self._keys, self._values = self._stored[:, :rows]

    @property
    def keys(self) -> Array:
        """(B, H, longest, D), reals: what is stored, made out where it is not float32 or float64."""
        return self._reals(0, 0, int(self.lengths.max(initial=0)))

    @property
    def values(self) -> Array:
        """(B, H, longest, D), as keys."""
        return self._reals(1, 0, int(self.lengths.max(initial=0)))

    def append(self, key: Array, value: Array, *, lengths: ArrayLike | None = None) -> None:
        """Appends key and value (B, H, L, D) to the sequences, or of each only the first lengths (B,).

        Raises:
            TypeError: an array is not of real floating numbers; lengths are not integers.
            ValueError: shapes do not fit, or a sequence would be longer than the capacity; nothing is written then.
        """
        name = "KVCache.append"
        arrays = [_checks.array(name, what, x) for what, x in (("key", key), ("value", value))]
        for what, x in zip(("key", "value"), arrays, strict=True):
            batch, heads, _, width = self._keys.shape
            if x.ndim != 4 or (*x.shape[:2], x.shape[3]) != (batch, heads, width) or x.shape != arrays[0].shape:
                raise ValueError(
                    f"{name}: {what} has shape {x.shape}; accepted: {(batch, heads, 'L', width)}, both alike"
                )
            if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
                raise TypeError(f"{name}: {what} has dtype {x.dtype}; real floating numbers are needed")
        until = self._until(name, arrays[0].shape[2], lengths)
        if self._dtype == INT8:
            shape = arrays[0].shape
            rounded = [to_int8(x.reshape(-1, shape[3])) for x in arrays]
            elements: list[Array] = [x.reshape(shape) for x, _ in rounded]
            self._write(self._scales[:, : len(until)], [x.reshape(shape[:3]) for _, x in rounded], until)
        else:
            elements = [to_bfloat16(x) if self._dtype == BFLOAT16_BITS else x for x in arrays]
        self._write(self._stored[:, : len(until)], elements, until)
        self.lengths = until

    def attend(self, query: Array, **options: Any) -> Array:
        """scaled_dot_product_attention of query (B, Hq, L, D) to the sequences, Hq a multiple of H.

        The last query stands at the last key; options are the function's, masks and biases for (B, Hq, L, longest).

        Raises:
            TypeError, ValueError: as scaled_dot_product_attention.
        """
        if self._dtype == self._real:
            out: Array = scaled_dot_product_attention(query, self.keys, self.values, kv_lengths=self.lengths, **options)
            return out
        longest = int(self.lengths.max(initial=0))
        offset = options.pop("query_offset", self.lengths - np.shape(query)[-2])
        sliced = {name: np.asarray(options.pop(name)) for name in ("mask", "bias") if options.get(name) is not None}
        outs: list[Array] = []
        lses: list[Array] = []
        for first in range(0, max(1, longest), PIECE):
            last = min(longest, first + PIECE)
            options |= {name: x[..., first:last] if x.shape[-1] == longest else x for name, x in sliced.items()}
            options |= {"kv_lengths": np.clip(self.lengths - first, 0, last - first), "query_offset": offset - first}
            keys, values = self._reals(0, first, last), self._reals(1, first, last)
            part, lse = scaled_dot_product_attention(query, keys, values, return_lse=True, **options)
            options.pop("sinks", None)  # count once
            outs.append(part)
            lses.append(lse)
        return merge_attention(outs, lses)[0] if len(outs) > 1 else outs[0]

    def truncate(self, lengths: ArrayLike) -> None:
        """Forgets what stands behind the first lengths (B,) of each sequence's tokens.

        Raises:
            TypeError: lengths are not integers.
            ValueError: a length is negative, or more than the sequence has.
        """
        shorter = _checks.integers("KVCache.truncate", "lengths", lengths, self.lengths.shape, f"{self.lengths.shape}")
        _checks.within("KVCache.truncate", "lengths", shorter, 0, self.lengths, "the sequence's length")
        self.lengths = np.array(shorter, np.int64)

    def reorder(self, rows: ArrayLike) -> None:
        """Makes sequence i what sequence rows[i] was: beams, or what is left when some have ended.

        Only rows that move are copied, and of them what is live.

        Raises:
            TypeError: rows are not integers.
            ValueError: there are more rows than batch_size, or one is none of the sequences.
        """
        rows = _checks.indices("KVCache.reorder", "rows", rows, len(self.lengths))
        if rows.ndim != 1 or len(rows) > self._stored.shape[1]:
            raise ValueError(
                f"KVCache.reorder: rows has shape {rows.shape}; accepted: at most {self._stored.shape[1]} numbers"
            )
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        live = int(self.lengths[rows[moved]].max(initial=0))
        for x in (self._stored, self._scales) if self._dtype == INT8 else (self._stored,):
            for part in x:
                part[moved, :, :live] = part[rows[moved], :, :live]
        self.lengths, self.begins = self.lengths[rows], self.begins[rows]
        self._keep(len(rows))

    def _take(self, rows: Array) -> None:
        """reorder into new memory: there may be any number of rows."""
        self._stored, self._scales = self._stored[:, rows], self._scales[:, rows]
        self.lengths, self.begins = self.lengths[rows], self.begins[rows]
        self._keep(len(rows))

    def _until(self, function: str, length: int, lengths: ArrayLike | None) -> Array:
        """The sequences' lengths with so many tokens more, or those lengths; room is made for them or refused."""
        count = self.lengths.shape
        more = np.full(count, length)
        if lengths is not None:
            more = _checks.integers(function, "lengths", lengths, count, f"{count}, one for each sequence")
            _checks.within(function, "lengths", more, 0, np.full(count, length), "the number of tokens")
        if length and ((until := self.lengths + more) > self.capacity).any():
            most = self.capacity if self.window is None else self.capacity - self.window + 1
            if self.window is None or length > most:
                raise ValueError(
                    f"{function}: a sequence would have {until.max()} tokens, "
                    + (f"of {length} at a time; at most {most} fit" if self.window else f"the cache holds {most}")
                )
            self._drop(np.flatnonzero(until > self.capacity), self.window - 1)
        room: Array = self.lengths + more
        return room

    def _drop(self, rows: Array, kept: int) -> None:
        """Of the sequences `rows`, which are full, all but the last so many tokens."""
        for row in rows:
            first = self.lengths[row] - kept
            for x in (self._stored, self._scales) if self._dtype == INT8 else (self._stored,):
                x[:, row, :, :kept] = x[:, row, :, first : first + kept]
            self.begins[row] += first
        self.lengths = self.lengths.copy()
        self.lengths[rows] = kept

    def _write(self, to: Array, arrays: list[Array], until: Array) -> None:
        """Writes arrays (B, H, L, ...) behind what keys and values of the sequences, to[0] and to[1], have."""
        if len(set(self.lengths)) == len(set(until)) == 1:
            for part, x in zip(to, arrays, strict=True):
                part[:, :, self.lengths[0] : until[0]] = x[:, :, : until[0] - self.lengths[0]]
            return
        for row, (first, last) in enumerate(zip(self.lengths, until, strict=True)):
            for part, x in zip(to, arrays, strict=True):
                part[row, :, first:last] = x[row, :, : last - first]

    def _reals(self, which: int, first: int, last: int) -> Array:
        """Keys (0) or values (1) first ... last of all sequences, a view where they are stored as reals."""
        stored: Array = (self._keys, self._values)[which][:, :, first:last]
        if self._dtype == INT8:
            stored = stored * self._scales[which, : len(stored), :, first:last, None]
        elif self._dtype == BFLOAT16_BITS:
            stored = from_bfloat16(stored)
        return stored
