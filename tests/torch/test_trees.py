"""Changes of accelerated modules are seen at the next call; modules of another make stay torch's."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="4.56")

from torch import nn  # noqa: E402

from pyattn.torch import accelerate, served  # noqa: E402
from tests.torch.calls import numbers  # noqa: E402
from tests.torch.test_transformers import MODELS, model  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
IDS = torch.randint(3, 99, (3, 12), generator=torch.Generator().manual_seed(5))
X = numbers(3, 10, 32)


def encoder(**options):  # of torch's own
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def bert():
    return model("BertModel", "eager")


def llama():
    return model("LlamaForCausalLM", "eager")


def call(module):
    with torch.no_grad():
        if isinstance(module, nn.TransformerEncoder):
            return module(X.to(next(module.parameters()).dtype))
        return module(IDS, **({"use_cache": False} if hasattr(module, "generate") else {}))[0]


def own(fast):
    """A call of the module's own forward."""
    with torch.no_grad():
        if isinstance(fast, nn.TransformerEncoder):
            return fast._own_forward()(X.to(next(fast.parameters()).dtype))
        return fast._own_forward()(IDS, **({"use_cache": False} if hasattr(fast, "generate") else {}))[0]


def check(fast, calls=None):
    before = served(fast).calls
    found, expected = call(fast), own(fast)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()), equal_nan=True)
    if calls is not None:
        assert served(fast).calls - before == calls, served(fast)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Lora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base_layer, self.more = base, nn.Parameter(torch.ones(base.weight.shape[0]))

    def forward(self, x):
        return self.base_layer(x) + self.more


def doubled(x):
    other = Doubled(x.in_features, x.out_features, x.bias is not None)
    other.load_state_dict(x.state_dict())
    return other.eval()


def own_forward(x):
    before = x.forward
    x.forward = lambda *args: 2 * before(*args)
    return x


LINEAR = {
    "a subclass": doubled,
    "a wrapper": lambda x: Lora(x).eval(),
    "a forward of its own": own_forward,
    "weight_norm": lambda x: nn.utils.parametrizations.weight_norm(x).eval(),
}
PLACES = {
    "BertModel": lambda m: (m.encoder.layer[1].attention.self, "query"),
    "LlamaForCausalLM": lambda m: (m.model.layers[0].mlp, "up_proj"),
}


