"""The nearly-kernel machine against quadratic models that are really trained: what is left falls as epsilon^2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from leadline.theory.dynamics import GradientDescent, GradientFlow, Momentum, Newton
from leadline.theory.nearly_kernel import LeastNorm, NearlyKernelMachine, effective_features, quadratic_model

M, F, REST = 4, 9, 3
STRENGTHS = (0.001, 0.002)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PHI = draw(M + REST, F, seed=0) / F**0.5
_psi = draw(M + REST, F, F, seed=1) / F**0.5
PSI = _psi + _psi.mT
Y = draw(M, 1, seed=2)
MODES = torch.linalg.eigvalsh(PHI[:M] @ PHI[:M].mT)
RATE = 1 / float(MODES[-1])


def descended(epsilon: float, rate: float, decay: float = 0.0, whiten: Tensor | None = None, start=None) -> Tensor:
    """Weights after gradient descent on the quadratic model itself, until nothing moves."""
    w = torch.zeros(F, 1, dtype=torch.float64) if start is None else start.clone()
    v = torch.zeros_like(w)
    P = torch.eye(M, dtype=torch.float64) if whiten is None else whiten
    for _ in range(200_000):
        error = quadratic_model(PHI[:M], PSI[:M], epsilon, w) - Y
        if float(error.abs().max()) < 1e-13 and float(v.abs().max()) < 1e-13:
            return w
        v = decay * v - rate * effective_features(PHI[:M], PSI[:M], epsilon, w[:, 0]).mT @ P @ error
        w = w + v
    raise AssertionError("training did not come to an end")


def least_norm(epsilon: float) -> Tensor:
    """Stationary point of |w|^2 / 2 under z = Y: w lies in the span of its own effective features."""
    w = torch.zeros(F, 1, dtype=torch.float64)
    for _ in range(200):
        phi = effective_features(PHI[:M], PSI[:M], epsilon, w[:, 0])
        rest = quadratic_model(PHI[:M], PSI[:M], epsilon, w) - phi @ w
        w = phi.mT @ torch.linalg.solve(phi @ phi.mT, Y - rest)
    return w


def flowed(epsilon: float) -> Tensor:
    """Weights at the end of the gradient flow, by an integrator of eighth order."""

    def velocity(_: float, w: np.ndarray) -> np.ndarray:
        weights = torch.from_numpy(w)
        error = quadratic_model(PHI[:M], PSI[:M], epsilon, weights) - Y[:, 0]
        return -(effective_features(PHI[:M], PSI[:M], epsilon, weights).mT @ error).numpy()

    end = 32 / float(MODES[0])
    out = solve_ivp(velocity, (0, end), np.zeros(F), method="DOP853", rtol=1e-11, atol=1e-13)
    return torch.from_numpy(out.y[:, -1:].copy())


def _inverse() -> Tensor:
    return torch.linalg.inv(PHI[:M] @ PHI[:M].mT)


TRAINED = {
    "flow": (GradientFlow(), flowed),
    "descent": (GradientDescent(RATE), lambda e: descended(e, RATE)),
    "momentum": (Momentum(RATE, 0.6), lambda e: descended(e, RATE, 0.6)),
    "newton": (Newton(0.7), lambda e: descended(e, 0.7, whiten=_inverse())),
    "least norm": (LeastNorm(), least_norm),
}


def outputs(rule, epsilon: float, what: str = "machine") -> Tensor:
    machine = NearlyKernelMachine(PHI[:M], PSI[:M], Y, epsilon, rule)
    if what == "kernel":
        return machine.kernel_machine(PHI[M:])
    if what == "weights":
        return machine.weights
    return machine(PHI[M:], PSI[M:])


@pytest.mark.parametrize("name", TRAINED)
def test_what_first_order_leaves_out_falls_as_epsilon_squared(name: str) -> None:
    rule, trained = TRAINED[name]
    weights = [trained(e) for e in STRENGTHS]
    exact = [quadratic_model(PHI[M:], PSI[M:], e, w) for e, w in zip(STRENGTHS, weights)]

    def order(values: list[Tensor], against: list[Tensor] = exact) -> float:
        small, large = (float((v - x).abs().max()) for v, x in zip(values, against))
        return math.log2(large / small)

    assert order([outputs(rule, e) for e in STRENGTHS]) == pytest.approx(2, abs=0.1)
    assert order([outputs(rule, e, "weights") for e in STRENGTHS], weights) == pytest.approx(2, abs=0.1)
    # negative controls: the kernel machine alone, and another algorithm's projector, are wrong at first order
    assert order([outputs(rule, e, "kernel") for e in STRENGTHS]) == pytest.approx(1, abs=0.1)
    other = GradientFlow() if name == "least norm" else LeastNorm()
    assert order([outputs(other, e) for e in STRENGTHS]) == pytest.approx(1, abs=0.1)


def test_data_are_fitted_and_algorithms_differ_elsewhere() -> None:
    at = {}
    for name, (rule, _) in TRAINED.items():
        machine = NearlyKernelMachine(PHI[:M], PSI[:M], Y, 0.1, rule)
        torch.testing.assert_close(machine(PHI[:M], PSI[:M]), Y, rtol=1e-10, atol=1e-10)
        at[name] = machine(PHI[M:], PSI[M:])
    for name in at.keys() - {"flow"}:
        assert float((at[name] - at["flow"]).abs().max()) > 1e-3


def test_outputs_do_not_move_one_another() -> None:
    both = torch.cat([Y, -2 * Y.flip(0)], dim=1)
    out = NearlyKernelMachine(PHI[:M], PSI[:M], both, 0.1)(PHI[M:], PSI[M:])
    torch.testing.assert_close(out[:, :1], outputs(None, 0.1))


@pytest.mark.parametrize("steps", [0, 3, math.inf])
def test_the_dynamical_kernel_follows_the_effective_features(steps: float) -> None:
    def left(epsilon: float) -> tuple[float, float]:
        machine = NearlyKernelMachine(PHI[:M], PSI[:M], Y, epsilon, GradientDescent(RATE))
        w = torch.zeros(F, 1, dtype=torch.float64) if steps != math.inf else descended(epsilon, RATE)
        for _ in range(0 if steps == math.inf else int(steps)):
            error = quadratic_model(PHI[:M], PSI[:M], epsilon, w) - Y
            w = w - RATE * effective_features(PHI[:M], PSI[:M], epsilon, w[:, 0]).mT @ error
        phi = effective_features(PHI, PSI, epsilon, w[:, 0])
        exact = phi[M:] @ phi[:M].mT
        fixed = PHI[M:] @ PHI[:M].mT
        found = machine.dynamical_kernel(PHI[M:], PSI[M:], time=steps)
        return float((found - exact).abs().max()), float((fixed - exact).abs().max())

    small, large = (left(e) for e in STRENGTHS)
    if steps == 0:
        assert max(*small, *large) < 1e-14
    else:
        assert math.log2(large[0] / small[0]) == pytest.approx(2, abs=0.1)
        assert math.log2(large[1] / small[1]) == pytest.approx(1, abs=0.1)


def test_a_start_elsewhere_is_other_features() -> None:
    start = draw(F, 1, seed=5)

    def left(epsilon: float) -> float:
        w = descended(epsilon, RATE / 2, start=start)
        exact = quadratic_model(PHI[M:], PSI[M:], epsilon, w)
        phi = effective_features(PHI, PSI, epsilon, start[:, 0])
        before = quadratic_model(PHI, PSI, epsilon, start)
        machine = NearlyKernelMachine(phi[:M], PSI[:M], Y - before[:M], epsilon, GradientDescent(RATE / 2))
        return float((before[M:] + machine(phi[M:], PSI[M:]) - exact).abs().max())

    assert math.log2(left(STRENGTHS[1]) / left(STRENGTHS[0])) == pytest.approx(2, abs=0.1)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="got features of shape"):
        NearlyKernelMachine(PHI[:M], PSI[:2], Y, 0.1)
    with pytest.raises(ValueError, match="not symmetric"):
        NearlyKernelMachine(PHI[:M], _psi[:M], Y, 0.1)
    with pytest.raises(ValueError, match="linearly dependent"):
        NearlyKernelMachine(PHI[:1].expand(M, F), PSI[:M], Y, 0.1)
    with pytest.raises(ValueError, match="got 2 targets for 4 rows"):
        NearlyKernelMachine(PHI[:M], PSI[:M], Y[:2], 0.1)
    with pytest.raises(ValueError, match="which diverges"):
        NearlyKernelMachine(PHI[:M], PSI[:M], Y, 0.1, GradientDescent(3 * RATE))
    with pytest.raises(ValueError, match="which has no time"):
        NearlyKernelMachine(PHI[:M], PSI[:M], Y, 0.1, LeastNorm()).dynamical_kernel(PHI, PSI, time=1.0)
