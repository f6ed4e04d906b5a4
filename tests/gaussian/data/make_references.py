"""Make references.json: Gaussian moments of activations by mpmath at 30 digits (a quarter of an hour, by hand).

python tests/gaussian/data/make_references.py            all of them
python tests/gaussian/data/make_references.py tanh mish  only these

Nothing here comes from the package: one-variable moments are mpmath integrals cut at the kinks; products at two
points use the conditional mean of the second function in closed form (truncated normals) and an outer
integral, or, for analytic functions without such a form, a trapezoidal rule in two independent variables,
which converges geometrically in the distance of the nearest pole from the real axis.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
import time

import mpmath as mp

mp.mp.dps = 30
REACH = 13
VARIANCES = ["0.01", "0.1", "1", "3", "10"]
PAIRS = [("0.1", "0.1"), ("1", "1"), ("1", "2.5"), ("0.3", "4"), ("10", "10")]
CORRELATIONS = ["-0.999", "-0.9", "-0.5", "0", "0.5", "0.9", "0.99", "0.999", "0.999999"]
LEGENDRE = 24
ROOT, CUBE = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
SELU_A, SELU_S = mp.mpf("1.6732632423543772848170429916717"), mp.mpf("1.0507009873554804934193349852946")


def pdf(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def cdf(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def sigmoid(z):
    return 1 / (1 + mp.exp(-z))


def softplus(z):
    return mp.log1p(mp.exp(z)) if z < 0 else z + mp.log1p(mp.exp(-z))


def pieces(knots, polys):
    """Function, slope and conditional means of a piecewise polynomial (coefficients lowest first)."""
    knots = [mp.mpf(k) for k in knots]
    polys = [[mp.mpf(c) for c in p] for p in polys]

    def at(z, table):
        return mp.polyval(list(reversed(table[sum(z > k for k in knots)])), z)

    slopes = [[i * c for i, c in enumerate(p)][1:] or [mp.mpf(0)] for p in polys]
    return (
        lambda z: at(z, polys),
        lambda z: at(z, slopes),
        lambda m, t: truncated(m, t, knots, polys),
        lambda m, t: truncated(m, t, knots, slopes),
        knots,
    )


def truncated(m, t, knots, polys):
    total = mp.mpf(0)
    ends = [None, *knots, None]
    for i, p in enumerate(polys):
        low, high = ends[i], ends[i + 1]
        lo = None if low is None else (low - m) / t
        hi = None if high is None else (high - m) / t
        moment = [interval(lo, hi)]
        for n in range(1, len(p)):
            edge = low ** (n - 1) * pdf(lo) if lo is not None else mp.mpf(0)
            edge -= high ** (n - 1) * pdf(hi) if hi is not None else 0
            below = (n - 1) * t * t * moment[n - 2] if n > 1 else 0
            moment.append(m * moment[n - 1] + below + t * edge)
        total += sum(c * v for c, v in zip(p, moment, strict=True))
    return total


def interval(lo, hi):
    if lo is None and hi is None:
        return mp.mpf(1)
    if lo is None:
        return cdf(hi)
    if hi is None:
        return cdf(-lo)
    return cdf(hi) - cdf(lo) if hi < 0 else cdf(-lo) - cdf(-hi)


def elu(alpha, width, scale):
    alpha, width, scale = mp.mpf(alpha), mp.mpf(width), mp.mpf(scale)

    def tilted(m, t):
        return mp.exp(m / width + t * t / (2 * width**2)) * cdf(-m / t - t / width)

    return (
        lambda z: scale * (z if z > 0 else alpha * mp.expm1(z / width)),
        lambda z: scale * (1 if z > 0 else alpha / width * mp.exp(z / width)),
        lambda m, t: scale * (m * cdf(m / t) + t * pdf(m / t) + alpha * (tilted(m, t) - cdf(-m / t))),
        lambda m, t: scale * (cdf(m / t) + alpha / width * tilted(m, t)),
        [mp.mpf(0)],
    )


def spread(t, k=1):
    return mp.sqrt(1 + k * t * t)


def gelu_slope_mean(m, t):
    s = spread(t)
    return cdf(m / s) + m * pdf(m / s) / s**3


# name: (f, f', conditional mean of f, of f', kinks); None where there is no closed conditional mean.
CASES = {
    "relu": pieces([0], [[0], [0, 1]]),
    "leaky_relu": pieces([0], [[0, "0.01"], [0, 1]]),
    "abs": pieces([0], [[0, -1], [0, 1]]),
    "hardtanh": pieces([-1, 1], [[-1], [0, 1], [1]]),
    "relu6": pieces([0, 6], [[0], [0, 1], [6]]),
    "hardsigmoid": pieces([-3, 3], [[0], ["0.5", mp.mpf(1) / 6], [1]]),
    "hardswish": pieces([-3, 3], [[0], [0, "0.5", mp.mpf(1) / 6], [0, 1]]),
    "softshrink": pieces(["-0.5", "0.5"], [["0.5", 1], [0], ["-0.5", 1]]),
    "relu_squared": pieces([0], [[0], [0, 0, 1]]),
    "elu": elu(1, 1, 1),
    "selu": elu(SELU_A, 1, SELU_S),
    "erf": (
        mp.erf,
        lambda z: 2 / mp.sqrt(mp.pi) * mp.exp(-z * z),
        lambda m, t: mp.erf(m / spread(t, 2)),
        lambda m, t: 2 / mp.sqrt(mp.pi) * mp.exp(-m * m / (1 + 2 * t * t)) / spread(t, 2),
        [],
    ),
    "sin": (mp.sin, mp.cos, lambda m, t: mp.sin(m) * mp.exp(-t * t / 2),
            lambda m, t: mp.cos(m) * mp.exp(-t * t / 2), []),
    "cos": (mp.cos, lambda z: -mp.sin(z), lambda m, t: mp.cos(m) * mp.exp(-t * t / 2),
            lambda m, t: -mp.sin(m) * mp.exp(-t * t / 2), []),
    "gaussian": (
        lambda z: mp.exp(-z * z),
        lambda z: -2 * z * mp.exp(-z * z),
        lambda m, t: mp.exp(-m * m / (1 + 2 * t * t)) / spread(t, 2),
        lambda m, t: -2 * m / spread(t, 2) ** 3 * mp.exp(-m * m / (1 + 2 * t * t)),
        [],
    ),
    "gelu": (
        lambda z: z * cdf(z),
        lambda z: cdf(z) + z * pdf(z),
        lambda m, t: m * cdf(m / spread(t)) + t * t / spread(t) * pdf(m / spread(t)),
        lambda m, t: gelu_slope_mean(m, t),
        [],
    ),
    "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2, None, None, []),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z), None, None, []),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z)), None, None, []),
    "softplus": (softplus, sigmoid, None, None, []),
    "mish": (
        lambda z: z * mp.tanh(softplus(z)),
        lambda z: mp.tanh(softplus(z)) + z * mp.sech(softplus(z)) ** 2 * sigmoid(z),
        None, None, [],
    ),
    "gelu_tanh": (
        lambda z: z / 2 * (1 + mp.tanh(ROOT * (z + CUBE * z**3))),
        lambda z: (1 + mp.tanh(ROOT * (z + CUBE * z**3))) / 2
        + z / 2 * mp.sech(ROOT * (z + CUBE * z**3)) ** 2 * ROOT * (1 + 3 * CUBE * z * z),
        None, None, [],
    ),
}  # fmt: skip
POLE = {"tanh": 1.57, "sigmoid": 3.14, "silu": 3.14, "softplus": 3.14, "mish": 2.35, "gelu_tanh": 1.6}


def legendre():
    """Nodes and weights of the 24-point Gauss-Legendre rule at full precision, by Newton's method."""
    rule = []
    for i in range(1, LEGENDRE + 1):
        x = mp.cos(mp.pi * (i - mp.mpf(1) / 4) / (LEGENDRE + mp.mpf(1) / 2))
        for _ in range(8):
            p, q = mp.legendre(LEGENDRE, x), mp.legendre(LEGENDRE - 1, x)
            slope = LEGENDRE * (q - x * p) / (1 - x * x)
            x -= p / slope
        rule.append((x, 2 / ((1 - x * x) * slope**2)))
    return rule


