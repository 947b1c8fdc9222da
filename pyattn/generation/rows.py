"""The model as decoding strategies see it, and the rows of tokens that it continues."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from pyattn._checks import Array, array, token_ids, token_sequences
from pyattn.generation.options import GenerationOptions

Adjust: TypeAlias = Callable[[list[Array], Array], Array]


class Continuation(Protocol):
    """A model with its caches, which continues rows of tokens."""

    def step(self, tokens: Array, lengths: Array | None = None) -> Array:
        """Appends tokens to the rows' caches.

        Args:
            tokens: (rows, L) int64.
            lengths: (rows,) int64, how many tokens each row has, at least one; the rest is padding at the end. None: L.

        Returns:
            (rows, vocabulary) float32, the logits after each row's last token.
        """

    def reorder(self, rows: Array) -> None:
        """From now on, row i continues the former row rows[i]; rows may be repeated or dropped."""


@dataclass
class Rows:
    """Rows of tokens that end at the same column: prompts are aligned to the right, with -1 before them."""

    number: Array  # (rows,) the number of the prompt, or of the draw for a prompt
    tokens: Array  # (rows, capacity)
    first: Array  # (rows,) the column where the prompt begins
    start: Array  # (rows,) where the result begins
    least: Array  # (rows,) the column before which no stop token is chosen
    limit: Array  # (rows,) the column where the result ends at the latest
    begin: int  # the column of the first tokens that are chosen
    length: int  # how many columns are filled

    def append(self, tokens: Array) -> None:
        if self.length == self.tokens.shape[1]:
            self.tokens = np.concatenate([self.tokens, np.empty_like(self.tokens)], axis=1)
        self.tokens[:, self.length] = tokens
        self.length += 1

    def take(self, rows: Array) -> "Rows":
        taken: dict[str, Any] = {name: x[rows] for name, x in vars(self).items() if isinstance(x, np.ndarray)}
        return replace(self, **taken)

    def result(self, row: int) -> Array:
        return self.tokens[row, self.start[row] : self.length].copy()


def make_rows(function: str, prompts: Any, prefixes: Any, options: GenerationOptions) -> Rows:
    sequences = token_sequences(function, "prompts", prompts)
    for i, prompt in enumerate(sequences):
        if not prompt.size:
            raise ValueError(f"{function}: prompts[{i}] is empty; a model continues at least one token")
    if isinstance(options.seed, tuple):
        check_number(function, len(sequences), options.seed, "seeds; one for all may be given")
    first_tokens = _prefixes(function, prefixes, len(sequences))
    lengths = np.array([prompt.size for prompt in sequences], np.int64)
    forced = np.array([prefix.size for prefix in first_tokens], np.int64)
    begin = int((lengths + forced).max(initial=0))
    start = begin - forced
    first = start - lengths
    if options.max_new_tokens is not None:
        limit = start + options.max_new_tokens
    elif options.max_length is not None:
        limit = first + options.max_length
    else:
        raise ValueError(f"{function}: max_new_tokens, or max_length with the prompt counted, must be given")
    if (limit <= begin).any():
        i = int(np.argmax(limit <= begin))
        after = f" and a prefix of {forced[i]}" if forced[i] else ""
        raise ValueError(
            f"{function}: no new token may follow prompts[{i}] of {lengths[i]} tokens{after}; the limit is too low"
        )
    least = first + options.min_length if options.min_new_tokens is None else start + options.min_new_tokens
    tokens = np.full((len(sequences), begin + min(64, int((limit - begin).max(initial=0)))), -1, np.int64)
    for row, column, parts in zip(tokens, first, zip(sequences, first_tokens, strict=True), strict=True):
        row[column:begin] = np.concatenate(parts)
    return Rows(np.arange(len(sequences)), tokens, first, start, least, limit, begin, begin)


def _prefixes(function: str, prefixes: Any, prompts: int) -> list[Array]:
    if prefixes is None:
        return [np.zeros(0, np.int64)] * prompts
    one = isinstance(prefixes, Sequence) and all(np.ndim(x) == 0 for x in prefixes)
    if one or (isinstance(prefixes, np.ndarray) and prefixes.ndim < 2):
        return [token_ids(function, "prefixes", prefixes)] * prompts
    sequences = token_sequences(function, "prefixes", prefixes)
    check_number(function, prompts, sequences, "prefixes; one for all may be given")
    return sequences


def check_number(function: str, prompts: int, given: Sequence[Any], what: str) -> None:
    if len(given) != prompts:
        raise ValueError(f"{function}: there are {prompts} prompts, but {len(given)} {what}")


def first_logits(function: str, continuation: Continuation, rows: Rows, options: GenerationOptions) -> Array:
    """The logits (rows, vocabulary) after the prompts and prefixes."""
    given = rows.tokens[:, : rows.begin]
    lengths = rows.begin - rows.first
    tokens = np.zeros_like(given)
    tokens[np.arange(rows.begin) < lengths[:, None]] = given[given >= 0]  # padding moves to the end
    logits = continuation.step(tokens, None if (lengths == rows.begin).all() else lengths)
    logits = _checked(function, logits, len(lengths))
    several = [options.stop_tokens, options.suppress_tokens, options.begin_suppress_tokens, *options.bad_words_ids]
    several += [x for x in (options.forced_bos_token_id, options.forced_eos_token_id) if x is not None]
    several += [word for word, _ in options.sequence_bias]
    named = [token for tokens in several for token in np.ravel(tokens)]
    if named and max(named) >= logits.shape[1]:
        raise ValueError(f"{function}: the options name token {max(named)}; the vocabulary has {logits.shape[1]}")
    return logits


def next_logits(function: str, continuation: Continuation, tokens: Array) -> Array:
    """The logits (rows, vocabulary) after one more token (rows,) each."""
    return _checked(function, continuation.step(tokens[:, None]), len(tokens))


def _checked(function: str, logits: Array, rows: int) -> Array:
    # In another layout, sums over a row would depend on the other rows of the batch.
    logits = np.ascontiguousarray(array(function, "logits", logits), np.float32)
    if logits.ndim != 2 or len(logits) != rows:
        raise ValueError(f"{function}: step must return ({rows}, vocabulary) logits, not {logits.shape}")
    return logits


def no_choice(function: str, prompt: int, step: int) -> ValueError:
    return ValueError(
        f"{function}: no token can be chosen for prompt {prompt} as new token {step}: its logits have a NaN or +inf, "
        "or the model and the rules leave none above -inf"
    )
