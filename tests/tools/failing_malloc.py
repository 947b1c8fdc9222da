"""Calls of one kind, in which the first allocation fails, then the second, and so on until all succeed.

Each failure is a MemoryError, after which the same call gives the same bits, and no call counts as running.

Run by test_memory.py in a process of its own, with failing_malloc.c preloaded:
python -m tests.tools.failing_malloc LIBRARY CALL DIRECTORY
"""

import ctypes
import itertools
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import scipy.sparse
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

import pyattn
from pyattn import _threads
from pyattn._core import runtime
from pyattn.positional import rotary_tables, sinusoidal_encoding
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import SearchIndex
from tests.support import multi_vectors, sparse_vectors, tiny_model
from tests.support import rerankers as small_rerankers

FOREVER = 2**40
DTYPES = ("float32", "float64", "bfloat16", "int8")
TEXTS = ["the cat sat on a mat", "find the root of a function", "a dog ran", "solve"]


PYTHON = ctypes.pythonapi
PYTHON.PyCapsule_GetName.restype = ctypes.c_char_p
PYTHON.PyCapsule_GetName.argtypes = [ctypes.py_object]
PYTHON.PyCapsule_GetPointer.restype = ctypes.c_void_p
PYTHON.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
PYTHON.PyCapsule_New.restype = ctypes.py_object
PYTHON.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
SET_HANDLER = 304  # the place of PyDataMem_SetHandler in NumPy's table of functions
HANDLER_NAME = b"mem_handler"


def pointer(capsule):
    return PYTHON.PyCapsule_GetPointer(capsule, PYTHON.PyCapsule_GetName(capsule))


def allocate_arrays_by(library):
    """NumPy takes memory of arrays, of any size, from the library's functions; it would keep small ones for later."""
    functions = ctypes.cast(pointer(_multiarray_umath._ARRAY_API), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(functions[SET_HANDLER])
    handler = ctypes.addressof(ctypes.c_char.in_dll(library, "array_handler"))
    set_handler(PYTHON.PyCapsule_New(handler, HANDLER_NAME, None))


def of_driver(name, result, *arguments):
    """A function of runtime.pxd."""
    return ctypes.PYFUNCTYPE(result, *arguments)(pointer(runtime.__pyx_capi__[name]))  # type: ignore[attr-defined]


BEGIN_CALL, END_CALL = of_driver("begin_call", ctypes.c_int, ctypes.c_int), of_driver("end_call", None)


def attention(directory):
    rng = np.random.default_rng(0)
    sdpa = pyattn.scaled_dot_product_attention
    query, key, value = rng.standard_normal((3, 2, 4, 40, 16), dtype=np.float32)
    wide = rng.standard_normal((2, 4, 40, 300), dtype=np.float32)
    allowed = scipy.sparse.random_array((40, 40), density=0.3, rng=rng, dtype=np.float32)
    options = {"alibi_slopes": [0.1, 0.2, 0.3, 0.4], "sinks": np.zeros(4), "kv_lengths": [30, 40], "query_offset": 3}
    yield "plain", lambda: sdpa(query, key, value)
    yield "halves", lambda: sdpa(*(x.astype(np.float16) for x in (query, key, value)), is_causal=True)
    yield "options", lambda: sdpa(query, key, value, window=(9, 0), softcap=3.0, **options)
    yield "masks", lambda: sdpa(query, key, value, np.tri(40, dtype=bool), bias=np.zeros((1, 4, 40, 40), np.float32))
    yield "results", lambda: sdpa(query, key, wide, return_lse=True, return_weights=True)
    yield "sparse", lambda: sdpa(query, key, value, allowed, bias=allowed)


def few_queries(directory):
    """Keys that threads share among them: the states of pieces stand in one large allocation."""
    rng = np.random.default_rng(0)
    key, value = rng.standard_normal((2, 1, 20000, 32), dtype=np.float32)
    yield "pieces", lambda: pyattn.scaled_dot_product_attention(key[:, :2], key, value, return_lse=True)


def varlen(directory):
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 90, 2, 16), dtype=np.float32)
    starts = np.array([0, 20, 20, 90])
    for options in ({}, {"kv_lengths": [5, 0, 60], "query_offset": [1, 2, 3], "return_lse": True}):
        yield str(options), lambda options=options: pyattn.varlen_attention(query, key, value, starts, **options)


def statistics(directory):
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 50, 16), dtype=np.float32)
    for options in ({}, {"entropy": True, "top_k": 3}, {"received": True, "query_range": (3, 40)}):

        def call(options=options):
            return vars(pyattn.attention_statistics(query, key, value, is_causal=True, **options))

        yield str(options), call
    outputs, lses = np.stack([query, key]), rng.standard_normal((2, 2, 50), dtype=np.float32)
    yield "merged", lambda: pyattn.merge_attention(outputs, lses)


