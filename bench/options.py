"""The options of an attention call by name: the keyword arguments of each, and what they come to as one mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bench.cases import Case

Keywords = dict[str, Any]

WINDOW = 64  # keys seen on each side of a query's own, in the options of a window
LIVE = 0.9  # of a random mask

# Which option asks for pyattn.attention_statistics; what else a call may return beside its output.
STATISTICS = ("entropy", "received", "top_k")
RETURNS = ("return_lse", "return_weights", *STATISTICS)

# The arguments that a peer can be given as one mask, by ``as_mask``.
MASKS = {"mask", "bias", "is_causal", "window", "alibi_slopes", "kv_lengths", "query_offset"}


def _normal(case: Case, rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32).astype(case.numpy_dtype)


def _random_mask(*shape: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random(shape, np.float32) < LIVE


def _band(case: Case) -> np.ndarray:
    """What the window admits, as a dense mask (L, S)."""
    positions = np.arange(case.L, dtype=np.int32)[:, None] + case.S - case.L
    return np.abs(np.arange(case.S, dtype=np.int32) - positions) <= WINDOW


def _sparse_band(case: Case) -> Any:
    """The same as a sparse mask, of ones."""
    from scipy import sparse

    middle = case.S - case.L
    diagonals = list(range(middle - WINDOW, middle + WINDOW + 1))
    ones = np.ones((len(diagonals), case.S), np.float32)
    return sparse.dia_array((ones, diagonals), shape=(case.L, case.S)).tocsr()


def _random_keys(case: Case, rng: np.random.Generator, count: int) -> Any:
    """A sparse mask that lets each query see so many keys, drawn by chance."""
    from scipy import sparse

    count = min(count, case.S)
    chosen = np.argpartition(rng.random((case.L, case.S), np.float32), count - 1, axis=1)[:, :count]
    ones, starts = np.ones(chosen.size, np.float32), np.arange(case.L + 1) * count
    return sparse.csr_array((ones, np.sort(chosen, axis=1).ravel(), starts), shape=(case.L, case.S))


def _slopes(case: Case) -> np.ndarray:
    """The slopes of the article on ALiBi (arXiv:2108.12409), section 3."""
    return np.exp2(-8 * np.arange(1, case.heads + 1) / case.heads).astype(np.float32)


OPTIONS: dict[str, Callable[[Case, np.random.Generator], Keywords]] = {
    "causal": lambda case, rng: {"is_causal": True},
    "window": lambda case, rng: {"window": (WINDOW, WINDOW)},
    "left window": lambda case, rng: {"window": (2 * WINDOW, 0)},
    "wide window": lambda case, rng: {"window": (case.S // 2, case.S // 2)},
    "band mask": lambda case, rng: {"mask": _band(case)},
    "sparse mask": lambda case, rng: {"mask": _sparse_band(case)},
    "sparse bias": lambda case, rng: {"mask": (mask := _sparse_band(case)), "bias": 0.5 * mask},
    "16 keys": lambda case, rng: {"mask": _random_keys(case, rng, 16)},
    "64 keys": lambda case, rng: {"mask": _random_keys(case, rng, 64)},
    "512 keys": lambda case, rng: {"mask": _random_keys(case, rng, 512)},
    "mask": lambda case, rng: {"mask": _random_mask(case.L, case.S, rng=rng)},
    "key mask": lambda case, rng: {"mask": _random_mask(1, 1, 1, case.S, rng=rng)},
    "bias": lambda case, rng: {"bias": _normal(case, rng, case.L, case.S)},
    "head bias": lambda case, rng: {"bias": _normal(case, rng, 1, case.heads, case.L, case.S)},
    "softcap": lambda case, rng: {"softcap": 50.0},
    "alibi": lambda case, rng: {"alibi_slopes": _slopes(case)},
    "sinks": lambda case, rng: {"sinks": rng.standard_normal(case.heads, np.float32)},
    "kv_lengths": lambda case, rng: {"kv_lengths": np.full(case.batch, case.S)},
    "half kv_lengths": lambda case, rng: {"kv_lengths": np.full(case.batch, case.S // 2)},
    "offset": lambda case, rng: {"query_offset": np.full(case.batch, case.S // 2)},
    "lse": lambda case, rng: {"return_lse": True},
    "weights": lambda case, rng: {"return_weights": True},
    "entropy": lambda case, rng: {"entropy": True},
    "received": lambda case, rng: {"received": True},
    "top_k": lambda case, rng: {"top_k": 8},
}


# All that go together and leave enough to compute.
ALL = ("causal", "wide window", "mask", "bias", "softcap", "alibi", "sinks", "kv_lengths", "offset", "lse")


def title(options: Sequence[str]) -> str:
    return "all combined" if tuple(options) == ALL else " + ".join(options)


def keywords(case: Case) -> Keywords:
    """The arguments of all the options of ``case``; a dense array, drawn by chance, is the same at every call."""
    found: Keywords = {}
    for name in case.options:
        new = OPTIONS[name](case, np.random.default_rng(list(name.encode())))
        if doubled := new.keys() & found.keys():
            raise ValueError(f"{case.options}: more than one option gives {doubled}")
        found |= new
    return found


def _added(case: Case) -> Any:
    """What ``MASKS`` do to the logits, by the formulas of pyattn.reference: its softmax over products of zeros.

    Of as few batch elements and heads as differ.
    """
    from pyattn import reference

    options = {name: option for name, option in case.keywords.items() if name in MASKS}
    batch = case.batch if options.keys() & {"kv_lengths", "query_offset"} else 1
    heads = case.heads if "alibi_slopes" in options or np.ndim(options.get("bias")) > 2 else 1
    query, key = (np.zeros((batch, heads, length, 1), np.float32) for length in (case.L, case.S))
    return reference.softmax(query, key, **options, dtype=np.float32)


def live_fraction(case: Case) -> float:
    """The part of all pairs of a query and a key that may attend."""
    return float(_added(case).live.mean()) if MASKS & case.keywords.keys() else 1.0


def as_mask(case: Case) -> np.ndarray | None:
    """All of ``MASKS`` in one mask of four axes, as the peers take it: bool, or of the case's dtype where it adds.

    Where all rows are alike there is one; None if there is nothing to mask.
    """
    options = case.keywords.keys()
    if not MASKS & options - {"query_offset"}:  # which alone rules out nothing
        return None
    added = _added(case)
    mask = added.logits.astype(case.numpy_dtype) if {"bias", "alibi_slopes"} & options else added.live
    return mask[..., :1, :] if (mask == mask[..., :1, :]).all() else mask
