"""The example networks are what their descriptions say: one loses its signal, the other keeps it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def signal_by_depth(name: str) -> list[float]:
    """Build an example and return the variance over the batch, mean over units, after each linear layer."""
    model, x = runpy.run_path(str(EXAMPLES / name))["build"]()
    variances = []
    with torch.no_grad():
        for module in model:
            x = module(x)
            if isinstance(module, torch.nn.Linear):
                variances.append(x.var(dim=0).mean().item())
    return variances


def test_the_deep_tanh_network_loses_its_signal() -> None:
    variances = signal_by_depth("deep_tanh.py")
    assert len(variances) == 41
    # Each layer keeps at most a third of it, with the scatter of one draw of finite width.
    assert variances[20] / variances[0] < 2 * (1 / 3) ** 20


def test_the_relu_network_keeps_its_signal() -> None:
    variances = signal_by_depth("healthy_relu.py")
    # Inputs draw nearer to each other with depth, so their differences shrink slowly while the scale stays.
    assert 0.05 < variances[-2] / variances[0] < 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_examples_are_short_and_start_the_same_each_time(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    build = runpy.run_path(str(path))["build"]
    (first, x), (second, y) = build(), build()
    assert torch.equal(x, y)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
