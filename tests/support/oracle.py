"""The judge of the attention tests: a result may be at most twice as far from the truth as the plain formula is.

The truth is pyattn.reference in a wider dtype; the plain formula is the same code in the dtype of the inputs. Beyond
that a few roundings are allowed, which by chance the plain formula may not show. In units of eps:

    logit       1/2 of the sum of the sizes of its terms, scale |q| |k|, bias, ALiBi, and for the roundings of up to 256
                products that are added in order, which wander, a quarter of the root of their number as much
    sum         1/4 of what adding n terms in order may lose, n / 2. Keys are added in blocks of 128, these in runs of
                1024, and these to each other, each from zero: n is at most 128 + 8 + S / 1024
    weight      what its logit and the row's sum may be off by, and 4 for the exponentials and the division
    16 bits     the above as in float32, and 1/2 for each weight and for the result, which may be rounded to 16 bits;
                lse and statistics are float32, and are judged as those of float32. But where weights are rounded to
                bfloat16 their exponentials need no more than 13 bits, and a weight is the product of two: COARSE
"""

from typing import Any

import ml_dtypes
import numpy as np

from pyattn import reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
COARSE = 2.0**-12
MOST = 1 / 64  # of a weight, for its logit: a judge who allows more would accept anything


def wider(dtype: Any) -> Any:
    return np.longdouble if dtype == np.float64 else np.float64


def statistics_dtype(dtype: Any) -> np.dtype:
    """That of lse and statistics."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def attention(query: Any, key: Any, value: Any, mask: Any = None, **options: Any) -> Any:
    """The truth: (output, lse), and weights with return_weights=True, in the wider dtype."""
    return reference.scaled_dot_product_attention(query, key, value, mask, dtype=wider(query.dtype), **options)


def assert_attention(actual: Any, query: Any, key: Any, value: Any, mask: Any = None, **options: Any) -> None:
    """actual is an output, or a tuple of it, lse and, if there are three, weights, of attention on these arguments."""
    dtype, lse_dtype = query.dtype, statistics_dtype(query.dtype)
    exact, plain, plain_lse = (
        reference.scaled_dot_product_attention(query, key, value, mask, dtype=d, return_weights=True, **options)
        for d in (wider(dtype), dtype, lse_dtype)
    )
    allowance = Allowance(query, key, mask, **options)
    out, lse, weights = (*actual, None, None)[:3] if isinstance(actual, tuple) else (actual, None, None)
    assert out.dtype == dtype
    assert_close(out, exact[0], plain[0], allowance.out(value))
    if lse is not None:
        assert lse.dtype == lse_dtype
        assert_close(lse, exact[1], plain_lse[1], allowance.lse())
    if weights is not None:
        assert weights.dtype == dtype
        assert_close(weights, exact[2], plain[2], allowance.weights())


def assert_statistics(
    actual: Any,
    query: Any,
    key: Any,
    value: Any = None,
    mask: Any = None,
    *,
    top_k: int | None = None,
    query_range: Any = None,
    **options: Any,
) -> None:
    """actual is what attention_statistics returned for these arguments; what is None in it is not judged."""
    dtype = statistics_dtype(query.dtype)
    exact, plain = (
        reference.attention_statistics(query, key, None, mask, top_k=top_k, query_range=query_range, dtype=d, **options)
        for d in (wider(dtype), dtype)
    )
    allowance = Allowance(query, key, mask, **options)
    allowed = {
        "lse": allowance.lse(),
        "max": allowance.max(),
        "entropy": allowance.entropy(),
        "received": allowance.received(query_range),
        "top_weights": allowance.top_weights(),
    }
    for name, limit in allowed.items():
        got = getattr(actual, name)
        if got is not None:
            assert got.dtype == dtype, name
            assert_close(got, getattr(exact, name), getattr(plain, name), limit)
    if actual.top_keys is not None:
        weights = [reference.softmax(query, key, mask, dtype=d, **options).weights for d in (wider(dtype), dtype)]
        assert_top_keys(actual.top_keys, actual.top_weights, exact.top_keys, *weights, allowance)
    if value is not None:
        assert_attention(actual.out, query, key, value, mask, **options)


def assert_top_keys(keys: Any, got: Any, true_keys: Any, truth: Any, rough: Any, allowance: "Allowance") -> None:
    """Distinct live keys of these weights, which descend. Which of two keys of nearly the same weight comes is open."""
    assert keys.dtype == np.int64
    there = true_keys >= 0
    np.testing.assert_array_equal(keys >= 0, there)
    assert (keys[~there] == -1).all()
    assert (got[~there] == 0).all()
    assert (got[..., 1:] <= got[..., :-1]).all()
    numbers = np.sort(np.where(there, keys, -1 - np.arange(keys.shape[-1])), axis=-1)
    assert (numbers[..., 1:] > numbers[..., :-1]).all()

    def of_keys(x: Any) -> Any:
        return np.where(there, np.take_along_axis(x, np.maximum(keys, 0), axis=-1), 0)

    assert of_keys(allowance.exact.live)[there].all()
    assert_close(got, of_keys(truth), of_keys(rough), of_keys(allowance.weight))


def results(found: Any, asked: Any = None) -> tuple[Any, ...]:
    """Of what attention_statistics returned, what there is; asked: of that, what there is of those."""
    return tuple(x for x, y in zip(vars(found).values(), vars(asked or found).values(), strict=True) if y is not None)


class Allowance:
    """How far from the truth the roundings may take each result, elementwise."""

    def __init__(self, query: Any, key: Any, mask: Any = None, **options: Any) -> None:
        keys, dtype = key.shape[-2], query.dtype
        self.eps = float(np.finfo(statistics_dtype(dtype)).eps)
        self.half = float(ml_dtypes.finfo(dtype).eps) / 2 if dtype.itemsize == 2 else 0.0
        self.smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal) * (1 + keys / 8)
        if dtype == BFLOAT16:  # instructions for bfloat16 take subnormal numbers for 0
            self.smallest = float(ml_dtypes.finfo(dtype).smallest_normal)
        self.exact = reference.softmax(query, key, mask, **options)
        self.w = finite(self.exact.weights)
        # Up to 256 products of a logit are added one after the other: their roundings wander.
        roundings = 1 + min(query.shape[-1], 256) ** 0.5 / 4
        self.logit = np.minimum(self.eps / 2 * roundings * logit_terms(query, key, mask, **options), MOST)
        in_order = min(keys, 128) + min(keys, 1024) / 128 + keys / 1024
        self.row = (self.w * self.logit).sum(-1) + self.eps * (4 + in_order / 8)  # of all weights of a row
        self.row += COARSE * (dtype == BFLOAT16)
        self.weight = self.w * (self.logit + self.row[..., None])
        # exponentials may be 0 instead of subnormal
        self.weight += self.exact.live * float(np.finfo(statistics_dtype(dtype)).smallest_normal)

    def out(self, value: Any) -> Any:
        value = finite(value)
        if value.ndim > 2:
            value = np.repeat(value, self.w.shape[-3] // max(1, value.shape[-3]), axis=-3)
        return (self.weight + 2 * self.half * self.w) @ value + self.smallest

    def weights(self) -> Any:
        return self.weight + self.half * self.w + self.smallest

    def lse(self) -> Any:
        return self.row + self.eps * finite(self.exact.lse)

    def max(self) -> Any:
        top = self.exact.logits.argmax(-1)[..., None] if self.w.shape[-1] else np.zeros_like(self.w, int)
        logit = np.take_along_axis(self.logit, top, axis=-1).sum(-1)
        return 2 * logit + self.eps * finite(self.exact.logits.max(-1, initial=-np.inf))

    def entropy(self) -> Any:
        logarithm = np.log(np.where(self.w > 0, self.w, 1))
        return (self.weight * (1 - logarithm)).sum(-1) + self.eps * (1 + finite(self.exact.lse))

    def received(self, query_range: Any) -> Any:
        rows = slice(*query_range) if query_range else slice(None)
        in_order = len(range(self.w.shape[-2])[rows])
        return (self.weight + self.eps * in_order / 8 * self.w)[..., rows, :].sum(-2)

    def top_weights(self) -> Any:
        return self.weight.max(-1, keepdims=True, initial=0)


def logit_terms(
    query: Any,
    key: Any,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    alibi_slopes: Any = None,
    **options: Any,
) -> Any:
    """The sum of the sizes of the terms of each logit: the logit of everything's absolute value."""
    real = mask is not None and not hasattr(mask, "tocsr") and mask.dtype != bool
    return finite(
        reference.softmax(
            finite(query),
            finite(key),
            finite(mask) if real else None,
            bias=None if bias is None else finite(bias),
            scale=None if scale is None else abs(scale),
            alibi_slopes=None if alibi_slopes is None else -finite(alibi_slopes),
            kv_lengths=options.get("kv_lengths"),
            query_offset=options.get("query_offset"),
        ).logits
    )


