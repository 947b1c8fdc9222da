"""What is refused, and that it is before any work."""

import numpy as np
import pytest
from scipy import sparse

import pyattn
from pyattn import _checks
from pyattn import attention_statistics as statistics
from pyattn import merge_attention as merge
from pyattn import scaled_dot_product_attention as sdpa
from pyattn import varlen_attention as varlen

CU_Q, CU_K = [0, 5, 17], [0, 30, 33]  # two packed sequences


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def qkv():
    """2 heads, 17 queries, 33 keys, width 8."""
    return normal((2, 17, 8), seed=1), normal((2, 33, 8), seed=2), normal((2, 33, 8), seed=3)


def packed():
    return [np.ascontiguousarray(x.swapaxes(0, 1)) for x in qkv()]


def batched(x):
    return np.stack([x, x])


def csr(seed=0, dtype=np.float32):
    return sparse.csr_array((np.random.default_rng(seed).random((17, 33)) < 0.3).astype(dtype))


def broken_csr(part, place, number):
    """A matrix whose arrays were written to, of which scipy knows nothing."""
    matrix = csr()
    getattr(matrix, part)[place] = number
    return matrix


def over(memory):
    """A matrix that keeps its data in memory."""
    matrix = csr()
    data = memory.reshape(-1)[: len(matrix.data)]
    return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


class OfObjects:
    shape, dtype = (17, 33), np.dtype(object)

    def tocsr(self):
        raise AssertionError


def strided(x, strides):
    return np.lib.stride_tricks.as_strided(np.zeros(99, np.float32), x.shape, strides)


# Options that all functions take alike: name: (keywords, error, message).
OPTIONS = {
    "is_causal": ({"is_causal": normal((2, 2))}, TypeError, "is_causal must be True or False"),
    "scale nan": ({"scale": np.nan}, ValueError, "scale must be finite in float32 and not zero, not nan"),
    "scale inf": ({"scale": np.inf}, ValueError, "not inf"),
    "scale 0": ({"scale": 0}, ValueError, "not 0"),
    "scale array": ({"scale": np.zeros(0)}, TypeError, "real number or None, not ndarray"),
    "scale text": ({"scale": "1"}, TypeError, "not str"),
    "scale overflows": ({"scale": 1e39}, ValueError, "finite in float32"),
    "scale huge": ({"scale": 10**400}, ValueError, "finite in float32"),
    "window number": ({"window": 5}, TypeError, r"window=5 is ambiguous.*\(5, 5\).*\(5, 0\)"),
    "window NumPy number": ({"window": np.int64(5)}, TypeError, r"window=5 is ambiguous"),
    "window True": ({"window": True}, TypeError, r"window must be \(left, right\).*not bool"),
    "window text": ({"window": "ab"}, TypeError, "window must be.*not str"),
    "window of three": ({"window": (1, 2, 3)}, ValueError, r"window must be.*not \(1, 2, 3\)"),
    "window -1": ({"window": (-1, 3)}, ValueError, r"window must be.*None \(unbounded\).*not \(-1, 3\)"),
    "window of a float": ({"window": (1.0, 3)}, TypeError, r"window must be.*not \(1.0, 3\)"),
    "window of a bool": ({"window": (3, True)}, TypeError, r"window must be.*not \(3, True\)"),
    "softcap 0": ({"softcap": 0.0}, ValueError, "softcap must be positive and finite in float32, not 0.0; None"),
    "softcap negative": ({"softcap": -30}, ValueError, "softcap must be positive.*not -30"),
    "softcap nan": ({"softcap": np.nan}, ValueError, "softcap must be positive.*not nan"),
    "softcap inf": ({"softcap": np.inf}, ValueError, "softcap must be positive.*not inf"),
    "softcap overflows": ({"softcap": 1e39}, ValueError, "finite in float32, not 1e"),
    "softcap underflows": ({"softcap": 1e-40}, ValueError, "softcap must be positive"),
    "softcap array": ({"softcap": np.ones(2)}, TypeError, "softcap must be a real number or None, not ndarray"),
    "softcap True": ({"softcap": True}, TypeError, "softcap must be a real number or None, not bool"),
    "slopes integers": ({"alibi_slopes": [1, 2]}, TypeError, "alibi_slopes has dtype int64; real floating"),
    "slopes complex": ({"alibi_slopes": [1j, 2]}, TypeError, "alibi_slopes has dtype complex128"),
    "slopes shape": ({"alibi_slopes": np.ones(3)}, ValueError, r"alibi_slopes has shape \(3,\).*broadcasts to \(2,\)"),
    "slopes axes": ({"alibi_slopes": np.ones((2, 17))}, ValueError, r"alibi_slopes has shape \(2, 17\)"),
    "slopes nan": ({"alibi_slopes": [0.5, np.nan]}, ValueError, r"alibi_slopes must be finite.*not nan \(at index 1\)"),
    "slopes inf": ({"alibi_slopes": -np.inf}, ValueError, "alibi_slopes must be finite.*not -inf"),
    "slopes overflow": (
        {"alibi_slopes": [1e300, 1]},
        ValueError,
        r"alibi_slopes must be finite.*not inf \(at index 0\)",
    ),
    "slopes ragged": ({"alibi_slopes": [[1.0], [1.0, 2.0]]}, ValueError, "alibi_slopes is not an array"),
    "sinks integers": ({"sinks": 0}, TypeError, "sinks has dtype int64; real floating"),
    "sinks shape": ({"sinks": np.ones((2, 1))}, ValueError, r"sinks has shape \(2, 1\).*broadcasts to \(2,\)"),
    "sinks nan": ({"sinks": [np.nan, 0]}, ValueError, r"sinks must be finite.*-inf.*not nan \(at index 0\)"),
    "sinks inf": ({"sinks": np.inf}, ValueError, "sinks must be finite.*not inf"),
    "sinks overflow": ({"sinks": [0, 1e300]}, ValueError, r"not inf \(at index 1\)"),
    "lengths floats": ({"kv_lengths": 3.0}, TypeError, "kv_lengths has dtype float64; integers"),
    "lengths booleans": ({"kv_lengths": [True, True]}, TypeError, "kv_lengths has dtype bool; integers"),
    "offset floats": ({"query_offset": 3.0}, TypeError, "query_offset has dtype float64; integers"),
    "offset too large": ({"query_offset": 2**30}, ValueError, r"query_offset must be below 2\*\*30.*not 1073741824"),
    "offset too small": ({"query_offset": -(2**30)}, ValueError, "query_offset must be below.*not -1073741824"),
    "offset beyond int64": ({"query_offset": np.uint64(2**64 - 1)}, ValueError, "query_offset must be below"),
    "offset shape": ({"query_offset": [1, 2, 3]}, ValueError, r"query_offset has shape \(3,\); accepted: a scalar"),
}

