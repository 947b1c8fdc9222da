"""torch's own attention while pyattn serves it: results and errors are torch's, before, during and after."""

import os
import threading

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

import pyattn.torch  # noqa: E402
from tests.torch.calls import CALLS, attention, inputs, numbers  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def nothing_stays_enabled():
    yield
    pyattn.torch.disable()


def outcome(call):
    """What a call gives, or the type of its error."""
    try:
        result = call()
    except Exception as error:
        return type(error)
    return result if isinstance(result, tuple | torch.Size) else (result,)


def assert_near(found, expected):
    if isinstance(expected, type | torch.Size):
        assert found == expected
        return
    assert not isinstance(found, type), found
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and x.requires_grad == y.requires_grad
        bound = BOUNDS[x.dtype] * max(1, float(y.nan_to_num().abs().max())) if x.numel() else 0
        torch.testing.assert_close(x, y, rtol=0, atol=bound, equal_nan=True)


# What torch's own kernel gets wrong, but its composition of other operators does not
WRONG = {
    "wrong values": "reads beyond the values",
    "zeros without memory": "gives what stood in the result's memory",
}


# Whose gradients torch's composition of operators lays out in another way than its kernel, and pyattn
COMPOSED = ("gradients, three axes", "gradients, wide values")

# Where it is the kernel that says what torch takes: it takes the first, and refuses the second
KERNELS = ("causal and mask", "mask of one axis")


@pytest.mark.parametrize("name", CALLS)
def test_calls_give_what_torch_gives(name):
    call = CALLS[name]
    before = outcome(call)
    with sdpa_kernel(SDPBackend.MATH):
        expected = before if name in KERNELS else outcome(call)
    pyattn.torch.enable()
    during = outcome(call)
    pyattn.torch.disable()
    after = outcome(call)
    assert_near(during, expected)
    if name not in WRONG:
        if isinstance(before, type | torch.Size):
            assert during == before == after
        else:
            assert all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(after, before, strict=True))
            laid_out = slice(2) if name in COMPOSED else slice(None)  # all but the gradient of values
            assert [x.stride() for x in during[laid_out]] == [x.stride() for x in before[laid_out]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["causal", "mask", "learned mask", "three axes"])
def test_gradients_are_those_of_pyattn(kind, dtype):
    """To the bit: torch's kernel and its composition of operators have others."""
    tensors = [x.requires_grad_() for x in inputs((2, 4, 50, 16), dtype=dtype)]
    given = [x[0] for x in tensors] if kind == "three axes" else tensors
    mask = numbers(50, 50, dtype=dtype) if "mask" in kind else None
    if kind == "learned mask":
        mask.requires_grad_()
    wanted = [*tensors, mask] if kind == "learned mask" else tensors
    pyattn.torch.enable()
    before = pyattn.torch.served().calls
    out = attention(*given, attn_mask=mask, is_causal=kind == "causal")
    found = torch.autograd.grad(out.float().square().sum(), wanted)
    assert pyattn.torch.served().calls == before + 1
    offset = 0 if kind == "causal" else None
    ours = pyattn.torch.scaled_dot_product_attention(*given, mask, is_causal=kind == "causal", query_offset=offset)
    expected = torch.autograd.grad(ours.float().square().sum(), wanted)
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("shape", [(2, 4, 50, 16), (3, 50, 16)], ids=str)
def test_dropout_is_decided_by_torchs_generator(shape):
    tensors = [x.requires_grad_() for x in inputs(shape)]
    pyattn.torch.enable()
    before = pyattn.torch.served().calls
    torch.manual_seed(3)
    out = attention(*tensors, dropout_p=0.3)
    grads = torch.autograd.grad(out.square().sum(), tensors)
    assert pyattn.torch.served().calls == before + 1
    torch.manual_seed(3)
    ours = pyattn.torch.scaled_dot_product_attention(*tensors, dropout_p=0.3)
    for x, y in zip((out, *grads), (ours, *torch.autograd.grad(ours.square().sum(), tensors)), strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(ours, attention(*tensors, dropout_p=0.3))
    torch.manual_seed(4)
    mean = torch.stack([attention(*tensors, dropout_p=0.3) for _ in range(200)]).mean(0)
    assert (mean - attention(*tensors)).abs().mean() < 0.05


def test_a_layer_that_is_trained_drops_weights_in_pyattn():
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    x = numbers(2, 30, 32).requires_grad_()
    pyattn.torch.enable()
    before = pyattn.torch.served()
    layer(x).sum().backward()
    assert pyattn.torch.served().calls == before.calls + 1
    assert all(torch.isfinite(p.grad).all() for p in (x, *layer.parameters()))


def test_calls_are_counted_once_and_reasons_told():
    before = pyattn.torch.served()
    pyattn.torch.enable()
    attention(*inputs())
    attention(*(x.requires_grad_() for x in inputs()))
    attention(*inputs(), dropout_p=1.0)
    attention(*inputs(), scale=0.0)
    pyattn.torch.disable()
    attention(*inputs())
    now = pyattn.torch.served()
    assert now.calls - before.calls == 2
    reasons = {name: n - before.passed_on.get(name, 0) for name, n in now.passed_on.items()}
    assert {name for name, n in reasons.items() if n} == {"dropout of all", "scale of 0 or beyond"}


def serves():
    before = pyattn.torch.served().calls
    attention(*inputs())
    return pyattn.torch.served().calls > before


def test_enabling_is_idempotent_and_nests():
    assert not serves()
    pyattn.torch.enable()
    pyattn.torch.enable()
    with pyattn.torch.enabled():
        pyattn.torch.disable()
        assert serves()
    assert not serves()
    with pyattn.torch.enabled(), pyattn.torch.enabled():
        pass
    assert not serves()
    pyattn.torch.enable()
    with pyattn.torch.enabled():
        pass
    assert serves()


def test_threads_call_while_another_toggles():
    expected, errors, stop = attention(*inputs()), [], threading.Event()

    def calls():
        try:
            while not stop.is_set():
                torch.testing.assert_close(attention(*inputs()), expected, rtol=0, atol=1e-5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=calls) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        pyattn.torch.enable()
        with pyattn.torch.enabled():
            pyattn.torch.disable()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def worker(_):
    return serves()


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return attention(*inputs()), serves()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_inherit_it():
    expected = attention(*inputs())
    with pyattn.torch.enabled():
        loader = torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context="fork")
        for out, served in loader:
            torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-5)
            assert served


def test_the_fast_path_is_left_and_given_back():
    module = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        expected = module(x, x, x, need_weights=False)[0]
        before = pyattn.torch.served().calls
        pyattn.torch.enable()
        module(x, x, x, need_weights=False)
        assert pyattn.torch.served().calls == before
        pyattn.torch.enable(fast_path=False)
        torch.testing.assert_close(module(x, x, x, need_weights=False)[0], expected, rtol=0, atol=1e-5)
        assert pyattn.torch.served().calls == before + 1
        pyattn.torch.disable()
        assert torch.backends.mha.get_fastpath_enabled()


def test_the_fast_path_stays_as_somebody_set_it_meanwhile():
    get, put = torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
    try:
        put(False)
        pyattn.torch.enable(fast_path=False)
        put(True)
        pyattn.torch.disable()
        assert get()
        put(False)
        pyattn.torch.enable(fast_path=False)
        pyattn.torch.disable()
        assert not get()
    finally:
        put(True)
