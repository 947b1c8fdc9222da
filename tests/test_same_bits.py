"""The same bits: for any threads, batch mates, packing, number of queries, layout of memory, run and calls beside it.

Of attention in every dtype and with every option, statistics of it, layers and models with weights in every dtype.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

import pyattn
from pyattn import attention_statistics, merge_attention, varlen_attention
from pyattn import scaled_dot_product_attention as sdpa
from pyattn._core import runtime
from tests.data.record_families import CASES
from tests.support import oracle
from tests.support.oracle import DTYPES, assert_same, results
from tests.support.problems import (
    everything,
    examples,
    laid_out,
    normal,
    num_threads,
    part_of,
    problems,
    qkv,
    spelled_out,
)
from tests.support.recorded import load, recorded, write

THREADS = (1, 3) if runtime.sanitized else (1, 2, 3, 7)
LAYOUTS = ("transposed", "reversed", "gapped", "unaligned")
ALL = {"return_lse": True, "return_weights": True}
ASKED = {"entropy": True, "received": True, "top_k": 5}
WEIGHTS = ["float32", "float64", "bfloat16", "int8"]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_weights = pytest.mark.parametrize("weights", WEIGHTS)


def forms(dtype, heads, length, keys, batch=()):
    """Every option of attention alone, in each of its forms, and all at once."""
    whole = everything(dtype, heads, length, keys, batch)
    live = sparse.csr_array(normal((length, keys)) > -1)
    return {
        "none": {},
        **{name: {name: value} for name, value in whole.items()},
        "scale": {"scale": 0.3},
        "real mask": {"mask": normal((length, keys), dtype)},
        "sparse mask": {"mask": live, "is_causal": True},
        "sparse bias": {"mask": live, "bias": live.astype(np.float32)},
        "everything": whole,
    }


FORMS = list(forms(np.float32, 1, 1, 1))

LAYERS = {
    "Linear": lambda **dtype: pyattn.Linear(48, 100, activation="gelu", rng=0, **dtype),
    "MultiHeadAttention": lambda **dtype: pyattn.MultiHeadAttention(48, 4, rng=0, **dtype),
    "rotary, window": lambda **dtype: pyattn.MultiHeadAttention(
        48, 4, window=(9, 3), rotary_base=100.0, rng=0, **dtype
    ),
    "layer, gated": lambda **dtype: pyattn.TransformerEncoderLayer(
        48, 4, 100, "silu", norm_first=True, gated=True, rotary_base=100.0, rng=0, **dtype
    ),
    "encoder": lambda **dtype: pyattn.TransformerEncoder(
        pyattn.TransformerEncoderLayer(48, 4, 200, "gelu", rng=0, **dtype), 2
    ),
}


def input_of(weights, *shape):
    return normal(shape, np.float64 if weights == "float64" else np.float32)


def packed(dtype, lengths, heads=3, width=16):
    """Query, key and value of sequences one after the other, and where they start."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return *(normal((starts[-1], heads, width), dtype, seed=i) for i in range(3)), starts


def calls():
    """name: a call of every kind, whose results are to be the same whenever it is made."""
    found = {}
    for dtype in DTYPES:
        arrays = qkv(4, 60, 300, 24, dtype=dtype, key_heads=2)
        few = arrays[0][:, :3], *arrays[1:]
        options = everything(dtype, 4, 60, 300)
        found |= {
            **{
                f"{form} {dtype}": partial(sdpa, *arrays, **some, **ALL)
                for form, some in forms(dtype, 4, 60, 300).items()
            },
            f"few queries {dtype}": partial(sdpa, *few, **ALL),
            f"many keys {dtype}": partial(sdpa, *qkv(1, 20, 2500, dtype=dtype), is_causal=True),
            f"packed {dtype}": partial(varlen_attention, *packed(dtype, [40, 7, 0, 1, 129]), is_causal=True),
            f"merged {dtype}": lambda arrays=arrays: merge_attention(
                *zip(*(sdpa(*arrays, kv_lengths=keys, return_lse=True) for keys in (90, 300)), strict=True)
            ),
            f"statistics {dtype}": lambda arrays=arrays, options=options: results(
                attention_statistics(*arrays, **options, **ASKED)
            ),
        }
    for weights in WEIGHTS:
        x = input_of(weights, 3, 60, 48)
        found |= {f"{name} {weights}": partial(make(dtype=weights), x) for name, make in LAYERS.items()}
    for x in (normal((3, 60, 48)), normal((3, 60, 48), np.float64)):
        found[f"LayerNorm {x.dtype}"] = partial(pyattn.LayerNorm(48, dtype=x.dtype), x)
        found |= {f"{name} {x.dtype}": partial(getattr(pyattn, name), x) for name in ("gelu", "relu", "silu")}
    for dtype in (np.float32, np.float16):
        tokens, documents = normal((90, 40)), normal((2000, 40), dtype, seed=1)
        found[f"maxsim {np.dtype(dtype)}"] = partial(pyattn.maxsim, tokens, documents, [0, 32, 32, 90], DOCUMENTS)
    return found