# Of those that take a mask: name: (keywords, error, message).
MASKS = {
    "integer mask": ({"mask": np.ones((17, 33), int)}, TypeError, "mask != 0 .* mask == 0"),
    "mask dtype": ({"mask": np.ones((17, 33))}, TypeError, "mask has dtype float64; bool"),
    "half mask": ({"mask": np.ones((17, 33), np.float16)}, TypeError, "mask has dtype float16; bool"),
    "object mask": ({"mask": np.ones((17, 33), object)}, TypeError, "mask has dtype object"),
    "mask shape": ({"mask": np.ones((33, 17), bool)}, ValueError, r"mask.*\(33, 17\); accepted.*\(17, 33\)"),
    "mask axes": ({"mask": np.ones(33, bool)}, ValueError, r"mask has shape \(33,\)"),
    "integer bias": ({"bias": np.ones((17, 33), int)}, TypeError, "bias has dtype int64.*float32.*astype"),
    "bool bias": ({"bias": np.ones((17, 33), bool)}, TypeError, "bias has dtype bool.*goes into mask"),
    "wide bias": ({"bias": np.ones((17, 33))}, TypeError, "bias has dtype float64.*float32"),
    "bias shape": ({"bias": np.ones((3, 17, 33), np.float32)}, ValueError, r"bias has shape \(3, 17, 33\); accepted"),
    "lengths shape": ({"kv_lengths": [3, 3]}, ValueError, r"kv_lengths has shape \(2,\); accepted: a scalar"),
    "lengths negative": ({"kv_lengths": -1}, ValueError, r"kv_lengths must be from 0 to S \(33\), not -1"),
    "lengths too large": ({"kv_lengths": np.int8(34)}, ValueError, r"kv_lengths must be from 0 to S \(33\), not 34"),
    "sparse shape": (
        {"mask": csr().T},
        ValueError,
        r"sparse mask has shape \(33, 17\); accepted: \(L, S\) = \(17, 33\)",
    ),
    "sparse complex": ({"mask": csr(dtype=complex)}, TypeError, "sparse mask has dtype complex128"),
    "sparse objects": ({"mask": OfObjects()}, TypeError, "sparse mask has dtype object"),
    "sparse bias alone": ({"bias": csr()}, TypeError, "sparse bias needs a sparse mask.*mask is None"),
    "sparse bias, dense mask": (
        {"mask": np.ones((17, 33), bool), "bias": csr()},
        TypeError,
        "sparse bias needs a sparse mask.*mask is dense",
    ),
    "sparse bias elsewhere": ({"mask": csr(), "bias": csr(1)}, ValueError, "exactly the mask's structure; mask stores"),
    "sparse bias of integers": ({"mask": csr(), "bias": csr(dtype=int)}, TypeError, "sparse bias has dtype int64"),
    "sparse bias shape": ({"mask": csr(), "bias": csr()[:5]}, ValueError, r"sparse bias has shape \(5, 33\)"),
    "sparse indices": ({"mask": broken_csr("indices", 5, 33)}, ValueError, "broken: its indices are from 0 to 33"),
    "sparse negative": ({"mask": broken_csr("indices", 5, -1)}, ValueError, "broken: its indices are from -1"),
    "sparse indptr": ({"mask": broken_csr("indptr", 5, 10**6)}, ValueError, "broken: its indptr must be 18 numbers"),
    "sparse end": ({"mask": broken_csr("indptr", -1, 10**6)}, ValueError, "broken: its indptr ends at 1000000"),
}

