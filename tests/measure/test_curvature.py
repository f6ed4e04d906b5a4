"""Curvature by products against dense matrices, and the module left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leadline.measure.curvature import Objective, largest_eigenvalue, top_curvature, training_loss
from leadline.program import UserError
from measure.once import Once
from refusals import refused

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])
NUMBERS = torch.randn(6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sin(self.first(x)))[:, :3]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward, self.out = nn.Linear(5, 4), nn.Linear(4, 3)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x)[None]
        return self.out(h + self.attend(h, h, h, need_weights=False)[0])[0]


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    model[0].weight.requires_grad_(False)
    return model


@dataclass(frozen=True)
class Case:
    id: str
    build: Callable[[], nn.Module]
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    targets: Tensor = CLASSES


CASES = [
    Case("tanh", lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))),
    Case("mse", lambda: nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3)), "mse", NUMBERS),
    Case("relu", lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))),
    Case("own loss", lambda: nn.Sequential(nn.Linear(5, 6), nn.SiLU(), nn.Linear(6, 3)), lambda z, y: (z - y).pow(4).sum(), NUMBERS),
    Case("conv", lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3))),
    Case("batch norm", lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))),
    Case("tied and unused", Tied),
    Case("attention", Attention),
    Case("frozen", _frozen),
]  # fmt: skip
EACH = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)


def _dense(model: nn.Module, case: Case) -> tuple[Tensor, Tensor]:
    """Hessian and Gauss-Newton matrix entry by entry, by another way than ours."""
    twin = copy.deepcopy(model)
    named = {n: p for n, p in twin.named_parameters() if p.requires_grad}
    start = torch.cat([p.detach().reshape(-1) for p in named.values()])
    buffers = dict(twin.named_buffers())

    def output(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in named.values()])
        state = {n: part.view_as(p) for (n, p), part in zip(named.items(), parts, strict=True)}
        return torch.func.functional_call(
            twin, {**state, **{n: b.clone() for n, b in buffers.items()}}, (X,), strict=False
        )

    def loss(vector: Tensor) -> Tensor:
        return training_loss(case.loss, output(vector), case.targets)

    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(loss, start)
        jacobian = torch.autograd.functional.jacobian(output, start).flatten(0, 1)
        z = output(start).detach()
        bend = torch.autograd.functional.hessian(
            lambda v: training_loss(case.loss, v.view_as(z), case.targets), z.flatten()
        )
    return hessian, jacobian.T @ bend @ jacobian


@EACH
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_the_top_eigenvalue_is_that_of_the_dense_matrix(case: Case, kind: str) -> None:
    model = case.build().double()
    dense = _dense(model, case)[kind == "ggn"]
    values = torch.linalg.eigvalsh(dense)
    found = top_curvature(model, X, case.loss, case.targets, kind=kind, tolerance=1e-9, products=200)
    assert found.converged
    assert found.value == pytest.approx(float(values[-1]), rel=1e-8)
    assert found.lowest >= float(values[0]) - 1e-9
    # the other matrix is another matrix, so the test above can fail
    other = torch.linalg.eigvalsh(_dense(model, case)[kind != "ggn"])
    assert abs(found.value - float(other[-1])) > 1e-4 * found.value


@EACH
def test_nothing_of_the_module_or_the_random_states_changes(case: Case) -> None:
    model = case.build().double()
    model(X).sum().backward()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    slopes = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    asked = {n: p.requires_grad for n, p in model.named_parameters()}
    state = torch.random.get_rng_state()
    top_curvature(model, X, case.loss, case.targets, products=4)
    top_curvature(model, X, case.loss, case.targets, products=4, kind="ggn")
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    for n, p in model.named_parameters():
        assert p.requires_grad == asked[n]
        assert (p.grad is None) == (slopes[n] is None)
        assert p.grad is None or torch.equal(p.grad, slopes[n])


def test_the_residual_bounds_the_distance_to_an_eigenvalue() -> None:
    case = CASES[2]
    model = case.build().double()
    values = torch.linalg.eigvalsh(_dense(model, case)[0])
    for products in range(1, 8):
        found = top_curvature(model, X, case.loss, case.targets, tolerance=1e-12, products=products)
        assert found.products == products
        assert float((values - found.value).abs().min()) <= found.residual * (1 + 1e-9) + 1e-12
        assert found.value <= float(values[-1]) + 1e-12


def test_dropout_repeats_its_mask() -> None:
    model = nn.Sequential(nn.Linear(5, 30), nn.Dropout(0.5), nn.Tanh(), nn.Linear(30, 3)).double()
    objective = Objective(model, X, "cross_entropy", CLASSES, seed=5)
    assert float(objective.value()) == float(objective.value())
    assert float(objective.value()) != float(Objective(model, X, "cross_entropy", CLASSES, seed=6).value())
    found = [top_curvature(model, X, "cross_entropy", CLASSES, seed=5, tolerance=1e-8, products=99) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].converged


def test_a_basis_too_large_to_keep_gives_the_same_value(monkeypatch: pytest.MonkeyPatch) -> None:
    from leadline.measure.curvature import lanczos

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 300, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T + 60 * torch.diag((torch.arange(300) < 3).double())
    start = torch.randn(300, generator=generator, dtype=torch.float64)
    kept = largest_eigenvalue(lambda v: matrix @ v, start, tolerance=1e-6, products=120)
    monkeypatch.setattr(lanczos, "_BASIS_BYTES", 0)
    plain = largest_eigenvalue(lambda v: matrix @ v, start, tolerance=1e-6, products=120)
    top = float(torch.linalg.eigvalsh(matrix)[-1])
    assert kept.value == pytest.approx(top, rel=1e-6)
    assert plain.value == pytest.approx(top, rel=1e-6)


def test_float32_agrees_with_float64_and_keeps_its_dtype() -> None:
    case = CASES[0]
    model = case.build()
    single = top_curvature(model, X.float(), case.loss, case.targets, tolerance=1e-4, products=99)
    double = top_curvature(model.double(), X, case.loss, case.targets, tolerance=1e-8, products=99)
    assert single.value == pytest.approx(double.value, rel=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "resnet"])
def test_models_of_the_transformers_library(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2)
        model = transformers.GPT2LMHeadModel(config).eval().double()
        batch = {"input_ids": torch.tensor([[0, 3, 5, 1], [2, 2, 6, 4]])}
        targets = torch.tensor([[3, 5, 1, 0], [2, 6, 4, 1]])
    else:
        config = transformers.ResNetConfig(
            embedding_size=2, hidden_sizes=[2, 3], depths=[1, 1], layer_type="basic", num_labels=3
        )
        model = transformers.ResNetForImageClassification(config).eval().double()
        batch = {"pixel_values": torch.randn(3, 3, 8, 8, dtype=torch.float64)}
        targets = torch.tensor([0, 2, 1])
    objective = Objective(model, batch, "cross_entropy", targets)
    # central differences of the gradient: an independent dense matrix
    start, h = objective.flatten(list(objective.weights.values())), 1e-5

    def gradient(vector: Tensor) -> Tensor:
        leaves = [p.clone().requires_grad_() for p in objective.split(vector)]
        value = objective.value(dict(zip(objective.names, leaves, strict=True)))
        return objective.flatten(torch.autograd.grad(value, leaves, allow_unused=True))

    columns = []
    for i in range(len(start)):
        step = torch.zeros_like(start)
        step[i] = h
        columns.append((gradient(start + step) - gradient(start - step)) / (2 * h))
    dense = torch.stack(columns)
    dense = (dense + dense.T) / 2
    found = top_curvature(model, batch, "cross_entropy", targets, tolerance=1e-6, products=150)
    assert found.converged
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": None}, "needs the targets"),
        ({"targets": torch.tensor([0, 1])}, "do not fit the output"),
        ({"targets": CLASSES + 7}, "outside 0 … 2"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"loss": lambda z, y: z}, "expected a tensor with one number"),
        ({"kind": "fisher"}, "no curvature 'fisher'"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, object], said: str) -> None:
    given = {"loss": "cross_entropy", "targets": CLASSES, "kind": "hessian", **change}
    with pytest.raises(UserError, match=said):
        top_curvature(nn.Linear(5, 3).double(), X, given["loss"], given["targets"], kind=given["kind"])


def test_half_precision_and_frozen_models_are_refused() -> None:
    with pytest.raises(UserError, match="half precision"):
        top_curvature(nn.Linear(5, 3).bfloat16(), X.bfloat16(), "cross_entropy", CLASSES)
    with pytest.raises(UserError, match="no trainable parameter"):
        top_curvature(nn.Linear(5, 3).double().requires_grad_(False), X, "cross_entropy", CLASSES)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_a_part_without_a_second_derivative_is_refused(kind: str) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(super().forward(x))

    # torch itself would say that the curvature is 0
    with refused("no second derivative", "once_differentiable"):
        top_curvature(Doubled(3, 2), torch.randn(4, 3), "mse", torch.zeros(4, 2), kind=kind)  # type: ignore[arg-type]