DOCUMENTS = [0, 1, 1, 9, 700, 1500, 1507, 2000]
CALLS = calls()


# Any number of threads, any run


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_threads_and_any_run(name):
    with num_threads(1):
        expected = CALLS[name]()
    for count in (*THREADS, 1, 2):
        with num_threads(count):
            assert_same(CALLS[name](), expected)


def test_calls_at_once():
    """Eight Python threads make all calls, each in an order of its own."""
    expected = {name: call() for name, call in CALLS.items()}

    def work(seed):
        names = np.random.default_rng(seed).permutation(list(CALLS))
        with pyattn.num_threads(seed + 1):
            return {str(name): CALLS[name]() for name in names}

    with num_threads(2), ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(8)):
            for name, result in found.items():
                assert_same(result, expected[name])


def digests():
    """name: what tells the bits of a call's results from others."""
    results = {name: call() for name, call in CALLS.items()}
    return {
        name: hashlib.sha256(
            b"".join(x.tobytes() for x in (result if isinstance(result, tuple) else (result,)))
        ).hexdigest()
        for name, result in results.items()
    }


@pytest.mark.skipif(runtime.sanitized, reason="its memory is filled by the sanitizer, whatever the variable says")
def test_any_process():
    """With other threads, and other garbage where memory is fresh."""
    expected = digests()
    code = "import json; from tests import test_same_bits; print(json.dumps(test_same_bits.digests()))"
    for count, garbage in (("1", "85"), ("3", "255")):
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYATTN_NUM_THREADS": count, "MALLOC_PERTURB_": garbage}
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, timeout=300, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == expected


# Attention: any batch mates, few queries or many, any layout