# Arrays that do not fit each other: name: (call of query, key, value, error, message).
SHAPES = {
    "ranks": (lambda q, k, v: (q[0], k, v), ValueError, r"query \(17, 8\), key \(2, 33, 8\).*accepted"),
    "one axis": (lambda q, k, v: (q[0, 0], k[0, 0], v[0, 0]), ValueError, "at least 2"),
    "widths": (lambda q, k, v: (q[..., :7], k, v), ValueError, r"last axis.*\(2, 17, 7\)"),
    "lengths": (lambda q, k, v: (q, k, v[:, :32]), ValueError, r"key and value.*\(2, 32, 8\)"),
    "heads": (lambda q, k, v: (q[[0, 1, 1]], k, v), ValueError, r"multiple.*\(3, 17, 8\)"),
    "no heads": (lambda q, k, v: (q, k[:0], v[:0]), ValueError, "multiple"),
    "batch": (lambda q, k, v: (q[None], k[[[0, 1]] * 2], v[[[0, 1]] * 2]), ValueError, "batch.*broadcast_to"),
    "too long": (
        lambda q, k, v: (np.broadcast_to(q[:, :1], (2, 2**30, 8)), k, v),
        ValueError,
        r"L and S .* below 2\*\*30: query \(2, 1073741824, 8\)",
    ),
    "integers": (lambda q, k, v: (q.astype(int), k, v), TypeError, "query has dtype int64.*float16 or bfloat16"),
    "complex": (lambda q, k, v: (q, k, v.astype(complex)), TypeError, "value has dtype complex128"),
    "objects": (lambda q, k, v: (q.astype(object), k, v), TypeError, "query has dtype object"),
    "long double": (
        lambda q, k, v: (q.astype(np.longdouble), k, v),
        TypeError,
        "query has dtype (float128|longdouble)",
    ),
    "two bytes": (lambda q, k, v: (q, k, v.astype(np.float16).view("V2")), TypeError, r"value has dtype \|V2"),
    "byte order": (lambda q, k, v: (q.astype(">f4"), k, v), TypeError, "native byte order"),
    "byte order of halves": (lambda q, k, v: (q.astype(">f2"), k, v), TypeError, "native byte order"),
    "mixed": (lambda q, k, v: (q, k.astype(float), v), TypeError, "query float32, key float64, value float32"),
    "mixed halves": (lambda q, k, v: (q, k, v.astype(np.float16)), TypeError, "key float32, value float16"),
    "ragged": (lambda q, k, v: ([[1.0], [1.0, 2.0]], k, v), ValueError, "query is not an array"),
}

PACKED_SHAPES = {
    "axes": (lambda q, k, v: (q[None], k[None], v[None]), ValueError, r"three axes.*accepted: query \(total_q, H, D\)"),
    "rank of value": (lambda q, k, v: (q, k, v[0]), ValueError, r"three axes.*value \(2, 8\)"),
    "widths": (lambda q, k, v: (q[..., :7], k, v), ValueError, r"last axis.*\(17, 2, 7\)"),
    "lengths": (lambda q, k, v: (q, k, v[:32]), ValueError, r"key and value.*\(32, 2, 8\)"),
    "heads": (lambda q, k, v: (q[:, [0, 1, 1]], k, v), ValueError, r"multiple.*\(17, 3, 8\)"),
    "no heads": (lambda q, k, v: (q, k[:, :0], v[:, :0]), ValueError, "multiple"),
    "too long": (lambda q, k, v: (np.broadcast_to(q[:1], (2**30, 2, 8)), k, v), ValueError, r"less than 2\*\*30"),
    "integers": (lambda q, k, v: (q.astype(int), k, v), TypeError, "query has dtype int64"),
    "mixed": (lambda q, k, v: (q, k.astype(float), v), TypeError, "query float32, key float64, value float32"),
    "ragged": (lambda q, k, v: ([[1.0], [1.0, 2.0]], k, v), ValueError, "query is not an array"),
}

