"""pyattn's functions on tensors: results of the functions on arrays, gradients, and what compilers make of them."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pyattn.torch  # noqa: E402
from pyattn.torch import scaled_dot_product_attention, varlen_attention  # noqa: E402
from pyattn.torch.operators import attention  # noqa: E402
from tests.torch.calls import booleans, inputs, numbers  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

LENGTHS = torch.tensor([5, 3])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch calls its sparse tensors a beta
    SPARSE = (numbers(5, 6, seed=8) > 0).float().to_sparse_csr()


def csr(values):
    places = SPARSE.crow_indices(), SPARSE.col_indices()
    return torch.sparse_csr_tensor(*places, values, SPARSE.shape, check_invariants=True)


OPTIONS = {
    "plain": {},
    "boolean mask": {"mask": booleans(2, 1, 5, 6)},
    "mask of a batch": {"mask": booleans(2, 5, 6)},
    "floating mask": {"mask": numbers(2, 1, 5, 6, dtype=torch.float64)},
    "empty rows": {"mask": booleans(5, 6) & torch.tensor([False, True, True, False, True])[:, None]},
    "bias": {"bias": numbers(4, 5, 6, dtype=torch.float64)[None]},
    "infinite bias": {"bias": numbers(5, 6, dtype=torch.float64).masked_fill(booleans(5, 6), -torch.inf)},
    "causal": {"is_causal": True},
    "window": {"window": (2, 1)},
    "one side": {"window": (None, 0), "query_offset": 2},
    "scale": {"scale": -0.3},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.0], dtype=torch.float64)},
    "sinks": {"sinks": torch.tensor([0.5, -torch.inf, 2.0, 0.0], dtype=torch.float64)},
    "lengths": {"kv_lengths": LENGTHS, "is_causal": True},
    "offsets": {"query_offset": torch.tensor([-2, 4]), "is_causal": True},
    "csr": {"mask": SPARSE},
    "csr with a bias": {
        "mask": SPARSE,
        "bias": csr(numbers(SPARSE.values().numel())),
    },
    "dropout": {"dropout_p": 0.3, "dropout_seed": 2**64 - 5, "is_causal": True},
    "many": {
        "bias": numbers(5, 6, dtype=torch.float64),
        "softcap": 2.0,
        "sinks": [0.5, 0.1, 2.0, 0.0],
        "window": (3, None),
        "alibi_slopes": [0.5, 0.25, 0.1, 0.0],
        "kv_lengths": [6, 4],
    },
}
LEARNED = ("mask", "bias", "alibi_slopes", "sinks")


def array(x):
    if not isinstance(x, torch.Tensor):
        return x
    if x.layout is torch.sparse_csr:
        scipy_sparse = pytest.importorskip("scipy.sparse")
        parts = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
        return scipy_sparse.csr_array(parts, shape=tuple(x.shape))
    return x.detach().numpy()


def problem(dtype=torch.float64):
    return inputs((2, 4, 5, 8), (2, 2, 6, 8), (2, 2, 6, 12), dtype=dtype)


@pytest.mark.parametrize("name", OPTIONS)
def test_tensors_give_the_bits_of_arrays(name):
    options = OPTIONS[name]
    arrays = {key: array(x) for key, x in options.items()}
    query, key, value = problem()
    asked = {"return_lse": True, "return_weights": "dropout_p" not in options}
    found = scaled_dot_product_attention(query, key, value, **options, **asked)
    expected = pyattn.scaled_dot_product_attention(query.numpy(), key.numpy(), value.numpy(), **arrays, **asked)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x.numpy(), y)
    through_autograd = scaled_dot_product_attention(query.requires_grad_(), key, value, **options)
    assert torch.equal(through_autograd, found[0]) and through_autograd.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    query, key, value = problem(dtype)
    out, lse = scaled_dot_product_attention(query, key, value, is_causal=True, return_lse=True)
    assert out.dtype == dtype and lse.dtype == torch.float32
    bits = torch.finfo(dtype).eps
    expected = scaled_dot_product_attention(*(x.double() for x in (query, key, value)), is_causal=True)
    torch.testing.assert_close(out.double(), expected, rtol=4 * bits, atol=4 * bits)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients(name):
    options = dict(OPTIONS[name])
    learned = [
        key
        for key in LEARNED
        if isinstance(x := options.get(key), torch.Tensor) and x.is_floating_point() and x.layout is torch.strided
    ]
    tensors = [x.requires_grad_() for x in problem()]
    tensors += [options[key].clone().requires_grad_() for key in learned if not torch.isinf(options[key]).any()]

    def call(query, key, value, *others):
        given = options | dict(zip(learned, others, strict=False))
        asked = {"return_lse": True, "return_weights": "dropout_p" not in given}
        return scaled_dot_product_attention(query, key, value, **given, **asked)

    finite = call(*tensors)[1].detach().isfinite()  # the logarithms of empty rows are -inf, and have no differences

    def finite_results(*given):
        out, lse, *weights = call(*given)
        return out, lse[finite], *weights

    assert torch.autograd.gradcheck(finite_results, tensors)


def test_gradients_of_packed_sequences():
    query, key, value = (x.requires_grad_() for x in inputs((7, 4, 8), (9, 2, 8), (9, 2, 6), dtype=torch.float64))
    sinks = torch.tensor([0.5, 0.1, 2.0, 0.0], dtype=torch.float64, requires_grad=True)

    def call(query, key, value, sinks):
        return varlen_attention(
            query, key, value, [0, 3, 3, 7], [0, 4, 5, 9], sinks=sinks, kv_lengths=[3, 1, 4], return_lse=True
        )

    expected = pyattn.varlen_attention(
        *(x.detach().numpy() for x in (query, key, value)),
        [0, 3, 3, 7],
        [0, 4, 5, 9],
        sinks=sinks.detach().numpy(),
        kv_lengths=[3, 1, 4],
    )
    np.testing.assert_array_equal(call(query, key, value, sinks)[0].detach().numpy(), expected)
    assert torch.autograd.gradcheck(call, (query, key, value, sinks))


def test_second_gradients_and_forward_mode_are_refused():
    query, key, value = (x.requires_grad_() for x in problem())

    def loss(x):
        return scaled_dot_product_attention(x, key, value).square().sum()

    def dual():
        with torch.autograd.forward_ad.dual_level():
            return loss(torch.autograd.forward_ad.make_dual(query, query))

    (grad,) = torch.autograd.grad(loss(query), query, create_graph=True)
    x = query.detach()
    for call in (
        lambda: grad.sum().backward(),
        lambda: torch.func.jvp(loss, (x,), (x,)),
        lambda: torch.func.linearize(loss, x),
        lambda: torch.func.hessian(loss)(x),
        dual,
    ):
        with pytest.raises(NotImplementedError, match="attention: second gradients, and those of forward mode"):
            call()


def test_transforms():
    query, key, value = inputs((3, 2, 5, 4), dtype=torch.float64)

    def loss(query, key, value):
        return scaled_dot_product_attention(query, key, value, is_causal=True).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss))(query, key, value)
    alone = [torch.func.grad(loss)(*x) for x in zip(query, key, value, strict=True)]
    torch.testing.assert_close(grads, torch.stack(alone))
    leaf = query[0].clone().requires_grad_()
    torch.testing.assert_close(alone[0], torch.autograd.grad(loss(leaf, key[0], value[0]), leaf)[0])
    shared = torch.func.vmap(scaled_dot_product_attention, (0, None, None))(query, key[0], value[0])
    assert torch.equal(shared[1], scaled_dot_product_attention(query[1], key[0], value[0]))


WRONG = [
    (TypeError, "query must be a tensor, not ndarray", lambda q: (q.numpy(), q, q), {}),
    (TypeError, "dtypes are mixed", lambda q: (q, q.double(), q), {}),
    (TypeError, "int64", lambda q: (q.long(),) * 3, {}),
    (ValueError, "same last axis", lambda q: (q, q[..., :3], q), {}),
    (ValueError, "mask", lambda q: (q, q, q), {"mask": torch.ones(3, 3, dtype=torch.bool)}),
    (TypeError, "window=3 is ambiguous", lambda q: (q, q, q), {"window": 3}),
    (ValueError, "scale", lambda q: (q, q, q), {"scale": 0.0}),
    (TypeError, "return_lse must be True or False", lambda q: (q, q, q), {"return_lse": "yes"}),
    (ValueError, "kv_lengths", lambda q: (q, q, q), {"kv_lengths": [9, 9]}),
]


@pytest.mark.parametrize(("error", "message", "tensors", "options"), WRONG)
@pytest.mark.parametrize("gradient", [False, True])
def test_errors_name_what_was_seen(error, message, tensors, options, gradient):
    query = numbers(2, 4, 5, 8)
    given = tensors(query)
    if gradient:
        given = [x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    with pytest.raises(error, match=f"^scaled_dot_product_attention: .*{message}"):
        scaled_dot_product_attention(*given, **options)


@pytest.mark.parametrize(
    ("error", "message", "mask", "bias"),
    [
        (ValueError, r"sparse mask has shape \(5, 5\); accepted: \(L, S\) = \(5, 6\)", torch.ones(5, 5), None),
        (ValueError, r"sparse mask has shape \(5, 7\)", torch.ones(5, 7), None),
        (ValueError, r"sparse mask has shape \(2, 5, 6\)", torch.ones(2, 5, 6), None),
        (ValueError, r"sparse bias has shape \(5, 5\)", torch.ones(5, 6), torch.ones(5, 5)),
        (ValueError, "exactly the mask's structure", torch.ones(5, 6), torch.eye(5, 6)),
        (TypeError, "needs a sparse mask of the same structure, mask is None", None, torch.ones(5, 6)),
    ],
)
def test_wrong_sparse_masks_and_biases(error, message, mask, bias):
    given = [None if x is None else x.to_sparse_csr() for x in (mask, bias)]
    with pytest.raises(error, match=f"^scaled_dot_product_attention: .*{message}"):
        scaled_dot_product_attention(*problem(torch.float32), given[0], bias=given[1])


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csc])
def test_other_layouts_are_refused(layout):
    query, key, value = problem(torch.float32)
    with pytest.raises(TypeError, match=r"mask is torch.sparse_\w+; mask.to_sparse_csr\(\) is accepted"):
        scaled_dot_product_attention(query, key, value, torch.ones(5, 6).to_sparse(layout=layout))
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: a tensor is torch.sparse_coo"):
        scaled_dot_product_attention(query.to_sparse(), key, value)


def test_sparse_masks_and_biases_have_no_gradients():
    with pytest.raises(ValueError, match="sparse bias has no gradient"):
        scaled_dot_product_attention(*problem(torch.float32), SPARSE, bias=csr(SPARSE.values()).requires_grad_())
    with pytest.raises(ValueError, match="sparse mask has no gradient"):
        scaled_dot_product_attention(*problem(torch.float32), csr(SPARSE.values()).requires_grad_())


def test_the_operator_keeps_torchs_rules():
    tensors = [x.requires_grad_() for x in problem(torch.float32)]
    bias, slopes, sinks = numbers(5, 6).requires_grad_(), torch.rand(4), torch.randn(4)
    numbers_given = (None, None, None, None, None, LENGTHS, None, True, [3, -1], None, 2.0, 0.2, 7, False)
    torch.library.opcheck(attention, (*tensors, None, bias, slopes, sinks, *numbers_given))
    packed = [x.requires_grad_() for x in inputs((7, 4, 8))]
    starts = torch.tensor([0, 3, 7])
    torch.library.opcheck(
        attention, (*packed, *[None] * 7, starts, starts, None, None, False, [-1, -1], None, None, 0.0, 0, False)
    )
