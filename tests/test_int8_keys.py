"""Attention to keys and values of int8: right, the same bits, and in decoders that hold them so."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import pyattn
from pyattn import KVCache
from pyattn._core import runtime
from pyattn.precision import to_int8
from tests.support import oracle
from tests.support.oracle import assert_same
from tests.support.problems import MANY_KEYS, SIZES, everything, examples, normal, num_threads, part_of, spelled_out
from tests.support.small_stacks import decoder
from tests.support.tiny_generator import write_generator

pytestmark = pytest.mark.skipif(runtime.float32_alone, reason="a build for development has float32 alone")

ALL = {"return_lse": True, "return_weights": True}


def filled(keys, width, heads=2, batch=1, seed=0):
    cache = KVCache(batch, heads, keys, width, dtype="int8")
    key, value = normal((2, batch, heads, keys, width), seed=seed)
    cache.append(key, value)
    return cache


def exact(cache):
    """The keys and values that int8 and its scales stand for, in float64, which holds all products."""
    return cache._held.astype(np.float64) * cache._scales[..., None]


def forms(heads, length, keys, batch=(1,)):
    whole = everything(np.float32, heads, length, keys, batch)
    del whole["kv_lengths"]  # the cache's
    live = sparse.csr_array(normal((length, keys)) > -1)
    return {
        "none": {},
        **{name: {name: value} for name, value in whole.items()},
        "causal": {"is_causal": True},
        "real mask": {"mask": normal((length, keys))},
        "sparse mask": {"mask": live, "is_causal": True},
        "sparse bias": {"mask": live, "bias": live.astype(np.float32)},
        "everything": whole,
    }


FORMS = list(forms(1, 1, 1))


@pytest.mark.parametrize("keys", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025])
@pytest.mark.parametrize("width", [1, 3, 16, 63, 64, 80, 128, 256, 300])
@pytest.mark.parametrize(("length", "heads"), [(1, 2), (1, 8), (3, 4), (1, 16), (20, 2)])
def test_sizes(keys, width, length, heads):
    cache, query = filled(keys, width), normal((1, heads, length, width), seed=5)
    found = cache.attend(query, return_lse=True)
    oracle.assert_attention(found, query, *exact(cache))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 5, 40])
def test_options(form, length):
    cache, query = filled(1100, 24), normal((1, 4, length, 24), seed=5)
    options = forms(4, length, 1100)[form]
    oracle.assert_attention(cache.attend(query, **options, **ALL), query, *exact(cache), **options)


@given(st.data())
@examples(60)
def test_random_sizes(data):
    keys, width = data.draw(SIZES | MANY_KEYS), data.draw(st.integers(1, 140))
    key_heads, group, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 50))
    cache = filled(max(1, keys), width, key_heads, seed=keys)
    query = normal((1, key_heads * group, length, width), seed=width)
    options = forms(key_heads * group, length, max(1, keys))[data.draw(st.sampled_from(FORMS))]
    oracle.assert_attention(cache.attend(query, **options, **ALL), query, *exact(cache), **options)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("form", FORMS)
def test_few_queries_are_rows_of_many(group, form):
    cache = filled(1100, 40)
    query, options = normal((1, 2 * group, 70, 40), seed=5), forms(2 * group, 70, 1100)[form]
    many = cache.attend(query, **options, **ALL)
    full = spelled_out(query, cache.keys, options)
    del full["kv_lengths"]
    for length in (1, 2, 3, 7, 8, 9, 16):
        rows = slice(length, 2 * length)
        few = cache.attend(query[:, :, rows], **part_of(full, (slice(None),), slice(None), rows), **ALL)
        assert_same(few, tuple(x[:, :, rows] for x in many))


@pytest.mark.parametrize("length", [1, 3, 60])
@pytest.mark.parametrize("form", ["none", "everything", "sparse mask"])
def test_threads_and_batch_mates(length, form):
    cache, query = filled(5000, 16, batch=3), normal((3, 4, length, 16), seed=5)
    options = forms(4, length, 5000, (3,))[form]
    with num_threads(1):
        expected = cache.attend(query, **options, **ALL)
    for count in (2, 3, 7):
        with num_threads(count):
            assert_same(cache.attend(query, **options, **ALL), expected)
            assert_same(cache.attend(query, **options), expected[0])
    full = spelled_out(query, cache.keys, options)
    del full["kv_lengths"]
    cache.reorder([1])
    alone = cache.attend(query[1:2], **part_of(full, (slice(1, 2),), slice(None), slice(0, length)), **ALL)
    assert_same(alone, tuple(x[1:2] for x in expected))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["key", "value"])
@pytest.mark.parametrize("length", [1, 30])
def test_what_is_not_finite_comes_out_where_it_is_seen(bad, what, length):
    keys = normal((2, 1, 2, 300, 16))
    clean = KVCache(1, 2, 300, 16, dtype="int8")
    clean.append(*keys)
    keys[int(what == "value"), 0, 1, 130, 3] = bad
    cache = KVCache(1, 2, 300, 16, dtype="int8")
    cache.append(*keys)
    query, hides = normal((1, 4, length, 16), seed=5), np.arange(300) != 130
    assert np.isnan(cache.attend(query)[:, 2:]).all()
    assert_same(cache.attend(query)[:, :2], clean.attend(query)[:, :2])
    assert_same(cache.attend(query, mask=np.tile(hides, (length, 1))), clean.attend(query, mask=hides[None]))
    live = sparse.csr_array(np.tile(hides, (length, 1)))
    assert_same(cache.attend(query, mask=live), clean.attend(query, mask=live))
    cache.truncate([130]), clean.truncate([130])
    assert_same(cache.attend(query, is_causal=True), clean.attend(query, is_causal=True))


def test_rows_that_are_tiny_or_zero():
    for size in (0, 1e-45, 1e-38, 1e-30, 1e30):
        rows = normal((1, 1, 40, 16)) * np.float32(size)
        elements, scales = to_int8(rows)
        cache = KVCache(1, 1, 40, 16, dtype="int8")
        cache.append(rows, rows)
        assert abs(elements.astype(int)).max() == (0 if size < 1e-36 else 127)
        assert abs(cache.values - rows).max() <= max(1.5e-36, scales.max() * 0.51)
        query = normal((1, 1, 1, 16)) / np.float32(max(1, size))
        truth, _ = oracle.attention(query, *exact(cache))
        np.testing.assert_allclose(cache.attend(query), truth, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("group", [1, 4])
def test_the_error_of_rounding_is_small(group):
    """Of the size of a result, on keys and values of a normal distribution."""
    key, value = normal((2, 1, 2, 4096, 64))
    query = normal((1, 2 * group, 8, 64), seed=5)
    cache = KVCache(1, 2, 4096, 64, dtype="int8")
    cache.append(key, value)
    truth = pyattn.scaled_dot_product_attention(query, key, value)
    error = np.linalg.norm(cache.attend(query) - truth) / np.linalg.norm(truth)
    assert 1e-3 < error < 0.012  # about 0.9 %


OPTIONS = {
    "plain": {},
    "a key head": {"num_key_value_heads": 1},
    "wide heads": {"head_dim": 32},
    "odd heads": {"head_dim": 5},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "int8"},
    "window": {"window": (3, 0)},
    "rotary": {"rotary_base": 100.0},
    "memory": {"cross_attention": True},
    "memory, int8": {"cross_attention": True, "dtype": "int8"},
    "norms": {"qk_norm": True, "dtype": "bfloat16"},
    "alibi, softcap, sinks": {"alibi": True, "softcap": 5.0, "sinks": True},
}


def begun(model, memory, dtype="int8", batch_size=2):
    return model.start(memory, capacity=40, batch_size=batch_size, cache_dtype=dtype)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_decoder(name):
    """Steps of any length have the bits of all at once; they are near what the layers' own caches give."""
    model = decoder(**OPTIONS[name])
    memory = normal((2, 7, 16), seed=3) if model.layers[0].multihead_attn else None
    x = normal((2, 30, 16))
    whole, own = model.step(x, begun(model, memory)), model.step(x, begun(model, memory, None))
    assert 0 < abs(whole - own).max() < 0.02 * abs(own).max()
    state, parts = begun(model, memory), []
    for first, last in [(0, 4), *((i, i + 1) for i in range(4, 20)), (20, 30)]:
        parts.append(model.step(x[:, first:last], state))
    assert_same(np.concatenate(parts, axis=1), whole)
    alone = model.step(x[1:], begun(model, None if memory is None else memory[1:], batch_size=1))
    assert_same(alone, whole[1:])


