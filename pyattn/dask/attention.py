"""Attention over dask arrays: a task for each chunk of queries and chunk of keys, and a tree that merges them."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, product
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks, functional
from pyattn._checks import Array
from pyattn._extras import import_extra
from pyattn._threads import MAX_THREADS, num_threads

# Options of pyattn.scaled_dot_product_attention that are refused, and why
_REFUSED = {
    "dropout_p": "which weights are dropped depends on their places in the whole",
    "dropout_seed": "which weights are dropped depends on their places in the whole",
    "return_weights": "the weights are as many as all pairs of queries and keys",
    "out": "arrays of dask are not written to",
}


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    *,
    bias: Any = None,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    query_offset: ArrayLike | None = None,
    return_lse: bool = False,
    split_every: int = 4,
    threads: int = 1,
    **refused: Any,
) -> Any:
    """pyattn.scaled_dot_product_attention of dask arrays, lazily: of sequences that are longer than a machine.

    A task computes a chunk of queries against a chunk of keys, with the logarithms of its rows' sums of exponentials,
    and a tree of tasks merges these as pyattn.merge_attention does: Dao et al. 2022, FlashAttention (arXiv:2205.14135),
    section 3.1. Positions are those in the whole arrays. Pairs of chunks in which is_causal, window and kv_lengths
    together hide everything are not computed, nor are their keys.

    Args:
        query: (..., H, L, D); chunks along L, and along the axes in front of it, are kept. Each task holds one.
        key: (..., Hkv, S, D) of the same dtype; chunks along S are kept. Other axes are chunked as query's, but where
            heads share keys, query's heads are chunked as key's.
        value: (..., Hkv, S, Dv) of the same dtype, chunked as key. All three may be NumPy's, of one chunk then.
        mask, bias: dense, of dask or of NumPy, in the shapes that the namesake takes.
        is_causal, window, scale, softcap: as in the namesake.
        alibi_slopes, sinks, kv_lengths, query_offset: as in the namesake; arrays in memory.
        return_lse: also return the logarithm of each row's sum of exponentials.
        split_every: how many parts a task merges, two or more; dask's word.
        threads: pyattn's threads of a task, as in `encode`.

    Returns:
        A dask array (..., H, L, Dv) in query's dtype, or the pair of it and lse (..., H, L); chunked as query. 16 bits
        are merged in float32, and rounded once.

    Raises:
        TypeError, ValueError: as the namesake, when called; an option is one of dropout_p, dropout_seed, return_weights
            and out, or a sparse mask; chunks are of unknown size.

    Example:
        >>> import dask.array, pyattn.dask
        >>> x = dask.array.random.default_rng(0).standard_normal((3, 8, 4096, 64), chunks=(1, 8, 1024, 64))
        >>> query, key, value = x.astype("float32")
        >>> out = pyattn.dask.scaled_dot_product_attention(query, key, value, is_causal=True)
        >>> out.shape, out.numblocks
        ((8, 4096, 64), (1, 4, 1))
    """
    function = "scaled_dot_product_attention"
    options: dict[str, Any] = {"is_causal": is_causal, "window": window, "scale": scale, "softcap": softcap}
    options |= {"alibi_slopes": alibi_slopes, "sinks": sinks, "kv_lengths": kv_lengths, "query_offset": query_offset}
    given = {"query": query, "key": key, "value": value, "mask": mask, "bias": bias}
    given = {name: x for name, x in given.items() if x is not None}
    _check(function, given, options, refused)
    split_every = _checks.count(function, "split_every", split_every, 2)
    return_lse = _checks.flag(function, "return_lse", return_lse)
    threads = _checks.count(function, "threads", threads, 1, MAX_THREADS)
    array = import_extra("dask.array", "pyattn.dask", group="dask")
    base, graphs = (import_extra(f"dask.{x}", "pyattn.dask", group="dask") for x in ("base", "highlevelgraph"))

    arrays = {name: x if isinstance(x, array.Array) else array.from_array(x, chunks=-1) for name, x in given.items()}
    arrays = _chunked(arrays)
    query, value = arrays["query"], arrays["value"]
    token = base.tokenize([(name, x.name) for name, x in arrays.items()], options, split_every, threads)
    merged, out, lse = (f"attention-{step}{token}" for step in ("merged-", "", "lse-"))
    pairs, graph, last = _Pairs(arrays, options, threads), dict[Any, Any](), dict[tuple[int, ...], Any]()
    for block in product(*map(range, query.numblocks[:-1])):
        last[block] = _merge(graph, merged, block, pairs.tasks(block), split_every)
    below = graphs.HighLevelGraph.from_collections(merged, graph, dependencies=list(arrays.values()))

    def result(name: str, tasks: dict[Any, Any], chunks: tuple[Any, ...], dtype: np.dtype[Any]) -> Any:
        graph = graphs.HighLevelGraph({**below.layers, name: tasks}, {**below.dependencies, name: {merged}})
        return array.Array(graph, name, chunks, dtype)

    outs = {(out, *block, 0): (partial(_rounded, query.dtype), whole) for block, whole in last.items()}
    results = [result(out, outs, (*query.chunks[:-1], (value.shape[-1],)), query.dtype)]
    if return_lse:
        lses = {(lse, *block): (itemgetter(1), whole) for block, whole in last.items()}
        results.append(result(lse, lses, query.chunks[:-1], _checks.statistics_dtype(query.dtype)))
    return tuple(results) if return_lse else results[0]


def _check(function: str, given: dict[str, Any], options: dict[str, Any], refused: dict[str, Any]) -> None:
    """The namesake's checks and messages, on arrays of one element that is repeated."""
    for name in refused:
        if name not in _REFUSED:
            raise TypeError(f"{function}: there is no option {name!r}")
        raise TypeError(f"{function}: {name} is not for arrays of dask: {_REFUSED[name]}")
    alike: dict[str, Any] = {}
    for name, x in given.items():
        if hasattr(x, "tocsr"):
            raise TypeError(
                f"{function}: a sparse {name} is not for arrays of dask; {name}.toarray() makes a dense one"
            )
        if not (hasattr(x, "dask") or isinstance(x, np.ndarray)):
            raise TypeError(f"{function}: {name} must be an array of dask or NumPy, not {type(x).__name__}")
        if any(map(math.isnan, x.shape)):
            raise ValueError(f"{function}: {name} has chunks of unknown size; its compute_chunk_sizes() finds them out")
        alike[name] = np.broadcast_to(np.zeros((), x.dtype), x.shape)
    query, key, value = (alike[name] for name in ("query", "key", "value"))
    _checks.attention_arrays(function, query=query, key=key, value=value)
    _checks.attention_call(function, query, key, value, options | alike)


