"""Whatever kind of array a user has, at every entry: it is taken for what it says, or refused by a name."""

import re
import shutil
import tempfile

import numpy as np
import pytest

import pyattn
from pyattn import KVCache, Linear, MultiHeadAttention, RotaryEmbedding, audio
from pyattn import scaled_dot_product_attention as sdpa
from pyattn.models.cached_sequences import Memory
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import SearchIndex
from tests.support.tiny_generator import write_generator

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def mask(*shape):
    return RNG.random(shape) < 0.7


Q, K, V, X, W = normal(2, 5, 8), normal(2, 7, 8), normal(2, 7, 8), normal(2, 5, 16), normal(4, 16)
LSE, TABLE, IDS = normal(2, 7), normal(5, 8), np.array([[3, 4, 5], [6, 7, 8]])
PACKED = Q.swapaxes(0, 1)
COSINES, SINES = pyattn.rotary_tables(10, 8)
ATTENTION = MultiHeadAttention(16, 2, rng=0)
ENCODER = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(16, 2, 8, rng=0), 1)
DECODER = pyattn.TransformerDecoder(pyattn.TransformerDecoderLayer(16, 2, 8, rng=0), 1)


def loaded(weight):
    layer = Linear(16, 4, rng=0)
    layer.load_state_dict({"weight": weight, "bias": np.zeros(4)})
    return layer(X)


def step(x=X, memory=X, lengths=None, memory_lengths=None):
    return DECODER.step(x, DECODER.start(memory, capacity=20, memory_lengths=memory_lengths), lengths)


def cached(key=K[None], value=V[None], query=Q[None], lengths=None, rows=0, length=None, dtype="float32", **options):
    cache = KVCache(1, 2, 2000, 8, dtype=dtype)
    cache.append(key, value, lengths=lengths)
    if dtype != "float32":
        cache.append(np.tile(K[None], (1, 1, 200, 1)), np.tile(V[None], (1, 1, 200, 1)))
    cache.reorder(np.arange(1) if rows is None else [0] if isinstance(rows, int) else rows)
    if length is not None:
        cache.truncate(length)
    return cache.attend(query, **options)


def searched(vector=np.ones(4), vectors=normal(3, 4)):  # noqa: B008
    index = SearchIndex([Passage("text", "file", i, "name") for i in range(3)], vectors, "m", "f")
    return [[score, passage.line] for score, passage in index.search(vector, 2)]


def grown(vector=np.ones(4), vectors=normal(3, 4)):  # noqa: B008
    folder = tempfile.mkdtemp()
    index = pyattn.VectorIndex.create(f"{folder}/x.index", model="m", fingerprint="f", width=4)
    try:
        index.add([Passage("text", "file", i, "name") for i in range(3)], vectors)
        return [[score, passage.line] for score, passage in index.search(vector, 2)]
    finally:
        shutil.rmtree(folder)


