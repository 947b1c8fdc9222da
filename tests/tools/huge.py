"""Calls for sizes that no memory holds, of arrays made by strides of 0: each is refused, or out of memory, at once.

What was computed instead would take years; what overflowed into a small size would end the process.

Run by test_memory.py in a process of its own: python -m tests.tools.huge
"""

import sys

import numpy as np

import pyattn
from pyattn.positional import rotary_tables, sinusoidal_encoding


def huge(*shape, dtype=np.float32):
    """An array of one row that is in memory, or of one number."""
    row = np.zeros(shape[-1] if shape[-1] < 100 else 1, dtype)
    try:
        return np.lib.stride_tricks.as_strided(row, shape, [0] * (len(shape) - 1) + [row.itemsize * (len(row) > 1)])
    except ValueError as error:
        raise RuntimeError(f"NumPy has no array of shape {shape}") from error


def attention():
    sdpa, x = pyattn.scaled_dot_product_attention, np.zeros((2, 4, 8), np.float32)
    for width in (2**30, 2**56, 2**58):  # the latter two: no bytes of scratch memory, modulo 2^64
        yield lambda width=width: sdpa(huge(1, 4, width), huge(1, 4, width), x[:1])
        yield lambda width=width: sdpa(huge(1, 1, width), huge(1, 4, width), x[:1])
    yield lambda: sdpa(x, x, huge(2, 4, 2**57))
    yield lambda: sdpa(huge(2**25, 2**25, 8), huge(2**25, 4, 8), huge(2**25, 4, 0), return_lse=True)
    yield lambda: sdpa(huge(2**20, 1, 8), huge(2**20, 2**29, 8), huge(2**20, 2**29, 0), return_weights=True)
    yield lambda: sdpa(huge(2, 2**29, 8), x, x, out=huge(2, 2**29, 8))
    yield lambda: sdpa(huge(2**45, 1, 8), huge(2**45, 1, 8), huge(2**45, 1, 0), alibi_slopes=1.0)
    for number in (2**31, 2**62, 2**63 - 1, -(2**63), np.uint64(2**64 - 1), 2**100):
        yield lambda number=number: sdpa(x, x, x, kv_lengths=number)
        yield lambda number=number: sdpa(x, x, x, query_offset=number)


def packed():
    varlen, x = pyattn.varlen_attention, np.zeros((4, 2, 8), np.float32)
    yield lambda: varlen(huge(4, 1, 2**58), huge(4, 1, 2**58), x[:, :1], [0, 4])
    yield lambda: varlen(huge(4, 2**45, 8), huge(4, 2**45, 8), huge(4, 2**45, 8), [0, 4])
    yield lambda: varlen(huge(2**45, 2, 8), x, x, [0, 2**45], [0, 4])
    yield lambda: varlen(x, huge(2**45, 2, 8), huge(2**45, 2, 8), [0, 4], [0, 2**45])
    yield lambda: varlen(huge(2**29, 2**25, 8), x[:, :1], x[:, :1], [0, 2**29], [0, 4])
    yield lambda: varlen(x, x, x, np.broadcast_to(np.int64(0), (2**45,)))
    for number in (2**31, 2**62, 2**63 - 1, -(2**63), np.uint64(2**64 - 4), 2**100):
        yield lambda number=number: varlen(x, x, x, np.array([0, number, 4], np.asarray(number).dtype))
        yield lambda number=number: varlen(x, x, x, [0, 4], kv_lengths=np.array([number]))
        yield lambda number=number: varlen(x, x, x, [0, 4], query_offset=number)


def statistics():
    call, x = pyattn.attention_statistics, np.zeros((2, 4, 8), np.float32)
    yield lambda: call(huge(1, 4, 2**58), huge(1, 4, 2**58), entropy=True, received=True)
    yield lambda: call(huge(2**20, 2**29, 8), huge(2**20, 4, 8))
    yield lambda: call(huge(2**20, 1, 8), huge(2**20, 2**29, 8), received=True)
    yield lambda: call(huge(1, 2**29, 8), huge(1, 2**29, 8), top_k=2**29)
    for number in (2**31, 2**62, 2**63, -(2**63), 2**100):
        yield lambda number=number: call(x, x, top_k=number)
        yield lambda number=number: call(x, x, received=True, query_range=(0, number))
        yield lambda number=number: call(x, x, received=True, query_range=(number, 4))


