"""Each rule fires on a small real network with its fault, at the right layer, and not on a healthy control."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leadline as ll
from check.networks import (
    Attention,
    Pooled,
    Stream,
    Tokens,
    batch,
    mlp,
    scaled_head,
    sequence,
    shifted_bias,
    tokens,
)  # fmt: skip

Build = Callable[[], tuple[nn.Module, Tensor]]


@dataclass(frozen=True)
class Case:
    rule: str
    layer: str
    broken: Build
    healthy: Build
    severities: tuple[str, ...] = ("error",)
    more: dict[str, Any] = field(default_factory=dict)


HE = lambda: (mlp(6, nn.ReLU, 2.0), batch())  # noqa: E731
TARGETS = {"loss": "cross_entropy", "targets": torch.arange(8) % 10}
# fmt: off
CASES = [
    Case("vanishing-signal", "0", lambda: (mlp(30, nn.Tanh, None), batch()), lambda: (mlp(4, nn.Tanh, None), batch())),
    Case("exploding-signal", "0", lambda: (mlp(30, nn.ReLU, 4.0), batch()), HE),
    Case("vanishing-gradient", "0", lambda: (mlp(12, nn.Sigmoid, 1.0), batch()), HE),
    Case("exploding-gradient", "2", lambda: (mlp(30, nn.Tanh, 9.0), batch()), lambda: (mlp(8, nn.Tanh, 2.0), batch())),
    Case("chaos", "2", lambda: (mlp(30, nn.Tanh, 9.0), batch()), HE),
    Case("rank-collapse", "2", lambda: (mlp(10, nn.Sigmoid, 1.0), batch()), HE),
    Case("too-deep-for-width", "3", lambda: (mlp(60, nn.ReLU, 2.0, width=16), batch()), HE),
    Case("dead-units", "1", lambda: (shifted_bias(mlp(2, nn.ReLU, 2.0), -8.0), batch()), HE),
    Case("saturation", "1", lambda: (mlp(3, nn.Tanh, 400.0), batch()), lambda: (mlp(3, nn.Tanh, 1.0), batch())),
    Case("residual-growth", "blocks.1", lambda: (Stream(32, ""), batch()),
         lambda: (Stream(32, "", 32**-0.5), batch()), ("error", "warning")),
    Case("attention-collapse", "layers.0", lambda: (Attention(6, False), sequence()),
         lambda: (Attention(6, True), sequence())),
    Case("norm-placement", "norms.0", lambda: (Stream(24, "post"), batch()), lambda: (Stream(24, "pre"), batch())),
    Case("input-scale", "0", lambda: (mlp(3, nn.ReLU, 2.0), batch(shift=50.0)), HE),
    Case("embedding-scale", "emb", lambda: (Tokens(1000.0), tokens()), lambda: (Tokens(0.02), tokens())),
    Case("embedding-scale", "emb", lambda: (Tokens(1e-5), tokens()), lambda: (Tokens(1.0), tokens())),
    Case("output-scale", "12", lambda: (scaled_head(mlp(6, nn.ReLU, 2.0), 100.0), batch()), HE, more=TARGETS),
    Case("half-precision", "0", lambda: (mlp(3, nn.ReLU, 2.0), batch(scale=1e6)), HE, ("note",)),
    Case("unused-parameters", "pooler", lambda: (Pooled(), batch()), HE, ("note",)),
    Case("tied-parameters", "fc2", lambda: (Pooled(), batch()), HE, ("note",)),
    Case("untouched-norm", "1", lambda: (nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8)).eval(), batch()),
         lambda: (nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8)), batch()), ("note",)),
]
# fmt: on


@functools.cache
def control(build: Build, with_loss: bool) -> ll.Report:
    """Report of a healthy network; several cases share one."""
    torch.manual_seed(0)
    model, x = build()
    return ll.check(model, x, draws=2, **(TARGETS if with_loss else {}))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.rule}-{c.layer}")
def test_a_broken_network_gets_its_verdict_and_the_control_none(case: Case) -> None:
    torch.manual_seed(0)
    model, x = case.broken()
    found = [v for v in ll.check(model, x, draws=2, **case.more).verdicts if v.rule == case.rule]
    assert [v.layer for v in found] == [case.layer]
    assert found[0].severity in case.severities
    report = control(case.healthy, "targets" in case.more)
    assert [v for v in report.verdicts if v.severity != "note"] == []
    assert report.ok


def test_trouble_is_named_where_it_starts() -> None:
    model = mlp(40, nn.ReLU, 2.0, width=256)
    for number, module in enumerate(model[:-1]):
        if isinstance(module, nn.Linear) and number >= 20:
            nn.init.normal_(module.weight, std=(0.02 / 256) ** 0.5)
    report = ll.check(model, batch(), draws=0)
    assert [v.layer for v in report.verdicts if v.rule == "vanishing-signal"] == ["20"]


def test_trained_weights_are_judged_by_what_is_measured() -> None:
    model = mlp(3, nn.ReLU, 2.0)
    with torch.no_grad():
        model[2].weight += 0.5 * torch.outer(torch.randn(64), torch.randn(64))
    report = ll.check(model, batch(), draws=8)
    assert [v.layer for v in report.verdicts if v.rule == "trained-weights"] == ["2"]
    assert report.draws == 0
    assert report.to_dict()["draws"] == 0


def test_gpt2_without_its_residual_scale_is_told() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=6, n_embd=48, n_head=4, vocab_size=100, use_cache=False)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = {"input_ids": tokens()}
    assert ll.check(model, kwargs=ids, draws=0).ok
    for block in model.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            nn.init.normal_(projection.weight, std=config.initializer_range)
    report = ll.check(model, kwargs=ids, draws=0)
    assert [(v.rule, v.layer) for v in report.verdicts if v.severity == "error"] == [
        ("residual-growth", "transformer.h.0.attn.c_proj")
    ]


def test_a_network_that_cannot_be_exported_is_measured() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.relu(h) if float(h.sum()) > 0 else torch.tanh(h))

    report = ll.check(Branching(), batch(), draws=2)
    assert report.prediction is None
    assert "data-dependent" in report.reason
    assert {row["layer"] for row in report.to_dict()["rows"]} >= {"a", "b"}
    assert "Measured only" in str(report)