# Where the result is to be written: name: (function of query, key, value that gives keywords, error, message).
OUT = {
    "shape": (lambda q, k, v: {"out": np.empty((2, 17, 9), np.float32)}, ValueError, r"\(2, 17, 9\).*\(2, 17, 8\)"),
    "dtype": (lambda q, k, v: {"out": np.empty((2, 17, 8))}, TypeError, "float32, not float64"),
    "list": (lambda q, k, v: {"out": []}, TypeError, "not list"),
    "query": (lambda q, k, v: {"out": q}, ValueError, "shares memory with query"),
    "key": (lambda q, k, v: {"out": k[:, 3:20]}, ValueError, "shares memory with key"),
    "value": (lambda q, k, v: {"out": v[:, 16:]}, ValueError, "shares memory with value"),
    "mask": (
        lambda q, k, v: {"mask": (m := np.zeros((2, 17, 33), np.float32)), "out": m[..., 25:]},
        ValueError,
        "shares memory with mask",
    ),
    "mask's buffer": (
        lambda q, k, v: {"mask": memoryview(m := np.zeros((2, 17, 33), np.float32)), "out": m[..., 25:]},
        ValueError,
        "shares memory with mask",
    ),
    "bias": (
        lambda q, k, v: {"bias": (m := np.zeros((2, 17, 33), np.float32)), "out": m[..., :8]},
        ValueError,
        "shares memory with bias",
    ),
    "sparse bias": (
        lambda q, k, v: {"mask": (m := over(out := np.zeros((2, 17, 8), np.float32))), "bias": m, "out": out},
        ValueError,
        "shares memory with mask",
    ),
    "slopes": (
        lambda q, k, v: {"alibi_slopes": (m := np.zeros((2, 17, 8), np.float32))[:, 3, 3], "out": m},
        ValueError,
        "shares memory with alibi_slopes",
    ),
    "sinks": (
        lambda q, k, v: {"sinks": (m := np.zeros((2, 17, 8), np.float32))[:, 3, 3], "out": m},
        ValueError,
        "shares memory with sinks",
    ),
    "lengths": (
        lambda q, k, v: {"kv_lengths": (m := np.zeros((2, 17, 8), np.float32)).view(np.int32)[0, 0, 0, ...], "out": m},
        ValueError,
        "shares memory with kv_lengths",
    ),
    "offsets": (
        lambda q, k, v: {"query_offset": (m := np.zeros((2, 17, 8), np.float32)).view(int)[0, 0, 0, ...], "out": m},
        ValueError,
        "shares memory with query_offset",
    ),
    "itself": (lambda q, k, v: {"out": strided(q, (4, 4, 4))}, ValueError, "overlaps itself"),
    "repeated": (lambda q, k, v: {"out": strided(q, (0, 0, 4))}, ValueError, "overlaps itself"),
    "read-only": (lambda q, k, v: {"out": np.broadcast_to(np.float32(0), q.shape)}, ValueError, "read-only"),
}

STARTS = {
    "floats": (([0.0, 17.0], None), TypeError, "cu_seqlens_q must be integers, not float64"),
    "not from 0": (([1, 17], None), ValueError, r"cu_seqlens_q must ascend from 0 .* rows of query, 17; .* \[ 1 17\]"),
    "not to the end": (([0, 16], [0, 33]), ValueError, "cu_seqlens_q must ascend"),
    "descending": (([0, 9, 8, 17], [0, 33, 33, 33]), ValueError, "cu_seqlens_q must ascend"),
    "empty": ((np.zeros(0, int), None), ValueError, "cu_seqlens_q must ascend"),
    "axes": (([[0, 17]], None), ValueError, "cu_seqlens_q must ascend"),
    "keys": (([0, 17], [0, 17]), ValueError, "cu_seqlens_k must ascend from 0 .* rows of key, 33"),
    "keys missing": (([0, 17], None), ValueError, "query has 17 rows, key 33; pass cu_seqlens_k"),
    "counts": (([0, 17], [0, 3, 33]), ValueError, "cu_seqlens_q has 2 numbers, cu_seqlens_k 3"),
}

