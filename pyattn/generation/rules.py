"""Rules that change logits before a token is chosen, in the order of transformers' logits processors.

Only the forcing of tokens comes last here: a suppressed token may be forced, which transformers refuses.
"""

from collections.abc import Sequence

import numpy as np

from pyattn._checks import Array, array
from pyattn.generation.options import GenerationOptions
from pyattn.generation.rows import Adjust, Rows


class Rules:
    """The rules of the options, and a model's own `adjust`; if there are none, `active` is False.

    Args:
        sources: the tokens that an encoder has read for each prompt; None: options encoder_... use the prompts.
    """

    def __init__(
        self, function: str, options: GenerationOptions, adjust: Adjust | None, sources: Sequence[Array] | None = None
    ) -> None:
        self._function = function
        self._options = options
        self._adjust = adjust
        self._sources = sources
        self._draws = options.num_return_sequences if options.num_beams == 1 else 1
        self._stops = np.array(options.stop_tokens, np.int64)
        self._suppressed = np.array(options.suppress_tokens, np.int64)
        self._suppressed_first = np.array(options.begin_suppress_tokens, np.int64)
        self._has_least = bool(self._stops.size and (options.min_new_tokens or options.min_length))
        # A single stop token is never ruled out as a bad word.
        stops = {(stop,) for stop in self._stops.tolist()}
        self._bad = [(word, -np.inf) for word in options.bad_words_ids if word not in stops]
        self.active = bool(
            adjust is not None
            or options.sequence_bias
            or options.encoder_repetition_penalty != 1
            or options.repetition_penalty != 1
            or options.no_repeat_ngram_size
            or options.encoder_no_repeat_ngram_size
            or self._bad
            or self._has_least
            or options.exponential_decay_length_penalty
            or options.forced_bos_token_id is not None
            or options.forced_eos_token_id is not None
            or self._suppressed.size
            or self._suppressed_first.size
        )

    def __call__(self, rows: Rows, logits: Array) -> Array:
        """The logits (rows, vocabulary) of the next tokens under the rules; the given ones are overwritten."""
        options = self._options
        seen = rows.tokens[:, : rows.length]
        _add_biases(logits, seen, options.sequence_bias)
        if options.encoder_repetition_penalty != 1:
            _penalize(logits, self._read(rows), 1 / options.encoder_repetition_penalty)
        if options.repetition_penalty != 1:
            _penalize(logits, seen, options.repetition_penalty)
        if options.no_repeat_ngram_size:
            _ban_repetition(logits, seen, seen, options.no_repeat_ngram_size)
        if options.encoder_no_repeat_ngram_size:
            _ban_repetition(logits, self._read(rows), seen, options.encoder_no_repeat_ngram_size)
        _add_biases(logits, seen, self._bad)
        if self._has_least:
            logits[np.ix_(rows.least > rows.length, self._stops)] = -np.inf
        if options.exponential_decay_length_penalty is not None:
            _hasten(logits, rows, self._stops, *options.exponential_decay_length_penalty)
        if self._suppressed.size:
            logits[:, self._suppressed] = -np.inf
        if self._suppressed_first.size:
            # This holds for the first token that is not forced.
            begin = rows.begin + (options.forced_bos_token_id is not None) * (rows.first == rows.begin - 1)
            logits[np.ix_(begin == rows.length, self._suppressed_first)] = -np.inf
        if options.forced_bos_token_id is not None:
            _force(logits, rows.first == rows.length - 1, options.forced_bos_token_id)
        if options.forced_eos_token_id is not None:
            _force(logits, rows.limit == rows.length + 1, options.forced_eos_token_id)
        if self._adjust is not None:
            logits = self._adjusted(rows, logits)
        return logits

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

    def _adjusted(self, rows: Rows, logits: Array) -> Array:
        histories = [rows.result(i) for i in range(len(logits))]
        adjusted = self._adjust(histories, logits)  # type: ignore[misc]
        if not isinstance(adjusted, np.ndarray) or adjusted.shape != logits.shape:
            seen = f"shape {adjusted.shape}" if isinstance(adjusted, np.ndarray) else type(adjusted).__name__
            raise ValueError(f"{self._function}: adjust must return logits of shape {logits.shape}, not {seen}")
        adjusted = array(self._function, "logits", adjusted)
        if adjusted.dtype.kind not in "fiu":
            raise TypeError(f"{self._function}: adjust must return real numbers, not {adjusted.dtype}")
        return adjusted.astype(np.float32, copy=False)


def _penalize(logits: Array, seen: Array, penalty: float) -> None:
    rows, columns = np.nonzero((seen >= 0) & (seen < logits.shape[1]))  # an input may have tokens that the output lacks
    ids = seen[rows, columns]
    values = logits[rows, ids]
    logits[rows, ids] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))


def _ban_repetition(logits: Array, texts: Array, seen: Array, size: int) -> None:
    """Rules out each token that follows, anywhere in a row's text, a copy of its last size - 1 tokens."""
    if texts.shape[1] < size or seen.shape[1] < size - 1:
        return
    runs = np.lib.stride_tricks.sliding_window_view(texts, size, axis=1)  # (rows, runs, size)
    last = seen[:, None, seen.shape[1] - size + 1 :]
    whole = (runs >= 0).all(axis=-1) & (runs[..., -1] < logits.shape[1])
    rows, places = np.nonzero((runs[..., :-1] == last).all(axis=-1) & whole)
    logits[rows, runs[rows, places, -1]] = -np.inf


def _add_biases(logits: Array, seen: Array, biases: Sequence[tuple[Sequence[int], float]]) -> None:
    """Adds a bias to the logit of a word's last token in rows that end with its other tokens."""
    for word, bias in biases:
        before = seen.shape[1] - (len(word) - 1)
        if before >= 0:
            rows = (seen[:, before:] == np.array(word[:-1], np.int64)).all(axis=1)
            logits[rows, word[-1]] += np.float32(bias)


def _hasten(logits: Array, rows: Rows, stops: Array, start: int, factor: float) -> None:
    beyond = rows.length - rows.start - start
    for row in np.flatnonzero(beyond > 0):
        values = logits[row, stops]
        finite = np.isfinite(values)
        logits[row, stops[finite]] += np.abs(values[finite]) * np.float32(factor ** int(beyond[row]) - 1)


def _force(logits: Array, rows: Array, tokens: int | Sequence[int]) -> None:
    if rows.any():
        logits[rows] = -np.inf
        logits[np.ix_(rows, np.ravel(tokens))] = 0
