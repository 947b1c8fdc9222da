"""The judge must reject what is wrong, and know what is right."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from pyattn import reference
from tests.support import oracle

LENGTH, KEYS = 40, 150
CALL = {
    "mask": np.random.default_rng(1).random((LENGTH, KEYS)) < 0.9,
    "bias": np.random.default_rng(2).standard_normal((LENGTH, KEYS)).astype(np.float32),
    "is_causal": True,
    "scale": 0.5,
    "softcap": 2.0,
    "alibi_slopes": np.float32([0.03, 0.06]),
    "sinks": np.float32([2, 3]),
    "window": (30, 20),
    "kv_lengths": KEYS - 9,
    "query_offset": KEYS - LENGTH - 9,
}
OTHERS = {
    "mask off by one": {"mask": np.roll(CALL["mask"], 1, axis=-1)},
    "bias of other rows": {"bias": np.roll(CALL["bias"], 1, axis=0)},
    "causal off by one": {"is_causal": False, "window": (30, 1)},
    "window off by one": {"window": (31, 20)},
    "kv_lengths off by one": {"kv_lengths": KEYS - 8, "is_causal": False},
    "scale": {"scale": 0.6},
    "no softcap": {"softcap": None},
    "softcap": {"softcap": 1.8},
    "ALiBi's sign": {"alibi_slopes": -CALL["alibi_slopes"]},
    "ALiBi's distance": {"query_offset": CALL["query_offset"] + 4, "is_causal": False, "window": (34, 16)},
    "no sinks": {"sinks": None},
}
SPOILED = {
    "zeros": lambda x: 0 * x,
    "relative error": lambda x: x * (1 + (3e-2 if x.dtype.itemsize == 2 else 1e-4)),
    "rows shifted": lambda x: np.roll(x, 1, axis=1),
    "one nan": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 77, x.dtype.type(np.nan), x),
}


@pytest.fixture(params=oracle.DTYPES, ids=str)
def arrays(request):
    rng = np.random.default_rng(0)
    shapes = (2, LENGTH, 8), (1, KEYS, 8), (1, KEYS, 8)
    return [rng.standard_normal(shape).astype(request.param) for shape in shapes]


def answer(arrays, **options):
    """A right answer: output, lse and weights in their dtypes."""
    dtype = arrays[0].dtype
    results = oracle.attention(*arrays, **options, return_weights=True)
    return tuple(x.astype(d) for x, d in zip(results, (dtype, oracle.statistics_dtype(dtype), dtype), strict=True))


def statistics(arrays, **options):
    query, key, _ = arrays
    dtype = oracle.statistics_dtype(query.dtype)
    result = reference.attention_statistics(query, key, dtype=oracle.wider(query.dtype), **options)._asdict()
    floats = {name: x.astype(dtype) for name, x in result.items() if x is not None and x.dtype.kind == "f"}
    return SimpleNamespace(**{**result, **floats})


def test_accepts_what_is_right(arrays):
    oracle.assert_attention(answer(arrays, **CALL), *arrays, **CALL)
    oracle.assert_statistics(statistics(arrays, **CALL, top_k=3), *arrays[:2], **CALL, top_k=3)


def test_accepts_the_plain_formula(arrays):
    out = reference.scaled_dot_product_attention(*arrays, **CALL, dtype=arrays[0].dtype)[0]
    oracle.assert_attention(out, *arrays, **CALL)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["out", "lse", "weights"])
@pytest.mark.parametrize("change", OTHERS)
def test_rejects_another_call(arrays, change, part):
    right, wrong = answer(arrays, **CALL), answer(arrays, **{**CALL, **OTHERS[change]})
    with pytest.raises(AssertionError):
        oracle.assert_attention((*right[:part], wrong[part], *right[part + 1 :]), *arrays, **CALL)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["out", "lse", "weights"])
@pytest.mark.parametrize("how", SPOILED)
def test_rejects_a_spoiled_answer(arrays, how, part):
    right = answer(arrays, **CALL)
    with pytest.raises(AssertionError):
        oracle.assert_attention((*right[:part], SPOILED[how](right[part]), *right[part + 1 :]), *arrays, **CALL)


@pytest.mark.parametrize("name", ["lse", "max", "entropy", "received", "top_weights", "top_keys"])
@pytest.mark.parametrize("change", ["mask off by one", "scale", "softcap", "ALiBi's sign", "no sinks"])
def test_rejects_other_statistics(arrays, change, name):
    if name == "max" and change == "no sinks":
        return  # sinks do not count
    right = statistics(arrays, **CALL, top_k=3)
    wrong = statistics(arrays, **{**CALL, **OTHERS[change]}, top_k=3)
    setattr(right, name, getattr(wrong, name))
    if name == "top_keys" and np.array_equal(right.top_keys, statistics(arrays, **CALL, top_k=3).top_keys):
        return  # what is monotonic does not change them
    with pytest.raises(AssertionError):
        oracle.assert_statistics(right, *arrays[:2], **CALL, top_k=3)


def test_rejects_statistics_of_other_queries(arrays):
    wrong = statistics(arrays, **CALL, query_range=(3, 9))
    with pytest.raises(AssertionError):
        oracle.assert_statistics(wrong, *arrays[:2], **CALL, query_range=(3, 10))


def test_rejects_a_wrong_dtype(arrays):
    out, lse, weights = answer(arrays)
    other = np.float32 if out.dtype == np.float64 else np.float64
    for wrong in ((out.astype(other),), (out, lse.astype(other)), (out, lse, weights.astype(other))):
        with pytest.raises(AssertionError):
            oracle.assert_attention(wrong, *arrays)


def test_rejects_a_finite_number_for_nan():
    with pytest.raises(AssertionError):
        oracle.assert_close(np.zeros(3), np.array([0, np.nan, 0]), np.zeros(3), np.ones(3))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_plain_16_bits_are_those_of_numpy(dtype):
    """The plain formula in 16 bits is NumPy's; what ml_dtypes adds up one by one in bfloat16 is added up in float32."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 31, 16)).astype(dtype) for _ in range(3))
    scores = (query @ key.swapaxes(-1, -2)).astype(dtype) * dtype(0.25)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True, dtype=np.float32).astype(dtype)
    out = (weights @ value).astype(dtype)
    ours, _, our_weights = reference.scaled_dot_product_attention(query, key, value, dtype=dtype, return_weights=True)
    # sums in float32 may differ in their last bit, and with it a rounding to 16 bits here and there
    assert (weights == our_weights).mean() > 0.99
    assert (out == ours).mean() > 0.99
    assert np.abs((out - ours).astype(float)).max() <= 2 * float(ml_dtypes.finfo(dtype).eps)
