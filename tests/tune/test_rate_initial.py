"""The maximal initial rate and its power law, and choosing a rate where an edge says too little."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from leadline.measure.curvature import Objective
from leadline.program import UserError
from leadline.tune import UpdateRule, fit_power_law, maximal_initial_rate, predict_edge
from leadline.tune.rate_choose import choose_rate


def _blobs(samples: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 5
    centres = torch.randn(5, 12, generator=generator)
    return centres[y] + 0.5 * torch.randn(samples, 12, generator=generator), y


def _relu(width: int, depth: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = [12, *[width] * depth, 5]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / a))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_the_maximal_initial_rate_separates_rates_that_learn_from_rates_that_do_not() -> None:
    x, y = _blobs()
    objective = Objective(_relu(64, 3), x, "cross_entropy", y)
    found = maximal_initial_rate(objective, high=50.0, batch=100, steps=30, threshold=0.9)
    alone = maximal_initial_rate(objective, high=found / 2, batch=100, steps=30, threshold=0.9, refinements=0)
    assert alone == found / 2  # the first rate works
    assert maximal_initial_rate(objective, high=50.0, batch=100, steps=30, threshold=0.9) == found
    wide = maximal_initial_rate(
        Objective(_relu(400, 3), x, "cross_entropy", y), high=50.0, batch=100, steps=30, threshold=0.9
    )
    assert wide < found


def test_the_power_law_is_fitted_with_its_parts() -> None:
    depths, widths = [2, 4, 8, 4], [64, 64, 128, 256]
    rates = [3 * d**-0.5 * w**-0.8 for d, w in zip(depths, widths, strict=True)]
    law = fit_power_law(depths, widths, rates)
    assert law.depth_power == pytest.approx(0.5)
    assert law.width_power == pytest.approx(0.8)
    assert 0.5 < law.power < 0.8
    assert law.r_squared < 1
    exact = fit_power_law(depths, widths, [3 * (d * w) ** -0.6 for d, w in zip(depths, widths, strict=True)])
    assert exact.r_squared == pytest.approx(1)
    assert exact.rate(5, 100) == pytest.approx(3 * 500**-0.6)
    with pytest.raises(ValueError, match="different depths and widths"):
        fit_power_law([2, 2, 2], [1, 2, 3], [1, 1, 1])


def test_a_rate_that_only_kills_the_network_is_not_chosen() -> None:
    """Outputs far too large at the start: large rates silence every unit, which lowers the loss and learns nothing."""
    x, y = _blobs()
    model = _relu(64, 2)
    with torch.no_grad():
        model[-1].weight *= 6
    objective, rule = Objective(model, x, "cross_entropy", y), UpdateRule("sgd")
    smooth = predict_edge(objective, rule, 0.05, hold="smooth")
    found = choose_rate(objective, rule, smooth)
    highest = found.runs[-1]
    assert found.confirmed.loss < 0.2
    assert found.confirmed.loss <= highest.loss
    assert found.rate <= 0.5 * smooth.low


def test_what_cannot_be_used_is_refused() -> None:
    x, y = _blobs()
    objective = Objective(_relu(8, 1), x, "mse", torch.randn(300, 5))
    with pytest.raises(UserError, match="accuracy needs class numbers"):
        maximal_initial_rate(objective, high=1.0)
    with pytest.raises(UserError, match="no trainable parameter 'first'"):
        maximal_initial_rate(Objective(_relu(8, 1), x, "cross_entropy", y), high=1.0, first_layer=["first"])
