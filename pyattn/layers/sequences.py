"""What the rows of a call are: sequences, whole or the next tokens of some whose keys and values are cached."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from pyattn._checks import Array
from pyattn._core import layer, rowwise
from pyattn.positional import rotary_tables
from pyattn.positional.relative import by_distance
from pyattn.precision import mask_to_bfloat16, to_bfloat16

Rotation: TypeAlias = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: their base, and how they are scaled, the items of what rotary_frequencies takes.

    Types whose frequencies depend on the sequence's length have those of sequences within the original length;
    models refuse longer ones (ModelConfig.longest).
    """

    base: float
    scaling: tuple[tuple[str, Any], ...] = ()


Tables: TypeAlias = dict[tuple[int, Rotary], tuple[Array, Array]]


@dataclass
class Sequences:
    """Rows are `batch` times the sequences that starts, int64 (sequences + 1,), describes.

    mask is as attention's, for one sequence; relative_bias (H, 2 n + 1), for all: what is added to the logits of a key
    that stands n behind the query up to n ahead, n + 1 or more being the longest sequence.

    With past and until, int64 (batch,), each sample has one sequence, of which so many tokens are cached before the
    call and behind it: the rows are the tokens in between, with padding behind them where others have more. What is
    cached begins at the positions `begins`, int64 (batch,), or at 0. Without them each sequence begins at `first`.
    """

    batch: int
    starts: Array
    mask: Array | None = None
    is_causal: bool = False
    first: int = 0
    relative_bias: Array | None = None
    past: Array | None = None
    until: Array | None = None
    begins: Array | None = None
    bias: Array | None = None  # (batch, H, L, S), instead of relative_bias
    workspace: layer.Workspace = field(default_factory=layer.Workspace)
    tables: Tables = field(default_factory=dict)  # of rotary positions: kept from call to call where tokens follow
    _options: dict[bool, dict[str, Any]] = field(default_factory=dict)
    _positions: Array | None = None
    _key_starts: Array | None = None

    def longest(self) -> int:
        return rowwise.longest(self.starts)

    def key_starts(self) -> Array:
        """As starts, of the keys."""
        if self._key_starts is None:
            self._key_starts = self.starts if self.until is None else np.array([0, self.until.max(initial=0)])
        return self._key_starts

    def positions(self) -> Array:
        """That of each row in its sequence."""
        if self._positions is None:
            self._positions = rowwise.positions(self.starts, self.batch)
            if self.first:
                self._positions += self.first
            if self.past is not None:
                first = self.past if self.begins is None else self.past + self.begins
                self._positions += np.repeat(first, self.starts[-1])
        return self._positions

    def rotation(self, width: int, rotary: Rotary | None, dtype: np.dtype[Any]) -> Rotation | None:
        """What turns heads of so many features by rotary positions, the angles of dtype."""
        if rotary is None:
            return None
        length = self.first + self.longest() if self.past is None else int(self.positions().max(initial=-1)) + 1
        if (width, rotary) not in self.tables or len(self.tables[width, rotary][0]) < length:
            room = length if self.past is None else max(256, 2 * length)
            self.tables[width, rotary] = rotary_tables(
                room, width, base=rotary.base, scaling=dict(rotary.scaling), sequence_length=0, dtype=dtype
            )
        return (self.positions(), *self.tables[width, rotary])

    def options(self, half: bool, heads: int) -> dict[str, Any]:
        """What they are to attention, apart from the layer's own scale and window; half: for arrays of bfloat16."""
        if half not in self._options:
            options = self._options[half] = {"scale": 1.0}
            if self.is_causal:
                options["right"] = 0
            if self.mask is not None:
                options["mask"] = self.mask if self.mask.dtype == bool or not half else mask_to_bfloat16(self.mask)
            if self.bias is not None:
                options["bias"] = mask_to_bfloat16(self.bias) if half else self.bias
            if self.relative_bias is not None:
                table = to_bfloat16(self.relative_bias) if half else self.relative_bias
                view = by_distance(table, table.shape[1] // 2, *[self.longest()] * 2)
                options["bias"] = np.broadcast_to(view, (self.batch, *view.shape))
                options["bias_of_sequence"] = True
            if self.until is not None:
                options["kv_lengths"] = _for_heads(self.until, heads)
            if self.past is not None:
                options["offsets"] = _for_heads(self.past, heads)
        return self._options[half]


def _for_heads(x: Array, heads: int) -> Array:
    return np.broadcast_to(x[:, None, None], (len(x), heads, 1))
