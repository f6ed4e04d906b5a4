"""Mean outputs after a step and during training: closed forms, limits, and really trained networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leadline.theory.flow import Layers
from leadline.theory.tangent import MeanOutput, TangentTensors, gradient_flow, gradient_step, tangent_tensors
from leadline.theory.tangent.training import chain_integral
from theory.tangent_networks import flow, kernel, linear_outputs
from theory.trained_networks import Networks

LAW = {"C_b": (0.1, 0.2, 0.05), "C_W": (1.2, 1.4, 1.1), "lambda_b": (0.5, 0.8, 0.3), "lambda_W": (1.0, 0.7, 1.2)}
XA, XB = [0.7, -0.4, 1.1, 0.9], [-0.3, 0.8, 0.6, 0.9]
TRAIN = [XA, [-0.9, 0.8, 0.3, -0.5]]
Y1 = torch.tensor([1.5, -0.8], dtype=torch.float64)
Y2 = torch.tensor([[1.5, -0.4], [-0.8, 0.9]], dtype=torch.float64)
SIGMAS = 4.0


def law(name: str, n: int, outputs: int = 1) -> Layers:
    return Layers.of(name, widths=(4, n, n, outputs), **LAW)


def between(name: str, points: list[list[float]], n: int = 32, outputs: int = 1) -> TangentTensors:
    x = torch.tensor(points, dtype=torch.float64)
    return tangent_tensors(law(name, n, outputs), x @ x.T / 4)


def test_reference_values_of_one_training_input() -> None:
    tanh = between("tanh", [XA])
    theta = float(tanh.Theta[-1, 0, 0])
    out = gradient_flow(tanh, torch.tensor([1.5]), [t / theta for t in (0.5, 1, 2, 4)])
    assert out.coefficient[:, 0].tolist() == pytest.approx([-0.122, -0.464, -0.862, -0.468], abs=5.1e-4)
    step = gradient_step(tanh, torch.tensor([1.5]), 0.6 / theta)
    assert float(step.coefficient[0]) == pytest.approx(-0.433, abs=5.1e-4)


def test_reference_values_of_a_test_input() -> None:
    gelu = between("gelu", [XA, XB])
    theta = float(gelu.Theta[-1, 0, 0])
    out = gradient_flow(gelu, torch.tensor([1.5]), [t / theta for t in (0.5, 1, 2, 4, 8)])
    assert out.coefficient[:, 1].tolist() == pytest.approx([-0.334, -0.502, -0.163, 0.672, 1.161], abs=6e-4)


def test_closed_form_of_one_training_input() -> None:
    tensors = between("gelu", [XA])
    s, y = tensors.last, 1.5
    theta, K, H1 = (float(v[0, 0]) for v in (s.Theta, s.K, s.H1))
    A, B, P, Q, R, S, T, U = (float(v.reshape(())) for v in (s.A, s.B, s.P, s.Q, s.R, s.S, s.T, s.U))
    for t in (0.3, 1.0, 4.0):
        decay = math.exp(-theta * t)
        I1 = (t - (1 - decay) / theta) / theta
        I2 = (I1 - (t - (1 - decay**2) / (2 * theta)) / (2 * theta)) / theta
        first = y * (-t * H1 + t**2 / 2 * (A + 2 * B) + 4 * I1 * (P + 2 * Q))
        wanted = -decay * (first - 2 * I2 * (3 * R + 2 * (S + T + U)) * (y**3 + 3 * K * y))
        out = gradient_flow(tensors, torch.tensor([y]), [t])
        assert float(out.coefficient[0, 0]) == pytest.approx(wanted, rel=1e-10)


def test_a_training_input_twice_is_one_at_twice_the_rate() -> None:
    once, twice = between("gelu", [XA, XB]), between("gelu", [XA, XA, XB])
    y = torch.tensor([1.5])
    for t in (0.3, 2.0):
        one, two = gradient_flow(once, y, [2 * t]), gradient_flow(twice, y.expand(2), [t])
        torch.testing.assert_close(two.coefficient[:, 1:], one.coefficient, rtol=1e-6, atol=1e-8)
    step_one, step_two = gradient_step(once, y, 0.2), gradient_step(twice, y.expand(2), 0.1)
    torch.testing.assert_close(step_two.coefficient[1:], step_one.coefficient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("y", [Y1, Y2], ids=["one output", "two outputs"])
def test_small_times_are_a_small_step(y: Tensor) -> None:
    tensors = between("tanh", [*TRAIN, XB], outputs=1 if y.ndim == 1 else 2)
    apart = []
    for rate in (1e-3, 5e-4):
        step, early = gradient_step(tensors, y, rate), gradient_flow(tensors, y, [rate])
        apart.append(float((early.coefficient[0] - step.coefficient).norm()))
        assert apart[-1] < 0.02 * float(step.coefficient.norm())
    assert apart[0] / apart[1] == pytest.approx(4, abs=0.05)


def test_outputs_may_be_turned() -> None:
    tensors = between("gelu", [*TRAIN, XB], outputs=2)
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    one, two = (gradient_flow(tensors, y, [0.7, math.inf]).coefficient for y in (Y2, Y2 @ turn))
    torch.testing.assert_close(one @ turn, two, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one[1, :2], 0 * one[1, :2], atol=1e-8, rtol=0)
    alone = gradient_flow(between("gelu", [*TRAIN, XB]), Y2[:, 0], [0.7]).coefficient
    assert float((alone - one[0, :, 0]).abs().max()) > 0.01  # the other output is felt


def test_infinite_width_is_linear_training() -> None:
    tensors = between("tanh", [*TRAIN, XB])
    y = torch.tensor([1.5, -0.8], dtype=torch.float64)
    out = gradient_flow(tensors, y, [0.7, math.inf])
    theta = tensors.Theta[-1]
    M = torch.linalg.matrix_exp(-0.7 * theta[:2, :2])
    wanted = theta[:, :2] @ torch.linalg.solve(theta[:2, :2], y - M @ y)
    torch.testing.assert_close(out.infinite[0], wanted)
    torch.testing.assert_close(out.infinite[1, :2], y)
    torch.testing.assert_close(out.coefficient[1, :2], torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    late = gradient_flow(tensors, y, [60.0])
    torch.testing.assert_close(late.coefficient[0], out.coefficient[1], rtol=1e-5, atol=1e-7)


def test_chain_integrals() -> None:
    rates = torch.tensor([0.3, 1.1, 2.0], dtype=torch.float64)
    a, b, c = rates.tolist()
    t = 1.7
    wanted = sum(math.exp(-u * t) / ((v - u) * (w - u)) for u, v, w in ((a, b, c), (b, a, c), (c, a, b)))
    assert float(chain_integral(rates, t)) == pytest.approx(wanted, rel=1e-12)
    equal = torch.full((3,), 0.8, dtype=torch.float64)
    assert float(chain_integral(equal, t)) == pytest.approx(t**2 / 2 * math.exp(-0.8 * t), rel=1e-12)
    rates = torch.tensor([0.0, 1.1, 2.0], dtype=torch.float64)
    assert float(chain_integral(rates, 80.0)) == pytest.approx(float(chain_integral(rates, math.inf)), rel=1e-12)


def test_refusals() -> None:
    tensors = between("tanh", [XA, XB])
    with pytest.raises(ValueError, match=r"targets of shape \(3,\) for 2 inputs"):
        gradient_flow(tensors, torch.ones(3), [1.0])
    with pytest.raises(ValueError, match="targets for 1 outputs of 2"):
        gradient_flow(between("tanh", [XA], outputs=2), torch.ones(1), [1.0])
    with pytest.raises(ValueError, match="targets with nan in it"):
        gradient_flow(tensors, torch.tensor([math.nan]), [1.0])
    with pytest.raises(ValueError, match="not negative"):
        gradient_flow(tensors, torch.ones(1), [-1.0])
    with pytest.raises(ValueError, match="training does not end"):
        gradient_flow(between("tanh", [XA, XA]), torch.ones(2), [math.inf])
    with pytest.raises(ValueError, match="learning rate is positive"):
        gradient_step(tensors, torch.ones(1), 0.0)
    with pytest.raises(ValueError, match="targets for 2 outputs of 1"):
        gradient_step(tensors, torch.ones(1, 2), 1.0)
    with pytest.raises(ValueError, match="without kinks only"):
        gradient_flow(between("relu", [XA, XB]), torch.ones(1), [1.0])


def after_one_step(name: str, n: int, count: int, rate: float, Y: Tensor, seed: int) -> Tensor:
    """Outputs at all inputs after a step, averaged over pairs of networks with opposite outputs, (N/2, outputs, m)."""
    x = torch.tensor([*TRAIN, XB], dtype=torch.float64)
    networks = Networks(law(name, n, Y.shape[1]), count, seed=100 * n + seed, antithetic=True)
    moves = list(networks.gradients(x[:2], lambda z: z - Y.T))
    for i, gW, gb in moves:
        networks.W[i] -= rate * LAW["lambda_W"][i] / networks.layers.widths[i] * gW
        networks.b[i] -= rate * LAW["lambda_b"][i] * gb
    z = networks.forward(x)[2]
    return (z[: count // 2] + z[count // 2 :]) / 2


def extrapolated(samples: list[Tensor], infinite: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The 1/n coefficient from samples (…) at widths n and 2n, the first axis being networks; its standard error."""
    means, errors = [], []
    for width, z in zip((n, 2 * n), samples):
        means.append(width * (z.mean(0) - infinite))
        errors.append(width * z.std(0) / len(z) ** 0.5)
    return 2 * means[1] - means[0], (4 * errors[1] ** 2 + errors[0] ** 2).sqrt()