PACKED_OPTIONS = {
    "lengths shape": ({"kv_lengths": 3}, ValueError, r"kv_lengths has shape \(\); accepted: .*\(2,\)"),
    "lengths too large": (
        {"kv_lengths": [30, 4]},
        ValueError,
        r"kv_lengths must be from 0 to the sequence's number of keys \(3\), not 4 \(at index 1\)",
    ),
    "lengths negative": ({"kv_lengths": [-1, 3]}, ValueError, r"not -1 \(at index 0\)"),
    "slopes of sequences": ({"alibi_slopes": np.ones((3, 2))}, ValueError, r"alibi_slopes has shape \(3, 2\)"),
    "return_lse": ({"return_lse": "yes"}, TypeError, "return_lse must be True or False"),
    "out shape": ({"out": np.empty((2, 17, 8), np.float32)}, ValueError, r"out has shape \(2, 17, 8\); .*\(17, 2, 8\)"),
}

STATISTICS = {
    "entropy": ({"entropy": None}, TypeError, "entropy must be True or False"),
    "received": ({"received": 2}, TypeError, "received must be True or False"),
    "top_k 0": ({"top_k": 0}, ValueError, r"top_k must be from 1 to S \(33\), not 0"),
    "top_k too large": ({"top_k": 34}, ValueError, r"top_k must be from 1 to S \(33\), not 34"),
    "top_k float": ({"top_k": 3.0}, TypeError, "top_k must be an integer or None, not 3.0"),
    "top_k True": ({"top_k": True}, TypeError, "top_k must be an integer or None, not True"),
    "range number": ({"query_range": 3}, TypeError, r"query_range must be \(start, stop\).*not int"),
    "range of floats": ({"query_range": (0.0, 3)}, TypeError, r"query_range must be.*not \(0.0, 3\)"),
    "range of three": ({"query_range": (0, 3, 4)}, ValueError, r"query_range must be.*not \(0, 3, 4\)"),
    "range backwards": ({"query_range": (4, 3)}, ValueError, r"query_range must be.*not \(4, 3\)"),
    "range negative": ({"query_range": (-4, 3)}, ValueError, r"query_range must be.*not \(-4, 3\)"),
    "range too long": ({"query_range": (0, 18)}, ValueError, r"query_range must be.*L \(17\).*not \(0, 18\)"),
}

OUTPUT, LSE = normal((2, 17, 8)), normal((2, 17))
MERGE = {
    "no parts": (([], []), ValueError, "0 outputs and 0 lses"),
    "counts": (([OUTPUT], [LSE, LSE]), ValueError, "1 outputs and 2 lses"),
    "one output": ((OUTPUT[0, 0, 0], [LSE]), TypeError, "outputs must be a sequence of arrays.*not float32"),
    "a dictionary": (([OUTPUT], {0: LSE}), TypeError, "lses must be a sequence of arrays.*not dict"),
    "shapes": (([OUTPUT, OUTPUT[:1]], [LSE, LSE[:1]]), ValueError, r"outputs\[1\] has shape \(1, 17, 8\)"),
    "lse shape": (([OUTPUT], [OUTPUT]), ValueError, r"lses\[0\] \(2, 17, 8\).*accepted.*lses \(..., L\)"),
    "one axis": (([LSE[0]], [LSE[0, 0]]), ValueError, r"outputs\[0\] has shape \(17,\)"),
    "integers": (([OUTPUT.astype(int)], [LSE]), TypeError, r"outputs\[0\] has dtype int64"),
    "mixed": (([OUTPUT, OUTPUT.astype(float)], [LSE, LSE]), TypeError, r"outputs\[0\] float32, outputs\[1\] float64"),
    "lse dtype": (([OUTPUT], [LSE.astype(float)]), TypeError, r"lses\[0\] has dtype float64.*float32"),
    "lse half": (([OUTPUT.astype(np.float16)], [LSE.astype(np.float16)]), TypeError, r"lses\[0\].*astype\(np.float32"),
    "ragged": (([[[1.0], [1.0, 2.0]]], [LSE]), ValueError, r"outputs\[0\] is not an array"),
}


def refuses(error, message, function, *arguments, **options):
    with pytest.raises(error, match=f"^{function.__name__}: .*{message}"):
        function(*arguments, **options)


@pytest.mark.parametrize("name", SHAPES)
def test_arrays(name):
    arrays, error, message = SHAPES[name]
    refuses(error, message, sdpa, *arrays(*qkv()))
    refuses(error, message, statistics, *arrays(*qkv()))


def test_arrays_without_values():
    query, key, _ = qkv()
    refuses(ValueError, r"last axis.*query \(2, 17, 7\), key \(2, 33, 8\)$", statistics, query[..., :7], key)
    refuses(TypeError, r"mixed \(query float32, key float64\)", statistics, query, key.astype(float))