@pytest.mark.parametrize("heads", [1, 4])
def test_stored_keys_and_values_are_rounded_as_appended_ones(heads):
    model = decoder(num_key_value_heads=heads, cross_attention=True, head_dim=21)
    memory, x = normal((2, 7, 16), seed=3), normal((2, 9, 16))
    states = [begun(model, memory, dtype) for dtype in ("int8", None)]
    for state in states:
        model.step(x, state, lengths=[9, 4])
    for rounded, wide in ((a[0], b[0]) for a, b in zip(*((s._caches, s._cross) for s in states), strict=True)):
        longest = wide.lengths.max()
        elements, scales = to_int8(wide._held[:, :, :, :longest])
        np.testing.assert_array_equal(rounded._held[:, :, :, :longest], elements)
        np.testing.assert_array_equal(rounded._held_scales[..., :longest], scales)


def test_states_are_reordered_copied_and_pickled():
    model, memory, x = decoder(cross_attention=True), normal((2, 7, 16), seed=3), normal((4, 30, 16))
    state = begun(model, memory, batch_size=4)
    model.step(x[:2, :9], state)
    state.reorder([1, 1, 0, 1])
    twins = copy.deepcopy(state), pickle.loads(pickle.dumps(state))
    found = model.step(x[:, 9:12], state)
    fresh = begun(model, memory[[1, 1, 0, 1]], batch_size=4)
    model.step(x[[1, 1, 0, 1], :9], fresh)
    assert_same(model.step(x[:, 9:12], fresh), found)
    for twin in twins:
        assert_same(model.step(x[:, 9:12], twin), found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int4", np.int16, 3, np.nan])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match='^TransformerDecoder.start: cache_dtype must be "int8" or None'):
        decoder().start(capacity=9, cache_dtype=dtype)
    decoder().start(capacity=9, cache_dtype=np.int8)


def test_float64_is_refused():
    with pytest.raises(ValueError, match='^TransformerDecoder.start: cache_dtype="int8" is for layers that compute in'):
        decoder(dtype="float64").start(capacity=9, cache_dtype="int8")


@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen3", "gemma3", "bart", "t5"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_generate(case, dtype, tmp_path):
    """Probabilities, and so the tokens, are nearly those of the layers' own caches, at once and step by step."""
    model = pyattn.models.load(write_generator(tmp_path, case), dtype=dtype)
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (3, 12))
    memory = None if model.encoder is None else model.encode(ids)

    def told():
        logits = model(ids, memory).astype(np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    own, tokens = told(), [x.tokens for x in model.generate(ids, memory=memory, max_new_tokens=8, num_beams=2)]
    model.cache_dtype = "int8"
    assert model.cache_dtype == "int8"
    found = told()
    chosen = np.take_along_axis(found - own, ids[..., None], axis=-1)
    assert abs(chosen.mean()) < 0.01  # of the logarithm of perplexity
    assert 0 < abs(found - own).max() < 0.1
    again = [x.tokens for x in model.generate(ids, memory=memory, max_new_tokens=8, num_beams=2)]
    same = [np.array_equal(x, y) for x, y in zip(tokens, again, strict=True)]
    assert sum(same) >= 2, (tokens, again)
    with pytest.raises(TypeError, match="^GenerativeModel.cache_dtype: cache_dtype must be"):
        model.cache_dtype = "float16"


def test_writers_take_the_dtype(tmp_path):
    folder = write_generator(tmp_path, "llama")
    writer = pyattn.TextGenerator.from_pretrained(folder, cache_dtype="int8")
    assert writer.model.cache_dtype == "int8" and pyattn.TextGenerator.from_pretrained(folder).model.cache_dtype is None
    assert writer(["w12"], max_new_tokens=8) == ["".join(writer.stream("w12", max_new_tokens=8))]
