"""Every nonlinearity that torch.nn offers is read, or refused in a sentence; callables of every kind are read."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from leadline.activations import activation

ARGUMENTS = {
    "Threshold": (0.1, 0.0),
    "MultiheadAttention": (4, 2),
    "Softmax": (-1,),
    "Softmin": (-1,),
    "LogSoftmax": (-1,),
}
REFUSED = {"GLU", "MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
NAMES = nn.modules.activation.__all__


def test_the_list_is_torch_s_own() -> None:
    assert set(NAMES) > REFUSED
    assert len(NAMES) >= 29


@pytest.mark.parametrize("name", NAMES)
def test_resolved_or_refused(name: str) -> None:
    module = getattr(nn, name)(*ARGUMENTS.get(name, ())).eval()
    if name in REFUSED:
        with pytest.raises(ValueError, match="an activation must act on each entry alone, got") as caught:
            activation(module)
        assert re.fullmatch(r"[^\n]+", str(caught.value))
        return
    act = activation(module)
    z = torch.linspace(-7.03, 7.01, 201, dtype=torch.float64)
    assert torch.allclose(act(z), module.double()(z).detach(), rtol=1e-7, atol=1e-7)
    assert torch.isfinite(act.second_moment(1.0))
    assert torch.isfinite(act.dual(1.0, 0.5, 1.0))


@pytest.mark.parametrize("fn", [functional.glu, functional.normalize, lambda z, w: z * w])
def test_functions_of_more_than_one_number_are_refused(fn) -> None:
    with pytest.raises(ValueError, match="an activation must act on each entry alone"):
        activation(fn)


class Tensors(nn.Module):
    """Works on nothing but tensors, with a parameter and in-place steps, and hides from autodiff."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if not isinstance(z, torch.Tensor):
            raise TypeError("tensors only")
        out = z.clone()
        out[z < 0] = 0.2 * z[z < 0]
        return out.mul_(self.scale)


def test_a_module_of_one_s_own() -> None:
    with torch.no_grad():
        act = activation(Tensors())
    assert act.slopes == pytest.approx((1.3, 0.26))


def test_a_function_that_takes_only_tensors() -> None:
    def squash(z: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(z)
        torch.tanh(z, out=out)
        return out.add_(z, alpha=0.1)

    act = activation(squash)
    plain = activation(lambda z: torch.tanh(z) + 0.1 * z)
    for moment in ("mean", "second_moment"):
        assert float(getattr(act, moment)(1.7)) == pytest.approx(float(getattr(plain, moment)(1.7)), abs=1e-12)
    assert float(act.dual(1.0, 0.3, 2.0)) == pytest.approx(float(plain.dual(1.0, 0.3, 2.0)), abs=1e-12)


def test_an_undeclared_kink_gets_an_estimate() -> None:
    # Too weak for the scan (1e-3 of the slope): the error estimate must still own up to it.
    weak = activation(lambda z: torch.tanh(z) + 1e-6 * (z - 0.377).abs())
    assert weak.kinks == ()
    exact = activation(lambda z: torch.tanh(z) + 1e-6 * (z - 0.377).abs(), kinks=(0.377,))
    K = torch.logspace(-1, 1, 20, dtype=torch.float64)
    for moment in ("second_moment", "derivative_moment", "second_moment_slope"):
        out, want = weak.estimate(moment, K), getattr(exact, moment)(K)
        assert torch.all((out.value - want).abs() <= 1e-9 * want)
        assert ((out.value - want).abs() <= out.error + 1e-14 * want).double().mean() >= 0.9


def test_hermite_coefficients_rebuild_the_dual() -> None:
    act = activation("gelu")
    K, rho = torch.tensor([0.5, 2.0], dtype=torch.float64), 0.6
    c = act.hermite(K, 60)
    assert c.shape == (2, 61)
    powers = rho ** torch.arange(61, dtype=torch.float64)
    assert torch.allclose((c**2 * powers).sum(dim=1), act.dual(K, rho * K, K), rtol=1e-10)
    assert torch.allclose((c[0] * c[1] * powers).sum(), act.dual(K[0], rho * K.prod().sqrt(), K[1]), rtol=1e-10)


HIDDEN = {
    "out=": lambda z: torch.tanh(z, out=torch.empty_like(z)) + 0.1 * z,
    "detached": lambda z: torch.tanh(z.detach()) + 0.1 * z,
    "numpy": lambda z: torch.from_numpy(np.tanh(z.detach().numpy())) + 0.1 * z,
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_autodiff_cannot_follow_is_differenced(kind: str) -> None:
    act, plain = activation(HIDDEN[kind]), activation(lambda z: torch.tanh(z) + 0.1 * z)
    K = torch.tensor([1e-12, 1e-3, 0.5, 2.0], dtype=torch.float64)
    for moment in ("second_moment", "derivative_moment", "second_moment_slope", "value_curvature"):
        want = getattr(plain, moment)(K)
        assert torch.allclose(getattr(act, moment)(K), want, rtol=1e-9, atol=1e-10)
    assert torch.allclose(act.dual_derivative(1.0, 0.3, 2.0), plain.dual_derivative(1.0, 0.3, 2.0), rtol=1e-9)
    assert torch.allclose(act.taylor(3)[0], plain.taylor(3)[0], atol=1e-6)


def test_a_kink_that_autodiff_cannot_see() -> None:
    act = activation(lambda z: torch.from_numpy(np.where(z.numpy() > 0.3, 2 * z.numpy() - 0.3, z.numpy())))
    plain = activation(lambda z: torch.where(z > 0.3, 2 * z - 0.3, z), kinks=(0.3,))
    assert act.kinks == pytest.approx((0.3,), abs=1e-7)
    assert act.jumps == ()
    assert float(act.derivative_moment(1.0)) == pytest.approx(float(plain.derivative_moment(1.0)), rel=1e-6)
