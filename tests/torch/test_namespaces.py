"""Arrays of torch, jax and the array API standard: results in the library of the first one."""

import re

import numpy as np
import pytest

import pyattn
from tests.test_arrays import CALLS

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
LIBRARIES = ["torch", "jax.numpy", "array_api_strict"]
NUMBERS = {"search", "index", "resample", "log_mel", "load_state_dict"}  # of these results are NumPy's, or none


@pytest.fixture(params=LIBRARIES)
def library(request):
    return pytest.importorskip(request.param)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in NUMBERS])
def test_every_entry_takes_them(name, library):
    call, array = CALLS[name]
    expected = call(array)
    found = call(library.asarray(array))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_results_are_the_librarys(library):
    x = library.asarray(normal(2, 5, 16))
    kind = type(x)
    attention, layer = pyattn.scaled_dot_product_attention, pyattn.TransformerEncoderLayer(16, 2, 8, rng=0)
    out, lse = attention(x, x, x, return_lse=True)
    told = pyattn.attention_statistics(x, x, entropy=True)
    merged = pyattn.merge_attention([out, out], [lse, lse])
    packed = pyattn.varlen_attention(x, x, x, [0, 2])
    results = [out, lse, *merged, packed, told.lse, told.entropy, pyattn.gelu(x), layer(x), pyattn.LayerNorm(16)(x)]
    assert {type(y) for y in results} == {kind}
    assert isinstance(attention(normal(5, 8), x[0, :, :8], x[0, :, :8]), np.ndarray)  # the first one's


def test_torch():
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 5, 16)
    out = torch.empty(2, 5, 16)
    assert pyattn.scaled_dot_product_attention(x, x, x, out=out) is out and torch.count_nonzero(out)
    strided = torch.randn(5, 2, 16).transpose(0, 1)
    expected = pyattn.scaled_dot_product_attention(*[strided.numpy()] * 3)
    np.testing.assert_array_equal(pyattn.scaled_dot_product_attention(*[strided] * 3).numpy(), expected)
    rounded = pyattn.scaled_dot_product_attention(*[x.bfloat16()] * 3)
    assert rounded.dtype == torch.bfloat16
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: a tensor needs a gradient.*pyattn.torch"):
        pyattn.scaled_dot_product_attention(x.requires_grad_(), x, x)
    with torch.no_grad():
        assert type(pyattn.scaled_dot_product_attention(x, x, x)) is torch.Tensor
    with pytest.raises(TypeError, match="^LayerNorm: a tensor is torch.strided on meta"):
        pyattn.LayerNorm(16)(torch.empty(2, 16, device="meta"))


def test_numpy_first_and_torch_after():
    torch = pytest.importorskip("torch")
    array = normal(2, 5, 16)
    tensor, attention = torch.from_numpy(array.copy()), pyattn.scaled_dot_product_attention
    expected = attention(array, array, array)
    found = attention(array, tensor, tensor)
    assert type(found) is np.ndarray and np.array_equal(found, expected)
    out = torch.empty(2, 5, 16)
    assert attention(array, array, array, out=out) is out and np.array_equal(np.asarray(out), expected)
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: a tensor needs a gradient"):
        attention(array, tensor.clone().requires_grad_(), array)
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: mask has dtype bfloat16; .* float32"):
        attention(array, array, array, torch.zeros(5, 5).bfloat16())


def test_torch_tensors_that_cannot_be_read_or_written_as_they_lie():
    torch = pytest.importorskip("torch")
    x, attention = torch.randn(2, 5, 16), pyattn.scaled_dot_product_attention
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: out is a view that negates"):
        attention(x, x, x, out=torch._neg_view(torch.empty(2, 5, 16)))
    assert torch.equal(attention(torch._neg_view(x), x, x), attention(-x, x, x))
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: a tensor of torch.quint8 cannot be read"):
        attention(x, quantized, x)
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: a tensor of torch.float32 cannot be read"):
        torch.func.vmap(lambda y: attention(y, y, y))(x)


def test_state_dicts_of_tensors():
    torch = pytest.importorskip("torch")
    own, layer = torch.nn.Linear(16, 4), pyattn.Linear(16, 4, rng=0)
    for state in (dict(own.named_parameters()), own.bfloat16().state_dict()):
        layer.load_state_dict(state)
        for name, x in layer.state_dict().items():
            np.testing.assert_array_equal(x, state[name].detach().float().numpy())


def test_jax():
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(normal(2, 5, 16))
    with pytest.raises(TypeError, match=re.escape("scaled_dot_product_attention: a tracer of jax has no numbers")):
        jax.jit(pyattn.scaled_dot_product_attention)(x, x, x)
    half = x.astype(jax.numpy.bfloat16)
    assert pyattn.scaled_dot_product_attention(half, half, half).dtype == jax.numpy.bfloat16


