"""Draws: seeds, probabilities, ties."""

import numpy as np
import pytest

from pyattn.generation import GenerationOptions, generate
from pyattn.generation.sampling import candidates, greatest
from tests.data.record_generation import (
    STOP,
)
from tests.support.continuations import Fixed, Table, assert_same, random_prompts


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
