"""generate of accelerated models: transformers' own tokens, by pyattn or passed on."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

from pyattn.torch import accelerate, served  # noqa: E402
from tests.torch.test_transformers import model  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Config = transformers.GenerationConfig
NAMES = ("LlamaForCausalLM", "GPT2LMHeadModel", "BartForConditionalGeneration", "T5ForConditionalGeneration")
IDS = torch.randint(3, 99, (3, 12), generator=torch.Generator().manual_seed(5))
MASK = torch.ones_like(IDS)
LEFT, RIGHT, HOLES = MASK.clone(), MASK.clone(), MASK.clone()
LEFT[0, :5], RIGHT[0, 7:], HOLES[0, 4:6] = 0, 0, 0
TEN = {"max_new_tokens": 10}
ENDS = [52, 69, 92, 33, 84]  # of what models write here


@pytest.fixture(scope="module", params=NAMES)
def both(request):
    own = model(request.param, "eager")
    return own, accelerate(own)


def compare(both, calls, options=None, inputs=IDS):
    """Tokens are the same, errors too, and so many calls are pyattn's."""
    own, fast = both
    found = []
    before = served(fast).calls
    for generate in (own.generate, fast.generate):
        torch.manual_seed(7)
        try:
            found.append(generate(inputs, **options))
        except Exception as error:
            found.append(error)
    if isinstance(found[0], Exception):
        assert type(found[0]) is type(found[1])
    else:
        assert torch.equal(*found)
    if calls is not None:
        assert served(fast).calls - before == calls, served(fast)


SERVED = {
    "default length": {},
    "max_length": {"max_length": 20},
    "min_length": TEN | {"min_length": 18, "eos_token_id": ENDS},
    "min_new_tokens beyond": TEN | {"min_new_tokens": 80, "eos_token_id": ENDS},
    "ends": TEN | {"eos_token_id": ENDS},
    "no end": TEN | {"eos_token_id": None},
    "an end beyond the vocabulary": TEN | {"eos_token_id": 50256},
    "no padding token": TEN | {"eos_token_id": ENDS, "pad_token_id": None},
    "configuration": {"generation_config": Config(max_new_tokens=10, eos_token_id=ENDS)},
    "configuration and changes": {
        "generation_config": Config(max_new_tokens=10),
        "max_new_tokens": 3,
    },
    "beams": TEN | {"num_beams": 4, "eos_token_id": ENDS, "early_stopping": True},
    "several beams": TEN | {"num_beams": 4, "eos_token_id": ENDS, "num_return_sequences": 3, "length_penalty": 2.0},
    "rules": TEN | {"repetition_penalty": 2.0, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [6, 7]]},
    "forced": TEN | {"forced_bos_token_id": 9, "forced_eos_token_id": 11},
    "idle sampling": TEN | {"top_k": 5, "temperature": 0.3},
}


@pytest.mark.parametrize("options", SERVED.values(), ids=SERVED)
def test_what_is_served(both, options):
    compare(both, 1, options)


LENGTHS = {
    "new tokens": TEN | {"num_beams": 3},
    "default": {},
    "max_length": {"max_length": 20},
    "min_length": {"max_length": 25, "min_length": 18, "eos_token_id": ENDS},
}


@pytest.mark.parametrize("options", LENGTHS.values(), ids=LENGTHS)
def test_padding(both, options):
    """Lengths count it, as transformers does; it is served in front of a decoder's tokens, and after an encoder's."""
    encodes = both[0].config.is_encoder_decoder
    for mask, regular in ((LEFT, not encodes), (RIGHT, encodes), (HOLES, False)):
        compare(both, regular, options | {"attention_mask": mask}, IDS.masked_fill(mask == 0, 0))
    compare(both, 0, options, IDS.masked_fill(LEFT == 0, 0))


class Stops(transformers.StoppingCriteria):
    def __call__(self, ids, scores, **kwargs):
        return torch.tensor([ids.shape[1] >= 15] * len(ids))


