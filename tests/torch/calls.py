"""Calls of torch's attention, of all kinds: each gives a tensor, several, or an error."""

import functools
import threading

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

attention = torch.nn.functional.scaled_dot_product_attention


def numbers(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(query=(2, 4, 37, 16), key=None, value=None, dtype=torch.float32):
    key = query if key is None else key
    value = key if value is None else value
    return [numbers(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate((query, key, value))]


def booleans(*shape):
    return numbers(*shape, seed=3) > 0


def plain(*shapes, dtype=torch.float32, **options):
    return lambda: attention(*inputs(*shapes, dtype=dtype), **options)


def masked(mask, *shapes, **options):
    return lambda: attention(*inputs(*shapes), attn_mask=mask, **options)


def strided():
    query, key, value = inputs((2, 37, 4, 16))
    return attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))


def broadcast_strides():
    query, key, value = inputs((1, 1, 37, 16))
    return attention(*(x.expand(2, 4, 37, 16) for x in (query, key, value)))


def columns_apart():
    return attention(*(x.transpose(-1, -2) for x in inputs((2, 4, 16, 37))))


def with_gradients(*shapes, mask=None, dtype=torch.float32, **options):
    def call():
        tensors = [x.requires_grad_() for x in inputs(*shapes, dtype=dtype)]
        out = attention(*tensors, attn_mask=mask, **options)
        return out, *torch.autograd.grad(out.square().sum(), tensors)

    return call


def gradient_of_mask():
    mask = numbers(37, 37, seed=4).requires_grad_()
    return torch.autograd.grad(attention(*inputs(), attn_mask=mask).square().sum(), mask)


def second_gradients():
    query, key, value = (x.requires_grad_() for x in inputs((1, 2, 5, 4)))
    with sdpa_kernel(SDPBackend.MATH):
        (first,) = torch.autograd.grad(attention(query, key, value).square().sum(), query, create_graph=True)
    return torch.autograd.grad(first.square().sum(), (query, key, value))


def inference_mode():
    with torch.inference_mode():
        return attention(*inputs()) + 1


def no_grad():
    with torch.no_grad():
        return attention(*(x.requires_grad_() for x in inputs()))


def autocast():
    with torch.autocast("cpu", torch.bfloat16):
        return attention(*inputs(), attn_mask=numbers(37, 37, seed=4))


def vmap(in_dims=0, **options):
    return lambda: torch.func.vmap(functools.partial(attention, **options), in_dims)(*inputs((3, 2, 4, 17, 16)))


def func_grad():
    query, key, value = inputs()
    return torch.func.grad(lambda x: attention(x, key, value).square().sum())(query)


def vmap_of_grad():
    query, key, value = inputs((3, 1, 4, 17, 16))
    return torch.func.vmap(torch.func.grad(lambda *x: attention(*x).square().sum()))(query, key, value)


def functionalize():
    return torch.func.functionalize(attention)(*inputs())


def jvp():
    query, key, value = inputs()
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(lambda x: attention(x, key, value), (query,), (torch.ones_like(query),))


def forward_gradient():
    query, key, value = inputs()
    with torch.autograd.forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        out = attention(torch.autograd.forward_ad.make_dual(query, torch.ones_like(query)), key, value)
        return tuple(torch.autograd.forward_ad.unpack_dual(out))


def checkpoint(use_reentrant):
    def call():
        query, key, value = (x.requires_grad_() for x in inputs())
        out = torch.utils.checkpoint.checkpoint(attention, query, key, value, use_reentrant=use_reentrant)
        out.square().sum().backward()  # the reentrant one allows no other way
        return out.detach(), query.grad, key.grad, value.grad

    return call


def in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(attention(*inputs())))
    thread.start()
    thread.join()
    return found[0]


def chosen(backend):
    def call():
        with sdpa_kernel(backend):
            return attention(*inputs())

    return call


def negated():
    query, key, value = inputs()
    return attention(torch._neg_view(query), key, value)


def nested():
    parts = [[numbers(n, 4, 16, seed=seed + n) for n in (5, 9)] for seed in range(3)]
    query, key, value = (torch.nested.nested_tensor(part, layout=torch.jagged).transpose(1, 2) for part in parts)
    return attention(query, key, value).transpose(1, 2).values()


class Wrapped(torch.Tensor):
    pass


def subclass():
    query, key, value = inputs()
    out = attention(query.as_subclass(Wrapped), key, value)
    assert type(out) is Wrapped
    return out.as_subclass(torch.Tensor)


def jit():
    return torch.jit.script(_scripted)(*inputs())


def _scripted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def traced():
    with torch.no_grad():
        return torch.jit.trace(lambda *x: attention(*x) * 2, inputs())(*inputs())


def saved_gradient():
    """The result takes part in what needs gradients."""
    weight = numbers(16, 16, seed=5).requires_grad_()
    return torch.autograd.grad((attention(*inputs()) @ weight).square().sum(), weight)


def heads_beside_batch():
    return attention(*inputs(), attn_mask=booleans(4, 37, 37))


INFINITE = torch.zeros(37, 37).masked_fill_(~booleans(37, 37), -torch.inf)
EMPTY_ROWS = booleans(37, 37).index_fill_(0, torch.tensor([0, 3]), False)

