"""Which Programs are chains of dense layers, and what is read of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leadline.measure.ensemble import chain_from, chain_inputs, ensemble
from leadline.program import trace
from leadline.theory import predict


def gaussian(model: nn.Module, C_W: float = 1.5, C_b: float = 0.1) -> nn.Module:
    """Gaussian weights in every dense layer, wide enough for their law to be read."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=(C_W / layer.in_features) ** 0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=C_b**0.5)
    return model


def test_a_chain_is_read_with_its_widths_activations_laws_and_names():
    model = gaussian(
        nn.Sequential(
            nn.Linear(8, 64),
            nn.Tanh(),
            nn.Linear(64, 48, bias=False),
            nn.GELU(),
            nn.Linear(48, 40),
            nn.Sigmoid(),
        )
    )
    x = torch.randn(3, 8)
    program = trace(model, x)
    chain, reason = chain_from(program)
    assert reason == ""
    assert chain.widths == (8, 64, 48, 40)
    assert [a.name for a in chain.activations] == ["tanh", "gelu", "sigmoid"]
    weights = [model[i].weight for i in (0, 2, 4)]
    strengths = [float(w.detach().square().mean()) * w.shape[1] for w in weights]
    assert list(chain.C_W) == pytest.approx(strengths, rel=1e-6)
    biases = [
        float(model[0].bias.detach().square().mean()),
        0.0,
        float(model[4].bias.detach().square().mean()),
    ]
    assert list(chain.C_b) == pytest.approx(biases, rel=1e-6)
    assert chain.gaussian
    assert torch.equal(chain_inputs(program), x.double())
    # every row of the prediction has its counterpart
    found = ensemble(chain, chain_inputs(program), 20, seed=0)
    assert [found.step(row.step).size for row in predict(program).rows] == [3] * 6


def test_stated_laws_layers_without_activation_and_wrappers_are_read():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList([nn.Linear(12, 32), nn.Linear(32, 16), nn.Linear(16, 2)])

        def forward(self, image):
            h = self.body[1](self.body[0](image.flatten(1)))
            return self.body[2](h * torch.sigmoid(1.702 * h))

    law = {f"body.{i}": {"C_W": 2.0 + i, "C_b": 0.5} for i in range(3)}
    image = torch.randn(2, 3, 2, 2)
    program = trace(gaussian(Wrapped()), image, law=law)
    chain, reason = chain_from(program)
    assert reason == ""
    assert (chain.widths, chain.C_W, chain.C_b) == ((12, 32, 16, 2), (2.0, 3.0, 4.0), (0.5,) * 3)
    assert [a.name for a in chain.activations] == ["identity", "swish(1.702)"]
    assert chain.steps[0][1] == ""
    assert torch.equal(chain_inputs(program), image.flatten(1).double())


def test_what_happens_to_the_batch_before_the_first_layer_is_part_of_the_inputs():
    x = torch.randn(2, 32)
    program = trace(gaussian(nn.Sequential(nn.Tanh(), nn.Linear(32, 8))), x)
    chain, _ = chain_from(program)
    assert chain.depth == 1
    assert torch.equal(chain_inputs(program), x.tanh().double())


def test_uniform_weights_are_taken_but_marked():
    chain, _ = chain_from(trace(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)), torch.randn(2, 64)))
    assert not chain.gaussian
    assert list(chain.C_W) == pytest.approx([1 / 3] * 2, rel=0.1)


def test_dropout_is_part_of_no_chain_in_training_mode_only():
    model = gaussian(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 16)))
    x = torch.randn(2, 8)
    assert "dropout" in chain_from(trace(model.train(), x))[1]
    chain, _ = chain_from(trace(model.eval(), x))
    assert [a.name for a in chain.activations] == ["tanh"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Residual(Twice):
    def forward(self, x):
        return x + torch.tanh(self.layer(x))


class Parallel(Twice):
    def forward(self, x):
        return torch.tanh(self.layer(x)) * torch.relu(self.layer(x))


def orthogonal() -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.orthogonal(nn.Linear(32, 32, bias=False)), nn.Tanh(), nn.Linear(32, 8)
    )


def constant_bias() -> nn.Module:
    model = gaussian(nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8)))
    nn.init.constant_(model[0].bias, 0.3)
    return model


def zero_weights() -> nn.Module:
    model = gaussian(nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8)))
    nn.init.zeros_(model[2].weight)
    return model


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (
            lambda: nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 8)),
            (2, 32),
            "layer_norm in 1",
        ),
        (lambda: nn.Sequential(nn.Linear(32, 32), nn.Tanh()), (2, 5, 32), "has sites"),
        (lambda: nn.Sequential(nn.Linear(32, 32), nn.Softmax(-1)), (2, 32), "softmax in 1 is neither"),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), (2, 3, 9), "sites"),
        (lambda: nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 8)), (2, 32), "layer_norm in 0 is neither"),
        (Twice, (2, 32), "uses layer.weight a second time"),
        (Residual, (2, 32), "add in the model itself does not take the step before it alone"),
        (Parallel, (2, 32), "does not take the step before it alone"),
        (orthogonal, (2, 32), "(orthogonal) that are not independent"),
        (constant_bias, (2, 32), "0.bias (constant) that are not independent"),
        (zero_weights, (2, 32), "has 2.weight of zeros"),
    ],
)
def test_what_is_no_chain_says_why(model, shape, reason):
    torch.manual_seed(0)
    network = model()
    chain, said = chain_from(trace(network, torch.randn(shape)))
    assert chain is None
    assert said.endswith(".")
    assert reason in said
