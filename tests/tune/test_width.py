"""Width against depth: the number, and that what is advised brings it below one half on drawn networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leadline.program import trace
from leadline.theory.criticality import critical_point
from leadline.tune import Recipe, WidthForDepth, tune, width_for_depth

INPUTS = 12


def chain(depth: int, width: int, act: Callable[[], nn.Module] = nn.ReLU, C_W: float = 2.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layer = nn.Linear(INPUTS if i == 0 else width, width, bias=False)
        nn.init.normal_(layer.weight, std=math.sqrt(C_W / layer.in_features))
        layers += [layer, act()]
    return nn.Sequential(*layers, nn.Linear(width, 3, bias=False))


class Stream(nn.Module):
    """Residual blocks of two layers without a norm."""

    def __init__(self, blocks: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(INPUTS, width, bias=False), nn.Linear(width, 3, bias=False)
        self.first = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.last = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        nn.init.normal_(self.enter.weight, std=INPUTS**-0.5)
        for first, last in zip(self.first, self.last, strict=True):
            nn.init.normal_(first.weight, std=(2 / width) ** 0.5)
            nn.init.normal_(last.weight, std=scale * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for first, last in zip(self.first, self.last, strict=True):
            h = h + last(torch.relu(first(h)))
        return self.out(h)


def gaussian(count: int, rows: int, columns: int, C_W: float, g: torch.Generator) -> Tensor:
    return torch.randn(count, rows, columns, generator=g) * math.sqrt(C_W / columns)


def drawn_chain(
    depth: int,
    width: int,
    count: int,
    *,
    first: float = 2.0,
    C_W: float = 2.0,
    skip: float = 0.0,
    act: Callable[[Tensor], Tensor] = torch.relu,
) -> Tensor:
    """Scale of the last hidden layer's outputs for one input, of that many networks: drawn here, without the package."""
    g = torch.Generator().manual_seed(5)
    z = gaussian(count, width, INPUTS, first, g) @ torch.ones(INPUTS, 1)
    for _ in range(depth - 1):
        z = gaussian(count, width, width, C_W, g) @ act(z) + skip * z
    return act(z).square().mean((1, 2)).double()


