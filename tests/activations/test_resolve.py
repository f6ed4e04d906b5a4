"""From modules, functions, names and callables to activations."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from leadline.activations import Activation, activation

MODULES = [
    (nn.Identity(), "identity", ()),
    (nn.ReLU(), "relu", (0.0,)),
    (nn.LeakyReLU(0.2), "leaky_relu(0.2)", (0.0,)),
    (nn.PReLU(init=0.3), "leaky_relu(0.3)", (0.0,)),
    (nn.RReLU(0.1, 0.3).eval(), "leaky_relu(0.2)", (0.0,)),
    (nn.ReLU6(), "relu6", (0.0, 6.0)),
    (nn.Hardtanh(-2, 2), "hardtanh(-2,2)", (-2.0, 2.0)),
    (nn.Hardsigmoid(), "hardsigmoid", (-3.0, 3.0)),
    (nn.Hardswish(), "hardswish", (-3.0, 3.0)),
    (nn.Softshrink(0.7), "softshrink(0.7)", (-0.7, 0.7)),
    (nn.Hardshrink(0.4), "hardshrink(0.4)", (-0.4, 0.4)),
    (nn.Threshold(0.1, 20.0), "threshold(0.1,20)", (0.1,)),
    (nn.ELU(0.5), "elu(0.5)", (0.0,)),
    (nn.CELU(2.0), "celu(2)", (0.0,)),
    (nn.SELU(), "selu", (0.0,)),
    (nn.Softsign(), "softsign", (0.0,)),
    (nn.GELU(), "gelu", ()),
    (nn.GELU("tanh"), "gelu_tanh", ()),
    (nn.SiLU(), "silu", ()),
    (nn.Mish(), "mish", ()),
    (nn.Tanh(), "tanh", ()),
    (nn.Tanhshrink(), "tanhshrink", ()),
    (nn.Sigmoid(), "sigmoid", ()),
    (nn.LogSigmoid(), "logsigmoid", ()),
    (nn.Softplus(), "softplus", ()),
    (nn.Softplus(2.0, 40.0), "softplus(2)", ()),
    (nn.Softplus(2.0, 8.0), "softplus(2)", (4.0,)),
]
FUNCTIONS = [
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardtanh", "hardsigmoid",
    "hardswish", "hardshrink", "softshrink", "tanhshrink", "softsign", "softplus", "logsigmoid", "rrelu",
    "tanh", "sigmoid",
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "kinks"), MODULES, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_modules(module: nn.Module, name: str, kinks: tuple[float, ...]) -> None:
    act = activation(module)
    assert act.name == name
    assert act.kinks == pytest.approx(kinks)
    z = torch.linspace(-9.03, 9.01, 301, dtype=torch.float64)
    assert torch.allclose(act(z), module.double()(z).detach(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    fn = getattr(functional, name)
    z = torch.linspace(-9.03, 9.01, 301, dtype=torch.float64)
    want = fn(z, training=False) if name == "rrelu" else fn(z)
    assert torch.allclose(activation(fn)(z), want, rtol=1e-8, atol=1e-8)
    if name != "rrelu":
        # As an anonymous callable it is recognised, so that it keeps its closed forms.
        same = activation(lambda x: fn(x))
        assert same.name == {"celu": "elu"}.get(name, activation(fn).name)


def test_partials_and_names() -> None:
    assert activation(functools.partial(functional.leaky_relu, negative_slope=0.3)).slopes == (1.0, 0.3)
    assert activation(functools.partial(functional.gelu, approximate="tanh")).name == "gelu_tanh"
    assert activation(functools.partial(functional.hardtanh, min_val=-0.5, max_val=2.0)).kinks == (-0.5, 2.0)
    assert activation("GELU").name == "gelu"
    act = activation("tanh")
    assert activation(act) is act
    assert activation(torch.tanh, name="squash").name == "squash"


def test_fused_chains_are_recognised() -> None:
    root = math.sqrt(2 / math.pi)
    chains = {
        "gelu_tanh": lambda z: 0.5 * z * (1.0 + torch.tanh(root * (z + 0.044715 * torch.pow(z, 3.0)))),
        "gelu": lambda z: z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))),
        "silu": lambda z: z * torch.sigmoid(z),
        "swish(1.702)": lambda z: z * torch.sigmoid(1.702 * z),
        "relu": lambda z: (z + z.abs()) / 2,
        "relu_squared": lambda z: torch.relu(z) ** 2,
        "tanh": lambda z: 2 * torch.sigmoid(2 * z) - 1,
        "hardswish": lambda z: z * functional.relu6(z + 3) / 6,
        "leaky_relu(0.125)": lambda z: torch.where(z > 0, z, z / 8),
        "identity": lambda z: z.clone(),
    }
    for name, chain in chains.items():
        assert activation(chain).name == name
    # One digit off in a constant is another function.
    other = activation(lambda z: 0.5 * z * (1.0 + torch.tanh(root * (z + 0.04471 * torch.pow(z, 3.0)))))
    assert other.name == "<lambda>"


@pytest.mark.parametrize(
    ("fn", "kinks", "jumps"),
    [
        (lambda z: z.clamp(-0.3, 1.7) + torch.relu(z), (-0.3, 0.0, 1.7), ()),
        (lambda z: torch.tanh(z) + 0.01 * z.abs(), (0.0,), ()),
        (lambda z: torch.where(z > 0.37, 1.0, 0.0) * z, (0.37,), (0.37,)),
        (lambda z: functional.elu(z - 1.234567) * 1.1, (1.234567,), ()),
        (lambda z: torch.tanh(5 * z) + torch.sin(7 * z), (), ()),
        (lambda z: functional.gelu(z) * 1.7, (), ()),
    ],
)
def test_scan_finds_kinks(fn, kinks, jumps) -> None:
    act = activation(fn)
    assert act.kinks == pytest.approx(kinks, abs=1e-8)
    assert act.jumps == pytest.approx(jumps, abs=1e-8)


def test_float32_only_callables() -> None:
    table = torch.tensor(0.5)

    def narrow(z: torch.Tensor) -> torch.Tensor:
        if z.dtype != torch.float32:
            raise TypeError("float32 only")
        return torch.tanh(z) * table + 0.25 * z

    act = activation(narrow)
    exact = activation(lambda z: 0.5 * torch.tanh(z) + 0.25 * z)
    assert act.precision == 1e-7
    assert float(act.second_moment(1.0)) == pytest.approx(float(exact.second_moment(1.0)), rel=1e-5)


def test_declared_kinks_win() -> None:
    act = activation(lambda z: z.clamp(-1, 2) * 1.5, kinks=(-1, 2), name="mine")
    assert (act.name, act.kinks) == ("mine", (-1.0, 2.0))
    want = Activation(lambda z: z.clamp(-1, 2) * 1.5, name="x", kinks=(-1, 2))
    assert torch.equal(act.second_moment(torch.ones(1)), want.second_moment(torch.ones(1)))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no activation called 'tahn'"):
        activation("tahn")
    with pytest.raises(TypeError, match="cannot read an activation from int"):
        activation(3)
    with pytest.raises(ValueError, match="must act on each entry alone"):
        activation(lambda z: torch.softmax(z, dim=-1))
    with pytest.raises(ValueError, match="must act on each entry alone"):
        activation(lambda z: z.sum())
    with pytest.raises(ValueError, match="the same answer twice"):
        activation(lambda z: z + torch.randn_like(z) * 1e-9)
    with pytest.raises(ValueError, match="PReLU has 3 slopes"):
        activation(nn.PReLU(3))


@pytest.mark.parametrize(("fn", "where"), [(torch.log, "-2.3"), (lambda z: 1 / (z - 0.9), "0.9")])
def test_a_function_without_a_value_somewhere_is_refused(fn, where: str) -> None:
    with pytest.raises(ValueError, match=f"not finite at {where}; pass one that is defined on the whole line"):
        activation(fn)