@examples(100)
@given(problems())
def test_random_problems(problem):
    """For any threads and layouts, and for a part of the rows, heads and batch, and with garbage behind the keys."""
    (query, key, value), options = problem.arrays, problem.options
    whole = sdpa(query, key, value, **options, **ALL)
    for count in (2, 7):
        with num_threads(count):
            assert_same(sdpa(query, key, value, **options, **ALL), whole)
    full = spelled_out(query, key, options)
    assert_same(sdpa(query.copy(), key.copy(), value.copy(), **full, **ALL), whole)

    length, key_heads, keys = query.shape[-2], *key.shape[-3:-1]
    batch = tuple(slice(size - 1, size) for size in query.shape[:-3])
    heads, rows = slice(-(query.shape[-3] // key_heads), None), slice(length // 3, length - length // 4)
    arrays = query[(*batch, heads, rows)], *(x[(*batch, slice(-1, None))] for x in (key, value))
    alone = sdpa(*arrays, **part_of(full, batch, heads, rows), **ALL)
    assert_same(alone, tuple(x[(*batch, heads, rows)] for x in whole))

    if hasattr(options.get("mask"), "tocsr"):
        return

    def with_more(x, axis, number):
        shape = list(x.shape)
        shape[axis] = 3
        return np.concatenate([x, np.full(shape, number, x.dtype)], axis)

    more = full | {name: with_more(full[name], -1, 1) for name in full.keys() & {"mask", "bias"}}
    out, lse, weights = sdpa(query, with_more(key, -2, np.nan), with_more(value, -2, np.nan), **more, **ALL)
    assert_same((out, lse, weights[..., :keys]), whole)
    assert not weights[..., keys:].any()


@each_dtype
@pytest.mark.parametrize("form", FORMS)
def test_attention_of_other_batches_heads_rows_and_layouts(dtype, form):
    arrays = qkv(4, 130, 270, 40, dtype=dtype, batch=(2,), key_heads=2)
    options = forms(dtype, 4, 130, 270, (2,))[form]
    whole = sdpa(*arrays, **options, **ALL)
    turned = [np.ascontiguousarray(x.transpose(3, 1, 0, 2)).transpose(2, 1, 3, 0) for x in arrays]
    assert_same(sdpa(*turned, **options, **ALL), whole)
    for layout in ("reversed", "gapped", "unaligned"):
        assert_same(sdpa(*(laid_out(x, layout) for x in arrays), **options, **ALL), whole)

    full, batch, heads = spelled_out(*arrays[:2], options), (slice(1, 2),), slice(2, 4)
    for rows in (slice(0, 130), slice(77, 130), slice(40, 41), slice(40, 47)):
        part = arrays[0][(*batch, heads, rows)], *(x[1:2, 1:] for x in arrays[1:])
        alone = sdpa(*part, **part_of(full, batch, heads, rows), **ALL)
        assert_same(alone, tuple(x[(*batch, heads, rows)] for x in whole))


@each_dtype
@pytest.mark.parametrize("heads, key_heads, length", [(20, 2, 13), (6, 6, 100)])
@pytest.mark.parametrize("option", ["none", "bias", "mask"])
def test_heads_that_take_turns_have_the_bits_of_each_alone(dtype, heads, key_heads, length, option):
    """Over keys of one head, or over a bias or floating mask that they share."""
    query, key, value = qkv(heads, length, 300, 24, dtype=dtype, batch=(3,), key_heads=key_heads)
    options = {} if option == "none" else {option: normal((length, 300), dtype)}
    for count in (1, 2):
        with num_threads(count):
            whole = sdpa(query, key, value, **options)
        for head in range(heads):
            mine, theirs = slice(head, head + 1), slice(head * key_heads // heads, head * key_heads // heads + 1)
            assert_same(sdpa(query[1:2, mine], key[1:2, theirs], value[1:2, theirs], **options), whole[1:2, mine])


@each_dtype
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("form", ["none", "causal", "everything", "sparse"])
@pytest.mark.parametrize("value_width", [40, 212])
def test_few_queries_are_rows_of_many(dtype, group, form, value_width):
    """Few queries, which share passes over the keys, and all heads of a group with them, have the bits of many."""
    arrays = qkv(2 * group, 70, 300, 24, value_width, dtype, key_heads=2)
    options = {
        "none": {},
        "causal": {"is_causal": True},
        "everything": everything(dtype, 2 * group, 70, 300),
        "sparse": {"mask": sparse.csr_array(normal((70, 300)) > 0.5), "window": (200, 100)},
    }[form]
    many = sdpa(*arrays, **options, **ALL)
    full = spelled_out(*arrays[:2], options)
    for length in range(1, 17):
        rows = slice(length, 2 * length)
        few = sdpa(arrays[0][:, rows], *arrays[1:], **part_of(full, (), slice(None), rows), **ALL)
        assert_same(few, tuple(x[:, rows] for x in many))


@each_dtype
@pytest.mark.parametrize("width", [24, 70])
def test_rows_of_a_sparse_mask_do_not_depend_on_their_neighbours(dtype, width):
    """Queries of few keys are computed several at a time, each with its own keys, from which nothing else leaks."""
    counts = [0, 1, 17, 128, 3, 0, 16, 64, 129, 5, 31, 2, 2, 0, 33, 15, 90, 250, 4, 1, 0]
    live = np.zeros((len(counts), 300), bool)
    for row, count in zip(live, counts, strict=True):
        row[np.random.default_rng(count).choice(299, count, replace=False)] = True
    query, key, value = qkv(2, len(counts), 300, width, dtype=dtype)
    key[:, 299] = value[:, 299] = np.nan
    many = sdpa(query, key, value, mask=sparse.csr_array(live), return_lse=True)
    for row in range(len(counts)):
        one = slice(row, row + 1)
        alone = sdpa(query[:, one], key, value, mask=sparse.csr_array(live[one]), return_lse=True)
        assert_same(alone, tuple(x[:, one] for x in many))


@each_dtype
@pytest.mark.parametrize("length", [1, 3, 60])
@pytest.mark.parametrize("form", ["none", "everything", "sparse"])
def test_many_keys_are_shared_among_threads(dtype, length, form):
    """Long sums are cut in pieces, which threads take: still the same bits, and right."""
    arrays = qkv(2, length, 5000, 8, 16, dtype, key_heads=1)
    options = {
        "none": {},
        "everything": everything(dtype, 2, length, 5000),
        "sparse": {"mask": sparse.csr_array(normal((length, 5000)) > -0.5), "is_causal": True},
    }[form]
    with num_threads(1):
        expected = sdpa(*arrays, **options, **ALL)
    if dtype != np.float64 or length == 3:  # long doubles are slow
        oracle.assert_attention(expected, *arrays, **options)
    for count in THREADS[1:]:
        with num_threads(count):
            assert_same(sdpa(*arrays, **options, **ALL), expected)
            assert_same(sdpa(*arrays, **options), expected[0])


@each_dtype
def test_pieces_that_do_not_fit_at_once_are_taken_in_turns(dtype):
    """The states of all pieces would take more scratch memory than two threads may have."""
    arrays = qkv(3, 48, 5000, 512, dtype=dtype)
    with num_threads(1):
        expected = sdpa(*arrays, is_causal=True)
    for count in (2, 7):
        with num_threads(count):
            assert_same(sdpa(*arrays, is_causal=True), expected)


@each_dtype
def test_attention_does_not_depend_on_what_else_is_asked_for(dtype):
    arrays = qkv(4, 33, 140, dtype=dtype, key_heads=2)
    for options in ({}, everything(dtype, 4, 33, 140)):
        out, lse, weights = sdpa(*arrays, **options, **ALL)
        assert_same(sdpa(*arrays, **options), out)
        assert_same(sdpa(*arrays, **options, return_lse=True), (out, lse))
        assert_same(sdpa(*arrays, **options, return_weights=True), (out, weights))


# Packed sequences


@each_dtype
@pytest.mark.parametrize("form", ["self", "cross", "everything"])
def test_packed_sequences_are_a_loop_over_them(dtype, form):
    query_lengths, key_lengths = np.array([5, 0, 70, 1, 33, 3, 0]), np.array([9, 4, 130, 300, 0, 1100, 0])
    if form == "self":
        key_lengths = query_lengths
    starts, key_starts = (np.concatenate([[0], np.cumsum(x)]) for x in (query_lengths, key_lengths))
    query, key, value = (
        np.ascontiguousarray(x.swapaxes(0, 1)) for x in qkv(4, starts[-1], key_starts[-1], 20, 12, dtype, key_heads=2)
    )
    rng = np.random.default_rng(0)
    options, per_sequence = {"is_causal": True}, {}
    if form == "everything":
        options |= {"window": (100, 5), "softcap": 4.0, "scale": 0.3}
        options |= {"alibi_slopes": np.float32([1, 0.5, 0.25, 0.125]), "sinks": np.float32([0, -np.inf, 2, -3])}
        per_sequence = {"kv_lengths": rng.integers(key_lengths // 2, key_lengths + 1)}
        per_sequence["query_offset"] = rng.integers(-3, 100, 7)
    arguments = query, key, value, starts, None if form == "self" else key_starts
    got = varlen_attention(*arguments, **options, **per_sequence, return_lse=True)
    for s in range(7):
        rows, keys = slice(*starts[s : s + 2]), slice(*key_starts[s : s + 2])
        one = {name: x[s] for name, x in per_sequence.items()}
        arrays = [x.swapaxes(0, 1) for x in (query[rows], key[keys], value[keys])]
        alone = sdpa(*arrays, **options, **one, return_lse=True)
        assert_same(tuple(x[rows] for x in got), tuple(x.swapaxes(0, 1) for x in alone))
        oracle.assert_attention(alone, *arrays, **options, **one)
    for count in THREADS:
        with num_threads(count):
            assert_same(varlen_attention(*arguments, **options, **per_sequence, return_lse=True), got)
    assert_same(varlen_attention(*arguments, **options, **per_sequence), got[0])
    memory = np.zeros((*query.shape[:2], 25), dtype)
    out = memory[..., :24:2]
    assert varlen_attention(*arguments, **options, **per_sequence, out=out) is out
    assert_same(out.copy(), got[0])
    assert not memory[..., 1::2].any()
    assert not memory[..., 24].any()


@each_dtype
def test_packed_sequences_are_padded_ones(dtype):
    lengths = np.array([40, 7, 1, 129])
    *arrays, starts = packed(dtype, lengths)
    padded = [np.full((4, 3, 129, 16), np.nan, dtype) for _ in range(3)]
    for s, length in enumerate(lengths):
        for x, y in zip(arrays, padded, strict=True):
            y[s, :, :length] = x[starts[s] : starts[s + 1]].swapaxes(0, 1)
    for options in ({"query_offset": 0, "is_causal": True}, {"query_offset": 5, "window": (20, 20), "softcap": 3.0}):
        got = varlen_attention(*arrays, starts, **options, return_lse=True)
        expected = sdpa(*padded, kv_lengths=lengths, **options, return_lse=True)
        for s, length in enumerate(lengths):
            rows = slice(*starts[s : s + 2])
            assert_same(tuple(x[rows].swapaxes(0, 1) for x in got), tuple(x[s, :, :length] for x in expected))


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_sequences_in_other_layouts(dtype, layout):
    *arrays, starts = packed(dtype, [40, 7, 1, 129])
    expected = varlen_attention(*arrays, starts, is_causal=True, return_lse=True)
    assert_same(
        varlen_attention(*(laid_out(x, layout) for x in arrays), starts, is_causal=True, return_lse=True), expected
    )


# Statistics


@each_dtype
@pytest.mark.parametrize("length", [1, 3, 16, 60])
@pytest.mark.parametrize("form", ["none", "everything", "sparse"])
def test_statistics_do_not_depend_on_threads_layout_and_what_else_is_asked_for(dtype, length, form):
    query, key, value = qkv(2, length, 1100, 24, dtype=dtype, key_heads=1)
    options = {
        "none": {},
        "everything": everything(dtype, 2, length, 1100),
        "sparse": {"mask": sparse.csr_array(normal((length, 1100)) > 0), "is_causal": True},
    }[form]
    whole = attention_statistics(query, key, value, **options, **ASKED)
    if dtype != np.float64 or length == 3:  # long doubles are slow
        oracle.assert_statistics(whole, query, key, value, **options, top_k=5)
    assert_same((whole.out, whole.lse), sdpa(query, key, value, **options, return_lse=True))
    for count in THREADS:
        with num_threads(count):
            assert_same(results(attention_statistics(query, key, value, **options, **ASKED)), results(whole))
    for name in ({"entropy": True}, {"received": True}, {"top_k": 5}, {}):
        some = attention_statistics(query, key, **options, **name)
        assert_same(results(some), results(whole, asked=some))
    for layout in LAYOUTS:
        arrays = (laid_out(x, layout) for x in (query, key, value))
        assert_same(results(attention_statistics(*arrays, **options, **ASKED)), results(whole))


@each_dtype
def test_statistics_of_other_batches_heads_and_rows(dtype):
    query, key, value = qkv(4, 70, 300, 24, dtype=dtype, batch=(2,), key_heads=2)
    options = everything(dtype, 4, 70, 300, (2,))
    asked = {"entropy": True, "top_k": 7}
    whole = results(attention_statistics(query, key, value, **options, **asked))
    full = spelled_out(query, key, options)
    batch, heads = (slice(1, 2),), slice(2, 4)
    for rows in (slice(5, 6), slice(9, 13), slice(20, 70)):
        arrays = query[(*batch, heads, rows)], key[1:, 1:], value[1:, 1:]
        some = attention_statistics(*arrays, **part_of(full, batch, heads, rows), **asked)
        assert_same(results(some), tuple(x[(*batch, heads, rows)] for x in whole))


# Layers


@each_weights
@pytest.mark.parametrize("layout", ["same", "transposed", "unaligned"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_do_not_depend_on_batch_mates_and_layout(name, layout, weights):
    layer = LAYERS[name](dtype=weights)
    x = input_of(weights, 5, 60, 48)
    whole = layer(x)
    assert_same(layer(laid_out(x, layout)), whole)
    for part in (slice(0, 1), slice(3, 5)):
        assert_same(layer(laid_out(x[part], layout)), whole[part])
    assert_same(layer(laid_out(x[2], layout)), whole[2])


@each_weights
def test_few_rows_of_a_linear_layer_are_rows_of_many(weights):
    for activation in (None, "relu", "gelu", "gelu_tanh", "silu"):
        layer = pyattn.Linear(64, 100, activation=activation, dtype=weights, rng=0)
        x = input_of(weights, 200, 64)
        whole = layer(x)
        for rows in (*(slice(90, 90 + number) for number in range(1, 18)), slice(3, 70), slice(100, 200)):
            assert_same(layer(x[rows]), whole[rows])
        assert_same(layer(x.reshape(2, 100, 64)), whole.reshape(2, 100, 100))
        assert_same(layer(np.asfortranarray(x)), whole)


@each_weights
@pytest.mark.parametrize("window", [None, (9, 3)])
def test_few_queries_of_a_layer_are_rows_of_many(window, weights):
    layer = pyattn.MultiHeadAttention(48, 4, window=window, dtype=weights, rng=0)
    query, keys = input_of(weights, 2, 40, 48), input_of(weights, 2, 90, 48)
    whole = layer(query, keys)
    for number in range(1, 18):
        assert_same(layer(query[:, -number:], keys), whole[:, -number:])


@each_weights
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("options", [{}, {"gated": True, "norm_first": True}, {"rotary_base": 100.0, "window": (9, 3)}])
def test_encoders_packed_padded_and_alone(options, is_causal, weights):
    encoder = pyattn.TransformerEncoder(
        pyattn.TransformerEncoderLayer(48, 4, 100, "gelu", dtype=weights, rng=0, **options), 2
    )
    lengths = np.array([5, 0, 60, 1, 17, 33])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    x = input_of(weights, starts[-1], 48)
    whole = encoder.forward_packed(x, starts, is_causal=is_causal)
    for count in (1, 3):
        with num_threads(count):
            assert_same(encoder.forward_packed(x, starts, is_causal=is_causal), whole)
    for first, end in itertools.pairwise(starts):
        assert_same(encoder(x[None, first:end], is_causal=is_causal)[0], whole[first:end])
    live = np.arange(60) < lengths[:, None]
    padded = np.full((*live.shape, 48), np.nan, x.dtype)
    padded[live] = x
    out = encoder(padded, key_mask=live, is_causal=is_causal)
    assert_same(out[live], whole)
    assert not out[~live].any()


# Models: every family, and a head of every task

COMPANIES = [case for case, (task, *_) in CASES.items() if not task]
COMPANIES += ["bert-sequence-classification", "modernbert-sequence-classification", "bert-token-classification"]
COMPANIES += ["bert-question-answering", "roberta-masked-lm"]


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", COMPANIES)
def test_models_do_not_depend_on_batch_mates(case, weights, tmp_path):
    """A sequence or image alone, and among others in another order, padded or not, on any number of threads."""
    config, tensors, inputs, _ = recorded(case)
    model = load(write(tmp_path, config, tensors), case, dtype=weights)
    if "ids" not in inputs:
        for pixels in inputs.values():
            alone = np.concatenate([model(image[None]) for image in pixels])
            for count in (1, 3):
                with num_threads(count):
                    assert_same(model(pixels), alone)
                    assert_same(model(np.asfortranarray(pixels[::-1])), alone[::-1])
        return
    order = np.array([3, 0, 1, 0] if CASES[case][0] == "sequence-classification" else [3, 0, 2, 1, 2, 0])
    ids, lengths = inputs["ids"][order], inputs["lengths"][order]
    live = np.arange(ids.shape[1]) < lengths[:, None]
    alone = [model(sequence[:length], lengths=[length]) for sequence, length in zip(ids, lengths, strict=True)]
    for count in (1, 3):
        with num_threads(count):
            assert_same(model(np.tile(ids[live], 3), lengths=np.tile(lengths, 3)), np.concatenate(alone * 3))
            padded = model(ids, attention_mask=live)
            assert_same(padded[live] if padded.ndim == 3 else padded, np.concatenate(alone))
