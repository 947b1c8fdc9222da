"""What trains: dropout as an operator, and encoders whose calls with gradients pyattn takes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import pyattn.torch  # noqa: E402
from pyattn import reference  # noqa: E402

F = torch.nn.functional
ACTIVATIONS = {
    None: lambda x: x,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(5,), (3, 1), (2, 3, 17), (4, 64), (300, 129)])
def test_dropout_is_that_of_the_reference(shape, dtype, activation):
    torch.manual_seed(0)
    x = (4 * torch.randn(shape, dtype=dtype)).requires_grad_()
    grad = torch.randn(shape, dtype=dtype)
    rows = int(np.prod(shape[:-1]))
    kept = torch.from_numpy(reference.kept_pairs((rows, shape[-1]), 0.3, 2**64 - 5)).reshape(shape)
    exact = x.detach().double().requires_grad_()
    expected = ACTIVATIONS[activation](exact) * kept
    expected.backward(grad.double())
    out = pyattn.torch.dropout(x, 0.3, activation=activation, seed=2**64 - 5)
    out.backward(grad)
    rounding = 2e-6 if dtype is torch.float32 else 5e-15
    torch.testing.assert_close(out.double(), expected, rtol=rounding, atol=8 * rounding)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=rounding, atol=8 * rounding)
    assert out.dtype is dtype


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_slopes_far_out_and_where_nothing_is_a_number(activation):
    x = torch.tensor([-torch.inf, -200.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 200.0, torch.inf, torch.nan])
    (grad,) = torch.autograd.grad(
        pyattn.torch.dropout(y := x.clone().requires_grad_(), 0, activation=activation).sum(), y
    )
    (expected,) = torch.autograd.grad(ACTIVATIONS[activation](z := x.double().requires_grad_()).sum(), z)
    finite = torch.isfinite(x)
    torch.testing.assert_close(grad[finite].double(), expected[finite], rtol=1e-6, atol=1e-6)
    assert activation == "relu" or grad[-1].isnan()


def test_dropout_does_not_depend_on_threads_strides_or_company():
    x = torch.randn(64, 48)
    whole = pyattn.torch.dropout(x, 0.5, seed=7)
    with pyattn.num_threads(1):
        assert torch.equal(whole, pyattn.torch.dropout(x, 0.5, seed=7))
    assert torch.equal(whole[:5], pyattn.torch.dropout(x[:5], 0.5, seed=7))
    assert torch.equal(whole, pyattn.torch.dropout(x.T.contiguous().T, 0.5, seed=7))


def test_the_generator_of_torch_decides_without_a_seed():
    x = torch.ones(100, 100)
    torch.manual_seed(3)
    first, second = pyattn.torch.dropout(x), pyattn.torch.dropout(x)
    torch.manual_seed(3)
    assert torch.equal(first, pyattn.torch.dropout(x))
    assert not torch.equal(first, second)
    assert abs(first.mean() - 1) < 0.05


def test_dropout_is_an_operator():
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.pyattn.dropout, (x, None, 0.4, 9, "gelu"))
    assert torch.autograd.gradcheck(lambda y: pyattn.torch.dropout(y, 0.4, activation="gelu", seed=9), (x,))
    compiled = torch.compile(lambda y: pyattn.torch.dropout(y, 0.4, seed=9).sin(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), pyattn.torch.dropout(x, 0.4, seed=9).sin())
    with pytest.raises(NotImplementedError, match="gradients of gradients"):
        (grad,) = torch.autograd.grad(pyattn.torch.dropout(x, 0.4, seed=9).sum(), x, create_graph=True)
        grad.sum().backward()


@pytest.mark.parametrize("activation", [None, "silu"])
def test_dropout_in_forward_mode_and_under_torch_func(activation):
    x, tangent = torch.randn(2, 3, 5, dtype=torch.float64)
    kept = torch.from_numpy(reference.kept_pairs(x.shape, 0.4, 9))

    def own(x):
        return ACTIVATIONS[activation](x) * kept

    def ours(x):
        return pyattn.torch.dropout(x, 0.4, activation=activation, seed=9)

    for one, other in zip(torch.func.jvp(ours, (x,), (tangent,)), torch.func.jvp(own, (x,), (tangent,)), strict=True):
        torch.testing.assert_close(one, other)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        one, other = (torch.autograd.forward_ad.unpack_dual(f(dual)).tangent for f in (ours, own))
    torch.testing.assert_close(one, other)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(ours)(x), transform(own)(x))
    with pytest.raises(NotImplementedError, match="gradients of gradients"):
        torch.func.hessian(lambda x: ours(x).sum())(x)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), ()])
def test_dropout_of_nothing_or_of_one_number(shape):
    assert pyattn.torch.dropout(torch.ones(shape), 0.5, seed=1).shape == shape


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.ones(3),), TypeError, "dropout: x must be a tensor"),
        ((torch.ones(3, dtype=torch.int64),), TypeError, "dropout: x must be dense"),
        ((torch.ones(3).to_sparse(),), TypeError, "dropout: x must be dense"),
        ((torch.ones(3), 1.0), ValueError, "dropout: p must be at least 0 and below 1"),
        ((torch.ones(3), "half"), TypeError, "dropout: p"),
    ],
)
def test_dropout_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        pyattn.torch.dropout(*arguments)
    for bad in ({"seed": -1}, {"seed": 2**64}, {"activation": "tanh"}):
        with pytest.raises(ValueError, match="dropout: (seed|activation) must be"):
            pyattn.torch.dropout(torch.ones(3), 0.5, **bad)


# --- encoders


def encoder(dropout=0.0, layers=2, **options):
    torch.manual_seed(1)
    options = {"batch_first": True, "dtype": torch.float64, **options}
    norm = torch.nn.LayerNorm(24, dtype=options["dtype"])
    layer = torch.nn.TransformerEncoderLayer(24, 4, 40, dropout, **options)
    return torch.nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)


PADDING = {
    "none": None,
    "right": torch.arange(9) >= torch.tensor([9, 4, 1])[:, None],
    "left": torch.arange(9) < torch.tensor([0, 4, 8])[:, None],
    "holes": torch.tensor([[0, 1, 0, 0, 1, 0, 0, 0, 1], [0] * 9, [1, 0, 1, 0, 1, 0, 1, 0, 1]]).bool(),
}
OPTIONS = {
    "post": {},
    "pre": {"norm_first": True},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": torch.nn.SiLU()},
    "tanh": {"activation": torch.nn.GELU("tanh")},
    "unbiased": {"bias": False},
    "sequence first": {"batch_first": False},
}


def trained(module, x, padding, mask=None):
    """The result where there is no padding, and all gradients of a sum of it."""
    x = x.clone().requires_grad_()
    first = module.layers[0].self_attn.batch_first
    out = module(x if first else x.transpose(0, 1), mask, src_key_padding_mask=padding)
    out = out if first else out.transpose(0, 1)
    live = out if padding is None else out[~padding]
    module.zero_grad()
    (live * torch.linspace(0, 1, 24, dtype=x.dtype)).square().sum().backward()
    return [live.detach(), x.grad, *(parameter.grad.clone() for parameter in module.parameters())]


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("options", OPTIONS)
def test_encoders_train_as_torch_trains_them(options, padding):
    module = encoder(**OPTIONS[options]).train()
    fast = pyattn.torch.accelerate(module)
    x = torch.randn(3, 9, 24, dtype=torch.float64)
    expected, found = (trained(m, x, PADDING[padding]) for m in (module, fast))
    assert pyattn.torch.served(fast) == (1, {})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("boolean", "padding"), [(True, "none"), (True, "right"), (False, "none")])
def test_causal_encoders_train(boolean, padding):
    module = encoder().train()
    fast = pyattn.torch.accelerate(module)
    x = torch.randn(3, 9, 24, dtype=torch.float64)
    mask = torch.ones(9, 9, dtype=torch.bool).triu(1)
    mask = mask if boolean else torch.zeros(9, 9, dtype=x.dtype).masked_fill(mask, -torch.inf)
    expected, found = (trained(m, x, PADDING[padding], mask) for m in (module, fast))
    assert pyattn.torch.served(fast) == (1, {})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_layer_and_inputs_without_a_batch_train():
    module = encoder().layers[0]
    fast = pyattn.torch.accelerate(module)
    x = torch.randn(7, 24, dtype=torch.float64)
    padding = torch.arange(7) > 4
    torch.testing.assert_close(
        fast(x, src_key_padding_mask=padding)[:5], module(x, src_key_padding_mask=padding)[:5], rtol=1e-9, atol=1e-10
    )
    assert pyattn.torch.served(fast).calls == 1


def test_training_changes_what_is_computed_next():
    module = encoder(dropout=0.2).train()
    fast = pyattn.torch.accelerate(module)
    x, padding = torch.randn(3, 9, 24, dtype=torch.float64), PADDING["right"]
    optimizer = torch.optim.AdamW(fast.parameters(), lr=0.01, fused=True)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (fast(x, src_key_padding_mask=padding)[~padding] - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert pyattn.torch.served(fast) == (30, {})
    fast.eval(), module.eval()
    with torch.no_grad():
        found, expected = (m(x, src_key_padding_mask=padding)[~padding] for m in (fast, module))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_dropout_of_encoders_is_repeatable_and_unbiased():
    module = encoder(dropout=0.3, layers=1, dtype=torch.float32, norm_first=True)
    fast = pyattn.torch.accelerate(module.train())
    x = torch.randn(3, 9, 24)

    def drawn():
        torch.manual_seed(5)
        return fast(x)

    assert torch.equal(drawn(), drawn())
    # a mean of many draws lies near torch's: within 5 times what the draws themselves say of it
    found, expected = (
        torch.stack([m.layers[0](x) if m is module else m(x) for _ in range(400)]).detach() for m in (fast, module)
    )
    expected = torch.stack([module.norm(y) for y in expected])
    apart = (found.mean(0) - expected.mean(0)).abs()
    assert (apart < 6 * ((found.var(0) + expected.var(0)) / 400).sqrt()).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_drop_the_same_again(reentrant):
    fast = pyattn.torch.accelerate(encoder(dropout=0.3)).train()
    x = torch.randn(3, 9, 24, dtype=torch.float64, requires_grad=True)

    def step(call):
        torch.manual_seed(4)
        out = call(x, src_key_padding_mask=PADDING["right"])
        x.grad = None
        out.square().sum().backward()
        return out.detach(), x.grad

    def checkpointed(x, **given):
        return checkpoint(lambda y: fast(y, **given), x, use_reentrant=reentrant)

    for one, other in zip(step(checkpointed), step(fast), strict=True):
        torch.testing.assert_close(one, other)
    assert not pyattn.torch.served(fast).passed_on


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("name", ["layers.0", "layers.1.self_attn", "layers.0.dropout", "layers.0.linear1"])
def test_hooks_on_gradients_inside_are_seen(name, kind):
    fast = pyattn.torch.accelerate(encoder()).train()
    seen = []
    getattr(fast.get_submodule(name), kind)(lambda *_: seen.append(name))
    fast(torch.randn(3, 9, 24, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert seen and pyattn.torch.served(fast) == (0, {"hooks on modules inside": 1})


def test_gradients_of_gradients_are_refused_or_those_of_a_chosen_backend():
    module = encoder().train()
    fast = pyattn.torch.accelerate(module)
    x = torch.randn(3, 9, 24, dtype=torch.float64, requires_grad=True)

    def second(module):
        (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    with pytest.raises(NotImplementedError, match="second gradients"):
        second(fast)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.testing.assert_close(second(fast), second(module))
    assert "gradients by a backend that was chosen" in pyattn.torch.served(fast).passed_on


def test_inputs_of_another_width_and_norms_of_two_axes_are_torchs():
    fast = pyattn.torch.accelerate(encoder())
    with pytest.raises(AssertionError, match="embedding dimension"):
        fast(torch.randn(3, 9, 20, dtype=torch.float64))
    fast.norm = torch.nn.LayerNorm((9, 24), dtype=torch.float64)
    assert fast(torch.randn(3, 9, 24, dtype=torch.float64)).shape == (3, 9, 24)
    assert pyattn.torch.served(fast).calls == 0


def test_what_does_not_train_here_is_passed_on():
    module = encoder().train()
    x = torch.randn(3, 9, 24, dtype=torch.float64)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)

    def passed_on(change, *arguments):
        fast = pyattn.torch.accelerate(module)
        change(fast)
        fast(*arguments)
        calls, reasons = pyattn.torch.served(fast)
        assert calls == 0
        return next(iter(reasons))

    def replace(fast):
        fast.layers[0].linear1 = torch.nn.Sequential(fast.layers[0].linear1)

    nothing = torch.ones(3, 9, dtype=torch.bool)
    assert passed_on(lambda m: None, x, causal.triu(2)) == "gradients beside a mask of queries and keys"
    assert passed_on(lambda m: None, x, causal.bool(), PADDING["left"]) == "a row that attends to nothing"
    assert passed_on(lambda m: None, x, None, nothing) == "a row that attends to nothing"
    assert "not as TransformerEncoder is made" in passed_on(replace, x)
    assert passed_on(lambda m: m.layers[1].register_forward_hook(lambda *_: None), x) == "hooks on modules inside"


def test_replicas_compute_with_parameters_of_their_own():
    module = encoder().eval()
    fast = pyattn.torch.accelerate(module)
    x = torch.randn(3, 9, 24, dtype=torch.float64)
    fast(x)
    with torch.no_grad():
        fast(x)
        replica = fast._replicate_for_data_parallel()
        replica.layers, replica.norm = encoder(norm_first=True).layers, module.norm
        expected = module.norm(replica.layers[1](replica.layers[0](x)))
        torch.testing.assert_close(replica(x), expected)
    torch.testing.assert_close(replica(x), expected)


def test_inputs_made_under_inference_mode_are_trained_on_by_torch():
    fast = pyattn.torch.accelerate(encoder())
    with torch.inference_mode():
        x = torch.randn(3, 9, 24, dtype=torch.float64)
    fast(x).sum().backward()
    assert pyattn.torch.served(fast).calls == 0


@pytest.mark.parametrize("dtype", [None, "int8"])
def test_encoders_of_16_bits_do_not_train_here_but_infer(dtype):
    x = torch.randn(3, 9, 24).bfloat16()
    half = pyattn.torch.accelerate(encoder(dtype=torch.bfloat16).eval(), dtype=dtype)
    expected = half(x)
    assert pyattn.torch.served(half) == (0, {"gradients of torch.bfloat16": 1})
    with torch.no_grad():
        torch.testing.assert_close(half(x), expected, rtol=0.1, atol=0.1)
    assert pyattn.torch.served(half).calls == 1
