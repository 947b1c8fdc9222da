"""Decoding strategies: how the next tokens of sequences are chosen. They know nothing of models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn._checks import Array
from pyattn.generation.beams import beam_search
from pyattn.generation.options import GenerationOptions, changed_options
from pyattn.generation.rows import Adjust, Continuation, Rows, make_rows
from pyattn.generation.rules import Rules
from pyattn.generation.sampling import one_by_one

__all__ = ["Continuation", "Generated", "GenerationOptions", "generate", "stream"]


@dataclass(frozen=True, eq=False)
class Generated:
    """The continuation of a prompt.

    Args:
        tokens: (length,) int64, prefix and stop token included, the prompt not.
        reason: "stop" if a stop token ended it, "length" if it reached its greatest length.
        score: the sum of its tokens' log-probabilities, for beams / length ** length_penalty; None unless asked for.
        alternatives: further results for the prompt, best first; of num_return_sequences a beam search may find fewer.
    """

    tokens: Array
    reason: str
    score: float | None = None
    alternatives: tuple["Generated", ...] = ()


def generate(
    continuation: Continuation,
    prompts: Sequence[ArrayLike] | Array,
    options: GenerationOptions | None = None,
    *,
    prefixes: ArrayLike | Sequence[ArrayLike] | None = None,
    adjust: Adjust | None = None,
    sources: Sequence[ArrayLike] | None = None,
    **changes: Any,
) -> list[Generated]:
    """Continues prompts: greedily, by sampling, or by beam search.

    Tokens agree with those of transformers' generate for each prompt alone. The result for a prompt depends neither on
    the other prompts nor on their number, provided that the model's logits do not.

    Rows that have ended are dropped from the continuation before its next step. If step, reorder or adjust raises, or
    is interrupted, the exception passes through and the continuation is not touched again: it has the rows of the last
    reorder, and is usable if its own methods have kept it so. After the end, it still has the rows that ended last,
    with all their tokens but the last one; a prompt of that token and further ones continues them.

    Args:
        continuation: a model with its caches, one row for each prompt; see Continuation.
        prompts: arrays of token ids, of any lengths but 0; or (prompts, length).
        options: how tokens are chosen.
        prefixes: tokens that results begin with: one sequence for all prompts, or one for each. Their log-probability
            is 0, since they are given; limits of length and length_penalty count them.
        adjust: a model's own rule: it takes each row's new tokens so far (with the prefix) and the logits (rows,
            vocabulary) of the next ones, float32, under the rules of the options (log-probabilities in a beam search),
            and returns the logits to use, perhaps the given ones, overwritten. The options of sampling come later.
        sources: for each prompt, the tokens that an encoder has read, which the options that begin with encoder_
            use; None: the prompts themselves.
        **changes: options by name, instead of those in `options`.

    Returns:
        One result for each prompt.

    Raises:
        TypeError, ValueError: an argument is wrong, the options name tokens that are not in the vocabulary, or there is
            no token to choose: the greatest logit of a row is not finite. The message says which prompt and token.

    Example:
        >>> import numpy as np
        >>> class Counter:
        ...     '''After token t comes t + 1.'''
        ...     def step(self, tokens, lengths=None):
        ...         last = np.full(len(tokens), tokens.shape[1]) if lengths is None else lengths
        ...         return np.eye(10, dtype=np.float32)[tokens[np.arange(len(tokens)), last - 1] + 1]
        ...     def reorder(self, rows):
        ...         pass
        >>> [short, long] = generate(Counter(), [[4], [0, 1]], max_new_tokens=3, stop_tokens=6)
        >>> short.tokens, short.reason
        (array([5, 6]), 'stop')
        >>> long.tokens, long.reason
        (array([2, 3, 4]), 'length')
    """
    options = changed_options("generate", options, changes)
    rows = make_rows("generate", prompts, prefixes, options)
    rules = Rules("generate", options, adjust, sources, len(rows.number))
    number = options.num_return_sequences
    if not rows.number.size:
        return []
    if options.num_beams > 1:
        found = beam_search("generate", continuation, rows, options, rules)
        results = [[_generated(x.tokens, x.score, options) for x in hypotheses[:number]] for hypotheses in found]
    else:
        draws: dict[int, Generated] = {}
        for step in one_by_one("generate", continuation, rows, options, rules):
            for i in step.ended.nonzero()[0].tolist():
                score = float(step.scores[i]) if options.return_scores else None
                draws[int(step.rows.number[i])] = _generated(step.rows.result(i), score, options)
        results = [[draws[first + i] for i in range(number)] for first in range(0, len(draws), number)]
    return [replace(first, alternatives=tuple(others)) for first, *others in results]


def stream(
    continuation: Continuation,
    prompts: Sequence[ArrayLike] | Array,
    options: GenerationOptions | None = None,
    *,
    prefixes: ArrayLike | Sequence[ArrayLike] | None = None,
    adjust: Adjust | None = None,
    sources: Sequence[ArrayLike] | None = None,
    **changes: Any,
) -> Iterator[tuple[int, int]]:
    """Continues prompts as generate does, and yields tokens as they are chosen; beams cannot be streamed.

    If the iterator is closed early, the continuation lacks the last step's tokens, and has the rows that ended in it.

    Args:
        continuation, prompts, options, prefixes, adjust, sources, **changes: as generate's.

    Yields:
        The number of a prompt, and its next token.

    Raises:
        TypeError, ValueError: as generate; the options ask for beams or several results for a prompt. The call raises
            errors about arguments, not the iterator.

    Example:
        >>> import numpy as np
        >>> class Counter:
        ...     '''After token t comes t + 1.'''
        ...     def step(self, tokens, lengths=None):
        ...         return np.eye(10, dtype=np.float32)[tokens[:, -1] + 1]
        ...     def reorder(self, rows):
        ...         pass
        >>> list(stream(Counter(), [[1], [5]], max_new_tokens=3, stop_tokens=6))
        [(0, 2), (1, 6), (0, 3), (0, 4)]
    """
    options = changed_options("stream", options, changes)
    if options.num_beams > 1 or options.num_return_sequences > 1:
        raise ValueError(
            "stream: one result for each prompt, without beams, can be streamed, not "
            f"num_beams={options.num_beams} and num_return_sequences={options.num_return_sequences}"
        )
    rows = make_rows("stream", prompts, prefixes, options)
    rules = Rules("stream", options, adjust, sources, len(rows.number))
    return _stream(continuation, rows, options, rules)


def _stream(
    continuation: Continuation, rows: Rows, options: GenerationOptions, rules: Rules
) -> Iterator[tuple[int, int]]:
    for prompt in rows.number.tolist():
        for token in rows.result(prompt).tolist():
            yield prompt, token
    if rows.number.size:
        for step in one_by_one("stream", continuation, rows, options, rules):
            yield from zip(step.rows.number.tolist(), step.tokens.tolist(), strict=True)


def _generated(tokens: Array, score: float | None, options: GenerationOptions) -> Generated:
    return Generated(tokens, "stop" if tokens[-1] in np.array(options.stop_tokens) else "length", score)
