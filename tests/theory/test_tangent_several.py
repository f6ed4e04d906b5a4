"""Several inputs: equal ones are one, their order does not matter, and published numbers come out."""

from __future__ import annotations

import pytest
import torch

from leadline.theory.flow import Layers
from leadline.theory.tangent import tangent_flow, tangent_matrices, tangent_tensors
from leadline.theory.tangent.products import Products, nodes, orders

LAW = {
    "C_b": (0.1, 0.2, 0.05, 0.1),
    "C_W": (1.2, 1.4, 1.1, 1.3),
    "lambda_b": (0.5, 0.8, 0.3, 0.6),
    "lambda_W": (1.0, 0.7, 1.2, 0.9),
}
FIELDS = ("K", "Theta", "G1", "H1", "V", "A", "B", "D", "F", "P", "Q", "R", "S", "T", "U")
X = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def layers(name: str) -> Layers:
    return Layers.of(name, widths=(4, 16, 24, 16, 2), **LAW)


@pytest.mark.parametrize(("name", "tolerance"), [("gelu", 1e-10), ("tanh", 1e-8), ("sin", 1e-10)])
def test_equal_inputs_are_one(name: str, tolerance: float) -> None:
    one = tangent_flow(layers(name), 0.6675)
    same = tangent_tensors(layers(name), torch.full((3, 3), 0.6675, dtype=torch.float64))
    assert same.error < tolerance
    for field in FIELDS:
        wanted = getattr(one, field).reshape(-1, *(1,) * (getattr(same, field).ndim - 1))
        found = getattr(same, field)
        torch.testing.assert_close(found, wanted.expand_as(found), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("m", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_the_stated_error_holds(m: int) -> None:
    gram = X[:m] @ X[:m].T / 4
    found = tangent_tensors(layers("tanh"), gram)
    one = tangent_flow(layers("tanh"), gram.diagonal())
    for field in FIELDS:
        value = getattr(found, field)[-1]
        own = torch.stack([value[(i,) * value.ndim] for i in range(m)])
        relative = float((own / getattr(one, field)[-1] - 1).abs().max())
        assert relative < (20 if field == "H1" else 1) * found.error + 1e-9, field
    assert found.error < (1e-3 if m == 4 else 1e-7)


def test_the_order_of_inputs_and_the_company_they_keep_do_not_matter() -> None:
    gram = X[:3] @ X[:3].T / 4
    shallow = Layers.of("tanh", widths=(4, 16, 24, 2), **{k: v[:3] for k, v in LAW.items()})
    all_three, order = tangent_tensors(shallow, gram), [2, 0, 1]
    turned = tangent_tensors(shallow, gram[order][:, order])
    two = tangent_tensors(shallow, gram[:2, :2])
    for field in FIELDS:
        value, other, fewer = (getattr(t, field)[-1] for t in (all_three, turned, two))
        for axis in range(value.ndim):
            other = other.index_select(axis, torch.tensor([1, 2, 0]))
        torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(value[(slice(0, 2),) * value.ndim], fewer, rtol=1e-6, atol=1e-8)


def test_symmetries() -> None:
    s = tangent_tensors(layers("gelu"), X[:2] @ X[:2].T / 4).last

    def same(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

    for t in (s.V, s.A):
        same(t, t.permute(1, 0, 2, 3))
        same(t, t.permute(2, 3, 0, 1))
    for t in (s.B, s.F):
        same(t, t.permute(2, 3, 0, 1))
    same(s.B, s.B.permute(1, 0, 3, 2))
    same(s.D, s.D.permute(1, 0, 2, 3))
    same(s.D, s.D.permute(0, 1, 3, 2))
    same(s.P, s.P.permute(0, 2, 1, 3))
    same(s.R, s.R.permute(0, 1, 3, 2))
    for t in (s.S, s.T, s.U):
        same(t, t.permute(1, 0, 3, 2))
    assert not torch.allclose(s.Q, s.Q.permute(0, 2, 1, 3), rtol=1e-3)


def test_reference_values_of_the_kernel() -> None:
    gram = torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=torch.float64)
    s = tangent_tensors(Layers.of("tanh", depth=5, C_b=0.1, C_W=1.5), gram).last
    pairs = [(0, 0), (0, 1), (1, 1)]
    V = [[0.2014472, 0.1548345, 0.0778899], [0.1548345, 0.3423917, 0.1552841], [0.0778899, 0.1552841, 0.1986484]]
    for p, row in zip(pairs, V):
        for q, wanted in zip(pairs, row):
            assert float(s.V[(*p, *q)]) == pytest.approx(wanted, abs=5.1e-8)
    assert [float(s.K[p]) for p in pairs] == pytest.approx([0.54365096, 0.39276721, 0.53526565], abs=5.1e-9)
    assert [float(s.G1[p]) for p in pairs] == pytest.approx([-0.095855, -0.026957, -0.100152], abs=5.1e-7)


def test_mean_is_that_of_the_matrices() -> None:
    found = tangent_tensors(layers("gelu"), X[:2] @ X[:2].T / 4)
    torch.testing.assert_close(found.Theta, tangent_matrices(layers("gelu"), X[:2]), rtol=1e-9, atol=1e-10)


def test_nodes() -> None:
    assert orders([1.0]) == (400,)
    many = orders([1.0, 0.5, 1e-9])
    assert many[0] >= many[1] > many[2] == 6
    assert many[0] * many[1] * many[2] <= 300_000
    x, w = nodes((8, 6))
    assert float(w.sum()) == pytest.approx(1, rel=1e-12)
    assert float((w * x[:, 0] ** 4 * x[:, 1] ** 2).sum()) == pytest.approx(3, rel=1e-12)
    zero = Products(layers("gelu").activation, torch.zeros(2, 2, dtype=torch.float64))
    assert torch.allclose(zero.two(1, 1), torch.full((2, 2), 0.25, dtype=torch.float64))


def test_refusals() -> None:
    good = torch.eye(2)
    with pytest.raises(ValueError, match="step jumps at 0"):
        tangent_tensors(Layers.of("step", depth=3), good)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        tangent_tensors(layers("tanh"), torch.ones(2, 3))
    with pytest.raises(ValueError, match="m from 1 to 5"):
        tangent_tensors(layers("tanh"), torch.eye(6))
    with pytest.raises(ValueError, match="not symmetric"):
        tangent_tensors(layers("tanh"), torch.tensor([[1.0, 0.2], [0.3, 1.0]]))
    with pytest.raises(ValueError, match="negative eigenvalue"):
        tangent_tensors(layers("tanh"), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="after the first layer"):
        tangent_tensors(Layers.of("tanh", depth=3, C_W=(1.0, 0.0, 1.0)), good)
