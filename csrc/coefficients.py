"""Derive the polynomial coefficients of vmath.h and simd/avx512.h: run it (needs mpmath, SciPy)."""

from itertools import accumulate, pairwise, zip_longest

import mpmath as mp
import numpy as np
from scipy.special import erfc

mp.mp.dps = 60


def minimax(target, weight, low, high, terms, points=4000, rounds=1500):
    """Coefficients of t, t^2, ... of the polynomial minimising max |weight (p - target)| on [low, high] (Lawson)."""
    t = low + (high - low) / 2 * (1 - np.cos(np.pi * (np.arange(points) + 0.5) / points))
    columns = weight(t)[:, None] * t[:, None] ** np.arange(1, terms + 1)
    size = abs(columns).max(axis=0)
    importance = np.full(points, 1 / points)
    best = np.inf, None
    for _ in range(rounds):
        root = np.sqrt(importance)
        solution = np.linalg.lstsq(columns / size * root[:, None], weight(t) * target(t) * root, rcond=None)[0] / size
        error = abs(columns @ solution - weight(t) * target(t))
        best = min(best, (error.max(), tuple(solution)))
        importance *= error
        importance /= importance.sum()
    return best


def interpolate(function, low, width, terms):
    """Coefficients, lowest power first, of the polynomial through `terms` Chebyshev nodes on [low, low + width]."""
    nodes = [low + width * (1 + mp.cos(mp.pi * (2 * i + 1) / (2 * terms))) / 2 for i in range(terms)]
    return mp.lu_solve(
        mp.matrix([[x**power for power in range(terms)] for x in nodes]), mp.matrix(list(map(function, nodes)))
    )


def rational(function, weight, high, degree, rounds=20):
    """Error, S, P, Q of S(t) + P(t) / Q(t): S quadratic, Q of the given degree and leading with 1, P of one less.

    It equals the function at t = 0 and at 2 degree + 2 more points of [0, high], which move until the weighted relative
    error between them is level, as Chebyshev's theorem has it for the best.
    """
    gaps = [mp.mpf(i + 1) for i in range(2 * degree + 3)]
    for _ in range(rounds):
        edges = [high * end / mp.fsum(gaps) for end in accumulate(gaps, initial=0)]
        rows = [[t**i for i in range(degree + 3)] + [-function(t) * t**i for i in range(degree)] for t in edges[:-1]]
        right = [function(t) * t**degree for t in edges[:-1]]
        solution = list(mp.lu_solve(mp.matrix(rows), mp.matrix(right)))
        p, q = solution[degree + 2 :: -1], [1, *solution[: degree + 2 : -1]]  # highest power first, as polyval has them

        def error(t, p=p, q=q):
            return weight(t) * abs(mp.polyval(p, t) / mp.polyval(q, t) / function(t) - 1)

        errors = [max(map(error, mp.linspace(low, top, 9)[1:])) for low, top in pairwise(edges)]
        gaps = [gap / size**0.3 for gap, size in zip(gaps, errors, strict=True)]
    s = []
    for _ in range(3):  # steps of the division of p by q
        s.append(p[0])
        p = [a - s[-1] * b for a, b in zip_longest(p, q, fillvalue=0)][1:]
    return max(errors), s[::-1], p[::-1], q[::-1]


def pieces(function, slope, width, count):
    """Coefficients of r^0, r^1 and r^2, each (count,), of parabolas near a function, at (n + r) width for |r| <= 1/2.

    Through its three Chebyshev nodes; the first through 0, with the function's slope there; the last is 0.
    """
    nodes = np.cos(np.pi * np.array([1, 3, 5]) / 6) / 2
    powers = nodes[:, None] ** np.arange(3)
    values = function((np.arange(count)[:, None] + nodes) * width)
    c = np.linalg.solve(powers, values.T)
    c[:2, 0], c[:, -1] = (0, slope * width), 0
    c[2, 0] = (function(width * 0.4) - c[1, 0] * 0.4) / 0.4**2
    return c


def tanh_ratio(t):
    """tanh(x) / x, t = x^2."""
    return mp.tanh(mp.sqrt(t)) / mp.sqrt(t) if t else mp.mpf(1)


def exp2_power(low, terms):
    """Coefficients, lowest power first, of the q of 2^r = 1 + r q(r) on [low, -low], to the precision of float64."""
    return interpolate(lambda x: (mp.mpf(2) ** x - 1) / x if x else mp.ln2, low, -2 * low, terms)


def show(name, coefficients, suffix=""):
    hexadecimal = [float(c).hex() for c in reversed(list(coefficients))]
    print(f"{name}: ", ", ".join(h.replace("0000000p", "p") + suffix for h in hexadecimal))


def main():
    # 2^r = 1 + r q(r), relative error: on [0, 1] where n = floor(x), on [-1/2, 1/2] where n = round(x), and on
    # [-1/32, 1/32] where n is in sixteenths
    for low, terms in ((0, 3), (0, 5), (-0.5, 5)):
        error, c = minimax(lambda t: 2.0**t - 1, lambda t: 2.0**-t, low, low + 1, terms)
        show(f"exp2 float32 on [{low}, {low + 1}], error {error:.2g}", np.float32(c), "f")
    for low, terms in ((-1 / 2, 11), (-1 / 32, 6)):
        show(f"exp2 float64 on [{low}, {-low}]", exp2_power(low, terms))
    show("sixteenths", reversed([mp.mpf(2) ** (mp.mpf(i) / 16) for i in range(16)]))
    # erfc(x / sqrt(2)) = 2^-(x q(x)) on [0, 7], absolute error of x erfc(x / sqrt(2)), the part of GELU that it enters
    for terms in (4, 8):
        error, c = minimax(
            lambda x: -np.log2(erfc(x / np.sqrt(2))), lambda x: x * erfc(x / np.sqrt(2)) + 1e-5, 0, 7, terms
        )
        show(f"erfc float32, error {error * np.log(2):.2g}", np.float32(c), "f")
    # x erfc(x / sqrt(2)) / 2 on [0, 5] in 31 steps
    for power, row in enumerate(pieces(lambda x: x * erfc(x / np.sqrt(2)) / 2, 0.5, 5 / 31, 32)):
        show(f"tail of gelu, r^{power}", reversed(np.float32(row)), "f")
    # tanh(x) / x = 1 + t q(t) in t = x^2 up to 1/4
    error, c = minimax(
        lambda t: np.tanh(np.sqrt(t)) / np.sqrt(t) - 1, lambda t: np.sqrt(t) / np.tanh(np.sqrt(t)), 0, 0.25, 4
    )
    show(f"tanh float32 near 0, error {error:.2g}", np.float32(c), "f")
    # tanh(x) / x = S + P / Q in t = x^2 (7.9, and 18.5 below, are the ends whose rounded coefficients measure best) and
    # 2 tanh(x / 2) / x likewise, its relative error weighted by what remains of it in z / (1 + z^2 / 4) = tanh(x)
    single = np.float32, "f", tanh_ratio, lambda t: 1, 7.9**2, 3
    double = np.float64, "", lambda t: tanh_ratio(t / 4), lambda t: 1 / mp.cosh(mp.sqrt(t)), 18.5**2, 5
    for dtype, suffix, *problem in (single, double):
        error, *parts = rational(*problem)
        for name, part in zip("SPQ", parts, strict=True):
            show(f"tanh {dtype.__name__} {name}, error {float(error):.2g}", dtype([float(x) for x in part]), suffix)


if __name__ == "__main__":
    main()
