"""The options of an attention call by name: the keyword arguments of each, and what they come to as one mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
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


def _dense(array: Any) -> np.ndarray:
    return array.toarray() if hasattr(array, "tocsr") else array


def _lengths_and_positions(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Keys of each sequence (batch, 1, 1, 1) and positions of its queries (batch, 1, L, 1); batch may be 1 for all."""
    lengths = np.atleast_1d(case.keywords.get("kv_lengths", case.S)).reshape(-1, 1, 1, 1)
    offset = np.atleast_1d(case.keywords.get("query_offset", lengths - case.L)).reshape(-1, 1, 1, 1)
    return lengths, offset + np.arange(case.L)[:, None]


def may_attend(case: Case) -> np.ndarray | None:
    """Which keys each query may attend to: bool, four axes, broadcasting to (batch, heads, L, S); None for all."""
    options = case.keywords
    lengths, positions = _lengths_and_positions(case)
    left, right = options.get("window", (None, None))
    if options.get("is_causal"):
        right = 0
    keys = np.arange(case.S)
    parts = []
    if "kv_lengths" in options:
        parts.append(keys < lengths)
    if left is not None:
        parts.append(keys >= positions - left)
    if right is not None:
        parts.append(keys <= positions + right)
    if "mask" in options:
        parts.append(_four_axes(_dense(options["mask"]) != 0))
    return reduce(np.logical_and, parts) if parts else None


def _four_axes(array: np.ndarray) -> np.ndarray:
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def as_mask(case: Case) -> np.ndarray | None:
    """All of ``MASKS`` in one mask of four axes, as the peers take it: bool, or of the case's dtype where it adds."""
    options = case.keywords
    admitted = may_attend(case)
    terms = []
    if "bias" in options:
        terms.append(_four_axes(_dense(options["bias"])).astype(np.float32))
    if "alibi_slopes" in options:
        _, positions = _lengths_and_positions(case)
        slopes = options["alibi_slopes"].reshape(-1, 1, 1)
        terms.append(-slopes * np.abs(positions - np.arange(case.S)).astype(np.float32))
    if not terms:
        return admitted
    added = sum(terms[1:], terms[0])
    return (added if admitted is None else np.where(admitted, added, -np.inf)).astype(case.numpy_dtype)