def layers():
    for size in (2**45, 2**61 - 1, 2**62, 2**63 - 1, 2**64, 2**100):
        yield lambda size=size: pyattn.Linear(size, 8).state_dict()
        yield lambda size=size: pyattn.Linear(8, size).state_dict()
        yield lambda size=size: pyattn.Linear(size, size).state_dict()
        yield lambda size=size: pyattn.LayerNorm(size)
        yield lambda size=size: pyattn.MultiHeadAttention(size, 1).state_dict()
        yield lambda size=size: pyattn.TransformerEncoderLayer(size, 1, 8)
        yield lambda size=size: pyattn.TransformerEncoderLayer(8, 1, size, gated=True).state_dict()
        yield lambda size=size: rotary_tables(size, 8)
        yield lambda size=size: sinusoidal_encoding(4, size)
    for dtype, inputs in (("float32", 2**61 - 1), ("float64", 2**60 - 1), ("bfloat16", 2**61 - 1)):
        weight = huge(1, inputs, dtype=np.float64 if dtype == "float64" else np.float32)
        for layer, value in (
            (pyattn.Linear(inputs, 1, bias=False, dtype=dtype), weight),
            (pyattn.Linear(1, inputs, bias=False, dtype=dtype), weight.T),
        ):
            yield lambda layer=layer, value=value: layer.load_state_dict({"weight": value})


def rows():
    linear, norm = pyattn.Linear(8, 8), pyattn.LayerNorm(8)
    attention, layer = pyattn.MultiHeadAttention(8, 2), pyattn.TransformerEncoderLayer(8, 2, 8, window=(2, 2))
    for shape in ((1, 2**45, 8), (2**45, 1, 8), (2**25, 2**25, 8)):
        for call in (linear, norm, attention, layer, pyattn.gelu):
            yield lambda call=call, shape=shape: call(huge(*shape))
        live = np.broadcast_to(True, shape[:2])
        yield lambda shape=shape, live=live: layer(huge(*shape), key_mask=live)
    yield lambda: layer(huge(1, 2**30, 8))
    yield lambda: attention(huge(1, 1, 8), huge(1, 2**30, 8))
    for count in (2**30, 2**45):
        yield lambda count=count: layer.forward_packed(huge(count, 8), [0, count])
    yield lambda: layer.forward_packed(huge(4, 8), np.array([0, 2**64 - 4, 4], np.uint64))
    yield lambda: pyattn.merge_attention(huge(2, 2**45, 8), huge(2, 2**45))


def late_interaction():
    x = np.zeros((4, 8), np.float32)
    for size in (2**42, 2**45, 2**58):
        yield lambda size=size: pyattn.maxsim(huge(4, size), huge(4, size))
    for size in (2**45, 2**57):
        yield lambda size=size: pyattn.maxsim(x, huge(size, 8))
        yield lambda size=size: pyattn.maxsim(huge(size, 8), x)
        yield lambda size=size: pyattn.maxsim(x, huge(size, 0, 8))


def main():
    for kind in (attention, packed, statistics, layers, rows, late_interaction):
        for number, call in enumerate(kind()):
            try:
                call()
            except (TypeError, ValueError, MemoryError):
                pass
            else:
                raise SystemExit(f"{kind.__name__}: call {number} returned")
    query = huge(2**29, 2**27, 4)
    nothing = pyattn.scaled_dot_product_attention(query, query, query[..., :0])
    assert nothing.shape == (2**29, 2**27, 0)  # and no logits were computed for it
    print("done")


if __name__ == "__main__":
    sys.exit(main())
