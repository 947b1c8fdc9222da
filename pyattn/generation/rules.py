"""Rules that change logits before a token is chosen, in the order of transformers' logits processors.

Only the forcing of tokens comes last here: a suppressed token may be forced, which transformers refuses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyattn._checks import Array, array, token_sequences
from pyattn.generation.options import GenerationOptions
from pyattn.generation.rows import Adjust, Rows, check_number


class Rules:
    """The rules of the options, and a model's own `adjust`; if there are none, `active` is False.

    Args:
        sources: the tokens that an encoder has read for each prompt; None: options encoder_... use the prompts.
    """

    def __init__(
        self, function: str, options: GenerationOptions, adjust: Adjust | None, sources: Any, prompts: int
    ) -> None:
        self._function, self._adjust = function, adjust
        self._sources = None if sources is None else token_sequences(function, "sources", sources)
        if self._sources is not None:
            check_number(function, prompts, self._sources, "sources; each needs one")
        self._draws = options.num_return_sequences if options.num_beams == 1 else 1
        stops = np.array(options.stop_tokens, np.int64)
        # A single stop token is never ruled out as a bad word.
        bad = [(word, -np.inf) for word in options.bad_words_ids if len(word) > 1 or word[0] not in stops]
        has_least = stops.size and (options.min_new_tokens or options.min_length)
        bos, eos = options.forced_bos_token_id, options.forced_eos_token_id

        def not_forced(rows: Rows) -> Any:
            """Rows whose next token is the first that is not forced."""
            return rows.begin + (bos is not None) * (rows.first == rows.begin - 1) == rows.length

        rules: list[tuple[Any, ...]] = [  # whether it changes anything; a function of logits, rows, and the others
            (options.sequence_bias, _add_biases, options.sequence_bias),
            (options.encoder_repetition_penalty != 1, _penalize, self._read, 1 / options.encoder_repetition_penalty),
            (options.repetition_penalty != 1, _penalize, _seen, options.repetition_penalty),
            (options.no_repeat_ngram_size, _ban_repetition, _seen, options.no_repeat_ngram_size),
            (options.encoder_no_repeat_ngram_size, _ban_repetition, self._read, options.encoder_no_repeat_ngram_size),
            (bad, _add_biases, bad),
            (has_least, _rule_out, lambda rows: rows.least > rows.length, stops),
            (options.exponential_decay_length_penalty, _hasten, stops, options.exponential_decay_length_penalty),
            (options.suppress_tokens, _rule_out, lambda rows: rows.number >= 0, np.array(options.suppress_tokens)),
            (options.begin_suppress_tokens, _rule_out, not_forced, np.array(options.begin_suppress_tokens)),
            (bos is not None, _force, lambda rows: rows.first == rows.length - 1, bos),
            (eos is not None, _force, lambda rows: rows.limit == rows.length + 1, eos),
        ]
        self._rules = [(rule, others) for applies, rule, *others in rules if applies]
        self.active = bool(self._rules) or adjust is not None

    def __call__(self, rows: Rows, logits: Array) -> Array:
        """The logits (rows, vocabulary) of the next tokens under the rules; the given ones are overwritten."""
        for rule, others in self._rules:
            rule(logits, rows, *others)
        if self._adjust is None:
            return logits
        adjusted = self._adjust([rows.result(i) for i in range(len(logits))], logits)
        if not isinstance(adjusted, np.ndarray) or adjusted.shape != logits.shape:
            seen = f"shape {adjusted.shape}" if isinstance(adjusted, np.ndarray) else type(adjusted).__name__
            raise ValueError(f"{self._function}: adjust must return logits of shape {logits.shape}, not {seen}")
        adjusted = array(self._function, "logits", adjusted)
        if adjusted.dtype.kind not in "fiu":
            raise TypeError(f"{self._function}: adjust must return real numbers, not {adjusted.dtype}")
        return adjusted.astype(np.float32, copy=False)

    def _read(self, rows: Rows) -> Array:
        """(rows, length): the tokens that the encoder has read, or else the prompt; -1 where there is none."""
        if self._sources is None:
            columns = np.arange(rows.begin)
            return np.where(columns < rows.start[:, None], rows.tokens[:, : rows.begin], -1)
        read = [self._sources[number // self._draws] for number in rows.number.tolist()]
        padded = np.full((len(read), max(map(len, read), default=0)), -1, np.int64)
        for row, tokens in zip(padded, read, strict=True):
            row[: len(tokens)] = tokens
        return padded


def _seen(rows: Rows) -> Array:
    return rows.tokens[:, : rows.length]


def _penalize(logits: Array, rows: Rows, text: Callable[[Rows], Array], penalty: float) -> None:
    seen = text(rows)
    places, columns = np.nonzero((seen >= 0) & (seen < logits.shape[1]))  # an input may have tokens that outputs lack
    ids = seen[places, columns]
    values = logits[places, ids]
    logits[places, ids] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))


def _ban_repetition(logits: Array, rows: Rows, text: Callable[[Rows], Array], size: int) -> None:
    """Rules out each token that follows, anywhere in a row's text, a copy of its last size - 1 tokens."""
    texts, seen = text(rows), _seen(rows)
    if texts.shape[1] < size or seen.shape[1] < size - 1:
        return
    runs = np.lib.stride_tricks.sliding_window_view(texts, size, axis=1)  # (rows, runs, size)
    last = seen[:, None, seen.shape[1] - size + 1 :]
    whole = (runs >= 0).all(axis=-1) & (runs[..., -1] < logits.shape[1])
    found, places = np.nonzero((runs[..., :-1] == last).all(axis=-1) & whole)
    logits[found, runs[found, places, -1]] = -np.inf


def _add_biases(logits: Array, rows: Rows, biases: Sequence[tuple[Sequence[int], float]]) -> None:
    """Adds a bias to the logit of a word's last token in rows that end with its other tokens."""
    seen = _seen(rows)
    for word, bias in biases:
        before = seen.shape[1] - (len(word) - 1)
        if before >= 0:
            there = (seen[:, before:] == np.array(word[:-1], np.int64)).all(axis=1)
            logits[there, word[-1]] += np.float32(bias)


def _hasten(logits: Array, rows: Rows, stops: Array, decay: tuple[int, float]) -> None:
    start, factor = decay
    beyond = rows.length - rows.start - start
    for row in np.flatnonzero(beyond > 0):
        values = logits[row, stops]
        finite = np.isfinite(values)
        logits[row, stops[finite]] += np.abs(values[finite]) * np.float32(factor ** int(beyond[row]) - 1)


def _rule_out(logits: Array, rows: Rows, where: Callable[[Rows], Array], tokens: Array) -> None:
    logits[np.ix_(where(rows), tokens)] = -np.inf


def _force(logits: Array, rows: Rows, where: Callable[[Rows], Array], tokens: int | Sequence[int]) -> None:
    if (there := where(rows)).any():
        logits[there] = -np.inf
        logits[np.ix_(there, np.ravel(tokens))] = 0
