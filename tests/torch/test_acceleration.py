"""Whole models of torch, computed by pyattn: their own results, and their own forward for what it does not take."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pyattn.torch import accelerate, served  # noqa: E402
from tests.torch.calls import numbers  # noqa: E402
from tests.torch.test_transformers import MODELS, SIZES, SPECIAL, inputs, model  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
OTHERS = {
    "ElectraModel": SIZES | {"embedding_size": 16},
    "AlbertModel": SIZES | {"embedding_size": 16},
    "MPNetModel": SIZES | SPECIAL,
    "XLMRobertaModel": SIZES | SPECIAL,
    "Dinov2Model": {"image_size": 24, "patch_size": 8} | {k: x for k, x in SIZES.items() if k != "vocab_size"},
}
MODELS |= OTHERS
ENCODERS = [name for name in MODELS if name.endswith("Model") and not name.endswith("LMHeadModel")]
GENERATORS = [name for name in MODELS if name not in ENCODERS and not name.startswith(("Whisper", "Gemma2", "GptOss"))]


def given(name, padding="right"):
    """Two samples, one of which has padding where it says."""
    found = inputs("ViTModel" if name == "Dinov2Model" else name, torch.float32)
    if "attention_mask" in found:
        places = {"right": slice(12, None), "left": slice(0, 5), "holes": slice(4, 9, 2), "none": slice(0)}
        found["attention_mask"][:] = 1
        found["attention_mask"][0, places[padding]] = 0
    return found


def compare(found, expected, mask, bound=3e-6):
    seen = ... if mask is None else mask.bool()
    assert type(found) is type(expected)
    for x, y in zip(found.to_tuple(), expected.to_tuple(), strict=True):
        x, y = (x[seen], y[seen]) if mask is not None and x.ndim == 3 else (x, y)
        torch.testing.assert_close(x, y, rtol=0, atol=bound * float(y.abs().max()))


@pytest.mark.parametrize("padding", ["right", "left", "holes", "none"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, padding):
    own, arguments = model(name, "eager"), given(name, padding)
    fast = accelerate(own)
    assert type(fast).__name__ == type(own).__name__ and isinstance(fast, type(own)) and fast is not own
    with torch.no_grad():
        found, expected = fast(**arguments), own(**arguments)
    assert served(fast).calls == (padding != "left" or "attention_mask" not in arguments)
    compare(found, expected, arguments.get("attention_mask"))
    assert [*fast.state_dict()] == [*own.state_dict()]
    assert all(x is y for x, y in zip(fast.parameters(), own.parameters(), strict=True))


def test_calls_that_are_left_to_the_model():
    own, arguments = model("BertModel", "eager"), given("BertModel")
    fast = accelerate(own)
    ids = arguments["input_ids"]
    calls = {
        "gradients": lambda m: m(**arguments)[0],
        "inputs_embeds": lambda m: m(inputs_embeds=m.embeddings.word_embeddings(ids))[0],
        "output_hidden_states": lambda m: m(ids, output_hidden_states=True).hidden_states[1],
        "position_ids": lambda m: m(ids, position_ids=torch.arange(17).flip(0)[None])[0],
        "attention_mask of another shape": lambda m: m(ids, attention_mask=torch.ones(2, 1, 17, 17).tril())[0],
    }
    for reason, call in calls.items():
        with torch.set_grad_enabled(reason == "gradients"):
            expected, before = call(own), served(fast)
            assert torch.equal(call(fast), expected)
            after = served(fast)
        assert after.calls == before.calls and sum(after.passed_on.values()) == sum(before.passed_on.values()) + 1
        assert any(reason in key for key in after.passed_on), after
    hidden = []
    handle = fast.encoder.layer[0].register_forward_hook(lambda *x: hidden.append(x))
    with torch.no_grad():
        fast(**arguments)
        assert hidden
        handle.remove()
        fast(**arguments)
    assert len(hidden) == 1 and served(fast).calls == 1


def both(own, fast, call):
    """Errors and results of a call are the same."""
    found = []
    with torch.no_grad():
        for module in (own, fast):
            try:
                found.append(call(module))
            except Exception as error:
                found.append(error)
    if isinstance(found[0], Exception):
        assert type(found[0]) is type(found[1]), found
    else:
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-5, equal_nan=True)
        assert found[0].dtype is found[1].dtype


IDS = torch.randint(3, 99, (3, 12), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(12) < torch.tensor([12, 8, 12])[:, None]).long()
LIVE = MASK.bool()
LEFT = MASK.flip(1)
TEXTS = {  # of calls, whether pyattn takes them
    "ids beyond the vocabulary": (lambda m: m(IDS + 50)[0], False),
    "negative ids": (lambda m: m(IDS - 50)[0], False),
    "ids of 32 bits": (lambda m: m(IDS.int())[0], False),
    "ids of 8 bits": (lambda m: m(IDS.to(torch.uint8))[0], False),
    "one axis": (lambda m: m(IDS[0])[0], False),
    "no texts": (lambda m: m(IDS[:0])[0], False),
    "no tokens": (lambda m: m(IDS[:, :0])[0], False),
    "too long": (lambda m: m(IDS.repeat(1, 50))[0], False),
    "a mask that is too short": (lambda m: m(IDS, attention_mask=MASK[:, :9])[0], False),
    "a mask of one row": (lambda m: m(IDS, attention_mask=MASK[1:2])[0], False),
    "a mask of halves": (lambda m: m(IDS, attention_mask=MASK * 0.5)[0], False),
    "a mask of twos": (lambda m: m(IDS, attention_mask=MASK * 2)[0], False),
    "booleans": (lambda m: m(IDS, attention_mask=LIVE)[0][LIVE], True),
    "bfloat16": (lambda m: m(IDS, MASK.bfloat16())[0][LIVE], True),
    "a row of padding": (lambda m: m(IDS, attention_mask=MASK * torch.tensor([[1], [1], [0]]))[0], False),
    "types of one row": (lambda m: m(IDS, token_type_ids=torch.ones(1, 12).long())[0], False),
    "types": (lambda m: m(IDS, token_type_ids=IDS % 2)[0], True),
    "types beyond": (lambda m: m(IDS, token_type_ids=IDS)[0], False),
    "an unknown argument": (lambda m: m(IDS, foo=3)[0], False),
    "tokens and embeddings": (lambda m: m(IDS, inputs_embeds=torch.ones(3, 12, 32))[0], False),
    "a tuple": (lambda m: m(IDS, return_dict=False)[1], False),
    "autocast": (lambda m: torch.autocast("cpu", torch.bfloat16)(lambda: m(IDS)[0])(), False),
    "nothing": (lambda m: m()[0], False),
}


@pytest.mark.parametrize(("call", "taken"), TEXTS.values(), ids=TEXTS)
def test_arguments_of_texts(call, taken):
    own = model("BertModel", "eager")
    fast = accelerate(own)
    both(own, fast, call)
    assert served(fast).calls == taken


@pytest.mark.parametrize("name", ["Roberta", "DistilBert", "Electra", "ModernBert", "MPNet"])
def test_heads_that_look_at_padding_in_front(name):
    kind = getattr(transformers, f"{name}ForSequenceClassification")
    torch.manual_seed(0)
    own = kind(kind.config_class(**MODELS[f"{name}Model"])).eval()
    fast = accelerate(own)
    for mask, calls in ((LEFT, 0), (MASK, 1)):
        both(own, fast, lambda m, mask=mask: m(IDS, attention_mask=mask).logits)
        assert served(fast).calls == calls


@pytest.mark.parametrize("name", ["ViTModel", "Dinov2Model"])
def test_arguments_of_images(name):
    own = model(name, "eager")
    fast = accelerate(own)
    both(own, fast, lambda m: m(numbers(2, 3, 32, 40))[0])
    assert served(fast).calls == (name == "Dinov2Model")
    both(own, fast, lambda m: m(numbers(2, 3, 24, 24, dtype=torch.float64))[0])
    assert served(fast).calls == (name == "Dinov2Model")


def test_training_goes_on_and_changed_weights_are_seen():
    own, arguments = model("BertModel", "eager"), given("BertModel")
    fast = accelerate(own)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    fast(**arguments)[0].square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        compare(fast(**arguments), own(**arguments), arguments["attention_mask"])
        own.load_state_dict(model("BertModel", "eager").state_dict())
        compare(fast(**arguments), own(**arguments), arguments["attention_mask"])
        own.embeddings.word_embeddings.weight.data.mul_(1.5)
        fast.refresh()
        compare(fast(**arguments), own(**arguments), arguments["attention_mask"])
    assert served(fast).calls == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_weights_of_other_types(dtype):
    own, arguments = model("BertModel", "eager"), given("BertModel")
    with torch.no_grad():
        expected, found = own(**arguments)[0], accelerate(own, dtype=dtype)(**arguments)[0]
        seen = arguments["attention_mask"].bool()
        assert 0 < float((found - expected)[seen].norm() / expected[seen].norm()) < 0.05
        rounded = copy.deepcopy(own).bfloat16()
        out = accelerate(rounded)(**arguments)[0]
        assert out.dtype == torch.bfloat16
        assert float((out.float() - expected)[seen].norm() / expected[seen].norm()) < 0.05


def test_a_head_stays_torchs():
    config = transformers.BertConfig(**SIZES, num_labels=3)
    torch.manual_seed(0)
    own = transformers.BertForSequenceClassification(config).eval()
    fast = accelerate(own)
    arguments = given("BertModel")
    with torch.no_grad():
        torch.testing.assert_close(fast(**arguments).logits, own(**arguments).logits, rtol=0, atol=1e-6)
    assert served(fast).calls == 1


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_generation(name, options):
    own, arguments = model(name, "eager"), inputs(name, torch.float32)
    fast = accelerate(own)
    options = {"max_new_tokens": 9, "do_sample": False, **options}
    assert torch.equal(fast.generate(**arguments, **options), own.generate(**arguments, **options))
    assert served(fast) == (1, {})


def test_logits_and_generation_that_is_left_to_the_model():
    own, arguments = model("LlamaForCausalLM", "eager"), given("LlamaForCausalLM", "none")
    fast, ids = accelerate(own), given("LlamaForCausalLM", "none")["input_ids"]
    with torch.no_grad():
        found, expected = (m(ids, use_cache=False).logits for m in (fast, own))
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))
    assert served(fast).calls == 1
    scores = [m.generate(ids, max_new_tokens=3, output_scores=True, return_dict_in_generate=True) for m in (fast, own)]
    assert torch.equal(scores[0].sequences, scores[1].sequences) and served(fast).calls == 1
    torch.manual_seed(1)
    first = fast.generate(**arguments, max_new_tokens=5, do_sample=True)
    torch.manual_seed(1)
    assert torch.equal(first, fast.generate(**arguments, max_new_tokens=5, do_sample=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_own_encoder(dtype, batch_first, norm_first):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(
        32, 4, 48, batch_first=batch_first, norm_first=norm_first, activation="gelu", dtype=dtype
    )
    norm = torch.nn.LayerNorm(32, dtype=dtype)
    own = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False).eval()
    for parameter in own.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    padding = torch.arange(13) >= torch.tensor([13, 9])[:, None]
    x = numbers(2, 13, 32, dtype=dtype)
    x = x if batch_first else x.transpose(0, 1)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(13, dtype=dtype)
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    for module in (own, layer.eval()):
        fast = accelerate(module)
        for options in ({}, {"src_key_padding_mask": padding}, {"is_causal": True}):
            masks = (causal,) if options.get("is_causal") else ()
            with torch.no_grad():
                found, expected = fast(x, *masks, **options), module(x, *masks, **options)
            if "src_key_padding_mask" in options:
                found, expected = ((y if batch_first else y.transpose(0, 1))[~padding] for y in (found, expected))
            torch.testing.assert_close(found, expected, rtol=0, atol=bound)
        assert served(fast) == (3, {})


@pytest.mark.parametrize("widths", [{}, {"kdim": 24, "vdim": 20}])
def test_torchs_own_attention(widths):
    torch.manual_seed(0)
    own = torch.nn.MultiheadAttention(32, 4, batch_first=True, **widths).eval()
    fast = accelerate(own)
    query, key, value = numbers(2, 5, 32), numbers(2, 7, widths.get("kdim", 32)), numbers(2, 7, widths.get("vdim", 32))
    padding = torch.arange(7) >= torch.tensor([7, 4])[:, None]
    blocked = numbers(8, 5, 7, seed=4) > 1
    for options in ({}, {"key_padding_mask": padding}, {"attn_mask": blocked[0]}, {"attn_mask": blocked}):
        with torch.no_grad():
            found, expected = (m(query, key, value, need_weights=False, **options)[0] for m in (fast, own))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, equal_nan=True)
    assert served(fast) == (4, {})
    with torch.no_grad():
        assert torch.equal(fast(query, key, value)[1], own(query, key, value)[1])
    assert served(fast).calls == 4


X, CAUSAL = numbers(3, 10, 32), torch.ones(10, 10, dtype=torch.bool).triu(1)
PADDING, ZERO = torch.arange(10) >= torch.tensor([10, 8, 10])[:, None], torch.tensor([0])
LAYERS = {
    "bfloat16": (lambda m: m(X.bfloat16()), False),
    "float64": (lambda m: m(X.double()), False),
    "other width": (lambda m: m(X[..., :31]), False),
    "no sequences": (lambda m: m(X[:0]), False),
    "one sequence": (lambda m: m(X[0], src_key_padding_mask=PADDING[1])[:8], True),
    "is_causal alone": (lambda m: m(X, is_causal=True), False),
    "is_causal beside another mask": (lambda m: m(X, CAUSAL.T, is_causal=True), False),
    "is_causal": (lambda m: m(X, CAUSAL, is_causal=True), True),
    "a mask of one row": (lambda m: m(X, CAUSAL[:1]), False),
    "padding of one row": (lambda m: m(X, src_key_padding_mask=PADDING[:1]), False),
    "padding of another length": (lambda m: m(X, src_key_padding_mask=PADDING[:, :9]), False),
    "floating padding": (lambda m: m(X, src_key_padding_mask=PADDING * -1e9)[~PADDING], False),
    "a sequence of padding": (
        lambda m: m(X, src_key_padding_mask=PADDING | (torch.arange(3) == 0)[:, None])[1:],
        False,
    ),
    "a row that sees nothing": (lambda m: m(X, CAUSAL | (torch.arange(10) == 4)[:, None]), False),
    "a row that sees only padding": (lambda m: m(X, CAUSAL.T, src_key_padding_mask=PADDING), False),
    "autocast": (lambda m: torch.autocast("cpu", torch.bfloat16)(lambda: m(X))(), False),
}


@pytest.mark.parametrize(("call", "taken"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("fast_path", [True, False])
def test_arguments_of_torchs_own(call, taken, fast_path):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    own = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    fast = accelerate(own)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        both(own, fast, call)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert served(fast).calls == taken


@pytest.mark.parametrize("heads", [4, 12, 16])
def test_masks_of_heads(heads):
    own = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    fast = accelerate(own)
    mask = (numbers(heads, 10, 10) > 1).index_fill(2, ZERO, False)
    for padding in (None, PADDING):
        both(own, fast, lambda m, x=padding: m(X, X, X, x, need_weights=False, attn_mask=mask)[0])
    assert served(fast).calls == 2 * (heads == 12)
    both(own, fast, lambda m: m(X, X, X, need_weights=False, is_causal=True)[0])


def test_a_sentence_transformer_keeps_its_prompts_and_pooling(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from tests.support.tiny_model import write_model

    write_model(tmp_path)
    own = library.SentenceTransformer(str(tmp_path), device="cpu", prompts={"query": "find "})
    fast = accelerate(own)
    texts = ["the cat sat on a mat", "find", "the root of a function " * 3]
    for options in ({}, {"prompt_name": "query"}, {"normalize_embeddings": True}):
        found, expected = (m.encode(texts, **options) for m in (fast, own))
        assert abs(found - expected).max() < 1e-5
    assert served(fast).calls == 3


def test_what_is_refused():
    with pytest.raises(TypeError, match="^accelerate: model must be a torch.nn.Module, not list"):
        accelerate([])
    with pytest.raises(ValueError, match="^accelerate: Linear has no module that pyattn computes"):
        accelerate(torch.nn.Linear(3, 3))
    with pytest.raises(TypeError, match="^accelerate: dtype must be"):
        accelerate(model("BertModel", "eager"), dtype="int3")