def gradients(directory):
    rng = np.random.default_rng(0)
    query, key, value, grad = rng.standard_normal((4, 2, 4, 40, 20), dtype=np.float32)
    options = {"bias": np.zeros((40, 40), np.float32), "sinks": np.zeros(4, np.float32), "softcap": 3.0}
    for given, also in (({"is_causal": True}, ()), (options, ("bias", "sinks"))):
        out, lse = pyattn.scaled_dot_product_attention(query, key, value, return_lse=True, **given)

        def call(given=given, also=also, out=out, lse=lse):
            grads = pyattn.attention_backward(grad, query, key, value, out, lse, also=also, **given)
            return [x for x in grads if x is not None]

        yield str(also), call
    halves = [x.astype(ml_dtypes.bfloat16) for x in (grad, query, key, value)]
    outputs = pyattn.scaled_dot_product_attention(*halves[1:], return_lse=True)
    yield "bfloat16", lambda: list(pyattn.attention_backward(*halves, *outputs)[:3])


def rows(directory):
    x = np.random.default_rng(0).standard_normal((30, 70), dtype=np.float32)
    norm = pyattn.LayerNorm(70)
    yield "norm", lambda: norm(x.T.copy().T)
    for activation in (pyattn.relu, pyattn.gelu, pyattn.silu):
        yield activation.__name__, lambda activation=activation: activation(x.T)
    yield "angles", lambda: rotary_tables(30, 16)
    yield "positions", lambda: sinusoidal_encoding(30, 16)


def linear(directory):
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        layer = pyattn.Linear(40, 50, activation="gelu", dtype=dtype, rng=0)
        for count in (3, 130):
            x = rng.standard_normal((count, 40)).astype(layer.dtype)
            yield f"{dtype} {count}", lambda layer=layer, x=x: layer(x)
        yield (
            f"{dtype} first use",
            lambda dtype=dtype: pyattn.Linear(40, 50, dtype=dtype, rng=0)(
                np.ones((2, 40), np.float64 if dtype == "float64" else np.float32)
            ),
        )


def late_interaction(directory):
    rng = np.random.default_rng(0)
    query, documents = rng.standard_normal((2, 60, 40), dtype=np.float32)
    for dtype in (np.float32, np.float16):
        held = documents.astype(dtype)
        yield np.dtype(dtype).name, lambda held=held: pyattn.maxsim(query, held, [0, 9, 60], [0, 7, 7, 60])


def encoder(directory):
    rng = np.random.default_rng(0)
    for dtype, first in itertools.product(DTYPES, (True, False)):
        layer = pyattn.TransformerEncoderLayer(
            32, 2, 48, "silu", norm_first=first, gated=first, rotary_base=100.0 if first else None, dtype=dtype, rng=0
        )
        x = rng.standard_normal((3, 20, 32)).astype(layer.norm1.dtype)
        live = np.arange(20) < np.array([[20], [7], [13]])
        whole = pyattn.TransformerEncoder(layer, 2, pyattn.LayerNorm(32, dtype=x.dtype))
        yield f"{dtype} masked", lambda whole=whole, x=x, live=live: whole(x, key_mask=live)
        yield f"{dtype} causal", lambda layer=layer, x=x: layer(x, np.tri(20, dtype=bool), is_causal=True)
        yield f"{dtype} packed", lambda layer=layer, x=x: layer.forward_packed(x[0], [0, 5, 20], is_causal=True)
        other = pyattn.MultiHeadAttention(32, 2, kdim=16, vdim=16, dtype=dtype, rng=0)
        yield f"{dtype} cross", lambda other=other, x=x: other(x, x[..., :16])


def decoder(directory):
    rng = np.random.default_rng(0)
    x, memory = rng.standard_normal((2, 3, 20, 32), dtype=np.float32)
    for dtype, cache in (("float32", None), ("int8", None), ("float32", "int8")):
        layer = pyattn.TransformerDecoderLayer(32, 2, 64, num_key_value_heads=1, rotary_base=9.0, dtype=dtype, rng=0)
        sizes = {"capacity": 20, "batch_size": 6, "cache_dtype": cache}
        stack = pyattn.TransformerDecoder(layer, 2)
        dtype = f"{dtype}, cache {cache}"
        yield f"{dtype} whole", lambda stack=stack: stack(x, memory, is_causal=True)
        yield f"{dtype} start", lambda stack=stack, sizes=sizes: stack.step(x[:, :3], stack.start(memory, **sizes))
        state = stack.start(memory, **sizes)
        stack.step(x[:, :5], state)

        def step(stack=stack, state=state):
            for cache in state._caches:
                cache.truncate([5, 5, 5])
            return stack.step(x[:, 5:7], state)

        yield f"{dtype} step", step


def loading(directory):
    """A state dict is loaded whole or, where memory runs out, not at all."""
    x = np.random.default_rng(0).standard_normal((2, 9, 32))
    for dtype in DTYPES:
        layer, other = (pyattn.TransformerEncoderLayer(32, 2, 48, dtype=dtype, rng=seed) for seed in (0, 1))
        old, new = layer.state_dict(), other.state_dict()
        rows = x.astype(layer.norm1.dtype)
        yield f"{dtype} saved", layer.state_dict

        def call(layer=layer, rows=rows, old=old, new=new):
            layer.load_state_dict(new)
            result = layer(rows)
            layer.load_state_dict(old)
            return result

        def check(layer=layer, old=old, new=new):
            held = layer.state_dict()
            assert same(held, old) or same(held, new)

        yield f"{dtype} loaded", call, check


