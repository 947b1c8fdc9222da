"""Models of transformers with pyattn's attention, beside its own plain one."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="4.56")

import pyattn.transformers  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SIZES = {"vocab_size": 99, "num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**SIZES, **SPECIAL, "num_key_value_heads": 2, "max_position_embeddings": 64}
HEADS = {**DECODER, "head_dim": 8}
HALVES = {"vocab_size": 99, "d_model": 32, "num_layers": 2, "num_heads": 4}
BART = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
MODELS = {
    "BertModel": SIZES,
    "RobertaModel": SIZES | SPECIAL,
    "ModernBertModel": SIZES | SPECIAL | {"local_attention": 8, "global_attn_every_n_layers": 2},
    "DistilBertModel": {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "ViTModel": SIZES | {"image_size": 24, "patch_size": 8},
    "LlamaForCausalLM": DECODER,
    "Qwen3ForCausalLM": HEADS,
    "MistralForCausalLM": DECODER | {"sliding_window": 6},
    "Gemma2ForCausalLM": HEADS | {"sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "Gemma3ForCausalLM": HEADS | {"sliding_window": 6},
    "GptOssForCausalLM": HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    "GPT2LMHeadModel": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, **SPECIAL},
    "T5ForConditionalGeneration": HALVES | {"d_kv": 8, "d_ff": 48, "decoder_start_token_id": 0},
    "BartForConditionalGeneration": HALVES
    | BART
    | SPECIAL
    | {"decoder_start_token_id": 2, "forced_eos_token_id": None},
    "WhisperForConditionalGeneration": HALVES
    | BART
    | SPECIAL
    | {"num_mel_bins": 8, "max_source_positions": 20, "decoder_start_token_id": 1, "max_target_positions": 32},
}
OTHERS = {  # some of them are refused
    "MPNetModel": SIZES,
    "BloomModel": {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "XGLMModel": {"vocab_size": 99, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "NllbMoeModel": HALVES | BART | SPECIAL | {"num_experts": 2},
    "GPTNeoModel": {"vocab_size": 99, "hidden_size": 32, "num_layers": 1, "attention_types": [[["global"], 1]]},
    "FalconModel": {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "FNetModel": SIZES,
    "T5EncoderModel": HALVES,
    "Gemma4ForCausalLM": HEADS
    | {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6}
    | {"num_kv_shared_layers": 2, "global_head_dim": 8, "vocab_size_per_layer_input": 99}
    | {"hidden_size_per_layer_input": 8},
    "OPTModel": SIZES | SPECIAL | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "StableLmModel": DECODER,
}
REFUSED = ("MPNetModel", "BloomModel", "XGLMModel", "NllbMoeModel", "GPTNeoModel", "FalconModel")
CONFIGS = {
    "Gemma3ForCausalLM": "Gemma3TextConfig",
    "Gemma4ForCausalLM": "Gemma4TextConfig",
    "T5EncoderModel": "T5Config",
}
NOT_UNPADDED = {"T5ForConditionalGeneration", "GptOssForCausalLM"}  # of biases; of FlashAttention from one hub alone
CASES = [(name, "pyattn") for name in MODELS] + [(name, "pyattn_flash") for name in MODELS if name not in NOT_UNPADDED]


@pytest.fixture(scope="module", autouse=True)
def registered():
    transformers.logging.set_verbosity_error()
    names = pyattn.transformers.register()
    assert pyattn.transformers.register() == names
    return names


def model(name, implementation, dtype=torch.float32):
    end = next(end for end in ("Model", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration") if name.endswith(end))
    end = "LMHeadModel" if name.endswith("LMHeadModel") else end
    config = getattr(transformers, CONFIGS.get(name, name.removesuffix(end) + "Config"))(**(MODELS | OTHERS)[name])
    torch.manual_seed(0)
    made = getattr(transformers, name)._from_config(config, attn_implementation=implementation).eval()
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=numbers))
    return made.to(dtype)


def inputs(name, dtype, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 99, (2, 17), generator=numbers)
    if name == "ViTModel":
        return {"pixel_values": torch.randn(2, 3, 24, 24, generator=numbers).to(dtype)}
    if name.startswith("Whisper"):
        return {"input_features": torch.randn(2, 8, 40, generator=numbers).to(dtype)}
    mask = torch.ones_like(ids)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        mask[0, :5] = 0
    else:
        mask[0, -5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs(name, implementation, dtype=torch.float32, seed=0):
    given = inputs(name, dtype, seed)
    if name.endswith("ForConditionalGeneration"):
        given["decoder_input_ids"] = torch.arange(3, 20).repeat(2, 1)
    with torch.no_grad():
        result = model(name, implementation, dtype)(**given)[0].float()
    seen = given["attention_mask"].bool() if "attention_mask" in given and "decoder_input_ids" not in given else ...
    return result[seen]


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_outputs(name, implementation, registered):
    if implementation not in registered:
        pytest.skip("this version of transformers has no place for it")
    exact = outputs(name, "eager")
    assert float((outputs(name, implementation) - exact).abs().max()) <= 3e-6 * float(exact.abs().max())


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_rounding(name, implementation, registered):
    """In bfloat16 models err no more than with their own attention, over several inputs, as chance rounds either."""
    if implementation not in registered:
        pytest.skip("this version of transformers has no place for it")
    exact = [outputs(name, "eager", seed=seed) for seed in range(6)]
    found, own = (
        sum((outputs(name, x, torch.bfloat16, seed) - exact[seed]).square().sum() for seed in range(6)).sqrt()
        for x in (implementation, "eager")
    )
    assert found <= 1.1 * own


@pytest.mark.parametrize(("name", "implementation"), [x for x in CASES if "For" in x[0] or "LM" in x[0]])
def test_generation(name, implementation, registered):
    if implementation not in registered:
        pytest.skip("this version of transformers has no place for it")
    given = inputs(name, torch.float32)
    options = {"max_new_tokens": 9, "do_sample": False}
    tokens = [model(name, x).generate(**given, **options) for x in (implementation, "eager")]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("implementation", ["pyattn", "pyattn_flash"])
def test_dropout_of_weights(implementation, registered):
    """Its mean over many draws lies near what goes without, and one draw does not."""
    if implementation not in registered:
        pytest.skip("this version of transformers has no place for it")
    made = model("BertModel", implementation)
    layer = made.encoder.layer[0].attention.self
    query = torch.randn(1, 2, 5, 8, requires_grad=True)
    forward = transformers.AttentionInterface()[implementation]
    options = {"scaling": 0.3, "is_causal": False}

    def drawn(dropout):
        return forward(layer, query, query, query, None, dropout=dropout, **options)[0]

    torch.manual_seed(0)
    one, draws = drawn(0.5), torch.stack([drawn(0.5) for _ in range(2000)])
    torch.manual_seed(0)
    assert torch.equal(one, drawn(0.5))
    one.sum().backward()
    assert not torch.allclose(one, drawn(0.0), atol=0.1)
    assert ((draws.mean(0) - drawn(0.0)).abs() < 6 * (draws.var(0) / len(draws)).sqrt()).all()


def test_training_and_what_is_not_served():
    made = model("BertModel", "pyattn").train()
    given = inputs("BertModel", torch.float32)
    with pytest.raises(ValueError, match=r"^pyattn: weights are not computed beside dropout of 0.1"):
        made(**given, output_attentions=True)
    gradients = []
    for implementation in ("pyattn", "eager"):
        made = model("BertModel", implementation)
        made(**given)[0][given["attention_mask"].bool()].square().sum().backward()
        gradients.append(made.encoder.layer[0].attention.self.query.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    layer = torch.nn.Module()
    query = torch.randn(1, 2, 5, 8)
    for wrong, options in (
        ("position_bias", {"position_bias": torch.zeros(1, 2, 5, 5)}),
        ("a mask of queries and keys", {"attention_mask": torch.ones(1, 1, 5, 5, dtype=torch.bool)}),
    ):
        with pytest.raises(ValueError, match=f"^pyattn_flash: {wrong} is not served"):
            pyattn.transformers.unpadded_attention_forward(
                layer, query, query, query, **{"attention_mask": None, **options}
            )
    with pytest.raises(ValueError, match="head_mask of this model is not known"):
        pyattn.transformers.attention_forward(layer, query, query, query, None, head_mask=torch.ones(2))


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, x) for name in REFUSED for x in ("pyattn", "pyattn_flash")] + [("T5EncoderModel", "pyattn_flash")],
)
def test_models_whose_attention_cannot_be_chosen_are_refused(name, implementation, registered):
    """Their masks would be those for pyattn: of booleans, of padding alone, or none."""
    if implementation not in registered:
        pytest.skip("this version of transformers has no place for it")
    with pytest.raises(ValueError, match=f"^{implementation}: the attention of {name} cannot be chosen.*eager"):
        model(name, implementation)
    assert model(name, None).config._attn_implementation in ("eager", "sdpa")


def test_models_without_attention_are_served():
    assert model("FNetModel", "pyattn").config._attn_implementation == "pyattn"


@pytest.mark.parametrize("cached", [False, True])
def test_the_last_rows_alone(cached):
    """Gemma 4 leaves out the others where their logits are not asked for; no mask says so."""
    if not hasattr(transformers, "Gemma4ForCausalLM"):
        pytest.skip("this version of transformers does not know it")
    made, ids = model("Gemma4ForCausalLM", "pyattn"), inputs("Gemma4ForCausalLM", torch.float32)["input_ids"]
    with torch.no_grad():
        expected = model("Gemma4ForCausalLM", "eager")(ids).logits
        for rows in (1, 3):
            cache = {"past_key_values": transformers.StaticCache(made.config, max_cache_len=40)} if cached else {}
            found = made(ids, logits_to_keep=rows, **cache).logits
            torch.testing.assert_close(found, expected[:, -rows:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["BertModel", "GPT2LMHeadModel", "OPTModel", "StableLmModel"])
def test_weights_are_given_where_they_are_asked_for(name, registered):
    given = inputs(name, torch.float32)

    def weights(implementation, **options):
        with torch.no_grad():
            return model(name, implementation)(**given, **options).get("attentions")

    found, expected = (weights(x, output_attentions=True) for x in ("pyattn", "eager"))
    seen = given["attention_mask"].bool()[:, None, :, None]
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x * seen, y * seen, rtol=0, atol=1e-6)
    assert len(found) and weights("pyattn") is None
    if "pyattn_flash" in registered:
        with pytest.raises(ValueError, match="^pyattn_flash: output_attentions is not served"):
            weights("pyattn_flash", output_attentions=True)
