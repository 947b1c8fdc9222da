"""torch's own modules while pyattn serves their attention."""

import itertools

import pytest

torch = pytest.importorskip("torch")

import pyattn.torch  # noqa: E402
from tests.torch.calls import numbers  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PADDING = torch.arange(13) >= torch.tensor([13, 9])[:, None]


@pytest.fixture(params=[True, False], ids=["fast path", "no fast path"])
def serving(request):
    def served(call):
        expected = call()
        pyattn.torch.enable(fast_path=request.param)
        found = call()
        pyattn.torch.disable()
        largest = max(1.0, *(float(y.nan_to_num().abs().max()) for y in expected))  # gradients are sums of such
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-5 * largest, equal_nan=True)

    yield served
    pyattn.torch.disable()


@pytest.mark.parametrize(
    ("need_weights", "padded", "causal", "train"), list(itertools.product([False, True], repeat=4))
)
def test_multihead_attention(serving, need_weights, padded, causal, train):
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(32, 4, batch_first=True).train(train)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(13) == -torch.inf if causal else None

    def call():
        x = numbers(2, 13, 32).requires_grad_(train)
        options = {"key_padding_mask": PADDING if padded else None, "attn_mask": mask}
        with torch.set_grad_enabled(train):
            out, weights = module(x, x, x, need_weights=need_weights, is_causal=causal, **options)
        grads = torch.autograd.grad(out.square().sum(), [x, *module.parameters()]) if train else ()
        return [out.detach(), *grads, *([weights.detach()] if need_weights else [])]

    serving(call)


@pytest.mark.parametrize(("padded", "train", "norm_first"), list(itertools.product([False, True], repeat=3)))
def test_transformer_encoder(serving, padded, train, norm_first):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, dropout=0, batch_first=True, norm_first=norm_first)
    module = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).train(train)

    def call():
        x = numbers(2, 13, 32).requires_grad_(train)
        with torch.set_grad_enabled(train):
            out = module(x, src_key_padding_mask=PADDING if padded else None)
        if padded:
            out = out[~PADDING]
        return [out.detach(), *(torch.autograd.grad(out.square().sum(), [x, *module.parameters()]) if train else ())]

    serving(call)


def test_transformer(serving):
    torch.manual_seed(0)
    module = torch.nn.Transformer(32, 4, 2, 2, 48, dropout=0, batch_first=True).eval()
    causal = torch.nn.Transformer.generate_square_subsequent_mask(7)

    def call():
        with torch.no_grad():
            return [module(numbers(2, 13, 32), numbers(2, 7, 32, seed=1), tgt_mask=causal, tgt_is_causal=True)]

    serving(call)