CALLS = {
    "plain": plain(),
    "float64": plain(dtype=torch.float64),
    "bfloat16": plain(dtype=torch.bfloat16),
    "float16": plain(dtype=torch.float16),
    "integers": lambda: attention(*(x.long() for x in inputs())),
    "complex": lambda: attention(*(x.to(torch.complex64) for x in inputs())),
    "mixed dtypes": lambda: attention(inputs()[0], inputs(dtype=torch.float64)[1], inputs()[2]),
    "one axis": plain((16,)),
    "two axes": plain((37, 16)),
    "three axes": plain((4, 37, 16)),
    "five axes": plain((2, 3, 4, 17, 16)),
    "mixed axes": plain((2, 4, 37, 16), (4, 37, 16)),
    "other keys": plain((2, 4, 37, 16), (2, 4, 50, 16)),
    "wide values": plain((2, 4, 37, 16), (2, 4, 50, 16), (2, 4, 50, 24)),
    "wrong widths": plain((2, 4, 37, 16), (2, 4, 37, 8)),
    "wrong values": plain((2, 4, 37, 16), (2, 4, 37, 16), (2, 4, 36, 16)),
    "one query": plain((2, 4, 1, 16), (2, 4, 500, 16)),
    "broadcast batch": plain((2, 4, 37, 16), (1, 4, 37, 16)),
    "broadcast heads": plain((2, 4, 37, 16), (2, 1, 37, 16)),
    "causal": plain(is_causal=True),
    "causal, more keys": plain((2, 4, 37, 16), (2, 4, 50, 16), is_causal=True),
    "causal, fewer keys": plain((2, 4, 37, 16), (2, 4, 20, 16), is_causal=True),
    "causal and mask": masked(booleans(37, 37), is_causal=True),
    "scale": plain(scale=0.5),
    "scale 0": plain(scale=0.0),
    "scale below 0": plain(scale=-0.5),
    "huge scale": plain(scale=1e300),
    "infinite scale": plain(scale=float("inf")),
    "grouped": plain((2, 8, 37, 16), (2, 2, 37, 16), enable_gqa=True),
    "grouped, not asked for": plain((2, 8, 37, 16), (2, 2, 37, 16)),
    "grouped, no multiple": plain((2, 7, 37, 16), (2, 2, 37, 16), enable_gqa=True),
    "grouped, two axes": plain((37, 16), enable_gqa=True),
    "grouped, causal": plain((2, 8, 37, 16), (2, 2, 37, 16), enable_gqa=True, is_causal=True),
    "boolean mask": masked(booleans(37, 37)),
    "boolean mask of a batch": masked(booleans(2, 1, 37, 37)),
    "boolean mask of heads": heads_beside_batch,
    "boolean mask of keys": masked(booleans(2, 1, 1, 37)),
    "mask of one axis": masked(booleans(37)),
    "mask of too many axes": masked(booleans(3, 2, 4, 37, 37)),
    "mask that does not fit": masked(booleans(37, 36)),
    "mask of integers": masked(booleans(37, 37).long()),
    "mask of another dtype": masked(numbers(37, 37, dtype=torch.float64)),
    "floating mask": masked(numbers(37, 37, seed=4)),
    "infinite mask": masked(INFINITE),
    "empty rows": masked(EMPTY_ROWS),
    "empty rows, floating": masked(torch.zeros(37, 37).masked_fill_(~EMPTY_ROWS, -torch.inf)),
    "float32 mask beside bfloat16": lambda: attention(
        *inputs(dtype=torch.bfloat16), attn_mask=numbers(37, 37, seed=4) * 9
    ),
    "no queries": plain((2, 4, 0, 16), (2, 4, 37, 16)),
    "no keys": plain((2, 4, 37, 16), (2, 4, 0, 16)),
    "no batch": plain((0, 4, 37, 16)),
    "no width": plain((2, 4, 37, 0)),
    "strided": strided,
    "broadcast strides": broadcast_strides,
    "columns apart": columns_apart,
    "NaN in keys": lambda: attention(inputs()[0], inputs()[1].index_fill(2, torch.tensor([3]), torch.nan), inputs()[2]),
    "gradients": with_gradients(),
    "gradients, causal": with_gradients(is_causal=True),
    "gradients, masked": with_gradients(mask=booleans(37, 37)),
    "gradients, empty rows": with_gradients(mask=EMPTY_ROWS),
    "gradients, float64": with_gradients(dtype=torch.float64),
    "gradients, grouped": with_gradients((2, 8, 37, 16), (2, 2, 37, 16), enable_gqa=True),
    "gradients, three axes": with_gradients((4, 37, 16)),
    "gradients, wide values": with_gradients((2, 4, 37, 16), (2, 4, 50, 16), (2, 4, 50, 24)),
    "gradient of a mask": gradient_of_mask,
    "gradients after": saved_gradient,
    "second gradients": second_gradients,
    "inference mode": inference_mode,
    "no_grad": no_grad,
    "autocast": autocast,
    "vmap": vmap(),
    "vmap, one unbatched": lambda: torch.func.vmap(attention, (0, None, None))(
        numbers(3, 2, 4, 17, 16), *inputs((2, 4, 17, 16))[1:]
    ),
    "vmap, causal": vmap(is_causal=True),
    "func.grad": func_grad,
    "vmap of grad": vmap_of_grad,
    "functionalize": functionalize,
    "jvp": jvp,
    "forward gradient": forward_gradient,
    "checkpoint": checkpoint(False),
    "checkpoint, reentrant": checkpoint(True),
    "another thread": in_a_thread,
    "backend math": chosen(SDPBackend.MATH),
    "backend flash": chosen(SDPBackend.FLASH_ATTENTION),
    "backend cuda": chosen(SDPBackend.CUDNN_ATTENTION),
    "negated view": negated,
    "zeros without memory": lambda: attention(*(torch._efficientzerotensor(2, 4, 37, 16) for _ in range(3))),
    "sparse": lambda: attention(numbers(37, 16).to_sparse(), *inputs((37, 16))[1:]),
    "nested": nested,
    "meta": lambda: attention(*(x.to("meta") for x in inputs())).shape,
    "subclass": subclass,
    "script": jit,
    "trace": traced,
}