@pytest.mark.parametrize("name", PACKED_SHAPES)
def test_packed_arrays(name):
    arrays, error, message = PACKED_SHAPES[name]
    refuses(error, message, varlen, *arrays(*packed()), CU_Q, CU_K)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    options, error, message = OPTIONS[name]
    refuses(error, message, sdpa, *qkv(), **options)
    refuses(error, message, statistics, *qkv(), **options)
    refuses(error, message, varlen, *packed(), CU_Q, CU_K, **options)


@pytest.mark.parametrize("name", MASKS)
def test_masks_and_lengths(name):
    options, error, message = MASKS[name]
    refuses(error, message, sdpa, *qkv(), **options)
    refuses(error, message, statistics, *qkv(), **options)


def test_batches():
    arrays = [batched(x) for x in qkv()]
    masks = r"mask has shape \(3, 17, 33\); accepted: .*\(2, 17, 33\)"
    refuses(ValueError, masks, sdpa, *arrays, np.ones((3, 17, 33), bool))
    shape = r"\(3,\); accepted: a scalar or what broadcasts to \(2,\) = query.shape\[:-3\]"
    for name in ("kv_lengths", "query_offset"):
        refuses(ValueError, f"{name} has shape {shape}", sdpa, *arrays, **{name: [1, 2, 3]})
    refuses(ValueError, r"not 34 \(at index 1\)", sdpa, *arrays, kv_lengths=[3, 34])
    refuses(ValueError, r"not -2000000000 \(at index 0\)", sdpa, *arrays, query_offset=[-2_000_000_000, 0])
    refuses(ValueError, r"not nan \(at index 1, 0\)", sdpa, *arrays, sinks=[[0.0, 0.0], [np.nan, 0.0]])
    refuses(ValueError, r"sinks has shape \(3, 1\).*\(2, 2\)", sdpa, *arrays, sinks=np.zeros((3, 1)))
    refuses(
        ValueError,
        r"alibi_slopes has shape \(2,\); accepted: a scalar$",
        sdpa,
        *(x[0, 0] for x in arrays),
        alibi_slopes=[0.5, 1.0],
    )


@pytest.mark.parametrize("name", OUT)
def test_out(name):
    options, error, message = OUT[name]
    arrays = qkv()
    refuses(error, message, sdpa, *arrays, **options(*arrays))


class Foreign:
    """What another library has in memory of its own, as NumPy is told."""

    def __init__(self, x):
        self.kept, self.__array_interface__ = x, x.__array_interface__


@pytest.mark.parametrize("kind", [memoryview, Foreign])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_out_does_not_share_memory_with_what_becomes_an_array(name, kind):
    square = {part: np.full((4, 2, 8), number, np.float32) for number, part in enumerate(("query", "key", "value"))}
    given = square | {name: kind(square[name])}
    for call, starts in ((sdpa, ()), (varlen, ([0, 4],))):
        refuses(ValueError, f"shares memory with {name}", call, *given.values(), *starts, out=square[name])
        call(*given.values(), *starts, out=np.empty((4, 2, 8), np.float32))


@pytest.mark.parametrize("name", ["query", "key", "value", "slopes", "sinks", "itself", "read-only"])
def test_packed_out(name):
    options, error, message = OUT[name]
    arrays = packed()
    heads_first = options(*(x.swapaxes(0, 1) for x in arrays))
    options = {key: x.swapaxes(0, 1) if key == "out" else x for key, x in heads_first.items()}  # type: ignore[attr-defined]
    refuses(error, message, varlen, *arrays, CU_Q, CU_K, **options)


def test_out_is_not_an_index():
    arrays = packed()
    out = np.zeros((17, 2, 8), np.float32)
    starts = out.view(int)[:2, 0, 0]
    starts[1] = 17
    refuses(ValueError, "shares memory with cu_seqlens_q", varlen, *arrays, starts, [0, 33], out=out)


@pytest.mark.parametrize("name", STARTS)
def test_starts_of_sequences(name):
    starts, error, message = STARTS[name]
    refuses(error, message, varlen, *packed(), *starts)


@pytest.mark.parametrize("name", PACKED_OPTIONS)
def test_packed_options(name):
    options, error, message = PACKED_OPTIONS[name]
    refuses(error, message, varlen, *packed(), CU_Q, CU_K, **options)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics(name):
    options, error, message = STATISTICS[name]
    query, key, value = qkv()
    refuses(error, message, statistics, query, key, value, **options)
    refuses(error, message, statistics, query, key, **options)


@pytest.mark.parametrize("name", MERGE)
def test_merge(name):
    parts, error, message = MERGE[name]
    refuses(error, message, merge, *parts)


