"""Batches in every usual form, and the models and batches that are refused."""

from __future__ import annotations

import copy
import random
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from leadline.program.inputs import batch_from, device_from, split_batch, validate
from refusals import refused


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y = self.fc(x)
        return y if attention_mask is None else y * attention_mask


class OwnCode(nn.Module):
    """A module whose forward fails in its own lines, not in a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return x.view(7, -1) @ self.weight


class ByHand(OwnCode):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Restless(nn.Module):
    """A module that changes whatever it can while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.table = nn.Embedding(5, 4, max_norm=0.1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x += random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        return self.norm(self.fc(x)) + self.table.weight[0] + self.table(torch.tensor([1]))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def test_forms_of_a_batch() -> None:
    ids = torch.tensor([[1, 2]])
    assert batch_from(X)[0][0] is X
    assert batch_from((X, ids)) == ((X, ids), {})
    assert batch_from([X, ids]) == ((X, ids), {})
    args, kwargs = batch_from(UserDict({"input_ids": ids, "use_cache": False}))
    assert args == ()
    assert kwargs == {"input_ids": ids, "use_cache": False}
    big_endian = np.arange(3, dtype=">f4")
    assert batch_from(big_endian)[0][0].tolist() == [0.0, 1.0, 2.0]
    assert batch_from({"x": np.ones(2)})[1]["x"].dtype == torch.float64


def test_a_loader_gives_its_first_batch_and_no_random_state_moves() -> None:
    data = TensorDataset(torch.arange(12.0).reshape(3, 4), torch.tensor([0, 1, 2]))
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(data, batch_size=2, shuffle=True, generator=generator)
    model = mlp()
    before = torch.get_rng_state(), generator.get_state()
    args, kwargs, targets = split_batch(loader, model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(generator.get_state(), before[1])
    first = next(iter(loader))
    assert kwargs == {}
    assert len(args) == 1
    assert torch.equal(args[0], first[0])
    assert targets is not None
    assert torch.equal(targets, first[1])


def test_a_pair_is_inputs_and_targets_only_where_it_cannot_be_two_arguments() -> None:
    y = torch.zeros(3, dtype=torch.long)
    assert split_batch((X, y), mlp())[2] is y
    assert split_batch((X, y), TwoInputs()) == ((X, y), {}, None)
    assert batch_from((X, y), mlp()) == ((X,), {})
    assert batch_from((X, y)) == ((X, y), {})
    labels = DataLoader(TensorDataset(X, y), batch_size=3)
    assert torch.equal(split_batch(labels, TwoInputs())[2], y)
    masks = DataLoader(TensorDataset(X, torch.ones(3, 4)), batch_size=3)
    assert split_batch(masks, TwoInputs())[2] is None


def test_refused_batches() -> None:
    with refused("batch is of type int, expected a tensor"):
        batch_from(3)
    with refused("batch is of type str"):
        batch_from("batch.pt")
    with refused("is an iterator (generator)"):
        batch_from(x for x in [X])
    with refused("loader (DataLoader) is empty"):
        batch_from(DataLoader(TensorDataset(X), batch_size=8, drop_last=True))
    with refused("first batch of the loader (DataLoader) is a set"):
        batch_from(DataLoader(TensorDataset(X), collate_fn=lambda rows: {1}))
    with refused("loader (DataLoader) raised ZeroDivisionError: division by zero"):
        batch_from(DataLoader(TensorDataset(X), collate_fn=lambda rows: 1 / 0))
    with refused("has the key 1 of type int"):
        batch_from({1: X})
    with refused("entry 'input_ids' is a list", "return_tensors='pt'"):
        batch_from({"input_ids": [[1, 2], [3]]})
    with refused("entry number 1 is a str"):
        batch_from((X, "text"))
    with refused("array of dtype object"):
        batch_from(np.array([None]))


def test_usable_models_and_batches_pass() -> None:
    validate(mlp(), (X,), {})
    validate(TwoInputs(), (), {"x": X, "attention_mask": torch.full((3, 1), -torch.inf)})
    validate(conv(), (torch.randn(2, 3, 8, 8),), {})
    validate(nn.Embedding(5, 3), (torch.tensor([4]),), {})
    with_mask = mlp()
    with_mask.register_buffer("causal", torch.full((2, 2), -torch.inf))
    validate(with_mask, (X,), {})


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_users_changes(training: bool) -> None:
    model = Restless().train(training)
    state, x = copy.deepcopy(model.state_dict()), X.clone()
    rng = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    validate(model, (x,), {})
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(x, X)
    assert (model.calls, model.training, model.norm.training) == (0, training, training)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng[0])
    assert random.getstate() == rng[1]
    assert np.array_equal(np.random.get_state()[1], rng[2])  # noqa: NPY002


def test_a_model_that_cannot_be_copied_gets_its_tensors_back() -> None:
    model = Restless().train()
    model.scaled = model.fc.weight * 2  # a non-leaf tensor: copy.deepcopy refuses it
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    validate(model, (X.clone(),), {})
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_refused_models() -> None:
    with refused("model is of type function, expected a torch.nn.Module"):
        validate(mlp, (X,), {})  # type: ignore[arg-type]
    with refused("model (ReLU) has no parameters"):
        validate(nn.ReLU(), (X,), {})
    with refused("parameter 'weight' of a lazy module has no shape yet", "run the model on a batch once"):
        validate(nn.LazyLinear(3), (X,), {})
    with refused("parameter '0.weight' is on the meta device"):
        validate(nn.Sequential(nn.Linear(4, 3, device="meta")), (X,), {})
    integers = nn.Module()
    integers.register_parameter("w", nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False))
    with refused("has no floating-point parameter"):
        validate(integers, (X,), {})
    empty = nn.Module()
    empty.register_parameter("w", nn.Parameter(torch.ones(3, 0)))
    with refused("parameter 'w' is empty with shape (3, 0)"):
        validate(empty, (X,), {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_that_are_not_finite_are_named(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    with torch.no_grad():
        model[2].weight[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    with refused("parameter '2.weight' (2, 8)", "holds 1 NaN and 2 infinite of 16 values"):
        validate(model, (X.to(dtype),), {})
    norm = nn.Sequential(nn.BatchNorm1d(4))
    norm[0].running_var[1] = torch.inf
    with refused("buffer '0.running_var' (4,)", "0 NaN and 1 infinite"):
        validate(norm, (X,), {})


def test_parameters_on_two_devices() -> None:
    model = mlp()
    model[2].to("meta")
    with refused("parameter '2.weight' is on the meta device"):
        validate(model, (X,), {})
    with refused("batch argument 'input' is on the meta device"):
        validate(mlp(), (X.to("meta"),), {})


def test_device_that_is_not_there() -> None:
    assert device_from("cpu") == torch.device("cpu")
    with refused("device 'cuda:99' is not there", "use cpu"):
        device_from("cuda:99")
    with refused("device 'toaster' is not there"):
        device_from("toaster")


def test_refused_values_of_a_batch() -> None:
    with refused("batch argument 'input' (3, 4) float32 holds 1 NaN and 0 infinite of 12 values"):
        validate(mlp(), (torch.where(X.max() == X, torch.nan, X),), {})
    with refused("batch argument 'x' (3, 4) float32 holds 0 NaN and 12 infinite"):
        validate(TwoInputs(), (), {"x": torch.full((3, 4), torch.inf)})
    with refused("batch argument 'input' is empty with shape (0, 4)"):
        validate(mlp(), (X[:0],), {})
    with refused("batch holds no tensor", "--batch"):
        validate(mlp(), (), {})
    deep: list[object] = [X]
    deep.append(deep)
    with refused("nested 7 deep"):
        validate(mlp(), (deep,), {})


def test_call_that_does_not_fit_the_signature() -> None:
    with refused("forward of TwoInputs takes (x, attention_mask)", "did you mean 'attention_mask' for 'atention_mask'"):
        validate(TwoInputs(), (X,), {"atention_mask": X})
    with refused("forward of Sequential takes (input)", "2 positional"):
        validate(mlp(), (X, X), {})


@pytest.mark.parametrize(
    ("model", "x", "parts"),
    [
        (mlp(), torch.randn(3, 5), ["layer '0' (Linear) got (3, 5) float32", "expected a last axis of 4"]),
        (
            mlp(),
            torch.ones(3, 4).long(),
            ["layer '0' (Linear) got (3, 4) int64", "expected float32", ".to(torch.float32)"],
        ),
        (mlp().double(), X, ["layer '0' (Linear) got (3, 4) float32", "expected float64"]),
        (conv(), torch.randn(2, 1, 8, 8), ["layer '0' (Conv2d) got (2, 1, 8, 8)", "3 channels on axis 1"]),
        (
            conv(),
            torch.randn(2, 48),
            ["layer '0' (Conv2d) got (2, 48)", "expected shape (batch, 3, height, width)"],
        ),
        (conv(), torch.randn(2, 3, 2, 2), ["layer '0' (Conv2d)", "Kernel size can't be greater"]),
        (nn.Sequential(nn.BatchNorm2d(8)), torch.randn(2, 4, 3, 3), ["'0' (BatchNorm2d)", "8 channels"]),
        (nn.Sequential(nn.GroupNorm(2, 8)), torch.randn(2, 4), ["'0' (GroupNorm)", "8 channels"]),
        (nn.Sequential(nn.LayerNorm(8)), torch.randn(2, 4), ["'0' (LayerNorm)", "a shape that ends in (8,)"]),
        (nn.LSTM(3, 4), torch.randn(2, 5, 4), ["the model (LSTM)", "a last axis of 3"]),
        (
            nn.TransformerEncoderLayer(16, 2),
            torch.randn(2, 3, 8),
            ["'self_attn' (MultiheadAttention)", "last axis of 16"],
        ),
        (
            nn.Sequential(nn.Embedding(5, 3)),
            torch.tensor([[5]]),
            ["'0' (Embedding)", "ids from 0 to 4 and not 5"],
        ),
        (
            nn.Sequential(nn.Embedding(5, 3)),
            torch.tensor([[-1]]),
            ["'0' (Embedding)", "ids from 0 to 4 and not -1"],
        ),
        (nn.Sequential(nn.Embedding(5, 3)), torch.rand(2, 2), ["'0' (Embedding)", "integer ids (int64)"]),
        (
            OwnCode(),
            X,
            [
                "the model (OwnCode) got (3, 4) float32",
                "invalid for input of size 12 at line",
                "test_inputs.py",
            ],
        ),
        (ByHand(), torch.ones(3, 4).long(), ["the model (ByHand) got (3, 4) int64", ".to(torch.float32)"]),
        (nn.BatchNorm1d(4), X[:1], ["the model (BatchNorm1d)", "more than 1 value per channel"]),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)
def test_forward_that_fails_names_the_layer(model: nn.Module, x: Tensor, parts: list[str]) -> None:
    with refused(*parts):
        validate(model, (x,), {})


def test_a_caught_error_inside_does_not_blame_the_layer_that_raised_it() -> None:
    class Forgiving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong, self.right = nn.Linear(9, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.right(x).view(5)

    with refused("the model (Forgiving) got (3, 4)", "shape '[5]' is invalid"):
        validate(Forgiving(), (X,), {})


def test_layer_names_cannot_reach_the_terminal() -> None:
    model = nn.Sequential()
    model.add_module("\x1b[31mred\n[bold]", nn.Linear(4, 2))
    with refused("layer '\\x1b[31mred [bold]' (Linear)"):
        validate(model, (torch.randn(3, 5),), {})
