"""The predicted seed-to-seed spread behind sums, norms, gates and convolutions, against networks drawn exactly in law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import leadline.rules.conv
from leadline.activations import activation
from leadline.gaussian import expectation
from leadline.measure import measure
from leadline.program import trace
from leadline.rules import covariance, fluctuation
from leadline.rules.state import Noise
from leadline.theory import predict
from measure.drawn import Drawn, Law, Pointwise, Product, Scale, Sum, convolution, draw, linear

TOLERANCE = 0.10
CERTAIN = 1e-9  # spreads below this are zero


def two_inputs() -> torch.Tensor:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * (8 / x.square().sum(1, keepdim=True)).sqrt()


class Stream(nn.Module):
    """h <- mu h + W s(h): the nonlinearity acts on the stream itself."""

    def __init__(self, n: int, depth: int, act, mu: float) -> None:
        super().__init__()
        self.stem, self.layers = linear(8, n), nn.ModuleList(linear(n, n) for _ in range(depth))
        self.act, self.sum, self.mu = Pointwise(act), Sum(), Scale(mu)

    def forward(self, x):
        h = self.stem(x)
        for layer in self.layers:
            h = self.sum(layer(self.act(h)), self.mu(h))
        return h


class Blocks(nn.Module):
    """h <- h + W s(V norm(h)); with ``post`` the norm follows the sum; with ``gate`` s(V h) is multiplied by U h."""

    def __init__(self, n: int, m: int, depth: int, act, norm=nn.Identity, *, post=False, gate=False, skip=True) -> None:
        super().__init__()
        self.stem = linear(8, n)
        self.up = nn.ModuleList(linear(n, m) for _ in range(depth))
        self.other = nn.ModuleList(linear(n, m) for _ in range(depth if gate else 0))
        self.down = nn.ModuleList(linear(m, n) for _ in range(depth))
        self.norm = None if norm is nn.Identity else norm(n, dtype=torch.float64)
        self.act, self.sum, self.gate = Pointwise(act), Sum(), Product()
        self.post, self.skip = post, skip

    def forward(self, x):
        h = self.stem(x)
        for i, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            y = h if self.norm is None or self.post else self.norm(h)
            inner = self.act(up(y))
            z = down(self.gate(inner, self.other[i](y)) if self.other else inner)
            h = self.sum(h, z) if self.skip else z
            h = self.norm(h) if self.norm is not None and self.post else h
        return self.act(h)


class Normed(nn.Module):
    """W s(norm(h)), repeated."""

    def __init__(self, n: int, depth: int, act, norm) -> None:
        super().__init__()
        self.stem, self.layers = linear(8, n), nn.ModuleList(linear(n, n) for _ in range(depth))
        self.act, self.norm = Pointwise(act), norm(n, dtype=torch.float64)

    def forward(self, x):
        h = self.stem(x)
        for layer in self.layers:
            h = layer(self.act(self.norm(h)))
        return h


class Images(nn.Module):
    """Convolutions with padding, the first with a stride, with a skip if asked for; flattened into a dense layer."""

    def __init__(self, n: int, depth: int, act, *, skip: bool, stride: int = 1) -> None:
        super().__init__()
        self.stem = convolution(8, n, padding=1)
        self.layers = nn.ModuleList(convolution(n, n, padding=1, stride=stride if i == 0 else 1) for i in range(depth))
        sites = math.ceil(4 / stride) ** 2
        self.act, self.sum, self.mu, self.head = Pointwise(act), Sum(), Scale(0.7), linear(n * sites, 5)
        self.skip, self.flatten = skip, nn.Flatten()

    def forward(self, x):
        h = self.stem(x)
        for layer in self.layers:
            z = layer(self.act(h))
            h = self.sum(z, self.mu(h)) if self.skip else z
        return self.head(self.flatten(self.act(h)))


def quick_first(cases, *quick: str):
    """Names of all cases, of which all but a few are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in cases]


def image() -> torch.Tensor:
    return torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def worst(model: nn.Module, x: torch.Tensor, law: Law, found: list[Drawn]) -> float:
    """Largest relative error of a row's predicted spread."""
    rows = predict(trace(model, x, law=law.stated(model))).rows
    assert len(rows) == len(found)
    out = 0.0
    for row, drawn in zip(rows, found, strict=True):
        kernel = row.values["kernel"]
        assert (
            abs(kernel.value - drawn.kernel.value) < 4 * drawn.kernel.error + 1.5 * kernel.error + 0.01 * kernel.value
        )
        if drawn.spread.value < CERTAIN:
            assert row.get("spread") in (None, 0.0), row  # None behind a norm, whose scale is fixed and not random
            continue
        assert drawn.spread.error < 0.03 * drawn.spread.value
        out = max(out, abs(row.values["spread"].value / drawn.spread.value - 1))
    return out