RULE = legendre()


def panels(g, s, extra):
    """Integral of g over |z| < 13 s on panels cut at multiples of s, a grid of z, and the extra points."""
    grid = [i * s for i in range(-REACH, REACH + 1)] + [mp.mpf(v) for v in (-8, -4, -2, -1, 1, 2, 4, 8)]
    ends = sorted({v for v in [*grid, *extra] if abs(v) <= REACH * s})
    total = mp.mpf(0)
    for low, high in itertools.pairwise(ends):
        half, middle = (high - low) / 2, (high + low) / 2
        total += half * mp.fsum(w * g(middle + half * x) for x, w in RULE)
    return total


def one(f, K, kinks):
    s = mp.sqrt(K)
    return panels(lambda z: f(z) * pdf(z / s) / s, s, kinks)


def closed_inner(f, inner, K, L, rho, kinks):
    s = mp.sqrt(K)
    m, t = rho * mp.sqrt(L / K), mp.sqrt(L * (1 - rho**2))
    near = [(k + j * t) / m for k in kinks for j in (-12, -8, -5, -3, -1, 0, 1, 3, 5, 8, 12)]
    return panels(lambda z: f(z) * inner(m * z, t) * pdf(z / s) / s, s, [*kinks, *near])


def trapezoid(f, K, L, rho, pole):
    s, m, t = mp.sqrt(K), rho * mp.sqrt(L), mp.sqrt(L * (1 - rho**2))
    # Geometric convergence exp(d^2/2 - 2 pi d/h) for poles at distance d, exp(-2 pi^2/h^2) for the Gaussian
    # itself.
    digits = 60.0
    hx = min(0.35, 2 * 3.14159 * pole / (digits * float(max(s, abs(m)))))
    hy = min(0.35, 2 * 3.14159 * pole / (digits * float(t)))
    hx, hy = mp.mpf(hx), mp.mpf(hy)
    nx, ny = int(11 / hx) + 1, int(11 / hy) + 1
    wy = [pdf(j * hy) * hy for j in range(-ny, ny + 1)]
    total = mp.mpf(0)
    for i in range(-nx, nx + 1):
        x = i * hx
        total += pdf(x) * hx * f(s * x) * mp.fdot((f(m * x + t * (j - ny) * hy), w) for j, w in enumerate(wy))
    return total


