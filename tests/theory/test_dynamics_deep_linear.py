"""Deep linear networks: closed forms against the differential equation and against trained matrices."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from leadline.theory.dynamics import DeepLinear, mode_strength, time_to_learn

DEPTHS = [1, 2, 3, 5, 30, 1000]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("u", "u0", "s"), [(1.9, 0.05, 2.0), (0.3, 0.2999, 0.5), (2.2, 7.0, 2.0), (1.0 - 1e-7, 0.3, 1.0)]
)
def test_time_to_learn_is_the_integral_of_the_equation(depth: int, u: float, u0: float, s: float) -> None:
    exact, _ = quad(lambda v: 1 / (depth * v ** (2 - 2 / depth) * (s - v)), u0, u, epsabs=0, epsrel=1e-11, limit=500)
    assert float(time_to_learn(u, s, u0, depth, tau=3.0)) == pytest.approx(3 * exact, rel=1e-10)


@pytest.mark.parametrize("depth", [*DEPTHS, math.inf])
@pytest.mark.parametrize(("u0", "s"), [(0.05, 2.0), (0.4, 0.5), (7.0, 2.0), (0.3, 0.0), (2.0, 2.0)])
def test_strength_solves_the_equation(depth: float, u0: float, s: float) -> None:
    steps = 1 if depth == math.inf else depth
    scale = max(s, u0)
    times = torch.tensor([0.0, 0.1, 0.7, 3.0, 20.0], dtype=torch.float64) / (steps * scale ** (2 - 2 / depth))
    out = solve_ivp(
        lambda _, u: steps * u ** (2 - 2 / depth) * (s - u) / 0.5,
        (0, float(times[-1]) + 1e-12), [u0], method="LSODA", t_eval=times.numpy(), rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    found = mode_strength(times, s, u0, depth, tau=0.5)
    torch.testing.assert_close(found, torch.from_numpy(out.y[0]), rtol=1e-7, atol=1e-9)


def test_reference_values_and_limits() -> None:
    assert float(mode_strength(1.0, 2.0, 0.01, 2)) == pytest.approx(0.43059, abs=5e-6)
    assert float(mode_strength(2.0, 2.0, 0.01, 2)) == pytest.approx(1.87484, abs=5e-6)
    s, u0 = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64), 1e-4
    assert mode_strength(math.inf, s, u0, 3).tolist() == s.tolist()
    torch.testing.assert_close(mode_strength(0.0, s, u0, 4), torch.full_like(s, u0), rtol=1e-6, atol=0)
    # there and back, and the infinite depth as a limit in units of tau / N
    for depth in (1, 2, 3, 7, math.inf):
        t = time_to_learn(0.9 * s, s, u0, depth)
        torch.testing.assert_close(mode_strength(t, s, u0, depth), 0.9 * s, rtol=1e-8, atol=0)
    deep = 10_000 * time_to_learn(0.9, 1.0, 0.01, 10_000)
    assert float(deep) == pytest.approx(float(time_to_learn(0.9, 1.0, 0.01, math.inf)), rel=2e-3)


def trained(target: Tensor, weights: list[Tensor], time: float, step: float) -> Tensor:
    """Product of the weights after gradient descent with short steps, Heun's rule."""

    def velocity(w: list[Tensor]) -> list[Tensor]:
        after = [torch.eye(target.shape[0], dtype=target.dtype)]
        for W in reversed(w[1:]):
            after.append(after[-1] @ W)
        before = [torch.eye(target.shape[1], dtype=target.dtype)]
        for W in w[:-1]:
            before.append(W @ before[-1])
        error = target - w[-1] @ before[-1]
        return [a.T @ error @ b.T for a, b in zip(reversed(after), before)]

    w = [W.clone() for W in weights]
    for _ in range(round(time / step)):
        one = velocity(w)
        two = velocity([a + step * b for a, b in zip(w, one)])
        w = [a + step / 2 * (b + c) for a, b, c in zip(w, one, two)]
    product = w[0]
    for W in w[1:]:
        product = W @ product
    return product


