"""Whisper's rules for tokens of times."""

import numpy as np

from pyattn._checks import Array


class TimestampRules:
    """Which timestamps may come next: in pairs around text, never backwards, where they are likelier than any text.

    Radford et al. 2022 (arXiv:2212.04356), section 4.5, and the article's code.

    Args:
        first: the token of time 0; the token before it says that there are no timestamps.
        end: tokens below it are text.
        latest_begin: the last tick at which the first segment may begin; None: any.
    """

    def __init__(self, first: int, end: int, latest_begin: int | None) -> None:
        self._first, self._end, self._latest_begin = first, end, latest_begin

    def __call__(self, histories: list[Array], logits: Array) -> Array:
        first, end = self._first, self._end
        logits[:, first - 1] = -np.inf
        for tokens, row in zip(histories, logits, strict=True):
            if not len(tokens):
                row[:first] = -np.inf
                if self._latest_begin is not None:
                    row[first + self._latest_begin + 1 :] = -np.inf
                continue
            was_stamp = tokens[-1] >= first
            if was_stamp and (len(tokens) < 2 or tokens[-2] >= first):
                row[first:] = -np.inf  # a segment has begun: text follows
            elif was_stamp:
                row[:end] = -np.inf  # a segment has ended: the start of the next follows, or the end of the window
            stamps = tokens[tokens >= first]
            if len(stamps):
                # A segment takes some time; the next may begin where it ended.
                least = stamps[-1] if was_stamp and not (len(tokens) < 2 or tokens[-2] >= first) else stamps[-1] + 1
                row[first:least] = -np.inf
            peak = row[first:].max()
            if peak > -np.inf and peak + np.log(np.exp(row[first:] - peak).sum()) > row[:first].max():
                row[:first] = -np.inf
        return logits