def moments(f, df, K, kinks):
    values = {
        "mean": one(f, K, kinks),
        "second_moment": one(lambda z: f(z) ** 2, K, kinks),
        "derivative_moment": one(lambda z: df(z) ** 2, K, kinks),
        "second_moment_slope": one(lambda z: z * f(z) * df(z) / K, K, kinks),
        "fourth_moment": one(lambda z: f(z) ** 4, K, kinks),
        "derivative_mean": one(df, K, kinks),
    }
    return {"K": mp.nstr(K, 25), **{k: mp.nstr(v, 25) for k, v in values.items()}}


def products(f, df, mean, slope_mean, kinks, pole, ka, kb, rho):
    K, L, r = mp.mpf(ka), mp.mpf(kb), mp.mpf(rho)
    if r == 0:
        dual, slopes = (one(g, K, kinks) * one(g, L, kinks) for g in (f, df))
    elif mean is not None:
        dual = closed_inner(f, mean, K, L, r, kinks)
        slopes = closed_inner(df, slope_mean, K, L, r, kinks)
    else:
        dual, slopes = trapezoid(f, K, L, r, pole), trapezoid(df, K, L, r, pole)
    return {
        "Ka": ka, "Kb": kb, "rho": rho, "dual": mp.nstr(dual, 22), "dual_derivative": mp.nstr(slopes, 22),
    }  # fmt: skip


def main() -> None:
    """Write references.json next to this file; names on the command line remake only those."""
    target = pathlib.Path(__file__).with_name("references.json")
    out, start = json.loads(target.read_text()) if sys.argv[1:] else {}, time.time()
    for name, (f, df, mean, slope_mean, kinks) in CASES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        rows = {
            "one": [moments(f, df, mp.mpf(K), kinks) for K in VARIANCES],
            "two": [
                products(f, df, mean, slope_mean, kinks, POLE.get(name, 0.0), *pair, rho)
                for pair in PAIRS
                for rho in CORRELATIONS
            ],
        }
        out[name] = rows
        lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(r)}" for n, r in out.items())
        target.write_text("{\n" + lines + "\n}\n")
        print(name, round(time.time() - start, 1), flush=True)


if __name__ == "__main__":
    main()