def task(seed: int = 0, size: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    U, _, V = torch.linalg.svd(torch.randn(size, size, generator=generator, dtype=torch.float64))
    s = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0, 0.0], dtype=torch.float64)[:size]
    return (U * s) @ V, U, V, s


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_aligned_networks_follow_the_closed_form(depth: int) -> None:
    target, U, V, _ = task()
    u0 = 0.05
    one = torch.eye(4, dtype=torch.float64) * u0 ** (1 / depth)
    net = DeepLinear(target, depth, u0)
    assert len(net.modes) == 4
    weights = [one @ V[:4], *[one] * (depth - 2), U[:, :4] @ one]
    apart = []
    for time in (0.3, 0.8, 2.0):
        found = trained(target, weights, time, 2e-3)
        torch.testing.assert_close(found, net.map(time), rtol=0, atol=2e-4)
        assert net.loss(time) == pytest.approx(float((found - target).square().sum() / 2), abs=1e-3)
        apart.append(float((found - DeepLinear(target, depth + 1, u0).map(time)).abs().max()))
    assert max(apart) > 0.01  # negative control: another depth


def test_a_small_random_start_learns_modes_at_times_inverse_to_their_strength() -> None:
    target, U, V, s = task(1)
    generator = torch.Generator().manual_seed(3)
    weights = [1e-3 * torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    halves = []
    for mode in range(3):
        low, high = 0.0, 12.0 / float(s[mode])
        for _ in range(7):
            middle = (low + high) / 2
            u = float((U.T @ trained(target, weights, middle, 0.02) @ V.T)[mode, mode])
            low, high = (middle, high) if u < s[mode] / 2 else (low, middle)
        halves.append(float(s[mode]) * high)
    assert max(halves) / min(halves) < 1.3
    # the closed form's time for a start of the size that the random weights have
    expected = float(time_to_learn(0.5, 1.0, 1e-6 * 6**0.5, 2))
    assert all(abs(h - expected) < 0.25 * expected for h in halves)


def steps_to_learn(depth: int, orthogonal: bool, size: int = 16, outputs: int = 4) -> int:
    """Steps of gradient descent to 5 % of the first loss."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    U, _, V = torch.linalg.svd(torch.randn(outputs, size, **options), full_matrices=False)
    target = (U * torch.linspace(1.0, 0.5, outputs, dtype=torch.float64)) @ V
    draws = [torch.randn(size, size, **options) for _ in range(depth)]
    w = [torch.linalg.qr(d)[0] if orthogonal else d / size**0.5 for d in draws]
    w[-1] = w[-1][:outputs]
    first = None
    for step in range(600):
        before = [torch.eye(size, dtype=torch.float64)]
        for W in w:
            before.append(W @ before[-1])
        error = target - before[-1]
        loss = float(error.square().sum())
        first = loss if first is None else first
        if loss < 0.05 * first:
            return step
        for i in reversed(range(depth)):
            gradient = error @ before[i].T
            error = w[i].T @ error
            w[i] = w[i] + 0.8 / depth * gradient
    return 600


def test_orthogonal_starts_learn_in_steps_that_do_not_grow_with_depth_and_gaussian_ones_do() -> None:
    """Rates of 1/N, in units of the largest stable one."""
    assert steps_to_learn(48, True) <= 2 * steps_to_learn(4, True)
    assert steps_to_learn(16, False) >= 5 * steps_to_learn(16, True)
    assert DeepLinear(torch.eye(3), 4, 1.0).largest_stable_rate == pytest.approx(0.5)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="not between the start and the singular value"):
        time_to_learn(2.5, 2.0, 0.1, 2)
    with pytest.raises(ValueError, match="not between the start"):
        time_to_learn(0.05, 2.0, 0.1, 2)
    with pytest.raises(ValueError, match=r"got a singular value of 0"):
        time_to_learn(0.5, 0.0, 0.1, 2)
    with pytest.raises(ValueError, match=r"got depth=1\.5"):
        mode_strength(1.0, 1.0, 0.1, 1.5)
    with pytest.raises(ValueError, match="give positive ones; a deep network never leaves 0"):
        mode_strength(1.0, 1.0, 0.0, 2)
    with pytest.raises(ValueError, match="give neither below 0"):
        mode_strength(-1.0, 1.0, 0.1, 2)
    with pytest.raises(ValueError, match="got a target of shape"):
        DeepLinear(torch.ones(3), 2, 0.1)
