"""Attention whose logits get more than query times key: slopes by distance, learned biases, masks, in several writings."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import trace
from leadline.theory import Prediction, predict

WIDTH, HEADS, TOKENS = 256, 4, 6
SIZE = WIDTH // HEADS


class Biased(nn.Module):
    """One attention; ``way``: how it is written; ``bias``: what is added."""

    def __init__(self, way: str, bias: str) -> None:
        super().__init__()
        self.way, self.bias = way, bias
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight, std=WIDTH**-0.5)
        slopes = 3.0 * 2.0 ** -torch.arange(HEADS)
        distance = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs()
        self.register_buffer("slope", -slopes[:, None, None] * distance, persistent=False)
        self.register_buffer("buckets", distance, persistent=False)
        self.register_buffer("seen", torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril(), persistent=False)
        self.table = nn.Embedding(TOKENS, HEADS)

    def added(self) -> Tensor:
        """What is added to the logits, (1, heads, tokens, tokens)."""
        if self.bias == "learned":
            return self.table(self.buckets).permute(2, 0, 1)[None]
        return self.slope[None]

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0]
        q, k, v = (f(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.way == "sdpa":
            bias = torch.where(self.seen, self.added(), -torch.inf)
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(B, HEADS, TOKENS, TOKENS))
        elif self.way == "written out":
            logits = q @ k.transpose(-1, -2) / math.sqrt(SIZE) + self.added()
            h = logits.masked_fill(~self.seen, -1e9).softmax(-1) @ v
        elif self.way == "where":
            logits = q @ k.transpose(-1, -2) / math.sqrt(SIZE) + self.added()
            h = torch.where(self.seen, logits, -1e9).softmax(-1) @ v
        elif self.way == "capped":
            logits = torch.tanh(q @ k.transpose(-1, -2) / math.sqrt(SIZE) / 0.5) * 0.5
            h = (logits + self.added()).softmax(-1) @ v
        else:
            flat = [t.reshape(B * HEADS, TOKENS, SIZE) for t in (q, k, v)]
            bias = self.added().expand(B, HEADS, TOKENS, TOKENS).reshape(B * HEADS, TOKENS, TOKENS)
            logits = bias.baddbmm(flat[0], flat[1].transpose(1, 2), alpha=SIZE**-0.5).view(B, HEADS, TOKENS, TOKENS)
            weights = (logits + torch.where(self.seen, 0.0, -1e9)).softmax(-1).view(B * HEADS, TOKENS, TOKENS)
            h = (weights @ flat[2]).view(B, HEADS, TOKENS, SIZE)
        return self.o(h.transpose(1, 2).flatten(2))


WAYS = ["sdpa", "written out", "where", "baddbmm"]
X = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


def _predicted(way: str, bias: str) -> Prediction:
    torch.manual_seed(0)
    return predict(trace(Biased(way, bias), X))


def _row(prediction: Prediction, quantity: str) -> tuple[float, float]:
    (row,) = [r for r in prediction.rows if r.op == "scaled_dot_product_attention"]
    estimate = row.values[quantity]
    return float(estimate.value), float(estimate.error)


@pytest.mark.parametrize("bias", ["slope", "learned"])
@pytest.mark.parametrize("way", WAYS)
def test_each_writing_is_one_attention_with_the_same_kernel(way: str, bias: str) -> None:
    prediction = _predicted(way, bias)
    assert not prediction.drawn
    (one, error), (two, other) = _row(prediction, "kernel"), _row(_predicted("sdpa", bias), "kernel")
    assert abs(one - two) < 4 * math.hypot(error, other)


@pytest.mark.parametrize("bias", ["slope", "learned"])
def test_the_kernel_is_that_of_redrawn_networks(bias: str) -> None:
    torch.manual_seed(0)
    net = Biased("sdpa", bias)
    program = trace(net, X)
    prediction, measurement = predict(program), measure(net, X, draws=40, seed=1, program=program)
    (step,) = [s.name for s in program.steps if s.op == "scaled_dot_product_attention"]
    measured = next(r for r in measurement.rows if r.step == step).values
    for quantity, slack in (("kernel", 0.0), ("partial_jacobian", 0.02)):
        mine, error = _row(prediction, quantity)
        theirs = measured[quantity]
        assert abs(mine - theirs.value) < 4 * math.hypot(theirs.error, error) + slack * mine
    # without the bias it is another
    plain = predict(trace(_without(net), X))
    assert abs(_row(plain, "kernel")[0] - measured["kernel"].value) > 6 * measured["kernel"].error


def test_a_soft_cap_is_part_of_the_attention() -> None:
    torch.manual_seed(0)
    net = Biased("capped", "slope")
    program = trace(net, X)
    prediction, measurement = predict(program), measure(net, X, draws=30, seed=1, program=program)
    assert not prediction.drawn
    mine, error = _row(prediction, "kernel")
    (step,) = [s.name for s in program.steps if s.op == "scaled_dot_product_attention"]
    theirs = next(r for r in measurement.rows if r.step == step).values["kernel"]
    assert abs(mine - theirs.value) < 4 * math.hypot(theirs.error, error)
    free, _ = _row(_predicted("written out", "slope"), "kernel")
    assert abs(free - theirs.value) > 4 * math.hypot(theirs.error, error)


def _without(net: Biased) -> Biased:
    net.slope.zero_()
    nn.init.zeros_(net.table.weight)
    return net


def test_a_mask_by_sample_and_head_is_taken_apart() -> None:
    """Windows that are folded into the samples, each with its own mask beside a bias by head."""

    class Windows(Biased):
        def forward(self, x: Tensor) -> Tensor:
            h = x.unflatten(1, (2, TOKENS // 2)).flatten(0, 1)
            q, k, v = (f(h).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for f in (self.q, self.k, self.v))
            logits = q @ k.transpose(-1, -2) / math.sqrt(SIZE) + self.slope[None, :, :3, :3]
            mask = torch.where(self.seen[:2, :3], 0.0, -100.0)[:, None, None, :]  # by window
            logits = (logits.view(2, 2, HEADS, 3, 3) + mask[None]).view(-1, HEADS, 3, 3)
            return self.o((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(0, (2, 2)).flatten(1, 2)

    torch.manual_seed(0)
    net = Windows("", "slope")
    program = trace(net, X)
    prediction, measurement = predict(program), measure(net, X, draws=30, seed=1, program=program)
    assert not prediction.drawn
    for row in prediction.rows:
        if row.op != "scaled_dot_product_attention":
            continue
        theirs = next(r for r in measurement.rows if r.step == row.step).values["kernel"]
        mine = row.values["kernel"]
        assert abs(mine.value - theirs.value) < 4 * math.hypot(mine.error, theirs.error)