def finite(x: Any) -> Any:
    """Absolute values in float64, 0 for what is not finite."""
    x = np.asarray(x.toarray() if hasattr(x, "tocsr") else x).astype(np.float64)
    return np.where(np.isfinite(x), np.abs(x), 0)


def assert_close(got: Any, truth: Any, rough: Any, allowance: Any) -> None:
    """NaN and inf in the same places; elsewhere at most twice the largest error of rough beyond the allowance."""
    assert got.shape == truth.shape
    got, rough = got.astype(truth.dtype), rough.astype(truth.dtype)
    special = ~np.isfinite(truth)
    np.testing.assert_array_equal(got[special], truth[special])
    if special.all():
        return
    with np.errstate(invalid="ignore"):  # inf - inf where the plain formula overflows
        plain = np.abs(rough - truth)
        beyond = np.where(special, -np.inf, np.abs(got - truth) - allowance)
    plain = plain[np.isfinite(plain)].max(initial=0)
    worst = np.unravel_index(beyond.argmax(), beyond.shape)  # the first NaN, if there is one
    assert beyond[worst] <= 2 * plain, (
        f"at {worst}: {got[worst]:.9g}, not {truth[worst]:.9g}: {beyond[worst]:.3g} beyond the roundings, "
        f"the plain formula is off by {plain:.3g}"
    )


def assert_same(actual, expected):
    """The same bits, in every array of a tuple; but a NaN is a NaN."""
    if isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
        return
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    bits, nan = f"u{expected.itemsize}", np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual[~nan].view(bits), expected[~nan].view(bits))