@pytest.mark.parametrize("name", ["return_lse", "return_weights"])
@pytest.mark.parametrize("value", [None, 2, "yes", np.ones(2)])
def test_flags(name, value):
    refuses(TypeError, f"{name} must be True or False", sdpa, *qkv(), **{name: value})


def test_layers_take_neither_halves_nor_sparse_masks():
    with pytest.raises(TypeError, match=r"^relu: x has dtype float16; float32 or float64 in native"):
        pyattn.relu(np.ones(3, np.float16))
    with pytest.raises(TypeError, match=r'^Linear: dtype must be "float32", "float64"'):
        pyattn.Linear(3, 3, dtype=np.float16)
    with pytest.raises(TypeError, match=r"^LayerNorm: the input has dtype float16"):
        pyattn.LayerNorm(3)(np.ones(3, np.float16))
    with pytest.raises(TypeError, match=r"^MultiHeadAttention: a sparse mask is for .*mask.toarray"):
        pyattn.MultiHeadAttention(8, 2)(np.ones((33, 8), np.float32), mask=sparse.eye_array(33))


def test_nothing_is_written_on_error():
    query, key, value = qkv()
    out = np.full((2, 17, 8), 7, np.float32)
    bad = ["mask shape", "bias shape", "sparse indices", "lengths too large"]
    for options, error, _ in [*OPTIONS.values(), *(MASKS[name] for name in bad)]:
        with pytest.raises(error):
            sdpa(query, key, value, out=out, **options)
    assert (out == 7).all()


def prepared(query, key, **options):
    """The call, as the driver gets it."""
    return _checks.attention_call("f", query, key, None, options)


def test_options_that_are_not_given_are_not_passed_on():
    call = prepared(*qkv()[:2])
    assert call.operands.keys() == {"query", "key"}
    assert call.scale == 1 / np.sqrt(8)


def test_results_are_of_one_run():
    query, key = qkv()[:2]
    call, rows = prepared(query, key), query.shape[:-1]
    first, second, weights = np.empty(rows, np.float32), np.empty(rows, np.float32), np.zeros((*rows, 33), np.float32)
    call.run(lambda operations: 1, lse=first, weights=weights)
    seen, weights[:] = first.copy(), 7
    first[:] = 7
    call.run(lambda operations: 1, lse=second)
    np.testing.assert_array_equal(second, seen)
    assert (first == 7).all() and (weights == 7).all()
    assert call.operands.keys() == {"query", "key"}


@pytest.mark.parametrize(
    ("window", "is_causal", "expected"),
    [
        (None, True, (None, 0)),
        ((None, None), False, None),
        ((3, None), False, (3, None)),
        ((None, 2), True, (None, 0)),
        ([np.int8(3), 0], False, (3, 0)),
        ((2**31 - 2, 2**31), False, None),
        ((0, 10**30), True, (0, 0)),
    ],
)
def test_windows(window, is_causal, expected):
    query, key, value = qkv()
    found = sdpa(query, key, value, window=window, is_causal=is_causal, return_weights=True)[1]
    i, j = np.arange(query.shape[-2])[:, None] + key.shape[-2] - query.shape[-2], np.arange(key.shape[-2])
    left, right = (np.inf if side is None else side for side in expected or (None, None))
    np.testing.assert_array_equal(found > 0, np.broadcast_to((i - left <= j) & (j <= i + right), found.shape))


@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_options_are_views_of_the_leading_shape(ndim, dtype):
    query, key = np.zeros((3, 2, 4, 5, 8)[-ndim:], dtype), np.zeros((3, 2, 2, 7, 8)[-ndim:], dtype)
    leading, batch = query.shape[:-2], query.shape[:-3]
    mask, bias = np.ones((5, 7), bool), np.ones((5, 7), dtype)
    call = prepared(
        query,
        key,
        mask=mask,
        bias=bias,
        alibi_slopes=np.float16(0.5),
        sinks=np.array(-np.inf, np.longdouble),
        kv_lengths=np.uint8(7),
        query_offset=np.array(-3, ">i2"),
    )
    statistics = np.float64 if dtype is np.float64 else np.float32
    for name, shape, expected, value in [
        ("mask", (*leading, 5, 7), bool, True),
        ("bias", (*leading, 5, 7), dtype, 1),
        ("alibi_slopes", leading, statistics, 0.5),
        ("sinks", leading, statistics, -np.inf),
        ("kv_lengths", batch, np.int64, 7),
        ("query_offset", batch, np.int64, -3),
    ]:
        x = call.operands[name]
        assert (x.shape, x.dtype, set(x.flat)) == (shape, expected, {value}), name
    assert np.shares_memory(call.operands["mask"], mask)
    assert np.shares_memory(call.operands["bias"], bias)


