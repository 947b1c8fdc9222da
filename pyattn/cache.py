"""Keys and values of sequences that grow token by token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._namespaces import in_namespace
from pyattn.functional import attend, merge_attention, scaled_dot_product_attention
from pyattn.precision import BFLOAT16_BITS, INT8, from_bfloat16, to_bfloat16, to_int8

SPLIT = 1024  # keys that are widened at a time


class KVCache:
    """Keys and values of sequences that grow: preallocated, appended to in place.

    Incremental decoding: Vaswani et al. 2017 (arXiv:1706.03762), section 3.1; Shazeer 2019 (arXiv:1911.02150), section
    2.4. B sequences, H heads of keys, D features of a head. Memory is taken once: 2 B H capacity D elements. All are
    read in place but bfloat16, which `attend` widens to float32, 1,024 keys at a time.

    int8 has a scale for each key and each value of a head, as KIVI has for values (Liu et al. 2024, arXiv:2402.02750,
    section 3): a 127th of the largest magnitude, by which elements, rounded to the nearest, are multiplied as they are
    read. An element moves by at most half of it; of a normal distribution, keys and values move by 0.6 to 0.7 % of
    their length, and results of `attend` by 0.9 % of theirs. A row with an element that is not finite is NaN.

    Args:
        batch_size: B, sequences; each has a length of its own.
        num_heads: H.
        capacity: keys that a sequence may have, or with a window that are held at most.
        width: D.
        dtype: "float32", "float64", "bfloat16" or "int8".
        window: None, or how many of the last keys are needed: older ones are dropped, and a sequence grows without end.

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

    _branched = False  # whether the memory also holds another cache's tokens

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
        self._compute_type = np.dtype(np.float64 if self._dtype == np.float64 else np.float32)
        # Zeros cost no memory before they are written.
        self._stored = np.zeros((2, *shape), self._dtype)
        self._scales = np.zeros((2, *shape[:3]), np.float32)
        self._keep(shape[0])
        self.lengths = np.zeros(shape[0], np.int64)
        self.base = np.zeros(shape[0], np.int64)

    def _keep(self, rows: int) -> None:
        """Keeps the first `rows` sequences."""
        self._held = self._stored[:, :rows]
        self._held_scales = self._scales[:, :rows] if self._dtype == INT8 else None

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle: without the views, which would become arrays of their own."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._keep(len(self.lengths))

    @property
    def keys(self) -> Array:
        """(B, H, longest, D): a view of what is stored; bfloat16 and int8 are widened to float32."""
        return self._widened(0, 0, int(self.lengths.max(initial=0)))

    @property
    def values(self) -> Array:
        """(B, H, longest, D), as keys."""
        return self._widened(1, 0, int(self.lengths.max(initial=0)))

    @in_namespace
    def append(self, key: Array, value: Array, *, lengths: ArrayLike | None = None) -> None:
        """Appends key and value (B, H, L, D) to the sequences, or of each only the first lengths (B,).

        Raises:
            TypeError: an array is not of real floating numbers; lengths are not integers.
            ValueError: shapes do not fit, or a sequence would be longer than the capacity; nothing is written then.
        """
        name = "KVCache.append"
        arrays: Sequence[Array] = [_checks.real_array(name, what, x) for what, x in (("key", key), ("value", value))]
        _, batch, heads, _, width = self._held.shape
        for what, x in zip(("key", "value"), arrays, strict=True):
            if x.ndim != 4 or (*x.shape[:2], x.shape[3]) != (batch, heads, width) or x.shape != arrays[0].shape:
                raise _checks.wrong_shape(name, what, x, f"{(batch, heads, 'L', width)}, both alike")
        length = arrays[0].shape[2]
        new_len = self._new_len(name, length, self._more(name, length, lengths))
        if self._dtype == INT8:
            arrays, scales = zip(*map(to_int8, arrays), strict=True)
            self._write(self._scales[:, : len(new_len)], scales, new_len)
        elif self._dtype == BFLOAT16_BITS:
            arrays = [to_bfloat16(x) for x in arrays]
        self._write(self._stored[:, : len(new_len)], arrays, new_len)
        self.lengths = new_len

    @in_namespace
    def attend(self, query: Array, **options: Any) -> Any:
        """scaled_dot_product_attention of query (B, Hq, L, D) to the sequences, Hq a multiple of H.

        The last query stands at the last key; options and results are the function's but for kv_lengths, which are the
        cache's. Masks and biases are for (B, Hq, L, longest). Where bfloat16 or int8 are stored, query is float32; of
        bfloat16, a sparse mask, dropout or return_weights has all keys widened at once. Scales of int8 multiply logits
        and weights, not keys and values.

        Raises:
            TypeError, ValueError: as scaled_dot_product_attention; kv_lengths are given.
        """
        if options.get("kv_lengths") is not None:
            raise TypeError("KVCache.attend: kv_lengths are the cache's; truncate makes sequences shorter")
        options["kv_lengths"] = self.lengths
        longest = int(self.lengths.max(initial=0))
        if self._dtype == INT8:
            return self._attend_to_int8(query, longest, options)
        is_sparse = any(hasattr(options.get(name), "tocsr") for name in ("mask", "bias"))
        at_once = is_sparse or options.get("return_weights") or options.get("dropout_p")  # dropout counts all keys
        if self._dtype == self._compute_type or longest <= SPLIT or at_once:
            return scaled_dot_product_attention(query, self.keys, self.values, **options)
        return self._attend_in_splits(query, longest, options)

    def _attend_to_int8(self, query: Array, longest: int, options: dict[str, Any]) -> Any:
        name = "scaled_dot_product_attention"
        query, _ = _checks.attention_arrays(name, query=query, key=np.zeros(0, np.float32))
        keys, values = self._held[:, :, :, :longest]
        scales = dict(zip(("key_scales", "value_scales"), self._scales[:, : len(keys), :, :longest], strict=True))
        return attend(name, query, keys, values, {"query": query, **options}, scales)

    def _attend_in_splits(self, query: Array, longest: int, options: dict[str, Any]) -> Any:
        """attend, over SPLIT keys at a time, whose results are merged. Options are checked once, against all keys."""
        name = "scaled_dot_product_attention"
        every = np.broadcast_to(self._compute_type.type(0), (*self._held.shape[1:3], longest, self._held.shape[4]))
        query, _ = _checks.attention_arrays(name, query=query, key=every)
        whole = _checks.attention_call(name, query, every, every, options).operands
        return_lse = _checks.flag(name, "return_lse", options.pop("return_lse", False))
        result = _checks.output(name, options.pop("out", None), query.shape, query.dtype, {"query": query, **options})
        masks = {x: whole[x] for x in ("mask", "bias") if x in whole}
        lengths = options["kv_lengths"]
        offsets = whole.get("query_offset", lengths - query.shape[2])
        parts: list[tuple[Array, Array]] = []
        for first in range(0, longest, SPLIT):
            last = min(longest, first + SPLIT)
            options |= {x: mask[..., first:last] for x, mask in masks.items()}
            options |= {"kv_lengths": np.clip(lengths - first, 0, last - first), "query_offset": offsets - first}
            keys, values = self._widened(0, first, last), self._widened(1, first, last)
            parts.append(scaled_dot_product_attention(query, keys, values, return_lse=True, **options))
            options.pop("sinks", None)  # count once
        result[...], lse = merge_attention(*zip(*parts, strict=True))
        return (result, lse) if return_lse else result

    def truncate(self, lengths: ArrayLike) -> None:
        """Shortens each sequence to its first lengths (B,) tokens.

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
        rows = self._rows(rows)
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        live = int(self.lengths[rows[moved]].max(initial=0))
        for x in self._arrays():
            for part in x:
                part[moved, :, :live] = part[rows[moved], :, :live]
        self.lengths, self.base = self.lengths[rows], self.base[rows]
        self._keep(len(rows))

    def _rows(self, rows: ArrayLike) -> Array:
        """The rows of reorder, checked, as int64."""
        rows = _checks.indices("KVCache.reorder", "rows", rows, len(self.lengths))
        if rows.ndim != 1 or len(rows) > self._stored.shape[1]:
            raise _checks.wrong_shape("KVCache.reorder", "rows", rows, f"at most {self._stored.shape[1]} numbers")
        return rows

    def _take(self, rows: Array) -> None:
        """Does what reorder does, in new memory: there may be any number of rows."""
        self._stored, self._scales = self._stored[:, rows], self._scales[:, rows]
        self.lengths, self.base = self.lengths[rows], self.base[rows]
        self._keep(len(rows))

    def _more(self, function: str, length: int, lengths: ArrayLike | None) -> Array:
        """How many of `length` new tokens each sequence takes: lengths, or all."""
        every = np.full(self.lengths.shape, length, np.int64)
        return _checks.lengths_of(function, "lengths", lengths, every, "the number of tokens")

    def _new_len(self, function: str, length: int, more: Array) -> Array:
        """The lengths once each sequence has taken `more` tokens, of `length`; makes room for them or raises."""
        if ((new_len := self.lengths + more) > self.capacity).any():
            most = self.capacity if self.window is None else self.capacity - self.window + 1
            if self.window is None or length > most:
                raise ValueError(
                    f"{function}: a sequence would have {new_len.max()} tokens, "
                    + (f"of {length} at a time; at most {most} fit" if self.window else f"the cache holds {most}")
                )
            self._drop(more, self.window - 1)
        return self.lengths + more

    def _drop(self, more: Array, kept: int) -> None:
        """Drops all but the last `kept` tokens of the sequences that lack room for `more`."""
        rows = np.flatnonzero(self.lengths + more > self.capacity)
        firsts = self.lengths[rows] - kept
        if self._branched and (kept + more[rows] > firsts).any():
            self._own()  # the tokens that are kept, or the new ones, would stand where the other cache's are
        for row, first in zip(rows, firsts, strict=True):
            for x in self._arrays():
                x[:, row, :, :kept] = x[:, row, :, first : first + kept]
        lengths, base = self.lengths.copy(), self.base.copy()
        lengths[rows] = kept
        base[rows] += firsts
        self.lengths, self.base = lengths, base

    def _branch(self, apart: bool) -> "KVCache":
        """This cache for a step that may fail, which writes only where this one has nothing that is still needed.

        apart: for several steps, in memory of its own where tokens are dropped.
        """
        branch = object.__new__(KVCache)
        vars(branch).update(vars(self))
        branch._branched = True
        if apart and self.window is not None and self.lengths.any():
            branch._own()
        return branch

    def _own(self) -> None:
        self._stored, self._scales = self._stored.copy(), self._scales.copy()
        self._keep(len(self.lengths))
        self._branched = False

    def _arrays(self) -> tuple[Array, ...]:
        """The arrays that hold a part of each token."""
        return (self._stored, self._scales) if self._dtype == INT8 else (self._stored,)

    def _write(self, to: Array, arrays: Sequence[Array], new_len: Array) -> None:
        """Appends arrays (B, H, L, ...) to keys and values, to[0] and to[1]: up to new_len of each sequence."""
        if len(set(self.lengths)) == len(set(new_len)) == 1:
            for part, x in zip(to, arrays, strict=True):
                part[:, :, self.lengths[0] : new_len[0]] = x[:, :, : new_len[0] - self.lengths[0]]
            return
        for row, (first, last) in enumerate(zip(self.lengths, new_len, strict=True)):
            for part, x in zip(to, arrays, strict=True):
                part[row, :, first:last] = x[row, :, : last - first]

    def _widened(self, which: int, first: int, last: int) -> Array:
        """Keys (0) or values (1) first ... last of all sequences; a view where they are float32 or float64."""
        stored: Array = self._held[which, :, :, first:last]
        if self._dtype == INT8:
            stored = stored * self._scales[which, : len(stored), :, first:last, None]
        elif self._dtype == BFLOAT16_BITS:
            stored = from_bfloat16(stored)
        return stored
