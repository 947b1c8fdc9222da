"""What the drivers of layers are given, which no public function gives them on this machine."""

import numpy as np
import pytest

import pyattn
from pyattn._checks import masks
from pyattn._core import binding


def bound(starts, batch=1):
    own = binding.Binding(batch, starts, starts, binding.Workspace())
    own.threads, own.small = 1, 0
    return own


def test_entries_of_a_mask_are_counted_in_64_bits(monkeypatch):
    monkeypatch.setattr(np, "bincount", lambda x, minlength: np.array([1, 1], np.int32))
    indptr, *_ = masks._sorted_rows(np.array([0, 1, 2]), np.array([1, 0], np.int32), np.ones(2))
    assert indptr.dtype == np.int64


@pytest.mark.parametrize("rows", [2**59, 2**60])
def test_sizes_beyond_64_bits_are_no_memory(rows):
    """2^64 bytes and more would be few, modulo 2^64."""
    plan = pyattn.MultiHeadAttention(1, 1, head_dim=4)._planned()
    x = np.broadcast_to(np.float32(0), (rows, 1))
    own = bound(np.array([0, rows]))
    own.past_len, own.new_len = np.zeros(1, np.int64), np.ones(1, np.int64)
    with pytest.raises(MemoryError, match=f"^pyattn: no memory holds {rows} rows of 4 features"):
        plan.precompute(x, own, None, np.zeros((2, 1, 1, 4, 4), np.float32), None)
