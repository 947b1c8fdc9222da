"""Decoding agrees with transformers: recorded, and anew where it is installed."""

import json

import numpy as np
import pytest

from pyattn.generation import GenerationOptions, generate
from pyattn.generation.sampling import candidates
from tests.data.record_generation import (
    FILE,
    SAMPLED,
    VOCABULARY,
    probabilities,
    random_case,
    record,
    tables,
)
from tests.support.continuations import Table

RECORDED = json.loads(FILE.read_text())


def assert_as_transformers(case, results):
    """Where a beam search finds too few sequences, transformers fills up with ones that score about -1e9."""
    scores = case["scores"] or [0.0] * len(case["tokens"])
    expected = [tokens for tokens, score in zip(case["tokens"], scores, strict=True) if score > -1e8]
    assert [result.tokens.tolist() for result in results] == expected
    if case["scores"]:
        real = [score for score in scores if score > -1e8]
        np.testing.assert_allclose([result.score for result in results], real, rtol=1e-5, atol=1e-6)
    stops = np.atleast_1d(case["options"].get("eos_token_id", [])).tolist()
    for result in results:
        assert result.reason == ("stop" if result.tokens[-1] in stops else "length")


def as_transformers(case):
    options = GenerationOptions.from_dict(case["options"])
    [result] = generate(Table(case["model"], 1), [case["prompt"]], options)
    assert_as_transformers(case, [result, *result.alternatives])


def test_the_recorded_cases_cover_all_options():
    seen = [case["options"] for case in RECORDED["cases"]]
    rng = np.random.default_rng(3)
    everything = {name for _ in range(200) for name in random_case(rng)["options"]}
    assert everything == {name for options in seen for name in options}
    assert {options.get("early_stopping") for options in seen} == {None, False, True, "never"}


@pytest.mark.parametrize("part", range(10))
def test_tokens_are_those_of_transformers(part):
    cases = RECORDED["cases"][part::10]
    assert len(cases) == 40
    for case in cases:
        as_transformers(case)


@pytest.mark.parametrize("case", RECORDED["sampled"], ids=lambda case: str(case["options"]))
def test_what_is_drawn_from_is_what_transformers_draws_from(case):
    number = SAMPLED.index(case["options"])
    options = GenerationOptions(do_sample=True, **case["options"])
    for logits, expected in zip(tables(number)[0], case["probabilities"], strict=False):
        ids, weights = candidates(logits, options)
        drawn = np.zeros(VOCABULARY)
        drawn[ids] = weights / weights.sum()
        np.testing.assert_allclose(drawn, expected, atol=2e-6)
        assert ids.size == np.count_nonzero(expected)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    return module


@pytest.mark.filterwarnings("ignore")
def test_tokens_are_those_of_the_installed_transformers(transformers):
    for case in record(seed=1, number=60):
        as_transformers(case)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", SAMPLED, ids=str)
def test_probabilities_are_those_of_the_installed_transformers(transformers, options):
    logits = np.random.default_rng(0).normal(0, 3, (20, 1000)).astype(np.float32)
    for row, expected in zip(logits, probabilities(options, logits), strict=True):
        ids, weights = candidates(row, GenerationOptions(do_sample=True, **options))
        drawn = np.zeros(1000)
        drawn[ids] = weights / weights.sum()
        np.testing.assert_allclose(drawn, expected, atol=1e-5)


class Recomputing:
    """A torch model that computes everything again at each step."""

    def __init__(self, model, rows):
        self.model = model
        self.rows = [[] for _ in range(rows)]

    def step(self, tokens, lengths=None):
        import torch

        for i, new in enumerate(tokens.tolist()):
            self.rows[i] = self.rows[i] + new[: None if lengths is None else lengths[i]]
        with torch.inference_mode():
            return np.stack([self.model(torch.tensor([row])).logits[0, -1].numpy() for row in self.rows])

    def reorder(self, rows):
        self.rows = [self.rows[i] for i in rows]


@pytest.mark.filterwarnings("ignore")
def test_a_gpt2_writes_as_in_transformers(transformers):
    import torch

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    rng = np.random.default_rng(2)
    for _ in range(20):
        case = random_case(rng)
        prompt = torch.tensor([case["prompt"]])
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            pad_token_id=VOCABULARY,
            return_dict_in_generate=True,
            output_scores=True,
            **case["options"],
        )
        rows = output.sequences[:, prompt.shape[1] :].tolist()
        case["tokens"] = [[token for token in row if 0 <= token < VOCABULARY] for row in rows]
        case["scores"] = output.sequences_scores.tolist() if case["options"].get("num_beams", 1) > 1 else None
        [result] = generate(Recomputing(model, 1), prompt.numpy(), GenerationOptions.from_dict(case["options"]))
        assert_as_transformers(case, [result, *result.alternatives])
