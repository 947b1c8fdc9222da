"""Rules, a model's own adjustment, and logits that leave no choice."""

import numpy as np
import pytest

from pyattn.generation import GenerationOptions, generate, stream
from tests.support.continuations import Fixed, Table


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
