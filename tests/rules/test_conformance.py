"""Every rule against its own operator, and the suite against rules that are wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from leadline.rules import RULES, Context, State
from leadline.rules.expr import scaled
from leadline.testing.conformance import ConformanceError, check_rule


def vectors() -> Tensor:
    return torch.randn(2, 8)


def images() -> Tensor:
    return torch.randn(2, 3, 5, 5)


def tokens() -> Tensor:
    return torch.randn(2, 4, 64)


def sandwich(*middle: nn.Module, width: int = 128) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 128), *middle, nn.Linear(width, 32))


def pictures(*middle: nn.Module, channels: int = 64) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *middle, nn.Conv2d(channels, 64, 2))


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 2, 128, batch_first=True), 1).eval()


CASES: list[tuple[str, Callable[[], nn.Module], Callable[[], Tensor]]] = [
    ("linear", lambda: sandwich(nn.Tanh()), vectors),
    ("pointwise", lambda: sandwich(nn.GELU()), vectors),
    ("layer_norm", lambda: sandwich(nn.ReLU(), nn.LayerNorm(128)), vectors),
    ("rms_norm", lambda: sandwich(nn.ReLU(), nn.RMSNorm(128)), vectors),
    ("dropout", lambda: sandwich(nn.ReLU(), nn.Dropout(0.3)).train(), vectors),
    ("batch_norm", lambda: sandwich(nn.BatchNorm1d(128), nn.ReLU()).train(), lambda: torch.randn(8, 8)),
    ("conv", lambda: pictures(nn.ReLU(), nn.Conv2d(64, 64, 3, stride=2, padding=1)), images),
    ("conv_transpose", lambda: pictures(nn.ReLU(), nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1)), images),
    ("max_pool2d", lambda: pictures(nn.MaxPool2d(2)), images),
    ("avg_pool2d", lambda: pictures(nn.ReLU(), nn.AvgPool2d(2)), images),
    ("group_norm", lambda: pictures(nn.GroupNorm(8, 64), nn.ReLU()), images),
    ("pixel_shuffle", lambda: pictures(nn.ReLU(), nn.PixelShuffle(2), channels=16), images),
    ("scaled_dot_product_attention", encoder, tokens),
    ("add", encoder, tokens),
]


@pytest.mark.parametrize(("op", "build", "batch"), CASES, ids=[case[0] for case in CASES])
def test_rule_does_what_its_operator_does(op: str, build: Callable[[], nn.Module], batch: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    module, x = build(), batch()
    laws = {finding.law for finding in check_rule(module, x, op)}
    assert "the second moment" in laws


class Louder:
    """A rule whose forward half is five per cent too large in amplitude."""

    silent = False

    def __init__(self, rule: object) -> None:
        self.rule = rule

    def __getattr__(self, name: str) -> object:
        return getattr(self.rule, name)

    def forward(self, step: object, ctx: Context) -> State:
        state = self.rule.forward(step, ctx)  # type: ignore[attr-defined]
        return State(scaled(state.expr, 1.05), state.points, state.width)


def test_a_rule_that_is_five_per_cent_too_loud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(RULES, "avg_pool2d", Louder(RULES["avg_pool2d"]))
    with pytest.raises(ConformanceError, match="second moment is off by"):
        check_rule(pictures(nn.ReLU(), nn.AvgPool2d(2)), images(), "avg_pool2d")


def test_an_adjoint_that_forgets_the_slope_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)

    class Forgetful(Louder):
        def forward(self, step: object, ctx: Context) -> State:
            return self.rule.forward(step, ctx)  # type: ignore[attr-defined]

        def adjoint(self, step: object, cotangent: object, ctx: Context) -> dict[str, object]:
            return {step.arguments["input"].name: cotangent}  # type: ignore[attr-defined]

    monkeypatch.setitem(RULES, "pointwise", Forgetful(RULES["pointwise"]))
    with pytest.raises(ConformanceError, match="adjoint towards"):
        check_rule(sandwich(nn.ReLU()), vectors(), "pointwise")


def test_an_absent_operator_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(ValueError, match="no step 'conv'; it has linear, pointwise"):
        check_rule(sandwich(nn.Tanh()), vectors(), "conv")
