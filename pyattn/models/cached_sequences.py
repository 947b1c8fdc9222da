"""Sequences of tokens that a model makes longer, and what an encoder has made for them to attend to."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.layers import DecoderState


@dataclass(frozen=True, eq=False)
class Memory:
    """What an encoder has made of its inputs: hidden (B, S, E), of which lengths (B,) rows are real.

    tokens are those that it has read, an array for each sample; of frames and images, and if not given, none.
    """

    hidden: NDArray[np.float32]
    lengths: NDArray[np.int64]
    tokens: tuple[Array, ...] = ()


class CachedSequences:
    """Sequences of tokens that a model continues, with their caches; made by GenerativeModel.start."""

    def __init__(self, model: Any, state: DecoderState) -> None:
        self._model, self._state = model, state

    def __deepcopy__(self, memo: dict[int, Any]) -> "CachedSequences":
        """Sequences that go on by themselves, of the same model."""
        memo[id(self._model)] = self._model
        return CachedSequences(self._model, copy.deepcopy(self._state, memo))

    @property
    def lengths(self) -> Array:
        """(rows,): tokens of each sequence."""
        return self._state.lengths

    def step(self, tokens: Array, lengths: Array | None = None) -> NDArray[np.float32]:
        """Appends tokens to the sequences; the logits of what comes next.

        Args:
            tokens: (rows, L) integers.
            lengths: (rows,) integers: how many of each row's are real, padding after them; None: all.

        Returns:
            (rows, vocab_size) float32.

        Raises:
            TypeError: tokens or lengths are not integers.
            ValueError: shapes do not fit, a token is none of the vocabulary, a sequence would be longer than the
                caches, or than the model has positions for. Nothing has changed then.
        """
        model, name = self._model, f"{type(self._model).__name__}.step"
        model.decoder._check_state(name, self._state)
        tokens = _checks.indices(name, "tokens", tokens, model.config.vocab_size)
        past = self._state.lengths
        if tokens.ndim != 2 or len(tokens) != len(past) or not tokens.shape[1]:
            raise ValueError(f"{name}: tokens has shape {tokens.shape}; ({len(past)}, L), L 1 or more, is needed")
        length = tokens.shape[1]
        ends = _checks.lengths_of(name, "lengths", lengths, np.full(len(past), length, np.int64), "L", lowest=1)
        if ((past + ends) > model.config.longest).any():
            raise ValueError(f"{name}: a sequence would have {(past + ends).max()} tokens; {model.config.bound}")
        positions = past
        if length > 1:
            positions = np.minimum(past[:, None] + np.arange(length), model.config.longest - 1).reshape(-1)
        x = model.embeddings.apply(tokens.reshape(-1), positions, words=model._parameters["words"])
        hidden = model.decoder._step_rows(name, x, self._state, length, ends)
        last = hidden if length == 1 else hidden[np.arange(len(past)) * length + ends - 1]
        logits: NDArray[np.float32] = model._logits(last)
        return logits

    def reorder(self, rows: ArrayLike) -> None:
        """Makes sequence i what sequence rows[i] was; errors as DecoderState.reorder's."""
        self._state.reorder(rows)
