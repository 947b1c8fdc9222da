"""Decoding: against transformers (recorded, and anew where it is installed), enumeration, and what must not matter."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from pyattn.generation import Generated, GenerationOptions, generate, stream
from pyattn.generation.sampling import candidates, greatest
from tests.data.record_generation import (
    FILE,
    OTHER_STOP,
    SAMPLED,
    STOP,
    VOCABULARY,
    probabilities,
    random_case,
    record,
    tables,
)

RECORDED = json.loads(FILE.read_text())


class Table:
    """The recorded models: logits are a table's row for the last token, plus another's for the one before."""

    def __init__(self, number, rows):
        self.tables = tables(number)
        self.rows = [[] for _ in range(rows)]
        self.steps = []  # how many rows each step had

    def step(self, tokens, lengths=None):
        assert tokens.dtype == np.int64
        assert len(tokens) == len(self.rows)
        self.steps.append(len(tokens))
        for i, new in enumerate(tokens.tolist()):
            self.rows[i] = self.rows[i] + new[: None if lengths is None else lengths[i]]
        logits = self.tables[0, [row[-1] for row in self.rows]]
        for i, row in enumerate(self.rows):
            if len(row) > 1:
                logits[i] += self.tables[1, row[-2]]
        return logits

    def reorder(self, rows):
        self.rows = [self.rows[i] for i in rows]

    def log_probability(self, prompt, tokens):
        """Of tokens after a prompt, in float64."""
        total = 0.0
        row = list(prompt)
        for token in tokens:
            logits = self.tables[0, row[-1]].astype(np.float64)
            if len(row) > 1:
                logits += self.tables[1, row[-2]]
            total += logits[token] - np.log(np.exp(logits).sum())
            row.append(int(token))
        return total


class Fixed:
    """The same logits (vocabulary,), or (rows, vocabulary), at every step; or those of a list, one after the other."""

    def __init__(self, *logits):
        self.logits = [np.asarray(x, np.float32) for x in logits]
        self.taken = 0

    def step(self, tokens, lengths=None):
        logits = self.logits[min(self.taken, len(self.logits) - 1)]
        self.taken += 1
        return np.broadcast_to(logits, (len(tokens), logits.shape[-1]))

    def reorder(self, rows):
        pass


def assert_same(result, other):
    for one, two in itertools.zip_longest([result, *result.alternatives], [other, *other.alternatives]):
        np.testing.assert_array_equal(one.tokens, two.tokens)
        assert (one.reason, one.score) == (two.reason, two.score)


def random_prompts(rng, number):
    return [rng.integers(0, VOCABULARY, rng.integers(1, 9)) for _ in range(number)]


# As transformers


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


# Beams


@pytest.mark.parametrize("early_stopping", [False, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_that_cover_everything_find_the_best_sequence(length_penalty, early_stopping):
    vocabulary, most, stop = 4, 3, 2

    class Small(Table):
        def __init__(self, number):
            super().__init__(number, 1)
            self.tables = np.ascontiguousarray(self.tables[:, :vocabulary, :vocabulary])

    for number in range(20):
        sequences = [
            tokens[: tokens.index(stop) + 1] if stop in tokens else tokens
            for tokens in itertools.product(range(vocabulary), repeat=most)
        ]
        best = max(
            set(sequences),
            key=lambda x: Small(number).log_probability([1], x) / len(x) ** length_penalty,
        )
        [result] = generate(
            Small(number),
            [[1]],
            num_beams=vocabulary**most,
            max_new_tokens=most,
            stop_tokens=stop,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        assert tuple(result.tokens) == best
        expected = Small(number).log_probability([1], best) / len(best) ** length_penalty
        assert result.score == pytest.approx(expected, abs=1e-5)


def test_a_search_goes_on_where_most_continuations_end():
    """Each beam is best ended, by one token or the other; longer sequences rank better all the same."""
    [result] = generate(
        Fixed([3.0, 3.0, 0.0, 0.0]),
        [[2]],
        num_beams=2,
        max_new_tokens=6,
        stop_tokens=(0, 1),
        length_penalty=5.0,
        early_stopping="never",
    )
    assert len(result.tokens) == 6


def test_a_search_hopes_for_short_sequences_where_they_rank_better():
    """With a negative length_penalty a running sequence is best if it ends soon, not at the greatest length."""
    often = np.log([0.15, 0.8, 0.05])
    [result] = generate(
        Fixed(often, often, [9.0, 0.0, 0.0]),
        [[1]],
        num_beams=2,
        max_new_tokens=10,
        stop_tokens=0,
        length_penalty=-1.0,
        early_stopping="never",
    )
    assert result.tokens.tolist() == [1, 1, 0]
    assert result.score == pytest.approx(3 * 2 * np.log(0.8), abs=2e-3)


def test_alternatives_are_sorted_and_different():
    [result] = generate(
        Table(5, 1), [[1, 2]], num_beams=5, num_return_sequences=5, max_new_tokens=8, stop_tokens=(STOP, OTHER_STOP)
    )
    results = [result, *result.alternatives]
    assert len({tuple(x.tokens) for x in results}) == 5
    assert sorted((x.score for x in results), reverse=True) == [x.score for x in results]
    for x in results:
        assert x.score == pytest.approx(Table(5, 1).log_probability([1, 2], x.tokens) / len(x.tokens), abs=1e-5)


def test_fewer_sequences_than_beams():
    """A vocabulary of two tokens, one step: there are two sequences."""
    [result] = generate(Fixed([1.0, 0.0]), [[0]], num_beams=4, num_return_sequences=4, max_new_tokens=1)
    assert [x.tokens.tolist() for x in (result, *result.alternatives)] == [[0], [1]]
    [result] = generate(Fixed([1.0, 0.0]), [[0]], num_beams=4, num_return_sequences=4, max_new_tokens=2)
    assert [x.tokens.tolist() for x in (result, *result.alternatives)] == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_beam_without_a_way_on_is_dropped():
    """After token 0 nothing may follow; the other beam goes on, with and without renormalization."""

    def adjust(histories, logits):
        for history, row in zip(histories, logits, strict=True):
            if history.size and history[-1] == 0:
                row[:] = -np.inf
        return logits

    for renormalize in (False, True):
        [result] = generate(
            Fixed([2.0, 0.0, -5.0]),
            [[1]],
            num_beams=2,
            max_new_tokens=2,
            adjust=adjust,
            renormalize_logits=renormalize,
        )
        assert result.tokens.tolist() == [1, 0]


# What must not matter

STRATEGIES = [
    {"return_scores": True},
    {"return_scores": True, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    {"no_repeat_ngram_size": 1, "repetition_penalty": 0.8},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2, "forced_eos_token_id": STOP},
    {"max_length": 12, "num_beams": 2, "max_new_tokens": None, "length_penalty": 2.0, "early_stopping": "never"},
    {
        "max_length": 12,
        "max_new_tokens": None,
        "min_length": 10,
        "forced_bos_token_id": 9,
        "begin_suppress_tokens": [5],
    },
]


@pytest.mark.parametrize("changes", STRATEGIES, ids=str)
def test_a_result_does_not_depend_on_batch_mates(changes):
    options = GenerationOptions(**{"max_new_tokens": 12, "stop_tokens": (STOP, OTHER_STOP), **changes})
    rng = np.random.default_rng(0)
    for number in range(10):
        prompts = random_prompts(rng, 7)
        together = generate(Table(number, 7), prompts, options)
        assert len({len(result.tokens) for result in together}) > 1
        for prompt, result in zip(prompts, together, strict=True):
            [alone] = generate(Table(number, 1), [prompt], options)
            assert_same(result, alone)


@pytest.mark.parametrize("changes", [{}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.5}, {"num_return_sequences": 3}])
def test_draws_do_not_depend_on_batch_mates(changes):
    options = GenerationOptions(max_new_tokens=10, stop_tokens=STOP, do_sample=True, return_scores=True, **changes)
    prompts = random_prompts(np.random.default_rng(1), 6)
    together = generate(Table(3, 6), prompts, options, seed=range(100, 106))
    for i, prompt in enumerate(prompts):
        [alone] = generate(Table(3, 1), [prompt], options, seed=100 + i)
        assert_same(together[i], alone)
    first = generate(Table(3, 6), prompts, options, seed=7)
    fewer = generate(Table(3, 3), prompts[:3], options, seed=7)
    for result, other in zip(first, fewer, strict=False):
        assert_same(result, other)


def test_seeds():
    options = GenerationOptions(max_new_tokens=20, do_sample=True)

    def draw(seed):
        return [x.tokens.tolist() for x in generate(Table(1, 2), [[1], [1]], options, seed=seed)]

    assert draw(5) == draw(5) == draw(np.int64(5))
    assert draw(5) != draw(6)
    assert draw(5)[0] != draw(5)[1]
    assert draw([5, 5])[0] == draw([5, 5])[1] == draw(5)[0]
    assert draw(None) != draw(None)


def test_independent_draws_for_a_prompt():
    results = generate(Table(1, 2), [[1], [2, 3]], do_sample=True, num_return_sequences=3, max_new_tokens=20, seed=0)
    assert [len(result.alternatives) for result in results] == [2, 2]
    everything = [tuple(x.tokens) for result in results for x in (result, *result.alternatives)]
    assert len(set(everything)) == 6
    [first, second] = generate(Table(1, 2), [[1], [2, 3]], do_sample=True, max_new_tokens=20, seed=0)
    assert (tuple(first.tokens), tuple(second.tokens)) == (everything[0], everything[3])


def test_draws_have_their_probabilities():
    logits = np.log(np.array([0.5, 0.1, 0.3, 0.1], np.float32))
    prompts = [[0]] * 200
    results = generate(Fixed(logits), prompts, do_sample=True, max_new_tokens=50, seed=0)
    counts = np.bincount(np.concatenate([x.tokens for x in results]), minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), [0.5, 0.1, 0.3, 0.1], atol=0.015)  # 3 standard errors


def test_rows_that_have_ended_cost_nothing():
    prompts = random_prompts(np.random.default_rng(0), 20)
    for options in ({}, {"num_beams": 3}):
        table = Table(3, 20)
        results = generate(table, prompts, max_new_tokens=15, stop_tokens=(STOP, OTHER_STOP), **options)
        lengths = np.array([len(x.tokens) for x in results])
        assert table.steps[0] == 20
        if not options:
            assert table.steps == [int((lengths > i).sum()) for i in range(max(lengths))]
        assert table.steps[-1] < table.steps[1]


@pytest.mark.parametrize("order", ["C", "F"])
def test_scores_do_not_depend_on_batch_mates_in_large_vocabularies(order):
    logits = np.asarray(np.random.default_rng(0).normal(0, 4, (9, 30011)), np.float32, order=order)
    for options in (GenerationOptions(return_scores=True), GenerationOptions(num_beams=2)):
        together = generate(Fixed(logits), [[0]] * 9, options, max_new_tokens=1)
        for row, result in zip(logits, together, strict=True):
            assert_same(result, generate(Fixed(row), [[0]], options, max_new_tokens=1)[0])


@pytest.mark.parametrize("num_beams", [1, 2])
def test_long_results(num_beams):
    """There is room for any number of tokens."""
    table = Table(6, 1)
    [result] = generate(table, [[1, 2]], max_new_tokens=300, num_beams=num_beams, return_scores=True, length_penalty=0)
    assert len(result.tokens) == 300
    assert result.score == pytest.approx(Table(6, 1).log_probability([1, 2], result.tokens), rel=1e-5)


def test_prompts_may_be_an_array_and_none():
    prompts = np.array([[1, 2], [3, 4]], np.uint8)
    for result, prompt in zip(generate(Table(0, 2), prompts, max_new_tokens=4), prompts, strict=True):
        assert_same(result, generate(Table(0, 1), [prompt.tolist()], max_new_tokens=4)[0])
        assert result.tokens.dtype == np.int64
        assert (result.score, result.alternatives) == (None, ())
    assert generate(Table(0, 0), [], max_new_tokens=4) == []
    assert list(stream(Table(0, 0), [], max_new_tokens=4)) == []


# Rules


@pytest.mark.parametrize("num_beams", [1, 3])
def test_prefixes(num_beams):
    """A prefix is a longer prompt whose end belongs to the result."""
    prompts, prefixes = [[1, 2, 3], [4], [5, 6]], [[7], [8, 9, 10], []]
    options = GenerationOptions(max_new_tokens=8, stop_tokens=STOP, num_beams=num_beams, length_penalty=0.0)
    longer = [[*prompt, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)]
    for i, result in enumerate(generate(Table(2, 3), prompts, options, prefixes=prefixes)):
        n = len(prefixes[i])
        assert result.tokens[:n].tolist() == prefixes[i]
        [expected] = generate(Table(2, 1), [longer[i]], options, max_new_tokens=8 - n)
        np.testing.assert_array_equal(result.tokens[n:], expected.tokens)
        assert result.score == expected.score
    for result in generate(Table(2, 3), prompts, options, prefixes=[7, 8]):
        assert result.tokens[:2].tolist() == [7, 8]


def test_prefixes_count_for_lengths():
    logits = np.zeros(10)
    logits[3] = 5.0
    told = []

    def adjust(histories, logits):
        told.append([history.tolist() for history in histories])
        return logits

    for beams in (1, 2):
        results = generate(
            Fixed(logits),
            [[0], [0]],
            prefixes=[[4, 5], []],
            max_new_tokens=4,
            min_new_tokens=3,
            stop_tokens=3,
            num_beams=beams,
            adjust=adjust,
        )
        assert [len(x.tokens) for x in results] == [4, 4]
        assert results[0].tokens[:2].tolist() == [4, 5]
        assert results[0].tokens[2] != 3
        assert results[0].tokens[3] == 3
        assert told[0] == [[4, 5], []]
        told.clear()


def test_the_first_token_after_a_prefix_is_the_first():
    [result] = generate(Fixed([0.0, 1.0, 2.0]), [[0]], prefixes=[1], max_new_tokens=3, begin_suppress_tokens=[2])
    assert result.tokens.tolist() == [1, 1, 2]


def test_suppressed_and_forced_tokens():
    logits = [0.0, 1.0, 2.0, 3.0]
    [result] = generate(Fixed(logits), [[0]], max_new_tokens=4, suppress_tokens=[3], begin_suppress_tokens=[2])
    assert result.tokens.tolist() == [1, 2, 2, 2]
    [result] = generate(Fixed(logits), [[0]], max_new_tokens=4, forced_bos_token_id=0, begin_suppress_tokens=[3])
    assert result.tokens.tolist() == [0, 2, 3, 3]
    [result] = generate(Fixed(logits), [[0, 0]], max_new_tokens=2, forced_bos_token_id=0)
    assert result.tokens.tolist() == [3, 3]
    results = generate(Fixed(logits), [[0], [0, 1]], max_length=4, forced_eos_token_id=1, stop_tokens=1)
    assert [x.tokens.tolist() for x in results] == [[3, 3, 1], [3, 1]]
    assert [x.reason for x in results] == ["stop", "stop"]


def test_scores_are_of_the_rules_but_before_temperature():
    options = GenerationOptions(max_new_tokens=5, return_scores=True, do_sample=True, temperature=0.2, top_k=3, seed=0)
    prompts = [[1, 2], [3]]
    for prompt, result in zip(prompts, generate(Table(9, 2), prompts, options), strict=True):
        assert result.score == pytest.approx(Table(9, 1).log_probability(prompt, result.tokens), abs=1e-5)
    [result] = generate(Fixed([0.0, 0.0, 50.0]), [[0]], max_new_tokens=3, return_scores=True, suppress_tokens=[2])
    assert result.score == pytest.approx(3 * np.log(0.5))


def test_adjust_sees_tokens_and_rules():
    seen = []

    def adjust(histories, logits):
        assert logits.dtype == np.float32
        assert np.isneginf(logits[:, 1]).all()
        seen.append([history.tolist() for history in histories])
        return np.where(np.arange(5) == len(histories[0]), 9.0, logits)  # float64 is taken as well

    logits = np.zeros(5, np.float32)
    logits.flags.writeable = False  # the model's own array is never written to
    results = generate(Fixed(logits), [[1], [2, 2]], max_new_tokens=3, suppress_tokens=[1], adjust=adjust)
    assert [x.tokens.tolist() for x in results] == [[0, 1, 2], [0, 1, 2]]
    assert seen == [[[], []], [[0], [0]], [[0, 1], [0, 1]]]


def test_prompts_may_have_tokens_that_the_output_has_not():
    [result] = generate(
        Fixed([1.0, 1.5]), [[7, 1, 7, 1, 7]], max_new_tokens=2, repetition_penalty=2.0, no_repeat_ngram_size=2
    )
    assert result.tokens.tolist() == [0, 1]


# Streams


@pytest.mark.parametrize("changes", [{}, {"do_sample": True, "seed": 4, "top_k": 6}])
def test_a_stream_has_what_generate_returns(changes):
    prompts = random_prompts(np.random.default_rng(5), 5)
    options = GenerationOptions(max_new_tokens=9, stop_tokens=STOP, **changes)
    prefixes = [[], [4], [5, 6], [], [7]]
    streamed = [[] for _ in prompts]
    for prompt, token in stream(Table(4, 5), prompts, options, prefixes=prefixes):
        streamed[prompt].append(token)
    assert streamed == [x.tokens.tolist() for x in generate(Table(4, 5), prompts, options, prefixes=prefixes)]


def test_a_stream_does_no_work_ahead():
    table = Table(4, 2)
    tokens = stream(table, [[1], [2, 3]], max_new_tokens=9)
    assert table.steps == []
    taken = list(itertools.islice(tokens, 4))
    assert table.steps == [2, 2]
    tokens.close()
    assert table.rows == [[1, taken[0][1]], [2, 3, taken[1][1]]]


def test_a_finished_continuation_can_go_on():
    """Its caches hold all but the last token: what follows begins with that."""
    table = Table(8, 1)
    [first] = generate(table, [[1, 2]], max_new_tokens=5)
    assert table.rows == [[1, 2, *first.tokens[:-1]]]
    [second] = generate(table, [first.tokens[-1:]], max_new_tokens=5)
    [whole] = generate(Table(8, 1), [[1, 2]], max_new_tokens=10)
    assert [*first.tokens, *second.tokens] == whole.tokens.tolist()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_interruption_passes_and_leaves_the_continuation_alone(num_beams):
    class Interrupted(Table):
        calls = 0

        def step(self, tokens, lengths=None):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().step(tokens, lengths)

        def reorder(self, rows):
            assert self.calls < 3
            super().reorder(rows)

    table = Interrupted(8, 1)
    with pytest.raises(KeyboardInterrupt):
        generate(table, [[1, 2]], max_new_tokens=5, num_beams=num_beams)
    assert table.calls == 3
    assert [len(row) for row in table.rows] == [3] * num_beams
    table.rows = table.rows[:1]
    [result] = generate(table, [table.rows[0][-1:]], max_new_tokens=2)  # it goes on
    assert len(result.tokens) == 2


# No choice

NAN = [0.0, np.nan, 1.0]


@pytest.mark.parametrize(
    "changes", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 1}, {"num_beams": 2}], ids=str
)
@pytest.mark.parametrize("bad", [NAN, [0.0, np.inf, 1.0], [-np.inf] * 3], ids=["nan", "inf", "nothing"])
def test_logits_without_a_choice(bad, changes):
    good = np.zeros((3, 3))
    one_bad = good.copy()
    one_bad[1] = bad
    with pytest.raises(ValueError, match=r"^generate: no token can be chosen for prompt 1 as new token 1"):
        generate(Fixed(one_bad), [[0], [0], [0]], max_new_tokens=5, **changes)
    with pytest.raises(ValueError, match=r"^generate: no token can be chosen for prompt 0 as new token 3"):
        generate(Fixed(good[0], good[0], bad), [[0]], max_new_tokens=5, **changes)


@pytest.mark.parametrize(
    "changes", [{}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "renormalize_logits": True}]
)
def test_rules_that_leave_nothing(changes):
    with pytest.raises(ValueError, match=r"^generate: no token can be chosen for prompt 0 as new token 1"):
        generate(Fixed([0.0, 1.0]), [[0]], max_new_tokens=5, suppress_tokens=[0, 1], **changes)
    with pytest.raises(ValueError, match=r"^generate: no token can be chosen for prompt 0 as new token 1"):
        generate(Fixed([0.0, 1.0]), [[0]], max_new_tokens=5, adjust=lambda _, logits: logits * np.nan, **changes)


def test_prompts_are_numbered_after_others_have_ended():
    class Failing(Fixed):
        def step(self, tokens, lengths=None):
            self.taken += 1
            logits = np.zeros((len(tokens), 3), np.float32)
            if self.taken == 1:
                logits[0, 2] = 1.0
            elif self.taken == 2:
                logits[1] = np.nan
            return logits

    with pytest.raises(ValueError, match="prompt 2 as new token 2"):
        generate(Failing(), [[0], [0], [0]], max_new_tokens=5, stop_tokens=2)
    with pytest.raises(ValueError, match="^stream: no token can be chosen for prompt 2 as new token 2"):
        list(stream(Failing(), [[0], [0], [0]], max_new_tokens=5, stop_tokens=2))


# Ties


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 8, 20])
def test_the_lower_of_equals_comes_first(k):
    x = np.array([1, 3, 2, 3, 3, 1, 2, -np.inf], np.float32)
    np.testing.assert_array_equal(greatest(x, k), np.argsort(-x, kind="stable")[:k])
    rng = np.random.default_rng(k)
    for _ in range(20):
        x = rng.integers(0, 9, 50).astype(np.float32)
        np.testing.assert_array_equal(greatest(x, k), np.argsort(-x, kind="stable")[:k])


def test_ties_in_sampling():
    equal = np.zeros(6, np.float32)
    assert candidates(equal, GenerationOptions(top_k=2))[0].tolist() == [0, 1]
    assert sorted(candidates(equal, GenerationOptions(top_p=0.5))[0]) == [0, 1, 2]
    assert candidates(equal, GenerationOptions(top_p=0.0))[0].tolist() == [0]
    assert sorted(candidates(equal, GenerationOptions(min_p=1.0))[0]) == [0, 1, 2, 3, 4, 5]
    some = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    assert sorted(candidates(some, GenerationOptions())[0]) == [1, 3]
    assert sorted(candidates(some, GenerationOptions(top_k=3))[0]) == [1, 3]


# generation_config.json


def test_a_whisper_and_a_bart_file():
    whisper = {
        "alignment_heads": [[2, 2], [3, 0]],
        "begin_suppress_tokens": [220, 50257],
        "bos_token_id": 50257,
        "decoder_start_token_id": 50258,
        "eos_token_id": 50257,
        "forced_decoder_ids": [[1, None], [2, 50359]],
        "is_multilingual": True,
        "max_length": 448,
        "return_timestamps": False,
        "suppress_tokens": [1, 2, 7],
    }
    options = GenerationOptions.from_dict(whisper)
    assert options == GenerationOptions(
        begin_suppress_tokens=(220, 50257), stop_tokens=50257, max_length=448, suppress_tokens=(1, 2, 7), top_k=50
    )
    bart = {
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": [2],
        "length_penalty": 2,
        "max_length": 142,
        "min_length": 56,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "bad_words_ids": [[1], [2]],
        "temperature": None,
        "typical_p": 1.0,
        "diversity_penalty": 0.0,
    }
    options = GenerationOptions.from_dict(bart)
    assert (options.forced_bos_token_id, options.forced_eos_token_id, options.early_stopping) == (0, 2, True)
    assert (options.length_penalty, options.min_length, options.max_length, options.num_beams) == (2.0, 56, 142, 4)
    assert (options.bad_words_ids, options.temperature) == (((1,), (2,)), 1.0)


UNSUPPORTED = [
    {"num_beam_groups": 2, "num_beams": 2},
    {"stop_strings": ["."]},
    {"guidance_scale": 1.5},
    {"max_time": 3.5},
    {"penalty_alpha": 0.6},
    {"dola_layers": "high"},
    {"constraints": []},
    {"force_words_ids": [[3]]},
    {"token_healing": True},
    {"watermarking_config": {"bias": 2.0}},
    {"cache_implementation": "quantized"},
    {"top_h": 0.4, "do_sample": True},
    {"bad_words_ids": 3},
    {"bad_words_ids": [3]},
    {"bad_words_ids": [[]]},
    {"sequence_bias": {"3": 1.0}},
    {"sequence_bias": [[[3], "much"]]},
    {"exponential_decay_length_penalty": 3},
    {"num_beams": 4, "do_sample": True},
    {"temperature": 0.0, "do_sample": True},
    {"temperature": "hot", "do_sample": True},
    {"top_k": -2, "do_sample": True},
    {"length_penalty": "long", "num_beams": 2},
    {"eos_token_id": "</s>"},
]


@pytest.mark.parametrize("values", UNSUPPORTED, ids=str)
def test_files_that_ask_for_something_else_are_refused(values):
    name = next(iter(values))
    with pytest.raises((TypeError, ValueError), match=rf"^GenerationOptions: .*({name}|stop_tokens)"):
        GenerationOptions.from_dict(values)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.0, "top_k": -2, "top_p": 3, "min_p": "x", "typical_p": 0, "epsilon_cutoff": 3, "top_h": 0.3},
        {"length_penalty": 1e9, "early_stopping": "soon", "num_beam_groups": 4, "diversity_penalty": 0.5},
        {"eos_token_id": -1, "suppress_tokens": [-1], "begin_suppress_tokens": [-2]},
        {"min_length": -1, "no_repeat_ngram_size": -1, "encoder_no_repeat_ngram_size": -1, "top_k": -1},
        {"penalty_alpha": 0.6, "top_k": 1},
        {"remove_invalid_values": True, "low_memory": True, "use_mtp": True, "prompt_lookup_num_tokens": 2},
        {"cache_implementation": "static", "max_cache_len": 3, "assistant_lookbehind": 2, "pad_token_id": -1},
    ],
    ids=str,
)
def test_what_has_no_effect_in_a_file_is_passed_over(values):
    options = GenerationOptions.from_dict({"max_new_tokens": 4} | values)
    plain = GenerationOptions(max_new_tokens=4)
    [told], [expected] = (generate(Table(3, 1), [[1, 2]], x) for x in (options, plain))
    assert told.tokens.tolist() == expected.tokens.tolist()


def test_what_had_no_effect_is_named_once_it_has():
    options = GenerationOptions.from_dict({"temperature": 0.0, "length_penalty": "long", "max_new_tokens": 4})
    for changes, name in (({"do_sample": True}, "temperature is 0.0"), ({"num_beams": 2}, "length_penalty is 'long'")):
        with pytest.raises(ValueError, match=f"^GenerationOptions: {name}, which is not accepted beside num_beams"):
            generate(Table(3, 1), [[1, 2]], options, **changes)
        with pytest.raises(ValueError, match=f"^GenerationOptions: {name}"):
            replace(options, **changes)
    [result] = generate(Table(3, 1), [[1, 2]], options, do_sample=True, temperature=0.5, seed=0)
    assert result.tokens.size == 4
    kept = GenerationOptions.from_dict({"temperature": 0.7, "max_new_tokens": 4})
    assert replace(kept, do_sample=True).temperature == 0.7


# Bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be an integer, 1 or more, not 0"),
        ({"max_new_tokens": 1.5}, TypeError, "max_new_tokens must be an integer"),
        ({"max_length": -1}, ValueError, "max_length must be"),
        ({"min_new_tokens": -1}, ValueError, "min_new_tokens must be"),
        ({"min_new_tokens": 4, "max_new_tokens": 3}, ValueError, "min_new_tokens=4 is more than max_new_tokens=3"),
        ({"num_beams": 0}, ValueError, "num_beams must be"),
        ({"num_beams": True}, TypeError, "num_beams must be"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences=2 needs do_sample"),
        ({"num_return_sequences": 4, "num_beams": 3}, ValueError, "num_return_sequences=4 needs"),
        ({"num_beams": 2, "do_sample": True}, ValueError, "do_sample does not go with num_beams=2"),
        ({"temperature": 0}, ValueError, "temperature must be from 1e-30 to 1e.06, not 0"),
        ({"temperature": np.nan}, ValueError, "temperature must be from"),
        ({"temperature": "hot"}, TypeError, "temperature must be a real number, not str"),
        ({"top_p": 1.1}, ValueError, "top_p must be from 0 to 1"),
        ({"min_p": -0.1}, ValueError, "min_p must be from 0 to 1"),
        ({"top_k": -1}, ValueError, "top_k must be"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be"),
        ({"length_penalty": 21}, ValueError, "length_penalty must be from -20 to 20"),
        ({"typical_p": 0}, ValueError, "typical_p must be from 1e-30 to 1, not 0"),
        ({"bad_words_ids": [1]}, ValueError, r"bad_words_ids\[0\] has shape"),
        ({"bad_words_ids": [[1], []]}, ValueError, r"bad_words_ids\[1\] is empty"),
        ({"bad_words_ids": "ab"}, TypeError, "bad_words_ids must be a list of lists of token ids, not str"),
        ({"sequence_bias": [[1], 2.0]}, TypeError, "sequence_bias must be a list of pairs"),
        ({"sequence_bias": [([1], np.nan)]}, ValueError, "sequence_bias must be from -inf"),
        ({"exponential_decay_length_penalty": (1, -2)}, ValueError, "exponential_decay_length_penalty must be from 0"),
        ({"forced_eos_token_id": []}, ValueError, "forced_eos_token_id must be a token id, or several"),
        ({"early_stopping": "always"}, ValueError, "early_stopping must be True, False or"),
        ({"early_stopping": None}, TypeError, "early_stopping must be True or False"),
        ({"do_sample": "yes"}, TypeError, "do_sample must be True or False"),
        ({"stop_tokens": -1}, ValueError, "stop_tokens must not be negative"),
        ({"stop_tokens": 1.0}, TypeError, "stop_tokens has dtype float64"),
        ({"suppress_tokens": [[1]]}, ValueError, "suppress_tokens has shape"),
        ({"suppress_tokens": 1}, ValueError, "suppress_tokens has shape"),
        ({"forced_bos_token_id": -2}, ValueError, "forced_bos_token_id must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"seed": 1.5}, TypeError, "seed must be"),
        ({"seed": [1, "a"]}, TypeError, r"seed\[1\] must be"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(changes, error, message):
    with pytest.raises(error, match=f"^GenerationOptions: {message}"):
        GenerationOptions(**changes)
    with pytest.raises(error, match=f"^GenerationOptions: {message}"):
        generate(Fixed([0.0]), [[0]], **changes)


@pytest.mark.parametrize("function", [generate, stream])
@pytest.mark.parametrize(
    ("arguments", "changes", "error", "message"),
    [
        (([[0]],), {}, ValueError, "max_new_tokens, or max_length"),
        (([[0]], {"max_new_tokens": 3}), {}, TypeError, "options must be GenerationOptions or None, not dict"),
        (([[0]],), {"max_tokens": 3}, TypeError, "there is no option 'max_tokens'; there are max_new_tokens,"),
        (("text",), {"max_new_tokens": 3}, TypeError, "prompts must be a list of arrays of token ids.*not str"),
        (
            (np.array([1, 2]),),
            {"max_new_tokens": 3},
            TypeError,
            r"prompts must be a list.* not an array of shape \(2,\)",
        ),
        (([1, 2],), {"max_new_tokens": 3}, ValueError, r"prompts\[0\] has shape \(\)"),
        (([[0], []],), {"max_new_tokens": 3}, ValueError, r"prompts\[1\] is empty"),
        (([[0], [1.0]],), {"max_new_tokens": 3}, TypeError, r"prompts\[1\] has dtype float64"),
        (([[0, -3]],), {"max_new_tokens": 3}, ValueError, r"prompts\[0\] must not be negative, but one is -3"),
        (([[0], [1, 2]],), {"max_length": 2}, ValueError, r"no new token may follow prompts\[1\] of 2 tokens"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": [1, 2]}, ValueError, ".*of 1 tokens and a prefix of 2"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": [[1], [2]]}, ValueError, "there are 1 prompts, but 2 prefixes"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": 3}, TypeError, "prefixes must be a list"),
        (([[0]],), {"max_new_tokens": 2, "prefixes": [[1.5]]}, TypeError, r"prefixes\[0\] has dtype"),
        (([[0]],), {"max_new_tokens": 2, "seed": [1, 2]}, ValueError, "there are 1 prompts, but 2 seeds"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(function, arguments, changes, error, message):
    continuation = Fixed([0.0, 0.0])
    with pytest.raises(error, match=f"^{function.__name__}: {message}"):
        function(continuation, *arguments, **changes)
    assert not continuation.taken


def test_streams_of_beams_are_refused():
    for changes in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        with pytest.raises(ValueError, match="^stream: one result for each prompt, without beams, can be streamed"):
            stream(Fixed([0.0]), [[0]], max_new_tokens=2, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_tokens": (1, 2)},
        {"suppress_tokens": [2]},
        {"begin_suppress_tokens": [2]},
        {"forced_eos_token_id": 2},
        {"bad_words_ids": [[2, 1]]},
        {"sequence_bias": [([1, 2], 1.0)]},
    ],
)
def test_tokens_beyond_the_vocabulary_are_refused(changes):
    with pytest.raises(ValueError, match="^generate: the options name token 2; the vocabulary has 2"):
        generate(Fixed([0.0, 0.0]), [[0]], max_new_tokens=2, **changes)


def test_a_continuation_or_an_adjustment_that_returns_something_else():
    class Wrong(Fixed):
        def step(self, tokens, lengths=None):
            return self.logits[0]

    with pytest.raises(ValueError, match=r"^generate: step must return \(1, vocabulary\) logits, not \(3,\)"):
        generate(Wrong(np.zeros(3)), [[0]], max_new_tokens=2)
    for wrong, seen in ((None, "NoneType"), (np.zeros(2), r"shape \(2,\)")):
        with pytest.raises(ValueError, match=rf"^generate: adjust must return logits of shape \(1, 2\), not {seen}"):
            generate(Fixed([0.0, 0.0]), [[0]], max_new_tokens=2, adjust=lambda *_: wrong)  # noqa: B023


def test_results_are_compared_by_identity():
    result = Generated(np.array([1]), "stop")
    assert result == result
    assert result != Generated(np.array([1]), "stop")
