"""Products of tokens' hidden states with the words of a vocabulary, reduced over each sequence as they are made."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pyattn._checks import Array
from pyattn._core import linear as _linear
from pyattn._core import maxsim as _maxsim
from pyattn._threads import threads_for
from pyattn.layers.embeddings import sum_sequences

_BYTES = 655360  # of words that are packed together: they stay in second-level cache
_PANEL = 48  # words that a tile takes at most


class WordProducts:
    """logits = x weight^T + bias, weight (words, width), of which only what a sequence needs is ever in memory."""

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self.words, self.width = weight.shape
        step = max(1, _BYTES // (4 * max(1, self.width)) // _PANEL) * _PANEL
        starts = range(0, self.words, step)
        self._blocks = [slice(start, min(start + step, self.words)) for start in starts]
        blocks = (np.ascontiguousarray(weight[block], np.float32) for block in self._blocks)
        self._packed = [_linear.Packed(block, narrow=False) for block in blocks]
        self._bias = np.zeros(self.words, np.float32) if bias is None else bias

    def largest(self, rows: Array, cu_seqlens: Array) -> NDArray[np.float32]:
        """(sequences, words): the largest logit of each word among the tokens of a packed sequence, -inf of none.

        rows: (total, width) float32, contiguous. A sequence's logits have the same bits whatever is beside it.
        """
        found = np.empty((len(cu_seqlens) - 1, self.words), np.float32)
        if found.size:
            threads = threads_for(2.0 * rows.size * self.words)
            _maxsim.maxima(self._packed, rows, np.ascontiguousarray(cu_seqlens, np.int64), found, threads)
        found += self._bias  # rounding keeps the order: the largest sum is that of the largest product
        return found

    def summed(self, rows: Array, cu_seqlens: Array, function: Callable[[Array], Array]) -> NDArray[np.float32]:
        """(sequences, words): the sum of function(logits) over the tokens of each sequence, in order; block by block.

        rows, cu_seqlens: as of largest.
        """
        found = np.empty((len(cu_seqlens) - 1, self.words), np.float32)
        for packed, block in zip(self._packed, self._blocks, strict=True):
            logits = np.empty((len(rows), block.stop - block.start), np.float32)
            _linear.linear(rows, [packed], None, logits, 0, threads_for(2.0 * rows.size * logits.shape[1]))
            logits += self._bias[block]
            found[:, block] = sum_sequences(function(logits), cu_seqlens)
        return found
