"""Prompts, prefixes and results, and that no result depends on its batch mates."""

import numpy as np
import pytest

from pyattn.generation import Generated, GenerationOptions, generate, stream
from tests.data.record_generation import (
    OTHER_STOP,
    STOP,
)
from tests.support.continuations import Fixed, Table, assert_same, random_prompts

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


def test_results_are_compared_by_identity():
    result = Generated(np.array([1]), "stop")
    assert result == result
    assert result != Generated(np.array([1]), "stop")
