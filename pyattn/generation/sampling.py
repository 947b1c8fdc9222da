"""Decoding without beams: each row gets the most probable token, or one that is drawn at random."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyattn._checks import Array
from pyattn.generation.options import GenerationOptions
from pyattn.generation.rows import Continuation, Rows, first_logits, next_logits, no_choice
from pyattn.generation.rules import Rules


@dataclass
class Step:
    """The result of one step: the rows with their new tokens, which of them have ended, and their scores so far."""

    rows: Rows
    tokens: Array  # (rows,)
    ended: Array  # (rows,) bool
    scores: Array  # (rows,) float64; 0 unless scores are asked for


def one_by_one(
    function: str, continuation: Continuation, rows: Rows, options: GenerationOptions, rules: Rules
) -> Iterator[Step]:
    """Steps until all rows have ended. A row that has ended is dropped from the continuation before the next step."""
    logits = first_logits(function, continuation, rows, options)
    stops = np.array(options.stop_tokens, np.int64)
    generators = _generators(options, len(rows.number))
    if (draws := options.num_return_sequences) > 1:
        copies = np.repeat(np.arange(len(rows.number)), draws)
        continuation.reorder(copies)
        rows, logits = rows.take(copies), logits[copies]
        rows.number = np.arange(len(copies))
    scores = np.zeros(len(rows.number))
    index = np.arange(len(rows.number))
    while True:
        if rules.active:
            logits = rules(rows, np.array(logits, np.float32))
        tokens = _draw_all(logits, generators, rows, options) if options.do_sample else logits.argmax(axis=1)
        chosen = logits[index, tokens]
        if not np.isfinite(chosen).all():  # argmax returns NaN if there is one
            wrong = int(rows.number[~np.isfinite(chosen)][0])
            raise no_choice(function, wrong // draws, rows.length - rows.begin + 1)
        if options.return_scores:
            scores += chosen - log_sum(logits)[:, 0]
        rows.append(tokens)
        ended = (tokens[:, None] == stops).any(axis=1) | (rows.length == rows.limit)
        yield Step(rows, tokens, ended, scores)
        if ended.any():
            kept = np.flatnonzero(~ended)
            if not kept.size:
                return
            continuation.reorder(kept)
            rows, scores, tokens, index = rows.take(kept), scores[kept], tokens[kept], index[: len(kept)]
        logits = next_logits(function, continuation, tokens)


def log_sum(logits: Array) -> Array:
    """log(sum(exp(logits))) of each row, (rows, 1); NaN where a logit is NaN or +inf, or all are -inf."""
    with np.errstate(invalid="ignore"):
        peak = logits.max(axis=1, keepdims=True)
        total: Array = np.log(np.exp(logits - peak).sum(axis=1, keepdims=True)) + peak
    return total


def _generators(options: GenerationOptions, prompts: int) -> list[np.random.Generator]:
    """A generator for each draw of each prompt."""
    if not options.do_sample:
        return []
    if isinstance(options.seed, tuple):
        streams = [(seed, 0) for seed in options.seed]
    else:
        seed = np.random.SeedSequence(options.seed).entropy
        streams = [(seed, i) for i in range(prompts)]
    return [
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, draw)))
        for seed, stream in streams
        for draw in range(options.num_return_sequences)
    ]


def _draw_all(logits: Array, generators: list[np.random.Generator], rows: Rows, options: GenerationOptions) -> Array:
    tokens: Array = logits.argmax(axis=1)
    for i, row in enumerate(logits):
        if np.isfinite(row[tokens[i]]):
            ids, weights = candidates(row, options)
            sums = np.cumsum(weights)
            place = np.searchsorted(sums, generators[rows.number[i]].random() * sums[-1], side="right")
            tokens[i] = ids[min(place, ids.size - 1)]
    return tokens


def candidates(logits: Array, options: GenerationOptions) -> tuple[Array, Array]:
    """The tokens that may be drawn from logits (vocabulary,), and weights in proportion to their probabilities.

    The greatest logit must be finite.
    """
    if 0 < options.top_k < logits.size:
        ids = greatest(logits, options.top_k)
        logits = logits[ids]
    else:
        ids = np.arange(logits.size)
    weights = np.exp((logits - logits.max()) / np.float32(options.temperature))
    total = weights.sum(dtype=np.float64)
    removed = (1 - options.top_p) * total
    # Weights below removed / size add up to less than removed, so that only the others need sorting.
    kept = np.flatnonzero(weights > 0.999 * removed / weights.size)
    weights = weights[kept]
    if options.top_p < 1:
        falling = np.sort(weights)[::-1].astype(np.float64)
        with_lesser = total - np.cumsum(falling) + falling
        count = max(1, int(np.count_nonzero(with_lesser > removed)))
        best = _first(count, weights, falling[count - 1])
        kept, weights = kept[best], weights[best]
    probable = weights >= options.min_p  # the greatest weight is 1
    return _cut(ids[kept[probable]], weights[probable].astype(np.float64), options)


def _cut(ids: Array, weights: Array, options: GenerationOptions) -> tuple[Array, Array]:
    """The tokens and weights that remain after typical_p, then epsilon_cutoff, then eta_cutoff."""
    if options.typical_p < 1:
        surprise = np.log(weights.sum()) - np.log(weights)
        strange = np.abs(surprise - (np.exp(-surprise) * surprise).sum())
        order = np.argsort(strange, kind="stable")
        place = min(int(np.count_nonzero(np.cumsum(np.exp(-surprise[order])) < options.typical_p)), order.size - 1)
        kept = strange <= strange[order[place]]
        ids, weights = ids[kept], weights[kept]
    if options.epsilon_cutoff > 0:
        kept = (weights >= options.epsilon_cutoff * weights.sum()) | (weights == weights.max())
        ids, weights = ids[kept], weights[kept]
    if options.eta_cutoff > 0:
        shares = weights / weights.sum()
        entropy = -(shares * np.log(shares)).sum()
        least = min(options.eta_cutoff, np.sqrt(options.eta_cutoff) * np.exp(-entropy))
        kept = (shares >= least) | (weights == weights.max())
        ids, weights = ids[kept], weights[kept]
    return ids, weights


def greatest(x: Array, k: int) -> Array:
    """The indices of the k greatest of x (n,), the greatest first; among equal ones the lower index first."""
    found = _first(k, x, np.partition(x, x.size - k)[x.size - k]) if k < x.size else np.arange(x.size)
    return found[np.lexsort((found, -x[found]))]


def _first(count: int, x: Array, least: Any) -> Array:
    """The indices of the `count` greatest of x, which are at least `least`; among equal ones the lower indices."""
    above = np.flatnonzero(x > least)
    return np.concatenate([above, np.flatnonzero(x == least)[: count - above.size]])
