"""The sizes and options of FlashAttention's own tests (test_flash_attn_output in tests/test_flash_attn.py of
https://github.com/Dao-AILab/flash-attention), and their rule: at most twice the error of the plain formula.

Theirs is the product of all; here every width meets every pair of lengths, and what else there is rotates, so that
every combination comes up.
"""

import itertools

import numpy as np
import pytest

from pyattn import scaled_dot_product_attention as sdpa
from pyattn._core import runtime
from tests.support import oracle
from tests.support.problems import SHARE

WIDTHS = [32, 40, 59, 64, 96, 111, 128, 160, 192, 224, 256]
LENGTHS = [(113, 203), (128, 217), (108, 256), (512, 256), (1023, 1024)]
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), oracle.BFLOAT16]
HEADS = {"mha": (2, 2), "mqa": (3, 1), "gqa": (4, 2)}  # of queries and of keys
SWITCHES = ["causal", "local", "alibi", "softcap"]

EVERY = max(1, round(1 / SHARE))  # of so many cases one, under each instruction set another
VARIANTS = list(itertools.product(HEADS, *[[False, True]] * len(SWITCHES)))


def cases():
    every = [*itertools.product(LENGTHS[:-1], WIDTHS, DTYPES)]
    every += zip(itertools.repeat(LENGTHS[-1]), WIDTHS, itertools.cycle(DTYPES))  # the longest in one dtype each
    count = len(VARIANTS)
    return [(*case, VARIANTS[(5 * n + n // count) % count]) for n, case in enumerate(every)]


def name(case):
    (length, keys), width, dtype, (heads, *switches) = case
    return "-".join([f"{width}x{length}x{keys}", str(dtype), heads, *itertools.compress(SWITCHES, switches)])


def grid(longest=None):
    """The cases of this run; those with so many keys at most."""
    here = cases()[runtime.isa_available.index(runtime.isa) % EVERY :: EVERY]
    return [case for case in here if longest is None or case[0][1] <= longest]


def drawn(case):
    """Query, key and value, and the options."""
    (length, keys), width, dtype, (kind, causal, local, alibi, softcap) = case
    rng = np.random.default_rng(width * length)
    heads, key_heads = HEADS[kind]
    query, key, value = (
        rng.standard_normal(shape) for shape in ((1, heads, length, width), *[(1, key_heads, keys, width)] * 2)
    )
    if softcap:
        query *= 50  # as there: scores of the cap's size
    arrays = [x.astype(dtype) for x in (query, key, value)]
    options = {
        "is_causal": causal,
        "window": tuple(rng.integers(0, keys, 2)) if local else None,
        "alibi_slopes": rng.random((1, heads)).astype(np.float32) * 0.3 if alibi else None,
        "softcap": 50.0 if softcap else None,
    }
    return arrays, options


@pytest.mark.parametrize("case", grid(), ids=name)
def test_flash_attention_grid(case):
    arrays, options = drawn(case)
    oracle.assert_attention(sdpa(*arrays, **options, return_lse=True), *arrays, **options)


def test_every_combination_comes_up():
    assert {variant for *_, variant in cases()} == set(VARIANTS)
    assert len({(dtype, variant) for *_, dtype, variant in cases()}) >= 0.9 * len(DTYPES) * len(VARIANTS)