@pytest.mark.parametrize("how", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("name", ["BertModel", "LlamaForCausalLM"])
@pytest.mark.parametrize("before", [True, False])
def test_layers_of_another_make(name, how, before):
    module = model(name, "eager")
    fast = accelerate(module)
    inside, attribute = PLACES[name](module if before else fast)
    setattr(inside, attribute, how(getattr(inside, attribute)))
    fast = accelerate(module) if before else fast
    check(fast, 0)
    assert any("is made" in reason for reason in served(fast).passed_on)


@pytest.mark.parametrize("how", [doubled, own_forward, LINEAR["weight_norm"]])
def test_torchs_layers_of_another_make(how):
    """Parts of such a module may be accelerated."""
    module = encoder()
    fast = accelerate(module)
    for place in (module, fast):
        place.layers[1].linear1 = how(place.layers[1].linear1)
    check(fast, 0)
    torch.testing.assert_close(call(accelerate(module)), call(module), rtol=0, atol=2e-5)


def test_models_of_another_make():
    class Tripled(transformers.BertModel):
        def forward(self, *args, **kwargs):
            return tuple(3 * x for x in super().forward(*args, **kwargs, return_dict=False))

    with pytest.raises(ValueError, match="Tripled has no module that pyattn computes"):
        accelerate(Tripled(transformers.BertConfig(**MODELS["BertModel"])))
    module = llama()
    module.model.norm = nn.LayerNorm(32, bias=False)
    check(accelerate(module), 0)
    layers = encoder(bias=False)
    for layer in layers.layers:
        layer.norm1, layer.norm2 = nn.RMSNorm(32, eps=1e-5), nn.RMSNorm(32, eps=1e-5)
    torch.testing.assert_close(call(accelerate(layers)), call(layers), rtol=0, atol=2e-5)


def sliced(fast):
    fast.encoder.layer = fast.encoder.layer[:2]


def assigned(fast, times=2):
    for _ in range(times):
        fast.load_state_dict({name: x * 1.5 for name, x in fast.state_dict().items()}, assign=True)


def replaced_twice(fast):
    for _ in range(2):
        fast.layers[0].linear1.weight = nn.Parameter(torch.randn(48, 32))


def stepped(fast, optimizer=torch.optim.AdamW, **options):
    found = optimizer(fast.parameters(), lr=0.05, **options)
    fast(*((X,) if isinstance(fast, nn.TransformerEncoder) else (IDS,)))[0].square().sum().backward()
    found.step()


def set_on_layers(**values):
    def change(fast):
        for layer in fast.layers:
            for name, x in values.items():
                setattr(layer, name, x)

    return change


def scaled(fast):
    for layer in fast.model.layers:
        layer.self_attn.scaling *= 2


def configured(**values):
    return lambda fast: [setattr(fast.config, name, x) for name, x in values.items()]


CHANGES = {
    "replaced twice": (encoder, replaced_twice, 1),
    "assigned twice": (bert, assigned, 1),
    "SGD": (encoder, lambda x: stepped(x, torch.optim.SGD), 1),
    "fused AdamW": (bert, lambda x: stepped(x, fused=True), 1),
    "fused SGD": (encoder, lambda x: stepped(x, torch.optim.SGD, fused=True), 1),
    "bfloat16 and back": (bert, lambda x: x.bfloat16().float(), 1),
    "float64": (bert, lambda x: x.double(), 0),
    "float64 of torch's own": (encoder, lambda x: x.double(), 1),
    "activation": (encoder, set_on_layers(activation=nn.functional.gelu, activation_relu_or_gelu=2), 1),
    "norm_first": (encoder, set_on_layers(norm_first=True), 1),
    "fewer layers": (bert, sliced, 0),
    "scaling": (llama, scaled, 0),
    "window": (lambda: model("MistralForCausalLM", "eager"), configured(sliding_window=3), None),
    "soft cap": (lambda: model("Gemma3ForCausalLM", "eager"), configured(final_logit_softcapping=0.5), None),
    "attention of another name": (bert, configured(_attn_implementation="paged|eager"), None),
    "tokens": (bert, lambda x: x.resize_token_embeddings(110), 1),
    "frequencies": (llama, lambda x: x.model.rotary_emb.inv_freq.mul_(2), 0),
}


@pytest.mark.parametrize(("make", "change", "calls"), CHANGES.values(), ids=CHANGES)
def test_changes(make, change, calls):
    fast = accelerate(make())
    check(fast, 1)
    change(fast)
    check(fast.eval(), calls)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViTModel", {"attention_probs_dropout_prob": 0.9}),
        ("Dinov2Model", {"drop_path_rate": 0.9}),
        ("LlamaForCausalLM", {"attention_dropout": 0.9}),
        ("BertModel", {"hidden_dropout_prob": 0.0}),
    ],
)
def test_dropout_of_all_kinds(name, options):
    sizes = dict(MODELS["ViTModel" if name == "Dinov2Model" else name])
    if name == "Dinov2Model":
        del sizes["vocab_size"]
    kind = getattr(transformers, name)
    fast = accelerate(kind(kind.config_class(**{**sizes, **options})))
    given = {"pixel_values": torch.ones(1, 3, 24, 24)} if "image_size" in sizes else {"input_ids": IDS}
    with torch.no_grad():
        for training in (True, False):
            fast.train(training)(**given, **({"use_cache": False} if "Llama" in name else {}))
    assert served(fast) == (1, {"dropout: module.eval() goes without": 1})


