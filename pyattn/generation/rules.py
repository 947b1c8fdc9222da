"""Rules that change logits before a token is chosen, in the order of transformers' logits processors.

Here tokens are forced last: a suppressed one may be forced, which transformers refuses.
"""

import numpy as np

from pyattn._checks import Array
from pyattn.generation.options import GenerationOptions
from pyattn.generation.rows import Adjust, Rows


class Rules:
    """What the options, and a model's own `adjust`, ask for; without any, `active` is False."""

    def __init__(self, function: str, options: GenerationOptions, adjust: Adjust | None) -> None:
        self._function = function
        self._options = options
        self._adjust = adjust
        self._stops = np.array(options.stop_tokens, np.int64)
        self._suppressed = np.array(options.suppress_tokens, np.int64)
        self._suppressed_first = np.array(options.begin_suppress_tokens, np.int64)
        self._has_least = bool(self._stops.size and (options.min_new_tokens or options.min_length))
        self.active = bool(
            adjust is not None
            or options.repetition_penalty != 1
            or options.no_repeat_ngram_size
            or self._has_least
            or options.forced_bos_token_id is not None
            or options.forced_eos_token_id is not None
            or self._suppressed.size
            or self._suppressed_first.size
        )

    def __call__(self, rows: Rows, logits: Array) -> Array:
        """The logits (rows, vocabulary) of the rows' next tokens under the rules; those given are overwritten."""
        options = self._options
        seen = rows.tokens[:, : rows.length]
        if options.repetition_penalty != 1:
            _penalize(logits, seen, options.repetition_penalty)
        if options.no_repeat_ngram_size:
            _ban_repetition(logits, seen, options.no_repeat_ngram_size)
        if self._has_least:
            logits[np.ix_(rows.least > rows.length, self._stops)] = -np.inf
        if self._suppressed.size:
            logits[:, self._suppressed] = -np.inf
        if self._suppressed_first.size:
            # at the first token that is free to be chosen
            begin = rows.begin + (options.forced_bos_token_id is not None) * (rows.first == rows.begin - 1)
            logits[np.ix_(begin == rows.length, self._suppressed_first)] = -np.inf
        if options.forced_bos_token_id is not None:
            _force(logits, rows.first == rows.length - 1, options.forced_bos_token_id)
        if options.forced_eos_token_id is not None:
            _force(logits, rows.limit == rows.length + 1, options.forced_eos_token_id)
        if self._adjust is not None:
            logits = self._adjusted(rows, logits)
        return logits

    def _adjusted(self, rows: Rows, logits: Array) -> Array:
        histories = [rows.result(i) for i in range(len(logits))]
        adjusted = self._adjust(histories, logits)  # type: ignore[misc]
        if not isinstance(adjusted, np.ndarray) or adjusted.shape != logits.shape:
            seen = f"shape {adjusted.shape}" if isinstance(adjusted, np.ndarray) else type(adjusted).__name__
            raise ValueError(f"{self._function}: adjust must return logits of shape {logits.shape}, not {seen}")
        return adjusted.astype(np.float32, copy=False)


def _penalize(logits: Array, seen: Array, penalty: float) -> None:
    rows, columns = np.nonzero((seen >= 0) & (seen < logits.shape[1]))  # inputs may have more tokens than outputs
    ids = seen[rows, columns]
    values = logits[rows, ids]
    logits[rows, ids] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))


def _ban_repetition(logits: Array, seen: Array, size: int) -> None:
    if seen.shape[1] < size:
        return
    runs = np.lib.stride_tricks.sliding_window_view(seen, size, axis=1)  # (rows, runs, size)
    last = seen[:, None, seen.shape[1] - size + 1 :]
    repeats = (runs[..., :-1] == last).all(axis=-1) & (runs[..., 0] >= 0) & (runs[..., -1] < logits.shape[1])
    rows, places = np.nonzero(repeats)
    logits[rows, runs[rows, places, -1]] = -np.inf


def _force(logits: Array, rows: Array, token: int) -> None:
    if rows.any():
        logits[rows] = -np.inf
        logits[rows, token] = 0
