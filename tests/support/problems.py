"""Arguments of attention calls: fixed ones by their sizes, and random shapes, layouts, dtypes and options."""

import contextlib
import os

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy import sparse

import pyattn
from pyattn import _threads
from tests.support import oracle

SIZES = st.integers(0, 140) | st.sampled_from([15, 16, 17, 47, 48, 49, 127, 128, 129, 255, 256, 257, 300])
MANY_KEYS = st.sampled_from([1023, 1024, 1025, 1200])
LAYOUTS = st.sampled_from(["plain", "transposed", "reversed", "gapped", "repeated", "unaligned"])
OPTIONS = ["bias", "is_causal", "window", "scale", "softcap", "alibi_slopes", "sinks", "kv_lengths", "query_offset"]

SHARE = float(os.environ.get("PYATTN_EXAMPLES", "1"))


def examples(count):
    """Takes so many random problems, of which PYATTN_EXAMPLES is the share that slow builds and lesser sets take."""
    return settings(max_examples=max(1, round(count * SHARE)), deadline=None)


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def qkv(heads=2, length=17, keys=33, width=8, value_width=None, dtype=np.float32, batch=(), key_heads=None):
    key_heads = heads if key_heads is None else key_heads
    value_width = width if value_width is None else value_width
    return (
        normal((*batch, heads, length, width), dtype, 1),
        normal((*batch, key_heads, keys, width), dtype, 2),
        normal((*batch, key_heads, keys, value_width), dtype, 3),
    )


def laid_out(x, layout):
    """x in other strides: reordered axes, negative and wide steps, odd addresses. "repeated": its first row only."""
    if layout == "transposed":
        return np.ascontiguousarray(np.swapaxes(x, -1, -2)).swapaxes(-1, -2)
    if layout == "reversed":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    if layout == "gapped":
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if layout == "repeated":
        return np.broadcast_to(x[..., :1, :], x.shape) if x.shape[-2] else x
    if layout == "unaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
        return raw[1:].view(x.dtype).reshape(x.shape)
    return x


def spelled_out(query, key, options):
    """The options for every batch element, head and row of its own, copied."""
    shape, keys = query.shape[:-1], key.shape[-2]
    lengths = np.broadcast_to(options.get("kv_lengths", keys), shape[:-2])
    full = {"kv_lengths": lengths, "query_offset": lengths - shape[-1], **options}
    for name, wanted in (
        ("kv_lengths", shape[:-2]),
        ("query_offset", shape[:-2]),
        ("alibi_slopes", shape[:-1]),
        ("sinks", shape[:-1]),
        ("mask", (*shape, keys)),
        ("bias", (*shape, keys)),
    ):
        x = full.get(name)
        if hasattr(x, "tocsr"):
            full[name] = x.tocsr()
        elif x is not None:
            if name in ("mask", "bias") and 3 <= x.ndim == len(shape):
                x = np.expand_dims(x, -3)
            full[name] = np.broadcast_to(x, wanted).copy()
    return full


def part_of(full, batch, heads, rows):
    """Of options spelled out, those of some batch elements (a slice for each axis), some heads and some rows."""
    part = dict(full)
    for name in full.keys() & {"kv_lengths", "query_offset"}:
        part[name] = full[name][batch]
    part["query_offset"] = part["query_offset"] + rows.start
    for name in full.keys() & {"alibi_slopes", "sinks"}:
        part[name] = full[name][(*batch, heads)]
    for name in full.keys() & {"mask", "bias"}:
        if hasattr(full[name], "tocsr"):
            part[name] = full[name][rows]
        elif full[name] is not None:
            part[name] = full[name][(*batch, heads, rows)]
    return part


