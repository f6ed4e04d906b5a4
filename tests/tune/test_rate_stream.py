"""Learning rates chosen on a stream of batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from leadline.measure.curvature import Objective
from leadline.program import UserError
from leadline.tune import UpdateRule, learning_rate
from leadline.tune.rate_edge import one_run, start_loss
from leadline.tune.rate_predict import Stability, stability
from leadline.tune.rate_stream import Stream

FEATURES, SAMPLES, BATCH = 40, 512, 8


def _noisy() -> Objective:
    """A linear teacher under noise: a batch has fewer samples than weights, so that it can be learned by heart."""
    torch.manual_seed(0)
    x = torch.randn(SAMPLES, FEATURES)
    y = x @ torch.randn(FEATURES, 1) / FEATURES**0.5 + torch.randn(SAMPLES, 1)
    return Objective(nn.Linear(FEATURES, 1), x, "mse", y)


def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    samples = 24
    objective = Objective(
        nn.Linear(1, 1), torch.arange(samples, dtype=torch.float32)[:, None], "mse", torch.zeros(samples, 1)
    )
    stream = Stream(objective, 5, seed=3)
    seen = [stream.at_step(step).args[0].flatten().tolist() for step in range(8)]
    assert stream.count == 4
    assert all(len(part) == 5 for part in seen)
    assert len({sample for part in seen[:4] for sample in part}) == 20
    assert sorted(seen[:4]) == sorted(seen[4:])
    assert any([stream.part_at(4 * epoch + i) for i in range(4)] != [0, 1, 2, 3] for epoch in (1, 2))
    assert seen[2] == Stream(objective, 5, seed=3).at_step(2).args[0].flatten().tolist()
    # a run that learns nothing ends where it began, whatever its last batches are
    standing = [stream.starts[stream.part_at(t)] for t in range(7)]
    assert stream.ending(standing, 6) == pytest.approx(start_loss(stream))
    assert stream.ending([loss - 0.25 for loss in standing], 6) == pytest.approx(start_loss(stream) - 0.25)
    assert start_loss(stream) == pytest.approx(sum(stream.starts) / 4)
    assert float(stream.value()) == float(objective.value())


@pytest.mark.parametrize("size", [0, 300, 512])
def test_fewer_samples_than_two_steps_are_refused(size: int) -> None:
    with pytest.raises(UserError, match="at least two steps' worth"):
        Stream(_noisy(), size)


def test_the_rate_of_a_stream_is_smaller_than_that_of_one_batch_learned_by_heart() -> None:
    objective, rule = _noisy(), UpdateRule("adam")
    x, y = objective.args[0], objective.targets
    few = (x[:BATCH], "mse", y[:BATCH])
    one = learning_rate(objective.model, *few, optimizer=rule, warmup=False, noise=False)
    many = learning_rate(objective.model, x, "mse", y, optimizer=rule, batch_size=BATCH, warmup=False, noise=False)
    assert many.batch == one.batch == BATCH
    assert many.rate < one.rate
    stream = Stream(objective, BATCH, seed=0)
    start = start_loss(stream)
    here, below, above, by_heart = (
        one_run(stream, rule, rate, 100, start=start).loss
        for rate in (many.rate, many.rate / 2, 2 * many.rate, one.rate)
    )
    assert many.choice is not None
    assert many.choice.confirmed.loss == pytest.approx(here, rel=1e-5)
    assert here <= min(below, above)
    assert here < by_heart
    assert many.choice.passes == sum(r.steps for r in (*many.choice.runs, many.choice.confirmed, *many.choice.compared))


def test_a_start_far_below_the_best_rate_is_left_behind() -> None:
    """The smooth edge of a stream may be far too low: one batch that rises above every start is enough."""
    from leadline.tune.rate_choose import choose_rate
    from leadline.tune.rate_predict import predict_edge

    objective, rule = _noisy(), UpdateRule("adam")
    stream = Stream(objective, BATCH)
    low = predict_edge(stream, rule, 1e-6, hold="smooth", steps=20)
    found = choose_rate(stream, rule, low, steps=100)
    assert low.open
    assert found.rate > 30 * low.value


def test_the_batch_that_starts_highest_does_not_rule_out_every_rate() -> None:
    """Steps on the others lift it at any rate, and it has no lower start to fall from."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    x, targets = torch.ones(24, 1), torch.ones(24, 1)
    odd = Stream(Objective(model, x, "mse", targets), 1).parts[10]
    targets[odd] = -1.1
    stream = Stream(Objective(model, x, "mse", targets), 1)
    assert stream.starts[10] == max(stream.starts)
    assert one_run(stream, UpdateRule("sgd"), 1e-3, 20, hold="smooth").held
    # carried further away than batches differ, it does
    assert not one_run(stream, UpdateRule("sgd"), 0.2, 20, hold="smooth").held


def test_a_guess_far_too_low_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stable rate of a network on the brink can be too small by many powers of ten."""
    from leadline.tune import rate as module

    objective, rule = _noisy(), UpdateRule("adam")
    x, y = objective.args[0], objective.targets
    settled = learning_rate(objective.model, x, "mse", y, optimizer=rule, batch_size=BATCH, warmup=False, noise=False)

    def low(*args: Any, **kwargs: Any) -> Stability:
        return replace(stability(*args, **kwargs), rate=1e-11)

    monkeypatch.setattr(module, "stability", low)
    found = learning_rate(objective.model, x, "mse", y, optimizer=rule, batch_size=BATCH, warmup=False, noise=False)
    assert found.smooth is not None
    assert not found.smooth.open
    assert settled.rate / 4 < found.rate < 4 * settled.rate