def without_cross_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the channels of a stream to be other ones at every depth."""
    right = covariance.gram

    def wrong(group):
        G = right(group)
        return G * torch.eye(G.shape[0], dtype=G.dtype)[:, :, None]

    monkeypatch.setattr(covariance, "gram", wrong)


gelu, silu = nn.functional.gelu, nn.functional.silu
LN, RMS = nn.LayerNorm, nn.RMSNorm

# name -> network, its law, and whether leaving out the cross terms must be seen
SUMS = {
    "relu on the stream": (lambda: Stream(150, 4, torch.relu, 0.5), Law(1.5), True),
    "gelu on the stream": (lambda: Stream(150, 4, gelu, 0.7), Law(1.5, 0.1), True),
    "tanh on the stream": (lambda: Stream(64, 4, torch.tanh, 0.7), Law(1.0, 0.1), True),
    "blocks without a norm": (lambda: Blocks(100, 150, 3, torch.relu), Law(1.5, 0.1), True),
    "pre-LN": (lambda: Blocks(64, 96, 3, torch.relu, LN), Law(1.5, 0.1), False),
    "pre-RMS": (lambda: Blocks(64, 96, 3, gelu, RMS), Law(1.5, 0.1), False),
    "post-LN": (lambda: Blocks(80, 120, 2, torch.relu, LN, post=True), Law(1.5, 0.1), True),
    "post-RMS": (lambda: Blocks(80, 120, 2, gelu, RMS, post=True), Law(1.5, 0.1), True),
    "LN before relu": (lambda: Normed(100, 2, torch.relu, LN), Law(1.5, 0.1), True),
    "LN before gelu": (lambda: Normed(100, 2, gelu, LN), Law(1.5, 0.1), True),
    "RMS before tanh": (lambda: Normed(100, 2, torch.tanh, RMS), Law(1.5, 0.1), True),
}


@pytest.mark.parametrize("name", quick_first(SUMS, "relu on the stream", "pre-LN", "post-LN"))
def test_sums_and_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, law, crossed = SUMS[name]
    torch.manual_seed(0)
    model, x = build(), two_inputs()
    found = draw(model, x, law, 6000)
    assert worst(model, x, law, found) < TOLERANCE
    if crossed:
        without_cross_terms(monkeypatch)
        assert worst(model, x, law, found) > TOLERANCE


GATES = {
    "swiglu": (lambda: Blocks(400, 600, 2, silu, gate=True, skip=False), Law(1.2, 0.1)),
    "swiglu with a skip": (lambda: Blocks(100, 250, 2, silu, gate=True), Law(0.8, 0.1)),
    "tanh gate": (lambda: Blocks(150, 150, 2, torch.tanh, gate=True, skip=False), Law(1.5, 0.1)),
    "swiglu behind RMS norms": (lambda: Blocks(64, 128, 2, silu, RMS, gate=True), Law(1.5, 0.1)),
}


@pytest.mark.parametrize("name", quick_first(GATES, "tanh gate"))
def test_gates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, law = GATES[name]
    torch.manual_seed(0)
    model, x = build(), two_inputs()
    found = draw(model, x, law, 8000)
    assert worst(model, x, law, found) < TOLERANCE
    if "norm" not in name:
        # negative control: the two factors do not move with the layer before
        monkeypatch.setattr(fluctuation._Factor, "slope", lambda self, G: torch.zeros_like(G))
        assert worst(model, x, law, found) > TOLERANCE


def test_dropout_adds_what_its_masks_sample() -> None:
    def build(p: float) -> nn.Module:
        torch.manual_seed(0)
        parts = [linear(8, 64)]
        for _ in range(2):
            parts += [Pointwise(torch.relu), nn.Dropout(p), linear(64, 64)]
        return nn.Sequential(*parts).train()

    law, x = Law(1.5, 0.1), two_inputs()
    found = draw(build(0.3), x, law, 6000)
    assert worst(build(0.3), x, law, found) < TOLERANCE
    # negative control: no mask, but the larger second moment that it leaves
    kept = predict(trace(build(0.0).eval(), x, law=law.stated(build(0.0)))).rows
    dropped = next(d for d in found if d.op == "Dropout")
    assert next(r for r in kept if r.op == "pointwise").get("spread") < dropped.spread.value * (1 - TOLERANCE)


IMAGES = {
    "plain": (lambda: Images(40, 3, torch.relu, skip=False), Law(1.5, 0.05)),
    "strides": (lambda: Images(40, 3, torch.tanh, skip=False, stride=2), Law(1.5, 0.05)),
    "skips": (lambda: Images(60, 3, gelu, skip=True), Law(1.5, 0.05)),
}


@pytest.mark.parametrize("name", quick_first(IMAGES, "plain"))
def test_convolutions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, law = IMAGES[name]
    torch.manual_seed(0)
    model, x = build(), image()
    found = draw(model, x, law, 5000)
    assert worst(model, x, law, found) < TOLERANCE
    if name != "strides":
        # negative control: the sites under a layer's taps move as one
        monkeypatch.setattr(
            leadline.rules.conv, "mixed", lambda noise, matrix: Noise(noise.parts, sampled=True, shift=noise.shift)
        )
        assert worst(model, x, law, found) > TOLERANCE


@pytest.mark.parametrize(("name", "gamma"), [("relu", 0.9), ("gelu", 0.7)])
def test_the_first_order_is_that_of_the_vertices_of_a_residual_stream(name: str, gamma: float) -> None:
    """V and the three-point vertex kappa of z' = gamma z + W s(z), from their own recursion.

    It leaves out the cumulants of z_i^k and z_j^2 with k > 2, which are a few per cent from the second step on.
    """
    act, C_W, n = activation(name), 0.38 if name == "relu" else 1.2, 2000
    found = [v * n for v in stream_spread(act, C_W, gamma, 4, n)]
    expected = vertices(act, C_W, gamma, 4, 1.0)
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert found == pytest.approx(expected, rel=0.04)
    # negative control: without kappa
    assert found != pytest.approx(vertices(act, C_W, gamma, 4, 0.0), rel=0.08)


@pytest.mark.slow
def test_every_order_of_the_cross_term_between_a_stream_and_its_branches_counts() -> None:
    act, C_W, gamma, n, depth, networks = activation("gelu"), 1.2, 0.7, 500, 4, 60_000
    generator = torch.Generator().manual_seed(5)
    squares = torch.empty(depth, networks, dtype=torch.float64)
    for start in range(0, networks, 2000):
        z = torch.randn(2000, n, generator=generator, dtype=torch.float64)
        for step in range(depth):
            G = C_W * act(z).square().mean(1, keepdim=True)
            z = gamma * z + G.sqrt() * torch.randn(2000, n, generator=generator, dtype=torch.float64)
            squares[step, start : start + 2000] = z.square().mean(1)
    K = squares.mean(1)
    deviation = (squares - K[:, None]).square()
    measured, error = deviation.mean(1) / K**2, deviation.std(1) / networks**0.5 / K**2
    predicted = torch.tensor(stream_spread(act, C_W, gamma, depth, n), dtype=torch.float64)
    truncated = torch.tensor(vertices(act, C_W, gamma, depth, 1.0), dtype=torch.float64) / n
    assert bool(((predicted - measured).abs() < 3.5 * error).all())
    # negative control: the recursion of V and kappa alone, though it lacks what is beyond the first order too
    assert bool((truncated[2:] < measured[2:] - 5 * error[2:]).all())


def stream_spread(act, C_W: float, gamma: float, depth: int, n: int) -> list[float]:
    """Predicted spread behind each sum."""
    model, law = Stream(n, depth, act.fn, gamma), Law(C_W)
    rows = predict(trace(model, two_inputs(), law=law.stated(model))).rows
    return [r.values["spread"].value for r in rows if r.op == "add"]


def vertices(act, C_W: float, gamma: float, depth: int, kept: float) -> list[float]:
    """n times the spread of the sample's scale, to which its own n channels add 2; ``kept``: of kappa."""
    K, V, kappa, out = torch.tensor(1.0, dtype=torch.float64), 0.0, 0.0, []
    for _ in range(depth):
        own = C_W * act.second_moment_slope(K)
        chi = own + gamma**2
        three = expectation(lambda z: z * act(z) ** 2, K).value
        V = (
            chi**2 * V
            + C_W**2 * (act.fourth_moment(K) - act.second_moment(K) ** 2)
            + 4 * gamma**2 * K**2 * own
            + kept * 2 * C_W * three / K * chi * kappa
        )
        kappa = gamma * chi * kappa + gamma * C_W * three
        K = gamma**2 * K + C_W * act.second_moment(K)
        out.append(float(V / K**2) + 2)
    return out


