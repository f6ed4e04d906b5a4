"""Falls, spines, folding and intentions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from torch import nn

from leadline.check.fold import Hidden, fold
from leadline.check.intent import residual_scale
from leadline.check.series import steepest_fall
from leadline.check.spine import spine_of


def test_a_fall_begins_where_it_is_steep() -> None:
    values = [1.0, 0.999, 0.998, 0.997, 0.5, 0.25, 0.125, 0.125, 0.125]
    fall = steepest_fall(values)
    assert fall is not None
    assert (fall.start, fall.stop) == (4, 6)
    assert fall.ratio == pytest.approx(0.125 / 0.997)
    assert fall.rate == pytest.approx((0.125 / 0.997) ** (1 / 3))


def test_the_deeper_of_two_falls_is_taken_and_gaps_are_passed() -> None:
    fall = steepest_fall([1.0, 0.5, 1.0, None, 0.1, None, 0.01, math.inf])
    assert fall is not None
    assert (fall.start, fall.stop) == (4, 6)


def test_one_large_step_is_not_sustained() -> None:
    one = steepest_fall([1.0, 1e-9, 0.9e-9, 0.8e-9])
    many = steepest_fall([10.0**-i for i in range(10)])
    assert one is not None
    assert many is not None
    assert one.sustained > 0.1
    assert many.sustained == pytest.approx(many.ratio) == pytest.approx(1e-9)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0], [1.0, 2.0, 3.0], [None, None]])
def test_nothing_falls(values: list[float | None]) -> None:
    assert steepest_fall(values) is None


def test_the_spine_of_a_residual_network_is_its_stream() -> None:
    inputs = {
        "norm": ["stem"],
        "fc": ["norm"],
        "add": ["stem", "fc"],
        "head": ["add"],
        "table": [],
        "sum": ["head", "table"],
    }
    order = ["stem", "norm", "fc", "add", "unused", "head", "table", "sum"]
    assert spine_of(order, inputs, "sum") == {"stem", "add", "head", "sum"}


def test_a_skip_over_everything_leaves_the_ends() -> None:
    assert spine_of("abcd", {"b": "a", "c": "b", "d": "ca"}, "d") == {"a", "d"}


def rows(*names: str) -> list[tuple[str, str]]:
    return [(name, "linear") for name in names]


def test_short_networks_are_not_folded() -> None:
    assert fold(rows("0", "1", "head")) == [0, 1, 2]


def test_a_sequential_of_pairs_folds_by_pairs() -> None:
    found = fold([(str(i), "linear" if i % 2 == 0 else "tanh") for i in range(40)] + [("40", "linear")])
    assert found == [0, 1, 2, 3, Hidden(4, 36, 16, "5", "35"), 36, 37, 38, 39, 40]


def test_stages_fold_within() -> None:
    parts = ("conv1", "conv2", "conv3", "short")
    names = [f"stages.{s}.layers.{b}.{p}" for s, n in enumerate((2, 6)) for b in range(n) for p in parts]
    found = fold(rows("stem", *names, "head"))
    hidden = [f for f in found if isinstance(f, Hidden)]
    assert [(h.blocks, h.first, h.last) for h in hidden] == [(4, "stages.1.layers.1", "stages.1.layers.4")]
    shown = [f for f in found if isinstance(f, int)]
    assert sorted(shown + [i for h in hidden for i in range(h.start, h.stop)]) == list(range(len(names) + 2))


def test_a_row_to_keep_is_shown() -> None:
    found = fold(rows(*(f"h.{i}.{p}" for i in range(12) for p in "abcd")), keep={21})
    assert 21 in found
    assert [f.blocks for f in found if isinstance(f, Hidden)] == [4, 5]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(n_layer=8)

    def _init_weights(self, module: nn.Module) -> float:
        return 0.02 / math.sqrt(2 * self.config.n_layer)


class Rooted(nn.Module):
    config = SimpleNamespace(n_layer=8, width=64)

    def _init_weights(self, module: nn.Module) -> float:
        return 0.02 / math.sqrt(self.config.width)


def test_the_intention_is_read_from_the_initializer() -> None:
    assert residual_scale(Scaled()) == pytest.approx(0.25)
    assert residual_scale(nn.Sequential(nn.Linear(2, 2), Scaled())) == pytest.approx(0.25)
    assert residual_scale(nn.Linear(2, 2)) is None


def test_other_roots_are_no_intention() -> None:
    assert residual_scale(Rooted()) is None
