"""Forms that networks of other people are written in: products with weights, tensors made empty, sizes from values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import ExportFailure, trace
from leadline.theory import predict

WIDTH = 64
X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


class Product(nn.Module):
    """Dense layers as ``x @ W.T``."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.one.T).tanh() @ self.two.T


class Dense(Product):
    """The same as linear layers."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.one).tanh(), self.two)


def test_a_product_with_weights_is_a_dense_layer() -> None:
    torch.manual_seed(0)
    product = Product()
    dense = Dense()
    dense.load_state_dict(product.state_dict())
    written, usual = predict(trace(product, X)), predict(trace(dense, X))
    assert not written.drawn
    assert [r.op for r in written.rows] == [r.op for r in usual.rows] == ["linear", "pointwise", "linear"]
    for one, two in zip(written.rows, usual.rows, strict=True):
        for quantity in ("kernel", "partial_jacobian", "tangent_kernel"):
            a, b = one.get(quantity), two.get(quantity)
            assert a == b or a == pytest.approx(b, rel=1e-9), (one.op, quantity)


class Filled(nn.Module):
    """An empty tensor, filled part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 48), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        h = a.new_empty(*a.shape[:-1], 96)
        h[..., :48] = a.relu()
        h[..., 48:] = self.two(x)
        return self.head(h)


def test_what_an_empty_tensor_holds_is_of_no_account() -> None:
    torch.manual_seed(0)
    net = Filled()
    program = trace(net, X)
    assert not {"new_empty"} & {s.op for s in program.steps}
    prediction, measurement = predict(program), measure(net, X, draws=20, seed=1, program=program)
    mine, theirs = prediction.rows[-1].values["kernel"], measurement.rows[-1].values["kernel"]
    assert abs(mine.value - theirs.value) < 4 * math.hypot(mine.error, theirs.error) + 0.05 * theirs.value
    assert abs(mine.value / 2 - theirs.value) > 4 * math.hypot(mine.error, theirs.error)


def test_sizes_that_depend_on_values_are_refused_in_one_sentence() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x[x[..., 0] > 0])

    with pytest.raises(ExportFailure, match="data-dependent"):
        trace(Chosen(), X)


def test_a_convolution_over_what_is_a_channel_elsewhere_is_drawn() -> None:
    class Across(nn.Module):
        """Heads as channels of an image of tokens by head size."""

        def __init__(self) -> None:
            super().__init__()
            self.dense, self.conv = nn.Linear(WIDTH, WIDTH), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.dense(x).unflatten(-1, (4, 16)).transpose(1, 2)
            return self.head(self.conv(h).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    prediction = predict(trace(Across(), X))
    assert all(math.isfinite(r.get("kernel") or 0.0) for r in prediction.rows)


def test_a_learned_query_that_is_repeated_by_an_operator_without_a_rule() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.probe, self.head = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.probe.repeat(x.shape[0], 3, 1) + x)

    torch.manual_seed(0)
    prediction = predict(trace(Pooled(), X))
    assert prediction.rows[-1].get("kernel") == pytest.approx((1.0 + 1.0) / 3 + 1 / 3 / WIDTH, rel=0.3)