def test_linear_streams_are_the_exact_product() -> None:
    """E |h'|^4 of h' = mu h + W h follows from that of h: 1 + v' = (1 + v)(1 + nu/n)."""
    n, depth, mu, C = 100, 5, 0.6, 0.8
    model = Stream(n, depth, lambda z: 1.0 * z, mu)
    rows = predict(trace(model, two_inputs(), law=Law(C).stated(model))).rows
    nu = (4 * mu**2 * C + 2 * C**2) / (mu**2 + C) ** 2
    expected = [(1 + 2 / n) * (1 + nu / n) ** k - 1 for k in range(1, depth + 1)]
    found = [r.values["spread"].value for r in rows if r.op == "add"]
    # exact at first order; beyond it a scale that has spread samples at that scale, which is the product to v^2 / 10
    assert all(abs(f - e) < 0.1 * e**2 + 1e-9 for f, e in zip(found, expected, strict=True))


def test_what_is_not_known_is_absent() -> None:
    """Pools, attention and batch norms have no spread, and nothing behind them has until a norm."""

    class Attended(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))

        def forward(self, x):
            return x + self.o(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))

    pool = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(32, 32, 1))
    norm = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 8))
    cases = [
        (Attended(), torch.randn(2, 5, 32), ("scaled_dot_product_attention", "add")),
        (pool, torch.randn(2, 3, 6, 6), ("avg_pool2d",)),
        (norm, torch.randn(16, 8), ("batch_norm",)),
    ]
    for model, x, ops in cases:
        rows = predict(trace(model, x)).rows
        assert {r.op for r in rows} >= set(ops)
        first = next(i for i, r in enumerate(rows) if r.op in ops)
        assert all("spread" not in r.values for r in rows[first:])
        assert "spread" in rows[first - 1].values


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu on the stream", "pre-LN", "post-LN"])
def test_real_modules_agree(name: str) -> None:
    build, law, _ = SUMS[name]
    torch.manual_seed(0)
    model, x = build(), two_inputs()
    program = trace(model, x, law=law.stated(model))
    found, rows = measure(model, program=program, draws=2000), predict(program).rows
    for row in rows:
        measured, spread = found.row(row.step).values["spread"], row.get("spread")
        if spread is None:
            assert abs(measured.value) < CERTAIN
        else:
            assert abs(measured.value - spread) < 4 * measured.error + TOLERANCE * spread


