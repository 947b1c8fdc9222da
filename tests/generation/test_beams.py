"""Beam search: against enumeration, and how a search ends."""

import itertools

import numpy as np
import pytest

from pyattn.generation import generate
from tests.data.record_generation import (
    OTHER_STOP,
    STOP,
)
from tests.support.continuations import Fixed, Table


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