def parts(out: MeanOutput, *left_out: str) -> Tensor:
    """The coefficient without some of its causes."""
    return torch.stack([v for name, v in out.parts.items() if name not in left_out]).sum(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_one_step_of_networks_with_two_outputs(name: str) -> None:
    n, rate = 24, 0.8
    Y = torch.tensor([[1.5, -0.4], [-0.8, 0.9]], dtype=torch.float64)
    wanted = gradient_step(between(name, [*TRAIN, XB], n, outputs=2), Y, rate)
    samples = [torch.cat([after_one_step(name, w, 5000, rate, Y, seed) for seed in range(6)]) for w in (n, 2 * n)]
    value, error = extrapolated([z.mT for z in samples], wanted.infinite, n)

    def worst(coefficient: Tensor) -> float:
        return float(((value - coefficient) / error).abs().max())

    assert worst(wanted.coefficient) < SIGMAS
    assert worst(parts(wanted, "PQ")) > SIGMAS
    assert worst(parts(wanted, "RSTU")) > SIGMAS


def flowing(name: str, n: int, Y: Tensor = Y1) -> tuple[Tensor, Tensor, list[float], MeanOutput, float]:
    """Inputs, targets, times up to twice that of the slowest mode, the prediction, and a step of integration."""
    x = torch.tensor([*TRAIN, XB], dtype=torch.float64)
    tensors = between(name, [*TRAIN, XB], n, outputs=1 if Y.ndim == 1 else 2)
    low, high = torch.linalg.eigvalsh(tensors.Theta[-1, :2, :2]).tolist()
    times = [t / low for t in (0.5, 1.0, 2.0)]
    return x, Y, times, gradient_flow(tensors, Y, times), 0.25 / high


def beyond_linear(name: str, n: int, Y: Tensor, counts: tuple[int, int]) -> tuple[Tensor, Tensor, MeanOutput]:
    """Trained networks less what the kernel they start with says: the 1/n coefficient, its standard error, the prediction."""
    x, Y, times, wanted, step = flowing(name, n, Y)
    outputs = 1 if Y.ndim == 1 else 2
    samples = []
    for w, count in zip((n, 2 * n), counts):
        apart = []
        for seed in range(count):
            networks = Networks(law(name, w, outputs), 1000, seed=100 * w + seed, antithetic=True)
            linear = linear_outputs(kernel(networks, x)[:500], Y, times)
            z = flow(networks, x, Y, times, step)
            apart.append((z[:, :500] + z[:, 500:]) / 2 - linear)
        samples.append(torch.cat(apart, dim=1).transpose(0, 1))
    value, error = extrapolated(samples, torch.zeros_like(wanted.infinite), n)
    return value, error, wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_kernels_that_fluctuate_but_stay(name: str) -> None:
    # linear training with the kernel of each network: H1, A, B for two training inputs and a test input
    n = 32
    x, Y, times, wanted, _ = flowing(name, n)
    samples = []
    for w in (n, 2 * n):
        drawn = [linear_outputs(kernel(Networks(law(name, w), 2000, 1000 * w + s), x), Y, times) for s in range(12)]
        samples.append(torch.cat(drawn, dim=1).transpose(0, 1))
    value, error = extrapolated(samples, wanted.infinite, n)

    def worst(coefficient: Tensor) -> float:
        return float(((value - coefficient) / error).abs().max())

    assert worst(parts(wanted, "PQ", "RSTU")) < SIGMAS
    assert worst(wanted.parts["H1"]) > SIGMAS
    assert worst(wanted.coefficient) > SIGMAS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_kernels_that_change_in_training(name: str) -> None:
    # trained networks less what the kernel they start with says: P, Q, R, S, T, U for the same inputs
    value, error, wanted = beyond_linear(name, 24, Y1, (3, 4))

    def worst(coefficient: Tensor) -> float:
        return float(((value - coefficient) / error).abs().max())

    assert worst(parts(wanted, "H1", "AB")) < SIGMAS
    assert worst(wanted.parts["PQ"]) > SIGMAS
    assert worst(wanted.coefficient) > SIGMAS
    if name == "gelu":  # for tanh P and Q add as little as three standard errors
        assert worst(wanted.parts["RSTU"]) > SIGMAS


@pytest.mark.slow
def test_kernels_of_two_outputs_that_fluctuate_but_stay() -> None:
    n = 32
    x, Y, times, wanted, _ = flowing("gelu", n, Y2)
    samples = []
    for w in (n, 2 * n):
        drawn = [
            linear_outputs(kernel(Networks(law("gelu", w, 2), 1500, 1000 * w + s), x), Y, times) for s in range(12)
        ]
        samples.append(torch.cat(drawn, dim=1).transpose(0, 1))
    value, error = extrapolated(samples, wanted.infinite, n)

    def worst(coefficient: Tensor) -> float:
        return float(((value - coefficient) / error).abs().max())

    assert worst(parts(wanted, "PQ", "RSTU")) < SIGMAS
    alone = [gradient_flow(between("gelu", [*TRAIN, XB], n), y, times) for y in Y.T]  # control: each by itself
    assert worst(torch.stack([parts(out, "PQ", "RSTU") for out in alone], dim=-1)) > SIGMAS


@pytest.mark.slow
def test_kernels_of_two_outputs_that_change_in_training() -> None:
    n = 24
    value, error, wanted = beyond_linear("gelu", n, Y2, (4, 6))
    times = flowing("gelu", n, Y2)[2]

    def worst(coefficient: Tensor) -> float:
        return float(((value - coefficient) / error).abs().max())

    assert worst(parts(wanted, "H1", "AB")) < SIGMAS
    assert worst(wanted.parts["PQ"]) > SIGMAS
    assert worst(wanted.parts["RSTU"]) > SIGMAS
    alone = [gradient_flow(between("gelu", [*TRAIN, XB], n), y, times) for y in Y2.T]  # control: each by itself
    assert worst(torch.stack([parts(out, "H1", "AB") for out in alone], dim=-1)) > SIGMAS