# A call for each entry, with what it takes.
CALLS = {
    "query": (lambda x: sdpa(x, K, V), Q),
    "key": (lambda x: sdpa(Q, x, V), K),
    "value": (lambda x: sdpa(Q, K, x), V),
    "mask": (lambda x: sdpa(Q, K, V, x), mask(5, 7)),
    "floating mask": (lambda x: sdpa(Q, K, V, x), normal(5, 7)),
    "bias": (lambda x: sdpa(Q, K, V, bias=x), normal(5, 7)),
    "alibi_slopes": (lambda x: sdpa(Q, K, V, alibi_slopes=x), abs(normal(2))),
    "sinks": (lambda x: sdpa(Q, K, V, sinks=x), normal(2)),
    "kv_lengths": (lambda x: sdpa(Q[None], K[None], V[None], kv_lengths=x), np.array([4])),
    "query_offset": (lambda x: sdpa(Q[None], K[None], V[None], query_offset=x, is_causal=True), np.array([4])),
    "cu_seqlens": (lambda x: pyattn.varlen_attention(PACKED, PACKED, PACKED, x), np.array([0, 2, 5])),
    "outputs": (lambda x: pyattn.merge_attention([x, V], [LSE, LSE])[0], V),
    "lses": (lambda x: pyattn.merge_attention([V, V], [x, LSE])[0], LSE),
    "statistics": (lambda x: pyattn.attention_statistics(x, K).lse, Q),
    "queries": (lambda x: pyattn.maxsim(x, TABLE), normal(3, 8)),
    "documents": (lambda x: pyattn.maxsim(TABLE, x), K),
    "cu_seqlens_q": (lambda x: pyattn.maxsim(TABLE, K, x), np.array([0, 2, 5])),
    "cu_seqlens_d": (lambda x: pyattn.maxsim(K, TABLE, None, x), np.array([0, 2, 5])),
    "relative keys": (lambda x: pyattn.relative_attention(Q, K, V, x), TABLE),
    "relative mask": (lambda x: pyattn.relative_attention(Q, K, V, TABLE, mask=x), normal(5, 7)),
    "relu": (pyattn.relu, normal(3, 4)),
    "Linear": (Linear(16, 4, rng=0), X),
    "LayerNorm": (pyattn.LayerNorm(16), X),
    "attention": (ATTENTION, X),
    "attention's mask": (lambda x: ATTENTION(X, mask=x), mask(5, 5)),
    "attention's key_mask": (lambda x: ATTENTION(X, key_mask=x), mask(2, 5)),
    "encoder": (ENCODER, X),
    "encoder's key_mask": (lambda x: ENCODER(X, key_mask=x), mask(2, 5)),
    "forward_packed": (lambda x: ENCODER.forward_packed(X[0], x), np.array([0, 2, 5])),
    "decoder": (lambda x: DECODER(x, X), X),
    "decoder's memory": (lambda x: DECODER(X, x), X),
    "decoder's key_mask": (lambda x: DECODER(X, X, tgt_key_mask=x), mask(2, 5)),
    "step": (step, X),
    "start": (lambda x: step(memory=x), X),
    "step's lengths": (lambda x: step(lengths=x), np.array([5, 2])),
    "memory_lengths": (lambda x: step(memory_lengths=x), np.array([5, 2])),
    "a cache's key": (cached, K[None]),
    "a cache's value": (lambda x: cached(value=x), V[None]),
    "a cache's query": (lambda x: cached(query=x), Q[None]),
    "a cache's lengths": (lambda x: cached(lengths=x), np.array([3])),
    "a cache's rows": (lambda x: cached(rows=x), np.array([0])),
    "a cache's length": (lambda x: cached(length=x), np.array([3])),
    "a cache's mask": (lambda x: cached(dtype="int8", mask=x), mask(5, 1407)),
    "a cache's bias": (lambda x: cached(dtype="bfloat16", bias=x), normal(5, 1407)),
    "a cache's offset": (lambda x: cached(dtype="int8", query_offset=x, is_causal=True), np.array([90])),
    "load_state_dict": (loaded, W),
    "rotary x": (lambda x: pyattn.rotary_embedding(x, COSINES, SINES), Q),
    "rotary tables": (lambda x: pyattn.rotary_embedding(Q, x, SINES), COSINES),
    "rotary positions": (lambda x: pyattn.rotary_embedding(Q, COSINES, SINES, x), np.arange(5)),
    "RotaryEmbedding's": (lambda x: RotaryEmbedding(8)(Q, positions=x), np.arange(5)),
    "positions": (pyattn.LearnedPositionalEmbedding(10, 4, rng=0), np.arange(5)),
    "buckets": (pyattn.relative_position_buckets, np.arange(5)),
    "grid": (lambda x: pyattn.interpolate_positions(x, 5, 6), normal(3, 4, 2)),
    "search": (searched, normal(4)),
    "index": (lambda x: searched(vectors=x), normal(3, 4)),
    "search of a folder": (grown, normal(4)),
    "additions to a folder": (lambda x: grown(vectors=x), normal(3, 4)),
    "resample": (lambda x: audio.resample(x, 8000, 16000), normal(50)),
    "log_mel": (lambda x: audio.log_mel(x, frames=None), normal(800)),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bart, llama = (pyattn.models.load(write_generator(folder / case, case)) for case in ("bart", "llama"))
    memory = bart.encode(IDS)

    def write(model, *prompts, **options):
        return [x.tokens for x in model.generate(*prompts, max_new_tokens=4, **options)]

    return CALLS | {
        "encode": (lambda x: bart.encode(x).hidden, IDS),
        "encode's lengths": (lambda x: bart.encode(IDS, x).hidden, np.array([3, 1])),
        "tokens": (lambda x: bart(x, memory), IDS),
        "hidden": (lambda x: bart(IDS, Memory(x, memory.lengths)), memory.hidden),
        "memory.lengths": (lambda x: bart(IDS, Memory(memory.hidden, x)), memory.lengths),
        "prompts": (lambda x: write(llama, x), IDS),
        "prefixes": (lambda x: write(bart, memory=memory, prefixes=x), np.array([5, 6])),
        "next tokens": (lambda x: llama.start(batch_size=2, capacity=9).step(x), IDS),
        "their lengths": (lambda x: llama.start(batch_size=2, capacity=9).step(IDS, x), np.array([3, 1])),
        "adjust": (lambda x: write(llama, IDS, adjust=lambda rows, logits: x[: len(rows)]), normal(2, 40)),
    }


def masked(x):
    return np.ma.array(x, mask=np.arange(x.size).reshape(x.shape) == 0)


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw[1:].view(x.dtype).reshape(x.shape)


def read_only(x):
    return np.broadcast_to(x, x.shape)


def reversed_(x):
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


def every_other(x):
    return np.repeat(x, 2, axis=-1)[..., ::2]


class Subclass(np.ndarray):
    pass


THE_SAME = {
    "unaligned": unaligned,
    "read-only": read_only,
    "negative strides": reversed_,
    "gaps": every_other,
    "columns": np.asfortranarray,
    "a subclass": lambda x: x.view(Subclass),
    "a matrix": lambda x: np.matrix(x) if x.ndim == 2 else x,
    "other integers": lambda x: x.astype(np.uint64) if x.dtype.kind == "i" else x,
    "few bits": lambda x: x.astype(np.int8) if x.dtype.kind == "i" else x,
    "another byte order": lambda x: x.astype(">u4") if x.dtype.kind == "i" else x,
}
REFUSED = {
    "objects": lambda x: x.astype(object),
    "records": lambda x: np.ascontiguousarray(x).view([("a", x.dtype)]),
    "complex": lambda x: x.astype(complex),
    "durations": lambda x: x.astype(int).view("m8[s]"),
    "dates": lambda x: x.astype(int).view("M8[s]"),
    "text": lambda x: x.astype(str),
    "bytes": lambda x: x.astype("S5"),
    "missing": lambda x: [None] * len(x),
}


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_that_are_the_same_give_the_same(calls):
    for name, (call, x) in calls.items():
        expected = call(x)
        for kind, made in THE_SAME.items():
            assert same(call(made(x)), expected), (name, kind)


@pytest.mark.parametrize("made", [masked, lambda x: list(masked(x)) if x.ndim > 1 else masked(x)])
def test_masked_arrays_are_refused(calls, made):
    """Their masked elements would count."""
    for name, (call, x) in calls.items():
        if name == "adjust" and isinstance(made(x), list):
            continue
        with pytest.raises(TypeError, match=r"masked array; .*\.filled\(") as raised:
            call(made(x))
        assert re.match(r"[A-Za-z_]+(\.[a-z_]+)?: ", str(raised.value)), (name, str(raised.value))


def test_a_masked_result_is_refused():
    for call in (lambda out: sdpa(Q, Q, Q, out=out), lambda out: cached(dtype="int8", out=out[None])):
        with pytest.raises(TypeError, match="^scaled_dot_product_attention: out is a masked array"):
            call(masked(np.zeros_like(Q)))
    out = np.zeros_like(Q).view(Subclass)
    np.testing.assert_array_equal(sdpa(Q, Q, Q, out=out), out)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_numbers_is_refused(calls, kind):
    for name, (call, x) in calls.items():
        with pytest.raises((TypeError, ValueError)) as raised:
            call(REFUSED[kind](x))
        assert re.match(r"[A-Za-z_]+(\.[a-z_]+)?: ", str(raised.value)), (name, str(raised.value))


def test_booleans_are_no_numbers(calls):
    for name, (call, x) in calls.items():
        if x.dtype != bool and name not in ("floating mask", "relative mask"):
            with pytest.raises((TypeError, ValueError)):
                call(x.astype(bool))
    for make in (
        lambda: pyattn.LayerNorm(3, eps=True),
        lambda: Linear(True, 3),
        lambda: KVCache(1, np.True_, 3, 4),
        lambda: MultiHeadAttention(8, 2, scale=True),
        lambda: MultiHeadAttention(8, 2, rotary_base=True),
        lambda: pyattn.sinusoidal_encoding(3, 4, base=True),
    ):
        with pytest.raises(TypeError, match=r"^\w+: .* must be .*, not (True|np\.True_|bool)$"):
            make()


def test_floats_of_another_byte_order_are_converted_or_refused(calls):
    """Where a dtype is asked for, it is the machine's; where any is taken, the numbers are."""
    for name, (call, x) in calls.items():
        if x.dtype.kind == "f":
            try:
                found = call(x.astype(">f4"))
            except TypeError as error:
                assert ">f4" in str(error), name
            else:
                assert same(found, call(x)), name
