"""The second look at a large network: what the full check says, from the graph of the first look."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from leadline.check import check
from leadline.measure import measure
from leadline.tune.second_look import is_large, second_look


def network(C_W: float = 2.0, depth: int = 5) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(64, 64, bias=False)
        nn.init.normal_(layer.weight, std=(C_W / 64) ** 0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.LayerNorm(64), nn.Linear(64, 4))


def test_it_predicts_what_a_check_of_the_changed_network_predicts() -> None:
    net, x = network(), torch.randn(5, 64)
    first = check(net, x, draws=4)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight *= 3.0
        twin[10].weight *= 1.5
    found, full = second_look(first, twin), check(twin, x, draws=4)
    assert found is not None
    assert found.draws == 0
    for one, two in zip(found.prediction.rows, full.prediction.rows, strict=True):
        for name in ("kernel", "partial_jacobian", "spread"):
            a, b = one.get(name), two.get(name)
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, rel=1e-9)
    assert [v.rule for v in found.verdicts] == [v.rule for v in full.verdicts]


def test_it_sees_an_error_that_the_change_brings() -> None:
    net, x = network(depth=20), torch.randn(5, 64)
    first = check(net, x, draws=4)
    assert not any(v.rule == "exploding-signal" for v in first.verdicts)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for layer in twin[:40:2]:
            layer.weight *= 3.0
    found = second_look(first, twin)
    assert found is not None
    assert any(v.rule == "exploding-signal" for v in found.verdicts)


def test_measuring_without_susceptibilities_leaves_the_rest_as_it_is() -> None:
    net, x = network(), torch.randn(5, 64)
    full, part = (measure(net, x, draws=6, susceptibilities=s) for s in (True, False))
    assert any("chi_perp" in r.values for r in full.rows)
    for one, two in zip(full.rows, part.rows, strict=True):
        assert {n for n in one.values if not n.startswith("chi_")} == set(two.values)
        for name, value in two.values.items():
            assert value.value == pytest.approx(one.values[name].value, rel=1e-12)


def test_what_counts_as_large() -> None:
    assert not is_large(network())
    assert is_large(nn.Embedding(20_001, 1000).to("meta"))
