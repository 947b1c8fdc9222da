"""Tokens as they are chosen."""

import itertools

import numpy as np
import pytest

from pyattn.generation import GenerationOptions, generate, stream
from tests.data.record_generation import (
    STOP,
)
from tests.support.continuations import Fixed, Table, random_prompts


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
    tokens.close()  # type: ignore[attr-defined]
    assert table.rows == [[1, taken[0][1]], [2, 3, taken[1][1]]]


def test_streams_of_beams_are_refused():
    for changes in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        with pytest.raises(ValueError, match="^stream: one result for each prompt, without beams, can be streamed"):
            stream(Fixed([0.0]), [[0]], max_new_tokens=2, **changes)