def models(directory):
    tiny_model.write_model(directory, config=tiny_model.CONFIG | {"num_hidden_layers": 1})
    for dtype in ("float32", "bfloat16", "int8"):
        yield f"{dtype} loaded", lambda dtype=dtype: pyattn.models.load(directory, dtype=dtype).state_dict()
    model = pyattn.models.load(directory)
    yield "call", lambda: model(np.arange(30).reshape(3, 10), lengths=[10, 4, 7])


def sentences(directory):
    encoder = pyattn.SentenceEncoder.from_pretrained(tiny_model.write_model(directory))
    yield "encode", lambda: encoder.encode(TEXTS, show_progress=False)
    yield "windows", lambda: encoder.encode(TEXTS * 40, show_progress=False)
    yield "open", lambda: pyattn.SentenceEncoder.from_pretrained(directory).encode(TEXTS, show_progress=False)


def rerankers(directory):
    for name in ("bert", "qwen3"):
        reranker = pyattn.Reranker.from_pretrained(small_rerankers.write(directory / name, name))
        yield name, lambda reranker=reranker: reranker.predict(small_rerankers.PAIRS, show_progress=False)


def words_and_tokens(directory):
    sparse = pyattn.SparseEncoder.from_pretrained(sparse_vectors.write(directory / "sparse", "max"))
    yield "words", lambda: sparse.encode(TEXTS[:3], show_progress=False).toarray()
    colbert = pyattn.MultiVectorEncoder.from_pretrained(multi_vectors.write(directory / "tokens", "fixed"))
    yield "tokens", lambda: np.concatenate(colbert.encode_query(TEXTS[:3], show_progress=False))


def index(directory):
    vectors = np.random.default_rng(0).standard_normal((50, 24), dtype=np.float32)
    found = SearchIndex([Passage("text", "file.py", i, "name") for i in range(50)], vectors, "model", "print")
    file = directory / "index.npz"
    found.save(file)
    yield "search", lambda: [hit.score for hit in found.search(vectors[7], 5)]
    yield "load", lambda: SearchIndex.load(file).vectors


# What the MemoryErrors of the drivers' scratch memory begin with
NAMES = {
    "attention": ("scaled_dot_product_attention",),
    "few_queries": ("scaled_dot_product_attention",),
    "varlen": ("varlen_attention",),
    "statistics": ("attention_statistics",),
    "gradients": ("attention_backward",),
    "linear": ("Linear",),
    "late_interaction": ("maxsim",),
    "encoder": (
        "TransformerEncoder",
        "TransformerEncoderLayer",
        "TransformerEncoderLayer.forward_packed",
        "MultiHeadAttention",
    ),
    "decoder": ("TransformerDecoder", "TransformerDecoder.start", "TransformerDecoder.step"),
    "loading": ("TransformerEncoderLayer",),
    "models": ("TextEncoder",),
    "sentences": ("SentenceEncoder.encode",),
    "words_and_tokens": ("SparseEncoder.encode", "MultiVectorEncoder.encode_query"),
    "rerankers": ("Reranker.predict",),
}

KINDS = (
    attention,
    few_queries,
    varlen,
    statistics,
    gradients,
    rows,
    linear,
    late_interaction,
    encoder,
    decoder,
    loading,
    models,
    sentences,
    words_and_tokens,
    rerankers,
    index,
)


def same(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and same(list(found.values()), list(expected.values()))
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return np.array_equal(found, expected)


def main():
    library = ctypes.PyDLL(sys.argv[1])
    fail, stop = library.fail_allocations, library.stop_failing
    fail.argtypes, fail.restype, stop.restype = [ctypes.c_long] * 2, None, ctypes.c_long
    kind = next(kind for kind in KINDS if kind.__name__ == sys.argv[2])
    allocate_arrays_by(library)
    _threads.SMALL_WORK = 0
    pyattn.set_num_threads(2)
    BEGIN_CALL(1)
    assert runtime.calls_running() == 1
    END_CALL()
    named = set()
    for name, call, *checks in kind(Path(sys.argv[3])):
        expected = call()  # and OpenMP has its threads, Python its modules
        for count in (1, FOREVER):  # memory comes back at once, or when the call is over
            for number in itertools.count():
                fail(number, count)
                try:
                    found = call()
                    failed = stop()
                    assert failed == 0 and same(found, expected), (name, number)
                except MemoryError as error:
                    failed = stop()
                    assert failed > 0, (name, number)
                    if "scratch" in str(error):
                        named.add(str(error).partition(": ")[0])
                for check in checks:
                    check()
                assert runtime.calls_running() == 0, (name, number)
                if not failed:
                    break
                assert same(call(), expected), (name, number)
            assert number > 0, name
    assert named == set(NAMES.get(kind.__name__, ())), named
    print("done")


if __name__ == "__main__":
    main()
