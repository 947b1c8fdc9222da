"""Rotary positions beyond the lengths that a model was trained on: how their frequencies are scaled."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array

ORIGINAL = "original_max_position_embeddings"

# What each type must have, and what it may.
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, set()),
    "yarn": (
        {ORIGINAL},
        {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", ORIGINAL}, set()),
    "longrope": ({"short_factor", "long_factor", ORIGINAL}, {"factor", "attention_factor"}),
}
ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "max_position_embeddings", ORIGINAL}
BY_LENGTH = ("dynamic", "longrope")  # those whose frequencies depend on the sequence's length


def rotary_frequencies(
    width: int, *, base: float = 10000.0, scaling: Mapping[str, Any] | None = None, sequence_length: int | None = None
) -> tuple[Array, float]:
    """The angle from one position to the next of each pair of features, and a factor of their cosines and sines.

    RoFormer, Su et al. 2021 (arXiv:2104.09864), section 3.2.2: pair i turns by base^(-2i / width). `scaling` is what
    transformers calls rope_parameters (before, rope_scaling), and means what it means there. Its rope_type, or type:

    - "linear": position interpolation, Chen et al. 2023 (arXiv:2306.15595), section 2.3: angles over factor.
    - "dynamic": a base that grows with the sequence, NTK-aware: YaRN's sections 3.1 and 3.3. The length at which it
      begins to grow is max_position_embeddings, or else original_max_position_embeddings.
    - "yarn": Peng et al. 2023 (arXiv:2309.00071), sections 3.2 and 3.4: fast pairs, of beta_fast turns or more in the
      original length, stay; slow ones, of beta_slow or less, turn by angles over factor; between them is a ramp along
      the pairs, whose ends are whole numbers if truncate. Cosines and sines are multiplied by attention_factor, or
      0.1 ln(factor) + 1, or with mscale and mscale_all_dim by the quotient of that with ln(factor) times either.
    - "llama3": that of Llama 3.1 (Dubey et al. 2024, arXiv:2407.21783), from its code: as "yarn", with a ramp along
      turns, from low_freq_factor to high_freq_factor of them, and no factor of cosines and sines.
    - "longrope": Ding et al. 2024 (arXiv:2402.13753), section 3: angles over short_factor, one number a pair, or over
      long_factor for sequences longer than the original; cosines and sines times attention_factor, or
      sqrt(1 + ln(factor) / ln(original_max_position_embeddings)).

    For the last three max_position_embeddings stands in for a missing original_max_position_embeddings; for "yarn" and
    "longrope" the quotient of the two for a missing factor.

    Args:
        width: features that turn, even.
        base: longest wavelength over 2 pi, positive.
        scaling: a mapping as above, or None. It may also hold rope_theta, which must be base, and
            partial_rotary_factor, which width accounts for.
        sequence_length: that of the whole sequence, for "dynamic" and "longrope". None: not above the original.

    Returns:
        (width / 2,), float64, and the factor.

    Raises:
        TypeError: scaling is no mapping.
        ValueError: width is odd; base is not positive and finite; scaling is of an unknown type, has unknown names,
            lacks one that is needed, or holds a number that makes no sense.

    Example:
        >>> frequencies, factor = rotary_frequencies(4, scaling={"rope_type": "linear", "factor": 2.0})
        >>> frequencies, factor
        (array([0.5  , 0.005]), 1.0)
    """
    return frequencies_for("rotary_frequencies", width, base, scaling, sequence_length)


def frequencies_for(
    function: str, width: int, base: float, scaling: Mapping[str, Any] | None, sequence_length: int | None
) -> tuple[Array, float]:
    if _checks.count(function, "width", width) % 2:
        raise ValueError(f"{function}: width must be even, not {width}")
    base = _checks.positive(function, "base", base)
    length = 0 if sequence_length is None else _checks.count(function, "sequence_length", sequence_length)
    scaling = {} if scaling is None else scaling
    kind = rope_type(function, scaling)
    original = _check_names(function, kind, scaling, base)
    exponents = np.arange(0, width, 2) / max(1, width)
    frequencies: Array = base**-exponents
    if kind == "default":
        return frequencies, 1.0

    number = partial(_number, function, scaling)
    if kind == "linear":
        return frequencies / number("factor", 1.0), 1.0
    if kind == "dynamic":
        growth = 1 + number("factor", 1.0) * (max(length, original) / original - 1)
        larger: Array = (base * growth ** (width / max(1, width - 2))) ** -exponents
        return larger, 1.0
    if kind == "llama3":
        low, high = number("low_freq_factor", 1.0), number("high_freq_factor", 4.0)
        if not low < high:
            raise ValueError(f"{function}: scaling's low_freq_factor {low} must be below its high_freq_factor {high}")
        turns = original * frequencies / (2 * math.pi)
        return _blend(frequencies, (turns - low) / (high - low), number("factor", 1.0)), 1.0
    factor = number("factor", number("max_position_embeddings", original) / original)
    if kind == "yarn":
        fast, slow = number("beta_fast", 32.0), number("beta_slow", 1.0)
        if base <= 1:
            raise ValueError(f'{function}: base must be above 1 for "yarn", not {base}')
        first, last = (width * math.log(original / (2 * math.pi * n)) / (2 * math.log(base)) for n in (fast, slow))
        truncate = scaling.get("truncate")
        if truncate is None or _checks.flag(function, "scaling's truncate", truncate):
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        ramp = (np.arange(width // 2) - first) / (last - first if last != first else 0.001)
        grown = 0.1 * math.log(max(1.0, factor))
        usual = grown + 1
        if scaling.get("mscale") and scaling.get("mscale_all_dim"):
            usual = (number("mscale", 1.0) * grown + 1) / (number("mscale_all_dim", 1.0) * grown + 1)
        return _blend(frequencies, 1 - ramp, factor), number("attention_factor", usual)
    name = "long_factor" if length > original else "short_factor"
    factors = np.asarray(scaling[name], np.float64)
    if factors.shape != (width // 2,) or not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError(f"{function}: scaling's {name} must be width / 2 = {width // 2} positive numbers")
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 < original else 1.0
    return frequencies / factors, number("attention_factor", usual)


def _blend(frequencies: Array, share: Array, factor: float) -> Array:
    """The frequencies by their share from 0 to 1, for the rest over factor."""
    share = np.clip(share, 0, 1)
    return frequencies * (share + (1 - share) / factor)


def rope_type(function: str, scaling: Mapping[str, Any]) -> str:
    if not isinstance(scaling, Mapping):
        raise TypeError(f"{function}: scaling must be a mapping or None, not {type(scaling).__name__}")
    given = scaling.get("rope_type", scaling.get("type", "default"))
    kind: str = _checks.choice(function, "scaling's rope_type", given, KEYS)
    return kind


def _check_names(function: str, kind: str, scaling: Mapping[str, Any], base: float) -> float:
    """The length that a model was trained for; 1 where none is needed."""
    needed, possible = KEYS[kind]
    given = {key for key, value in scaling.items() if value is not None}
    unknown = sorted(map(str, given - needed - possible - ALWAYS))
    lengths = [ORIGINAL, "max_position_embeddings"]
    if kind == "dynamic":
        needed, lengths = needed | {ORIGINAL}, lengths[::-1]
    present = [key for key in lengths if key in given]
    missing = sorted(needed - given - ({ORIGINAL} if present else set()))
    if unknown or missing:
        raise ValueError(
            f'{function}: scaling of type "{kind}" has {sorted(map(str, given))}; '
            f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
        )
    if "rope_theta" in given and scaling["rope_theta"] != base:
        raise ValueError(f"{function}: scaling's rope_theta {scaling['rope_theta']} must be base, {base}")
    return _number(function, scaling, present[0], 1.0) if ORIGINAL in needed else 1.0


def _number(function: str, scaling: Mapping[str, Any], key: str, default: float) -> float:
    value = scaling.get(key)
    return default if value is None else _checks.positive(function, f"scaling's {key}", value)