def first_layer(x: torch.Tensor, n: int, law: Law, kind: str, networks: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "uniform":
        W, b = (
            (torch.rand(networks, n, k, generator=generator, dtype=x.dtype) * 2 - 1) * 3**0.5 for k in (x.shape[1], 1)
        )
    else:
        W, b = (torch.randn(networks, n, k, generator=generator, dtype=x.dtype) for k in (x.shape[1], 1))
    return (law.C_W / x.shape[1]) ** 0.5 * W @ x.T + law.C_b**0.5 * b


@pytest.mark.parametrize("act", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("inputs", [2, 4])
def test_few_uniform_weights_of_a_first_layer(act: str, inputs: int) -> None:
    """The first layer's fourth cumulant is in the spread; what it does to kernels and derivatives is stated."""
    fn, law, n = activation(act).fn, Law(1.5, 0.1), 100
    x = torch.tensor([[1.0, 0.8, -0.6, 1.3], [0.2, 0.9, 1.1, -0.5]], dtype=torch.float64)[:, :inputs]
    x = x * (1.5 * inputs / x.square().sum(1, keepdim=True)).sqrt()
    first, head = nn.Linear(inputs, n, dtype=torch.float64), linear(n, 10)
    stated = {"0": {"C_W": law.C_W, "C_b": law.C_b}, "2": {"C_W": law.C_W, "C_b": law.C_b}}
    row, last = {}, {}
    for kind in ("uniform", "gaussian"):
        if kind == "gaussian":
            first = linear(inputs, n)
        model = nn.Sequential(first, Pointwise(fn), head)
        rows = predict(trace(model, x, law=stated)).rows
        row[kind], last[kind] = rows[1], rows[0]
    z = first_layer(x, n, law, "uniform", 20_000)
    squares = fn(z).square().mean(1)
    K = squares.mean(0)
    measured = float(((squares - K).square().mean(0) / K**2).mean())
    assert row["uniform"].get("spread") == pytest.approx(measured, rel=0.07)
    assert row["gaussian"].get("spread") != pytest.approx(measured, rel=0.07)  # negative control
    kernel = row["uniform"].values["kernel"]
    assert abs(kernel.value - float(K.mean())) < 2 * kernel.error + 0.005 * kernel.value
    slope = activation(act).derivative(z).square().mean()
    taken = activation(act).derivative(first_layer(x, n, law, "gaussian", 20_000)).square().mean()
    jacobian = last["uniform"].values["partial_jacobian"]
    assert abs(float(slope / taken) - 1) < 2 * jacobian.error / jacobian.value + 0.01
    assert last["gaussian"].values["partial_jacobian"].error == 0.0