def test_parameters_whose_changes_are_not_counted():
    with torch.inference_mode():
        fast = accelerate(encoder())
        for x in fast.parameters():
            x.mul_(1.5)
        check(fast, 0)


def test_hooks_on_all_modules():
    fast, seen = accelerate(encoder()), []
    handle = nn.modules.module.register_module_forward_hook(lambda *x: seen.append(x))
    try:
        call(fast)
    finally:
        handle.remove()
    assert len(seen) >= 3 and served(fast) == (0, {"hooks on all modules": 1})


@pytest.mark.parametrize("make", [bert, encoder])
def test_the_model_is_left_as_it_is(make):
    module = make()
    before = {name: (type(x), [*x._modules]) for name, x in module.named_modules()}
    fast = accelerate(module)
    hook = fast.register_forward_hook(lambda *x: pytest.fail("of the other"))
    fast.train()
    assert not any(x.training for x in module.modules())
    module.train()
    fast.eval()
    assert all(x.training for x in module.modules())
    call(module.eval())
    hook.remove()
    for x in fast.modules():
        x.extra, x._modules["extra"] = 1, None
    assert not any(hasattr(x, "extra") for x in module.modules())
    assert before == {name: (type(x), [*x._modules]) for name, x in module.named_modules()}


def saved(fast):
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "torch.save": saved,
    "accelerate": accelerate,
}


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("make", [bert, llama, encoder])
def test_copies(make, how):
    fast = accelerate(make())
    call(fast)
    other = how(fast)
    assert type(other) is type(fast) and other is not fast and served(other) == (0, {})
    assert torch.equal(call(other), call(fast))
    assert served(other) == (1, {}) and served(fast).calls == 2


def test_modules_with_contents_of_other_kinds():
    """Parametrized modules, recurrent ones, empty lists and compiled scripts stand beside accelerated modules."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.empty = encoder(), nn.ModuleList()
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(32, 3))
            self.recurrent = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.recurrent(self.head(self.encoder(x)))[0]

    module = Whole().eval()
    fast = accelerate(module)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), module(X), rtol=0, atol=1e-5)
    assert served(fast).calls == 1 and fast.empty is not module.empty


def test_compiled():
    module = encoder()
    fast = accelerate(module)
    compiled = torch.compile(module, backend="eager")
    for other in (compiled, nn.Sequential(compiled)):
        with pytest.raises(TypeError, match="^accelerate: model has been compiled; accelerate it first"):
            accelerate(other)
    torch._dynamo.reset()
    again = torch.compile(fast, backend="eager", fullgraph=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            assert torch.equal(again(X), module(X))
    assert served(fast) == (0, {})


def test_backbones_are_no_encoders():
    sizes = {"image_size": 24, "patch_size": 8, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    backbone = transformers.Dinov2Backbone(transformers.Dinov2Config(**sizes))
    with pytest.raises(ValueError, match="Dinov2Backbone has no module"):
        accelerate(backbone)
    causal = transformers.BertLMHeadModel(transformers.BertConfig(**MODELS["BertModel"])).eval()
    with torch.no_grad():
        torch.testing.assert_close(accelerate(causal)(IDS)[0], causal(IDS)[0], rtol=0, atol=1e-5)


def test_one_of_two_models_is_supported():
    texts = transformers.BertConfig(**MODELS["BertModel"])
    written = transformers.GPT2Config(**MODELS["GPT2LMHeadModel"], add_cross_attention=True)
    decoder = transformers.GPT2LMHeadModel(written).eval()
    with pytest.raises(ValueError, match="add_cross_attention"):
        accelerate(decoder)
    own = transformers.EncoderDecoderModel(encoder=transformers.BertModel(texts).eval(), decoder=decoder).eval()
    fast = accelerate(own)
    with torch.no_grad():
        found, expected = (m(IDS, decoder_input_ids=IDS)[0] for m in (fast, own))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert served(fast).calls == 1