def _chunked(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays, chunked alike along the axes that they share; mask and bias with as many axes as the query."""
    query, key, value = (arrays[name].rechunk({arrays[name].ndim - 1: -1}) for name in ("query", "key", "value"))
    axes = query.ndim
    shared = {axis: query.chunks[axis] for axis in range(axes - 2)}
    if axes > 2 and (group := query.shape[-3] // max(1, key.shape[-3])) > 1:
        heads = key.chunks[-3]
        query = query.rechunk({axes - 3: tuple(group * size for size in heads)})
        shared[axes - 3] = heads
    key = key.rechunk(shared)
    chunked = {"query": query, "key": key, "value": value.rechunk(shared | {axes - 2: key.chunks[-2]})}
    logits = (*query.chunks[:-1], key.chunks[-2])
    for name in arrays.keys() & {"mask", "bias"}:
        x = arrays[name]
        if x.ndim == axes - 1 and x.ndim > 2:  # one for each batch element
            x = x[..., None, :, :]
        x = x[(None,) * (axes - x.ndim)]
        along = zip(x.shape, logits, strict=True)
        chunked[name] = x.rechunk(tuple((1,) if size == 1 else chunks for size, chunks in along))
    return chunked


class _Pairs:
    """The tasks of chunks of queries against chunks of keys."""

    def __init__(self, arrays: dict[str, Any], options: dict[str, Any], threads: int) -> None:
        self.arrays, self.threads = arrays, threads
        self.options = {name: options[name] for name in ("is_causal", "window", "scale", "softcap")}
        query, key = arrays["query"], arrays["key"]
        self.heads = {  # one number for each head
            name: np.broadcast_to(np.asarray(options[name]), query.shape[:-2])
            for name in ("alibi_slopes", "sinks")
            if options[name] is not None
        }
        length, keys = query.shape[-2], key.shape[-2]
        self.has_lengths = options["kv_lengths"] is not None
        lengths = np.asarray(options["kv_lengths"] if self.has_lengths else keys)
        offset = lengths - length if options["query_offset"] is None else np.asarray(options["query_offset"])
        self.lengths, self.offset = (np.broadcast_to(x, query.shape[:-3]).astype(np.int64) for x in (lengths, offset))
        left, right = _checks.sides("", options["window"])
        self.left, self.right = left, 0 if options["is_causal"] else right
        self.starts = [[0, *accumulate(chunks)] for chunks in (*query.chunks[:-1], key.chunks[-2])]

    def tasks(self, block: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        """Those of a chunk of queries, one at least, each of which gives out and lse over its keys."""
        whole = tuple(slice(*self.starts[axis][i : i + 2]) for axis, i in enumerate(block))
        leading, queries = whole[:-1], whole[-1]
        keys = [slice(*pair) for pair in zip(self.starts[-1][:-1], self.starts[-1][1:], strict=True)]
        offset, lengths = self.offset[leading[:-1]], self.lengths[leading[:-1]]
        seen = [number for number, x in enumerate(keys) if self._sees(queries, x, offset, lengths)]
        for place, number in enumerate(seen or [0]):
            options = self.options | {name: x[leading] for name, x in self.heads.items()}
            if place:
                options.pop("sinks", None)  # which count once
            if self.has_lengths:
                options["kv_lengths"] = np.clip(lengths - keys[number].start, 0, keys[number].stop - keys[number].start)
            if self.left >= 0 or self.right >= 0 or "alibi_slopes" in options:
                options["query_offset"] = offset + (queries.start - keys[number].start)
            names = tuple(self.arrays)
            yield (partial(_part, names, options, self.threads), *(self._key(name, block, number) for name in names))

    def _sees(self, queries: slice, keys: slice, offset: Array, lengths: Array) -> bool:
        """Whether any of these queries may see any of these keys, as far as positions say."""
        if not offset.size or queries.start == queries.stop:
            return False
        first, last = queries.start + int(offset.min()), queries.stop - 1 + int(offset.max())
        return (
            keys.start < min(keys.stop, int(lengths.max()))
            and (self.right < 0 or keys.start <= last + self.right)
            and (self.left < 0 or keys.stop > first - self.left)
        )

    def _key(self, name: str, block: tuple[int, ...], number: int) -> tuple[Any, ...]:
        """The chunk of an array for a chunk of queries, and the chunk of keys of that number."""
        x = self.arrays[name]
        if name == "query":
            return (x.name, *block, 0)
        if name in ("key", "value"):
            return (x.name, *block[:-1], number, 0)
        return (x.name, *(min(i, blocks - 1) for i, blocks in zip((*block, number), x.numblocks, strict=True)))


def _merge(
    graph: dict[Any, Any], name: str, block: tuple[int, ...], tasks: Iterator[tuple[Any, ...]], split_every: int
) -> tuple[Any, ...]:
    """Puts tasks and the tree that merges them into the graph; the key of what merges all."""
    keys = []
    for number, task in enumerate(tasks):
        keys.append((name, *block, 0, number))
        graph[keys[-1]] = task
    level = 0
    while len(keys) > 1:
        level += 1
        groups = [keys[i : i + split_every] for i in range(0, len(keys), split_every)]
        keys = [(name, *block, level, number) for number in range(len(groups))]
        graph.update({key: (_merged, group) for key, group in zip(keys, groups, strict=True)})
    return keys[0]


def _part(names: tuple[str, ...], options: dict[str, Any], threads: int, *arrays: Array) -> tuple[Array, Array]:
    """out and lse over a chunk of keys, in the dtype in which they are merged."""
    wider = _checks.statistics_dtype(arrays[0].dtype)
    given: dict[str, Any] = {
        name: x if x.dtype == bool else x.astype(wider, copy=False) for name, x in zip(names, arrays, strict=True)
    }
    with num_threads(threads):
        out, lse = functional.scaled_dot_product_attention(**given, **options, return_lse=True)
    return out, lse


def _merged(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    return functional.merge_attention(*zip(*parts, strict=True))


def _rounded(dtype: np.dtype[Any], part: tuple[Array, Array]) -> Array:
    return part[0].astype(dtype, copy=False)