def dense(structure):
    """What a prepared structure means: the live entries and the data."""
    indptr, indices, data = structure
    assert (indptr.dtype, indices.dtype) == (np.int64, np.int32)
    assert indptr.flags.c_contiguous
    assert indices.flags.c_contiguous
    live, values = np.zeros((17, 33), bool), np.zeros((17, 33))
    for i in range(17):
        row = slice(indptr[i], indptr[i + 1])
        assert (np.diff(indices[row]) > 0).all()
        live[i, indices[row]] = True
        if data is not None:
            values[i, indices[row]] = data[row]
    return live, values


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dia", "lil", "dok"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_sparse_formats(form, kind):
    expected = csr().toarray()
    mask = getattr(sparse, f"{form}_{kind}")(expected)
    live, _ = dense(prepared(*qkv()[:2], mask=mask).operands["csr"])
    np.testing.assert_array_equal(live, expected != 0)
    bias = mask * np.float64(0.5)
    structure = prepared(*qkv()[:2], mask=mask, bias=bias).operands["csr"]
    assert structure[2].dtype == np.float32
    np.testing.assert_array_equal(dense(structure)[1], expected / 2)


def test_sparse_structure_is_every_stored_entry():
    rows, columns = [0, 0, 0, 3, 3, 16], [6, 1, 6, 32, 0, 5]
    values = np.array([1.0, 2.0, 3.0, 0.0, 4.0, 5.0])
    live, bias = np.zeros((17, 33), bool), np.zeros((17, 33))
    live[rows, columns] = True
    np.add.at(bias, (rows, columns), values)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=17))]).astype(np.int32)
    unsorted = sparse.csr_array((values, np.array(columns, np.int32), indptr), shape=(17, 33))
    before = [x.copy() for x in (unsorted.data, unsorted.indices, unsorted.indptr)]
    for mask in (unsorted, sparse.coo_array((values, (rows, columns)), shape=(17, 33))):
        structure = prepared(*qkv()[:2], mask=mask, bias=mask).operands["csr"]
        np.testing.assert_array_equal(dense(structure), (live, bias))
    for x, y in zip(before, (unsorted.data, unsorted.indices, unsorted.indptr), strict=True):
        np.testing.assert_array_equal(x, y)


def test_values_of_sparse_arrays_that_fit_are_not_copied():
    mask = csr()
    _, _, data = prepared(*qkv()[:2], mask=mask, bias=mask).operands["csr"]
    assert np.shares_memory(data, mask.data)


@pytest.mark.parametrize("shape", [(17, 33), (0, 33), (17, 0)])
def test_sparse_masks_may_be_empty(shape):
    query, key = np.zeros((2, shape[0], 8)), np.zeros((2, shape[1], 8))
    indptr, indices, data = prepared(query, key, mask=sparse.csr_array(shape)).operands["csr"]
    np.testing.assert_array_equal(indptr, np.zeros(shape[0] + 1))
    assert indices.shape == (0,)
    assert data is None


def test_packed_options_are_of_each_sequence():
    cu_seqlens = np.array(CU_Q, np.uint8), CU_K
    options = {"kv_lengths": [30, 0], "query_offset": 7}
    call = _checks.packed_call("f", *packed(), cu_seqlens, options)
    np.testing.assert_array_equal(call.operands["kv_lengths"], [30, 0])
    np.testing.assert_array_equal(call.operands["query_offset"], [7, 7])
    assert all(x.dtype == np.int64 and x.flags.c_contiguous for x in call.operands["cu_seqlens"])
    np.testing.assert_array_equal(call.operands["cu_seqlens"], [CU_Q, CU_K])


def test_bfloat16_is_known_by_its_name():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    arrays = [x.astype(bfloat16) for x in qkv()]
    assert _checks.attention_arrays("f", query=arrays[0])[0].dtype == bfloat16
    operands = prepared(*arrays[:2], bias=np.ones((17, 33), bfloat16), sinks=np.ones(2, bfloat16)).operands
    assert (operands["bias"].dtype, operands["sinks"].dtype) == (bfloat16, np.float32)
    refuses(TypeError, "query bfloat16, key bfloat16, value float16", sdpa, *arrays[:2], arrays[2].astype(np.float16))
    refuses(TypeError, "mask has dtype float32; .*query's dtype bfloat16", sdpa, *arrays, np.ones((17, 33), np.float32))
    refuses(TypeError, "out must be an array of dtype bfloat16", sdpa, *arrays, out=np.empty((2, 17, 8), np.float32))
