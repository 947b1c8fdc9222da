"""torch's compilers, with empty caches: pyattn's operator stays in their graphs, and torch's own is served."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import pyattn.torch  # noqa: E402
from pyattn.torch import scaled_dot_product_attention  # noqa: E402
from tests.torch.calls import attention, inputs, numbers  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def cold(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch._inductor.utils.clear_caches()
    yield
    pyattn.torch.disable()
    torch._dynamo.reset()


def own(query, key, value, mask=None):
    return scaled_dot_product_attention(query * 2, key, value, mask, window=(20, 0)) + 1


def torchs(query, key, value, mask=None):
    return attention(query * 2, key, value, attn_mask=mask, is_causal=mask is None) + 1


def assert_same(found, expected):
    bound = 1e-5 if expected.dtype == torch.float32 else 4e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=bound * max(1, float(expected.abs().max())))


@pytest.mark.parametrize("function", [own, torchs])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compile(function, dynamic, dtype):
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic)
    masks = [None, numbers(37, 37, seed=4, dtype=dtype)]
    plain = inputs(dtype=dtype)
    expected = [function(*plain, mask) for mask in masks]
    with pyattn.torch.enabled():
        before = pyattn.torch.served().calls
        for mask, result in zip(masks, expected, strict=True):
            assert_same(compiled(*plain, mask), result)
        assert pyattn.torch.served().calls - before == (2 if function is torchs else 0)
        for mask in masks:
            tensors = [x.requires_grad_() for x in inputs(dtype=dtype)]
            grads = torch.autograd.grad(compiled(*tensors, mask).float().square().sum(), tensors)
            eager = torch.autograd.grad(function(*tensors, mask).float().square().sum(), tensors)
            for x, y in zip(grads, eager, strict=True):
                assert_same(x, y)
        if dynamic:
            longer = inputs((3, 4, 61, 16), dtype=dtype)
            assert_same(compiled(*longer), function(*longer))


def test_code_that_was_compiled_before_is_served_too():
    compiled = torch.compile(torchs, fullgraph=True)
    expected = compiled(*inputs())
    with pyattn.torch.enabled():
        before = pyattn.torch.served().calls
        assert_same(compiled(*inputs()), expected)
        assert pyattn.torch.served().calls == before + 1


@pytest.mark.parametrize("function", [own, torchs])
def test_compile_to_cpp(function):
    expected = function(*inputs())
    with pyattn.torch.enabled(), torch._inductor.config.patch(cpp_wrapper=True):
        assert_same(torch.compile(function, fullgraph=True)(*inputs()), expected)


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, query, key, value):
        return self.function(query, key, value)


@pytest.mark.parametrize("function", [own, torchs])
def test_export(function, tmp_path):
    length = torch.export.Dim("length", min=2, max=512)
    shapes = {name: {2: length} for name in ("query", "key", "value")}
    with pyattn.torch.enabled():
        program = torch.export.export(Module(function), tuple(inputs()), dynamic_shapes=shapes)
        targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
        wanted = torch.ops.aten.scaled_dot_product_attention if function is torchs else torch.ops.pyattn.attention
        assert wanted.default in targets
        longer = inputs((2, 4, 61, 16))
        assert_same(program.module()(*longer), function(*longer))
        torch.export.save(program, tmp_path / "program.pt2")
        assert_same(torch.export.load(tmp_path / "program.pt2").module()(*longer), function(*longer))
        decomposed = program.run_decompositions()
        assert_same(decomposed.module()(*longer), function(*longer))
        assert (torch.ops.pyattn.attention.default in {node.target for node in decomposed.graph.nodes}) == (
            function is own
        )


LOADED = """
import sys, torch, pyattn.torch
inputs, expected = torch.load(sys.argv[2], weights_only=True)
pyattn.torch.enable()
found = torch._inductor.aoti_load_package(sys.argv[1])(*inputs)
torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
"""


@pytest.mark.parametrize("function", [own, torchs])
def test_ahead_of_time(function, tmp_path):
    package, saved = tmp_path / "model.pt2", tmp_path / "inputs.pt"
    with pyattn.torch.enabled():
        program = torch.export.export(Module(function), tuple(inputs()))
        torch._inductor.aoti_compile_and_package(program, package_path=str(package))
    torch.save((inputs(), function(*inputs())), saved)
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOADED, package, saved], check=True)