def drawn_stream(blocks: int, width: int, count: int, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(6)
    h = gaussian(count, width, INPUTS, 1.0, g) @ torch.ones(INPUTS, 1)
    for _ in range(blocks):
        branch = torch.relu(gaussian(count, width, width, 2.0, g) @ h)
        h = h + gaussian(count, width, width, scale**2, g) @ branch
    # given h the next layer's variance is this mean square: the spread without the noise of the last layer's own channels
    return h.square().mean((1, 2)).double()


def spread_number(scales: Tensor) -> tuple[float, float]:
    """ln(1 + relative variance) with its standard error by the jackknife."""
    n, s1, s2 = len(scales), scales.sum(), scales.square().sum()
    left = ((s2 - scales.square()) / (n - 1) / ((s1 - scales) / (n - 1)).square()).log()
    error = ((n - 1) / n * (left - left.mean()).square().sum()).sqrt()
    return float((s2 / n / (s1 / n).square()).log()), float(error)


def found_in(net: nn.Module) -> WidthForDepth:
    found = width_for_depth(trace(net, torch.ones(1, INPUTS) + 0.01 * torch.randn(3, INPUTS)))
    assert found is not None
    return found


def test_the_number_of_a_chain_is_the_sum_of_its_layers() -> None:
    found = found_in(chain(6, 24))
    assert found.number == pytest.approx(6 * math.log1p(5 / 24), rel=1e-6)  # nu = 5 is exact for ReLU
    assert (found.depth, found.width, found.blocks) == (6, pytest.approx(24), False)
    assert found.ratio == pytest.approx(6 / 24)
    text = str(found)
    assert "6 layers of width 24" in text
    assert "below 0.5" in text


def test_what_is_advised_for_a_chain_brings_drawn_networks_below_one_half() -> None:
    found = found_in(chain(6, 24))
    ways = [(6, math.ceil(24 * found.wider)), (found.shallower, 24)]
    for depth, width in ways:
        rebuilt = found_in(chain(depth, width))
        assert rebuilt.number < 0.5
        measured, error = spread_number(drawn_chain(depth, width, 3000))
        assert abs(measured - rebuilt.number) < 3 * error
    # no more than was needed: one layer more, or a width a tenth less, and it is not below
    assert found_in(chain(found.shallower + 1, 24)).number > 0.5
    assert found_in(chain(6, math.floor(0.9 * 24 * found.wider))).number > 0.5
    # and the network as it was is told apart from one that is below
    measured, error = spread_number(drawn_chain(6, 24, 3000))
    assert measured > 0.5 + 5 * error
    assert abs(measured - found.number) < 3 * error


@pytest.mark.parametrize(
    ("name", "depth", "width", "first"),
    [("relu", 6, 24, 2.0), pytest.param("tanh", 24, 16, 1.0, marks=pytest.mark.slow)],
)
def test_a_skip_around_each_layer_does_too(name: str, depth: int, width: int, first: float) -> None:
    act, made = {"relu": (torch.relu, nn.ReLU), "tanh": (torch.tanh, nn.Tanh)}[name]
    found = found_in(chain(depth, width, made, C_W=first))
    assert found.skip is not None

    def with_skip(gamma: float) -> tuple[float, float]:
        C_W = critical_point(name, residual=gamma).C_W or 0.0
        return spread_number(drawn_chain(depth, width, 3000, first=first, C_W=C_W, skip=gamma, act=act))

    measured, error = with_skip(found.skip)
    assert 0.4 - 2 * error < measured < 0.5 + 2 * error  # the first order in 1/n errs on the safe side
    measured, error = with_skip(found.skip / 2)  # half of it is not enough
    assert measured > 0.5 + 3 * error


def test_what_is_advised_for_a_stream_brings_drawn_networks_below_one_half() -> None:
    found = found_in(Stream(6, 16))
    assert found.blocks
    assert found.branch is not None
    assert found.skip is None
    for blocks, width, scale in (
        (6, math.ceil(16 * found.wider), 1.0),
        (found.shallower, 16, 1.0),
        (6, 16, found.branch),
    ):
        rebuilt = found_in(Stream(blocks, width, scale))
        measured, error = spread_number(drawn_stream(blocks, width, 3000, scale))
        assert abs(measured - rebuilt.number) < 3 * error
        assert measured < 0.5 + 2 * error
    measured, error = spread_number(drawn_stream(6, 16, 3000))
    assert measured > 0.5 + 5 * error
    measured, error = spread_number(drawn_stream(6, 16, 3000, (1 + found.branch) / 2))  # half of the way is not enough
    assert measured > 0.5 + 3 * error


def test_a_network_that_is_wide_enough_is_let_be() -> None:
    found = found_in(chain(3, 64))
    assert found.number < 0.5
    assert (found.wider, found.branch, found.skip) == (1.0, None, None)
    assert "no reason to worry" in str(found)


def test_no_number_where_theory_gives_none() -> None:
    net = chain(4, 16)
    for layer in net[::2]:
        nn.init.orthogonal_(layer.weight)
    assert width_for_depth(trace(net, torch.randn(3, INPUTS))) is None


def test_a_recipe_says_it_in_print_and_in_its_file(tmp_path: Path) -> None:
    recipe = tune(Stream(6, 16), torch.randn(6, INPUTS), draws=2)
    recipe.save(tmp_path / "recipe.yaml")
    (said,) = [d for d in Recipe.load(tmp_path / "recipe.yaml").decisions if d.what == "width and depth"]
    assert said.after == ""
    assert "residual branch by" in said.why
    assert "Hanin" in said.source
    assert "width and depth" in str(recipe)
    assert "6 blocks of width 16.0" in str(recipe)


@pytest.mark.slow
def test_orthogonal_weights_of_a_recipe_leave_the_number_of_before() -> None:
    recipe = tune(chain(12, 16), torch.randn(6, INPUTS), draws=2)
    assert any(law.kind == "orthogonal" for law in recipe.laws.values())
    (said,) = [d for d in recipe.decisions if d.what == "width and depth"]
    assert said.why.startswith("as it was drawn, nu * sum 1/n = ")