def test_attention_in_programs_of_jax():
    jax = pytest.importorskip("jax")
    import pyattn.jax

    query, key, value = (jax.numpy.asarray(normal(3, 4, n, 8)) for n in (5, 7, 7))
    lengths, bias = jax.numpy.array([3, 7, 5]), jax.numpy.asarray(normal(5, 7))
    options = {"is_causal": True, "softcap": 2.0, "kv_lengths": lengths, "bias": bias, "return_lse": True}
    expected = pyattn.scaled_dot_product_attention(query, key, value, **options)

    def call(query, key, value, lengths):
        given = options | {"kv_lengths": lengths}
        return pyattn.jax.scaled_dot_product_attention(query, key, value, **given)

    for found in (call(query, key, value, lengths), jax.jit(call)(query, key, value, lengths)):
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_array_equal(x, y)
    over_heads = jax.vmap(lambda *x: pyattn.jax.scaled_dot_product_attention(*x, return_weights=True), in_axes=1)
    found = jax.jit(over_heads)(query, key, value)
    plain = pyattn.scaled_dot_product_attention(query, key, value, return_weights=True)
    for x, y in zip(found, plain, strict=True):
        np.testing.assert_array_equal(np.swapaxes(x, 0, 1), y)
    packed = jax.numpy.asarray(normal(12, 4, 8))
    starts = jax.numpy.array([0, 5, 12])
    np.testing.assert_array_equal(
        jax.jit(pyattn.jax.varlen_attention)(packed, packed, packed, starts),
        pyattn.varlen_attention(packed, packed, packed, starts),
    )
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: arrays of jax are not written to"):
        pyattn.jax.scaled_dot_product_attention(query, key, value, out=query)


ELEMENTS = {"(B, H)": (2, 3), "(H,)": (3,), "()": ()}  # what stands in front of L and D
OPTIONS = {  # by name, the shape of an element's
    "plain": None,
    "mask": lambda lead: (5, 7),
    "mask of keys": lambda lead: (1, 7),
    "mask of a batch": lambda lead: (*lead[:-1], 5, 7),
    "bias": lambda lead: (*lead, 5, 7),
    "alibi_slopes": lambda lead: lead[-1:],
    "sinks": lambda lead: lead,
    "kv_lengths": lambda lead: (),
    "kv_lengths of a batch": lambda lead: lead[:-1],
    "query_offset": lambda lead: (),
}


@pytest.mark.parametrize("lead", ELEMENTS.values(), ids=ELEMENTS)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_vmap_gives_what_a_loop_does(lead, name, mapped, size):
    """Also where as many elements as heads, or as an element's own batch, would let arrays fit in another place."""
    jax = pytest.importorskip("jax")
    import pyattn.jax

    option = name.split()[0]
    arrays = [normal(size, *lead, n, 8) for n in (5, 7, 7)]
    if OPTIONS[name]:
        shape = (size,) * mapped + OPTIONS[name](lead)
        whole = option in ("kv_lengths", "query_offset")
        arrays.append(np.random.default_rng(1).integers(1, 7, shape) if whole else np.abs(normal(*shape)))
    in_axes = (0, 0, 0, 0 if mapped else None)[: len(arrays)]

    def call(query, key, value, *given):
        options = {option: given[0]} if given else {}
        return pyattn.jax.scaled_dot_product_attention(query, key, value, is_causal=True, return_lse=True, **options)

    parts = [call(*(x if dim is None else x[i] for x, dim in zip(arrays, in_axes, strict=True))) for i in range(size)]
    found = jax.jit(jax.vmap(call, in_axes))(*arrays)
    for x, y in zip(found, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(x, np.stack(y))


def test_vmaps_within_and_what_is_shared():
    jax = pytest.importorskip("jax")
    import pyattn.jax

    query, key, value, mask = normal(3, 2, 4, 5, 8), normal(4, 7, 8), normal(4, 7, 8), normal(3, 2, 5, 7)
    call = pyattn.jax.scaled_dot_product_attention
    found = jax.vmap(jax.vmap(call, (0, None, None, 0)), (0, None, None, 0))(query, key, value, mask)
    expected = [[call(x, key, value, m) for x, m in zip(*row, strict=True)] for row in zip(query, mask, strict=True)]
    np.testing.assert_array_equal(found, np.array(expected))
    for wrong in (normal(3, 7), normal(3, 3, 2, 5, 7)):  # of an element: (7,) and (3, 2, 5, 7)
        with pytest.raises(jax.errors.JaxRuntimeError, match="mask has shape"):
            jax.vmap(call)(normal(3, 2, 5, 8), normal(3, 2, 7, 8), normal(3, 2, 7, 8), wrong)