def everything(dtype, heads, length, keys, batch=(), rng=None):
    """All options at once, spelled out."""
    rng = rng or np.random.default_rng(7)
    logits = (*batch, heads, length, keys)
    real = np.where(rng.random(logits) < 0.9, rng.standard_normal(logits), -np.inf)
    return {
        "mask": rng.random(logits) < 0.9,
        "bias": real.astype(dtype),
        "is_causal": True,
        "window": (keys * 3 // 4, keys),
        "softcap": 3.0,
        "alibi_slopes": rng.random((*batch, heads)).astype(np.float32) / 16,
        "sinks": rng.standard_normal((*batch, heads)).astype(np.float32),
        "kv_lengths": np.asarray(rng.integers(keys * 3 // 4, keys, batch, endpoint=True)),
        "query_offset": np.asarray(rng.integers(keys // 2, keys, batch, endpoint=True)),
    }


@contextlib.contextmanager
def num_threads(count):
    """That many threads, however small the work is."""
    before = pyattn.get_num_threads(), _threads.SMALL_WORK
    pyattn.set_num_threads(count)
    _threads.SMALL_WORK = 0
    try:
        yield
    finally:
        pyattn.set_num_threads(before[0])
        _threads.SMALL_WORK = before[1]


class Problem:
    def __init__(self, arrays, options):
        self.arrays = arrays  # query, key, value
        self.options = options  # the mask among them

    def __repr__(self):
        def brief(x):
            if hasattr(x, "tocsr"):
                return f"{x.format}, {x.dtype}{x.shape}, {x.nnz} stored"
            return f"{x.dtype}{x.shape}" if hasattr(x, "shape") and x.shape else repr(x)

        named = [*zip(("query", "key", "value"), self.arrays, strict=True), *self.options.items()]
        return "\n".join(f"{name} = {brief(x)}" for name, x in named)


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(oracle.DTYPES))
    length, keys, width, value_width = draw(SIZES), draw(SIZES), draw(st.integers(0, 70)), draw(st.integers(0, 70))
    if draw(st.integers(0, 9)) == 0:
        length, keys = length % 20, draw(MANY_KEYS)
    key_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    batch = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    if length * keys > 5000:
        key_heads, batch = 1, batch[:1]
    heads = key_heads * group
    logits = (*batch, heads, length, keys)

    def array(*shape):
        return laid_out(rng.standard_normal(shape).astype(dtype), draw(LAYOUTS))

    def mask_of(kind, density):
        """Boolean, or numbers and -inf, in one of the shapes of a mask."""
        shapes = [logits, logits[-2:], (*batch, length, keys), (*batch, 1, 1, keys), (*batch, heads, length, 1)]
        shape = draw(st.sampled_from(shapes))
        live = rng.random(shape) < density
        if kind == "real":
            live = np.where(live, rng.standard_normal(shape), -np.inf).astype(dtype)
        return laid_out(live, draw(LAYOUTS))

    def per_head():
        shape = draw(st.sampled_from([(), (heads,), (*batch, heads)]))
        return rng.standard_normal(shape).astype(draw(st.sampled_from([np.float32, oracle.statistics_dtype(dtype)])))

    def per_batch(low, high):
        return rng.integers(low, high, draw(st.sampled_from([(), batch])), endpoint=True)

    arrays = (
        array(*logits[:-1], width),
        array(*batch, key_heads, keys, width),
        array(*batch, key_heads, keys, value_width),
    )
    options = dict.fromkeys(draw(st.sets(st.sampled_from(OPTIONS))))
    density = draw(st.sampled_from([0.05, 0.5, 0.95, 1.0]))
    kind = draw(st.sampled_from([None, "bool", "real", "sparse"]))
    live = sparse.csr_array(rng.random((length, keys)) < density)
    bounds = st.sampled_from([None, 0, 1, 7, 50, 128])
    make = {
        "bias": lambda: mask_of("real", 0.9),
        "is_causal": lambda: True,
        "window": lambda: (draw(bounds), draw(bounds)),
        "scale": lambda: draw(st.sampled_from([0.3, -2.0])),
        "softcap": lambda: draw(st.sampled_from([0.5, 3.0, 50.0])),
        "alibi_slopes": lambda: per_head() / 8,
        "sinks": lambda: np.where(rng.random() < 0.2, -np.inf, per_head()).astype(np.float32),
        "kv_lengths": lambda: per_batch(0, keys),
        "query_offset": lambda: per_batch(-20, keys + 20),
    }
    options = {name: make[name]() for name in OPTIONS if name in options}
    if kind in ("bool", "real"):
        options["mask"] = mask_of(kind, density)
    elif kind == "sparse":
        options["mask"] = live.asformat(draw(st.sampled_from(["csr", "csc", "coo"])))
        if "bias" in options:
            options["bias"] = live.astype(np.float32)
            options["bias"].data[:] = rng.standard_normal(live.nnz)
    return Problem(arrays, options)
