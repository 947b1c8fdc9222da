"""Beam search, as transformers' generate defines it."""

from typing import NamedTuple

import numpy as np

from pyattn._checks import Array
from pyattn.generation.options import GenerationOptions
from pyattn.generation.rows import Continuation, Rows, first_logits, next_logits, no_choice
from pyattn.generation.rules import Rules
from pyattn.generation.sampling import greatest, log_sum


class Hypothesis(NamedTuple):
    """A sequence that has ended: its log-probability / tokens ** length_penalty, and its new tokens."""

    score: float
    tokens: Array


class _Beams(NamedTuple):
    """The next tokens of a prompt's running sequences: the row of each parent, the token, and the log-probability."""

    parents: Array
    tokens: Array
    scores: Array


def beam_search(
    function: str, continuation: Continuation, rows: Rows, options: GenerationOptions, rules: Rules
) -> list[list[Hypothesis]]:
    """At most num_beams ended sequences of each prompt, the best first."""
    ended: list[list[Hypothesis]] = [[] for _ in rows.number]
    most = max(2, 1 + np.size(options.stop_tokens)) * options.num_beams  # at least num_beams do not end
    logits = first_logits(function, continuation, rows, options)
    scores = np.zeros((len(ended), 1), np.float32)  # (prompts, beams); a prompt begins with one beam
    while True:
        log_probabilities = logits - log_sum(logits)
        if rules.active:
            log_probabilities = rules(rows, log_probabilities)
        if options.renormalize_logits:
            sums = log_sum(log_probabilities)
            log_probabilities -= np.where(np.isfinite(sums), sums, 0)  # a beam may have no possible token
        totals = (log_probabilities.reshape(*scores.shape, -1) + scores[:, :, None]).reshape(len(scores), -1)
        width = scores.shape[1]
        beams = []
        for i, candidates in enumerate(totals):
            row, prompt = i * width, int(rows.number[i * width])
            peak = candidates.max()
            if not (peak < np.inf and (peak > -np.inf or ended[prompt])):
                raise no_choice(function, prompt, rows.length - rows.begin + 1)
            best = greatest(candidates, most)
            parents, tokens = np.divmod(best, log_probabilities.shape[1])
            continued = _advance(options, rows, row, _Beams(row + parents, tokens, candidates[best]), ended[prompt])
            if continued is not None:
                beams.append(continued)
        if not beams:
            return ended
        parents, tokens = np.concatenate([b.parents for b in beams]), np.concatenate([b.tokens for b in beams])
        scores = np.stack([b.scores for b in beams])
        if len(parents) != len(rows.number) or (parents != np.arange(len(parents))).any():
            continuation.reorder(parents)
            rows = rows.take(parents)
        rows.append(tokens)
        logits = next_logits(function, continuation, tokens)


def _advance(options: GenerationOptions, rows: Rows, row: int, best: _Beams, ended: list[Hypothesis]) -> _Beams | None:
    """Takes the best candidates, in order, for the prompt whose first row is given; None: the search has ended."""
    size = options.num_beams
    length = rows.length + 1 - int(rows.start[row])
    longest = int(rows.limit[row] - rows.start[row])
    ends = (best.tokens[:, None] == np.array(options.stop_tokens, np.int64)).any(axis=1) | (length == longest)
    for i in np.flatnonzero(ends[:size] & (best.scores[:size] > -np.inf)):
        tokens = np.append(rows.result(best.parents[i]), best.tokens[i])
        ended.append(Hypothesis(float(best.scores[i]) / length**options.length_penalty, tokens))
    ended.sort(key=lambda hypothesis: -hypothesis.score)
    del ended[size:]

    runs = np.flatnonzero(~ends & (best.scores > -np.inf))[:size]
    if not runs.size or (options.early_stopping is True and len(ended) == size):
        return None
    hoped = longest if options.early_stopping == "never" and options.length_penalty > 0 else length
    hope = float(best.scores[runs[0]]) / hoped**options.length_penalty
    if len(ended) == size and hope <= ended[-1].score:
        return None
    # If fewer than num_beams run, copies that can never be chosen fill the missing places.
    running = _Beams(*(x[np.resize(runs, size)] for x in best))
    running.scores[runs.size :] = -np.inf
    return running
