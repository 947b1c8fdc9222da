"""Calls every kernel on arrays that end, or begin, where memory does: a read or write beyond them ends the process.

Run by test_memory.py in a process of its own: python -m tests.tools.guarded
"""

import ctypes
import itertools
import mmap
import sys

import ml_dtypes
import numpy as np
import scipy.sparse

import pyattn
from pyattn import _checks, _threads
from pyattn._core import binding, linear, maxsim, rowwise
from pyattn.layers.config import LayerConfig
from pyattn.layers.sequences import Sequences

SIZES = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129, 257]
DTYPES = [np.dtype(x) for x in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
PAGE = mmap.PAGESIZE
PROTECT = ctypes.CDLL(None, use_errno=True).mprotect
PROTECT.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(x, at_end):
    """A copy of x whose last byte, or first, lies at a page that may not be touched."""
    x = np.ascontiguousarray(x)
    size = -(-max(1, x.nbytes) // PAGE) * PAGE + 2 * PAGE
    memory = mmap.mmap(-1, size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + size - PAGE):
        if PROTECT(page, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = size - PAGE - x.nbytes if at_end else PAGE
    result = np.frombuffer(memory, np.uint8, x.nbytes, offset).view(x.dtype).reshape(x.shape)
    result[...] = x
    return result


def attention(rng, dtype, length, keys, width, at_end):
    heads, key_heads = 2, 1

    def random(*shape):
        return guarded(rng.standard_normal(shape).astype(dtype), at_end)

    query, key, value = random(heads, length, width), random(key_heads, keys, width), random(key_heads, keys, width + 1)
    real = np.float64 if dtype == np.float64 else np.float32
    options = {
        "mask": guarded(rng.random((length, keys)) < 0.9, at_end),
        "bias": random(heads, length, keys),
        "alibi_slopes": guarded(rng.random(heads).astype(real), at_end),
        "sinks": guarded(rng.standard_normal(heads).astype(real), at_end),
    }
    out = random(heads, length, width + 1)
    plain = pyattn.scaled_dot_product_attention(query, key, value, out=out)
    assert plain is out
    pyattn.scaled_dot_product_attention(query, key, value, is_causal=True, window=(keys // 2, 0), out=out)
    pyattn.scaled_dot_product_attention(query, key, value, **options, return_lse=True, return_weights=True)
    pyattn.scaled_dot_product_attention(
        query, key, value, random(length, keys), softcap=3.0, kv_lengths=keys - keys // 3
    )
    sparse = scipy.sparse.csr_array(rng.random((length, keys)) < 0.5)
    pyattn.scaled_dot_product_attention(query, key, value, sparse)
    pyattn.scaled_dot_product_attention(query[:1], key, value, sparse, out=out[:1])  # rows with keys of their own
    turned = (guarded(x.swapaxes(-1, -2), at_end).swapaxes(-1, -2) for x in (query, key, value))
    pyattn.scaled_dot_product_attention(*turned)
    pyattn.attention_statistics(query, key, value, entropy=True, received=True, top_k=min(keys, 3))


def gradients(rng, dtype, length, keys, width, at_end):
    """Rows are whole vectors, as the driver takes them; all arrays, those that are written too, at the edge."""

    real = np.float64 if dtype == np.float64 else np.float32

    def random(*shape, dtype=dtype):
        return guarded(rng.standard_normal(shape).astype(dtype), at_end)

    query, key, value = random(2, length, width), random(1, keys, width), random(1, keys, 2 * width)
    if not _checks.attention_call("guarded", query, key, value, {}).has_gradients:
        return
    bias = random(2, length, keys)
    dropout = {"dropout_p": 0.2, "dropout_seed": 1}
    mask = guarded(rng.random((length, keys)) < 0.9, at_end)
    for options in ({}, {"bias": bias, "mask": mask, "softcap": 3.0}, {"is_causal": True, **dropout}):
        out, lse = pyattn.scaled_dot_product_attention(query, key, value, return_lse=True, **options)
        given = {"out": guarded(out, at_end), "lse": guarded(lse, at_end), "grad_out": random(*out.shape)}
        given["grad_lse"] = random(*lse.shape, dtype=real)
        written = [{f"grad_{x}": random(*y.shape) for x, y in (("query", query), ("key", key), ("value", value))}]
        written += [{"grad_bias": random(*bias.shape, dtype=real), "grad_slopes": random(*lse.shape, dtype=real)}]
        for arrays in written:
            _checks.attention_call("guarded", query, key, value, options).run_gradients(lambda _: 2, **given, **arrays)


def layers(rng, dtype, rows, inputs, outputs, at_end):
    def random(*shape):
        return guarded(rng.standard_normal(shape).astype(dtype), at_end)

    x, out, bias = random(rows, inputs), random(rows, outputs), random(outputs)
    elements = {np.dtype(np.float64): [np.float64]}.get(dtype, [np.float32, np.uint16, np.int8])
    for element, activation in itertools.product(elements, range(5)):
        weight = guarded(rng.integers(0, 100, (outputs, inputs)).astype(element), at_end)
        scales = guarded(np.ones(outputs, np.float32), at_end) if element == np.int8 else None
        packed = linear.Packed(weight, bias, scales, narrow=False)
        linear.linear(x, [packed], out, out, activation, 2)
        if np.dtype(element).itemsize < 4:
            halves = guarded(np.zeros((rows, inputs), np.uint16), at_end)
            linear.linear(halves, [packed], None, guarded(np.zeros((rows, outputs), np.uint16), at_end), activation, 2)
        np.testing.assert_array_equal(packed.unpack()[0], weight)
        for format in (np.float16, ml_dtypes.bfloat16) if element == np.float32 else ():
            held = linear.Packed(guarded((weight * 1.001).astype(format).astype(np.float32), at_end), bias)
            linear.linear(x, [held], out, out, activation, 2)
    for centred in (True, False):
        rowwise.normalise(x, random(inputs), random(inputs), x, 1e-5, centred, 2)
    store(random, rows, inputs, at_end)
    for name in ("float32", "bfloat16") if dtype == np.float32 else ("float64",):
        gate(random, rows, inputs, name, at_end)
    rowwise.activate(x, x, 2, 2)
    for grad in (None, x):
        rowwise.drop(random(rows, inputs), grad, x, 1, 0.5, 2, 2)
    tables = [random(5, inputs) for _ in range(3)]
    numbers = [guarded(rng.integers(0, 5, rows), at_end) for _ in tables]
    rowwise.embed(tables, numbers, x, 2)
    rowwise.sum_sequences(x, guarded(np.array([0, rows // 2, rows]), at_end), random(2, inputs), 2)
    for kind in (x.dtype, np.dtype(np.uint16)):
        both = guarded(np.zeros((rows, 2 * inputs), kind), at_end)
        real = np.float32 if kind == np.uint16 else kind
        places = rowwise.positions(guarded(np.array([0, rows]), at_end), 1)
        for half in (inputs, inputs // 2):
            angles = [guarded(np.zeros((rows, half), real), at_end) for _ in range(2)]
            for interleaved in (False, True):
                rowwise.rotate(both, places, *angles, 2, 2 * inputs, interleaved)


def gate(random, rows, width, dtype, at_end):
    """The gate of a feed-forward block, between buffers of a workspace."""
    config = LayerConfig(8, 1, width, activation="silu", gated=True, dtype=dtype)
    layer = pyattn.TransformerEncoderLayer.from_config(config)
    sequences = Sequences(1, np.array([0, rows]))
    size = rows * width * {"bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    gates, hidden = 5, 6  # as binding.pxd counts them
    sequences.workspace.buffers[gates] = guarded(np.zeros(2 * size, np.uint8), at_end)
    sequences.workspace.buffers[hidden] = guarded(np.zeros(size, np.uint8), at_end)
    layer._forward_rows(random(rows, 8), sequences)


def store(random, rows, inputs, at_end):
    """Keys and values of a memory, appended to a cache."""
    cache = random(2, 1, 1, rows + 2, 8)
    plan = pyattn.MultiHeadAttention(inputs, 1, head_dim=8, dtype=cache.dtype)._planned()
    starts = np.array([0, rows])
    own = binding.Binding(1, starts, starts, binding.Workspace())
    own.past_len, own.new_len = (guarded(np.array([end]), at_end) for end in (2, rows + 2))
    plan.precompute(random(rows, inputs), own, None, cache, None)
    if cache.dtype == np.float32:
        cache = guarded(cache.astype(np.int8), at_end)
        plan.precompute(
            random(rows, inputs), own, None, cache, guarded(np.zeros((2, 1, 1, rows + 2), np.float32), at_end)
        )


def late_interaction(rng, rows, tokens, width, at_end):
    def random(count, dtype):
        return guarded(rng.standard_normal((count, width)).astype(dtype), at_end)

    starts = guarded(np.array([0, rows // 3, rows // 3, rows]), at_end)
    query_starts = guarded(np.array([0, tokens // 2, tokens]), at_end)
    for dtype in (np.float32, np.float16, np.dtype(ml_dtypes.bfloat16)):
        documents = random(rows, dtype)
        pyattn.maxsim(random(tokens, np.float32), documents, query_starts, starts)
        bits = documents if dtype in (np.float32, np.float16) else documents.view(np.uint16)
        packed = linear.Packed(random(tokens, np.float32), narrow=False)
        out = guarded(np.zeros((2, 3), np.float32), at_end)
        largest = guarded(np.zeros((3, tokens), np.float32), at_end)
        maxsim.maxima([packed], bits, starts, largest, 2)
        maxsim.maxsim([packed], query_starts, guarded(np.array([0, 2]), at_end), bits, starts, out, 2)


def int8_keys(rng, length, keys, width, at_end):
    """Attention to keys and values of int8, whose rows and scales are where memory begins or ends."""
    query = guarded(rng.standard_normal((1, 4, length, width)).astype(np.float32), at_end)
    cache = pyattn.KVCache(1, 2, keys, width, dtype="int8")
    cache.append(*rng.standard_normal((2, 1, 2, keys, width)))
    for which in range(2):  # keys at the end, then values
        cache._held = guarded(cache._held[::-1] if which else cache._held, at_end)
        cache._scales = guarded(cache._scales[::-1] if which else cache._scales, at_end)
        cache.attend(query, return_lse=True, return_weights=True)
        cache.attend(query, is_causal=True, window=(keys // 2, 0))
        cache.attend(query, mask=scipy.sparse.csr_array(np.ones((length, keys), bool)))


def main():
    rng = np.random.default_rng(0)
    _threads.SMALL_WORK = 0
    pyattn.set_num_threads(2)
    for at_end, dtype, size in itertools.product((True, False), DTYPES, SIZES):
        attention(rng, dtype, size, 33, 16, at_end)
        attention(rng, dtype, 3, size, 16, at_end)
        attention(rng, dtype, 12, 33, 64 + size, at_end)
        attention(rng, dtype, 17, 33, size, at_end)
        if dtype == np.float32:
            for sizes in ((size, 33, 16), (3, size, 16), (1, size, 80), (12, size, 80), (17, 33, size)):
                int8_keys(rng, *sizes, at_end)
            late_interaction(rng, size, 33, 17, at_end)
            late_interaction(rng, 19, size, 16, at_end)
            late_interaction(rng, 19, 7, size, at_end)
        gradients(rng, dtype, size, 33, 16, at_end)
        gradients(rng, dtype, 9, size, 48, at_end)
        if dtype.itemsize >= 4:
            layers(rng, dtype, size, 33, 17, at_end)
            layers(rng, dtype, 9, size, 50, at_end)
            layers(rng, dtype, 9, 33, size, at_end)
    print("done")


if __name__ == "__main__":
    sys.exit(main())