PASSED_ON = {
    "rules beside padding": TEN | {"attention_mask": LEFT, "repetition_penalty": 3.0},
    "encoder_repetition_penalty": TEN | {"encoder_repetition_penalty": 2.0},
    "sequence_bias": TEN | {"sequence_bias": [[[0, 7], 5.0]]},
    "scores": TEN | {"output_scores": True},
    "stopping_criteria": TEN | {"stopping_criteria": [Stops()]},
    "beams that are sampled": TEN | {"do_sample": True, "num_beams": 2},
    "max_time": TEN | {"do_sample": True, "max_time": 100.0},
    "top_h": TEN | {"do_sample": True, "top_h": 0.3},
    "temperature of 0": TEN | {"do_sample": True, "temperature": 0.0},
    "no new tokens": {"max_new_tokens": 0},
    "a padding token beyond the vocabulary": TEN | {"eos_token_id": ENDS, "pad_token_id": 50256},
    "a mask of other numbers": TEN | {"attention_mask": MASK * 2},
    "a mask of another shape": TEN | {"attention_mask": MASK[:, :9]},
    "unknown": TEN | {"foo": 1},
    "inputs twice": TEN | {"input_ids": IDS},
    "start tokens": TEN | {"decoder_start_token_id": [7, 8, 9]},
}


@pytest.mark.parametrize("options", PASSED_ON.values(), ids=PASSED_ON)
@pytest.mark.parametrize("both", NAMES[1::2], indirect=True)
def test_what_is_passed_on(both, options):
    only_for_encoders = "decoder_start_token_id" in options and not both[0].config.is_encoder_decoder
    compare(both, None if only_for_encoders else 0, options)


@pytest.mark.parametrize("both", NAMES[::2], indirect=True)
@pytest.mark.parametrize("inputs", [IDS[:0], IDS[:, :0], IDS + 50, IDS - 20, IDS[0]], ids=str)
def test_wrong_inputs(both, inputs):
    compare(both, 0, TEN, inputs)


@pytest.mark.parametrize("both", NAMES[2:], indirect=True)
def test_another_start_of_an_encoders_text(both):
    compare(both, 1, TEN | {"decoder_start_token_id": 7})


def test_the_models_own_configuration_fills_what_is_not_given():
    own = model("LlamaForCausalLM", "eager")
    for name, x in {"repetition_penalty": 3.0, "max_new_tokens": 8, "eos_token_id": ENDS}.items():
        setattr(own.generation_config, name, x)
    fast = accelerate(own)
    for options in (
        {},
        {"generation_config": Config(num_beams=1)},
        {"repetition_penalty": None},
    ):
        compare((own, fast), 1, options)


def test_a_text_may_end_before_positions_do():
    config = transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=24, eos_token_id=2)
    own = transformers.GPT2LMHeadModel(config).eval()
    ends = [*range(99)]
    compare((own, accelerate(own)), 0, {"max_new_tokens": 30, "eos_token_id": ends})


def test_hooks_and_training():
    own = model("LlamaForCausalLM", "eager")
    fast = accelerate(own)
    steps = []
    handle = fast.register_forward_hook(lambda *x: steps.append(x))
    compare((own, fast), 0, TEN)
    assert len(steps) == 10
    handle.remove()
    own.config.attention_dropout = 0.9
    fast.train()
    own.train()
    compare((own, fast), 0, TEN)
    assert "dropout" in str(served(fast).passed_on)


def test_logits():
    own = model("LlamaForCausalLM", "eager")
    fast = accelerate(own)
    with torch.no_grad():
        for options in ({"logits_to_keep": 1}, {"attention_mask": MASK}, {"return_dict": False}, {}):
            found, expected = (m(IDS, use_cache=False, **options) for m in (fast, own))
            torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
            assert type(found) is type(expected)
        assert served(fast).calls == 1
        own.config.output_hidden_states = True
        assert len(fast(IDS, use_cache=False).hidden_states) == 4
