"""Kernels over images that carry only some offsets between sites: equal to the full ones where all are carried."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import trace
from leadline.rules import batch_norm
from leadline.rules.banded import Banded, dense
from leadline.rules.banded_conv import Window, convolve, scatter, window_sum
from leadline.rules.banded_grid import Grid, Plan
from leadline.rules.banded_offsets import Images, choose_offsets
from leadline.theory import Prediction, predict, predicted_memory

ALL = Images(all_pairs=20, each=10**6, last=10**6)
FULL = Images(all_pairs=10**9)
C = 32


class Residual(nn.Module):
    """A branch beside a skip; ``after``: ReLUs after the sums, which need draws."""

    def __init__(self, after: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, C, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(C) if norm else nn.Identity()
        self.one, self.two, self.three = (
            nn.Conv2d(C, C, 3, padding=1),
            nn.Conv2d(C, C, 1),
            nn.Conv2d(C, C, 3, padding=1),
        )
        self.down = nn.Conv2d(C, C, 3, stride=2, padding=1)
        self.head, self.after = nn.Linear(C, 5), after

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.enter(x))
        if self.after:
            h = (self.two(self.one(h.relu()).relu()) + h).relu()
            h = (self.three(h) + h).relu()
        else:
            h = h + self.two(self.one(h.tanh()).tanh())
        return self.head(self.down(h.tanh()).tanh().mean((2, 3)))


class ChannelNorm(nn.Module):
    """Depthwise convolution, norm over channels, two dense layers at every site, skip."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.depthwise = nn.Conv2d(3, C, 2, stride=2), nn.Conv2d(C, C, 3, padding=1, groups=C)
        self.norm, self.one, self.two, self.head = nn.LayerNorm(C), nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        u = self.depthwise(h).permute(0, 2, 3, 1)
        h = h + self.two(F.gelu(self.one(self.norm(u)))).permute(0, 3, 1, 2)
        return self.head(h.mean((2, 3)))


def _chain(*modules: nn.Module, pooled: bool = True) -> nn.Sequential:
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 5)] if pooled else []
    return nn.Sequential(*modules, *end)


def _chain_of(*modules: nn.Module, wide: int) -> nn.Sequential:
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 20))


def _conv(n: int = C, **options: int) -> nn.Conv2d:
    return nn.Conv2d(n, C, **{"kernel_size": 3, "padding": 1, **options})  # type: ignore[arg-type]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "flatten": (lambda: _chain(_conv(3), nn.Tanh(), _conv(stride=2, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(C * 9, 5),
                               pooled=False), 8),
    "strides": (lambda: _chain(_conv(3, kernel_size=5, padding=2, stride=2), nn.Tanh(), _conv(stride=2), nn.ReLU(),
                               _conv(padding=0), nn.ReLU()), 16),
    "residual": (Residual, 10),
    "batch norm, eval": (lambda: Residual(norm=True).eval(), 10),
    "channel norm": (ChannelNorm, 10),
    "average pool": (lambda: _chain(_conv(3), nn.Tanh(), nn.AvgPool2d(2), _conv(), nn.ReLU()), 8),
    "overlapping average pool": (lambda: _chain(_conv(3), nn.Tanh(), nn.AvgPool2d(3, 2, 1), _conv(), nn.ReLU()), 8),
    "transposed": (lambda: _chain(_conv(3), nn.ReLU(), _conv(stride=2), nn.ReLU(), nn.ConvTranspose2d(C, C, 2, stride=2),
                                  nn.ReLU(), _conv(), pooled=False), 8),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(3, C, 5, stride=2, padding=2), nn.ReLU(), nn.Conv1d(C, C, 3, padding=1),
                                            nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(C, 5)), 24),
}  # fmt: skip


def _batch(pixels: int, *, flat: bool = False, samples: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    sides = (pixels,) if flat else (pixels, pixels)
    return 0.6 * torch.randn(samples, 3, *sides, generator=generator) + 0.5


def _two(build: Callable[[], nn.Module], x: Tensor, images: Images = ALL) -> tuple[Prediction, Prediction]:
    torch.manual_seed(0)
    program = trace(build(), x)
    return predict(program, images=FULL), predict(program, images=images)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_offsets_give_the_full_prediction(name: str) -> None:
    build, pixels = NETWORKS[name]
    full, banded = _two(build, _batch(pixels, flat="dimension" in name))
    assert any(
        isinstance(banded.context.moments.second(v.expr), Banded)
        for v in banded.context.values.values()
        if hasattr(v, "expr")
    )
    for one, two in zip(full.rows, banded.rows, strict=True):
        # the spread of a convolution after the first is known where all pairs of sites are
        assert one.values.keys() - {"spread"} == two.values.keys() - {"spread"}
        for quantity, estimate in one.values.items():
            if quantity == "spread" and quantity not in two.values:
                continue
            if quantity == "flat_fraction":
                continue  # read at a sample of the points
            assert two.values[quantity].value == pytest.approx(estimate.value, rel=1e-9, abs=1e-12), (
                one.layer,
                one.op,
                quantity,
            )
    torch.testing.assert_close(banded.output_kernel(), full.output_kernel(), rtol=1e-10, atol=0)


def test_a_kernel_that_lost_its_padding_is_noticed() -> None:
    torch.manual_seed(0)
    x = _batch(10)
    right = predict(trace(_chain(_conv(3), nn.ReLU(), _conv(), nn.ReLU()), x), images=FULL)
    torch.manual_seed(0)
    wrong = predict(trace(_chain(_conv(3, padding=0), nn.ReLU(), _conv(padding=0), nn.ReLU()), x), images=ALL)
    assert wrong.output_kernel()[0, 0].item() != pytest.approx(right.output_kernel()[0, 0].item(), rel=0.01)


def test_batch_norm_over_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # both take the statistics as certain, to whatever order that is right
    monkeypatch.setattr(batch_norm, "_CERTAIN", 1.0)
    monkeypatch.setattr(batch_norm, "_CORRECTED", 1.0)
    full, banded = _two(
        lambda: _chain(_conv(3), nn.BatchNorm2d(C), nn.ReLU(), _conv(), nn.BatchNorm2d(C), nn.ReLU()), _batch(12)
    )
    for one, two in zip(full.rows, banded.rows, strict=True):
        for quantity in ("kernel", "correlation", "partial_jacobian", "tangent_kernel"):
            if quantity in one.values:
                expected = pytest.approx(
                    one.values[quantity].value, rel=0.005, abs=1e-6
                )  # slopes meet the channel by draws
                assert two.values[quantity].value == expected, (one.layer, one.op, quantity)


def test_batch_norm_before_a_relu_and_a_global_pool_against_redrawn_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    # the derivative has one sign over an image, so that it has a part along the channel, which the norm takes out
    torch.manual_seed(0)
    wide = 96
    model = _chain_of(
        nn.Conv2d(3, wide, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        wide=wide,
    )
    x = _batch(24, samples=4)
    predicted, measured = predict(trace(model, x)), measure(model, x, draws=48)
    _assert_agree(predicted, measured, ("kernel", "partial_jacobian"))
    # without that part the same comparison is refused
    monkeypatch.setattr(batch_norm, "along_channel", lambda *_: None)
    with pytest.raises(AssertionError):
        _assert_agree(predict(trace(model, x)), measured, ("kernel", "partial_jacobian"))


def test_relu_after_a_sum_is_drawn_pair_by_pair() -> None:
    full, banded = _two(lambda: Residual(after=True), _batch(10))
    for one, two in zip(full.rows, banded.rows, strict=True):
        for quantity in ("kernel", "correlation", "partial_jacobian"):
            if quantity in one.values:
                a, b = one.values[quantity], two.values[quantity]
                assert abs(a.value - b.value) <= max(0.02 * abs(a.value), 4 * math.hypot(a.error, b.error)), (
                    one.layer,
                    one.op,
                    quantity,
                )
    assert banded.row("head").values["kernel"].error > 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_offsets_agree_within_the_error_that_they_state(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.randn(2, 3, 6, 6, generator=generator), size=32, mode="bilinear")
    x = smooth + 0.3 * torch.randn(2, 3, 32, 32, generator=generator)
    layers = (_conv(3), nn.ReLU(), _conv(stride=2), nn.ReLU(), _conv(), nn.ReLU())
    full, banded = _two(lambda: _chain(*layers), x, Images(all_pairs=20))
    sampled = 0
    for one, two in zip(full.rows, banded.rows, strict=True):
        for quantity in ("kernel", "correlation", "site_correlation", "tangent_kernel"):
            if quantity not in one.values:
                continue
            exact, estimate = one.values[quantity], two.values[quantity]
            # what is read at one site of two images does not know of the other sites
            local = quantity != "site_correlation" and one.op in ("conv", "pointwise") and quantity != "tangent_kernel"
            error = math.sqrt(max(estimate.error**2 - exact.error**2, 0.0))
            allowed = 1e-4 * abs(exact.value) if local else 3 * error + 1e-3 * abs(exact.value)
            assert abs(estimate.value - exact.value) <= allowed, (one.layer, one.op, quantity)
            assert local or error < 0.35 * abs(exact.value) + 0.02
            sampled += not local
    assert sampled > 6


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_max_pool_against_redrawn_networks(kernel: int, stride: int, padding: int) -> None:
    wide = 128
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(kernel, stride, padding), nn.Conv2d(wide, wide, 3, padding=1),
                          nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 20))  # fmt: skip
    x = _batch(10, samples=2)
    predicted, measured = predict(trace(model, x), images=ALL), measure(model, x, draws=60)
    _assert_agree(predicted, measured, ("kernel", "correlation", "partial_jacobian"))


class Stage(nn.Module):
    """A residual network in the manner of ResNet, for images of 96 pixels."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        conv = lambda n, m, k, s: nn.Conv2d(n, m, k, s, k // 2, bias=False)  # noqa: E731
        self.stem, self.pool = conv(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)
        self.one, self.two = conv(width, width, 3, 1), conv(width, width, 3, 1)
        self.three, self.four, self.skip = conv(width, width, 3, 2), conv(width, width, 3, 1), conv(width, width, 1, 2)
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 20)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.stem(x).relu())
        h = (self.two(self.norm(self.one(h)).relu()) + h).relu()
        h = (self.four(self.three(h).relu()) + self.skip(h)).relu()
        return self.head(h.mean((2, 3)))


def test_residual_network_of_96_pixels_against_redrawn_networks() -> None:
    torch.manual_seed(0)
    model = Stage().eval()
    x = F.interpolate(torch.randn(2, 3, 12, 12), size=96, mode="bilinear") + 0.5 * torch.randn(2, 3, 96, 96)
    measured = measure(model, x, draws=32)
    _assert_agree(predict(trace(model, x)), measured, ("kernel", "partial_jacobian"))
    # a law that is 15 per cent off in three layers in a row is refused by the same comparison
    off = {name: {"C_W": 2.0 * 1.15} for name in ("one", "two", "three")}
    with pytest.raises(AssertionError):
        _assert_agree(predict(trace(model, x, law=off)), measured, ("kernel", "partial_jacobian"))


def _assert_agree(predicted: Prediction, measured: object, quantities: tuple[str, ...]) -> None:
    rows = {row.step: row for row in measured.rows}  # type: ignore[attr-defined]
    compared = 0
    for row in predicted.rows:
        for quantity in quantities:
            if row.step not in rows or quantity not in row.values or quantity not in rows[row.step].values:
                continue
            found, expected = rows[row.step].values[quantity], row.values[quantity]
            allowed = max(0.03 * abs(found.value), 4 * found.error) + expected.error
            assert abs(found.value - expected.value) <= allowed, (row.layer, row.op, quantity, expected, found)
            compared += 1
    assert compared > 8


# ---- the parts ----


def _grid(
    sizes: tuple[int, ...], samples: int = 2, levels: tuple[tuple[int, ...], ...] | None = None, each: int = 10**6
) -> Grid:
    levels = levels or ((1,) * len(sizes),)
    maps = [tuple(-(-n // t) for n, t in zip(sizes, level, strict=True)) for level in levels]
    return Plan(tuple(choose_offsets(levels, maps, each=each, last=each)), levels, samples).grid(levels[0], sizes)


def _random(grid: Grid, seed: int = 0) -> Banded:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(grid.points, grid.points, generator=generator, dtype=torch.float64)
    p, q, _ = grid.index
    return Banded((A + A.T)[p, q], grid)


def test_window_sums_are_convolutions_and_scatter_is_their_transpose() -> None:
    coarse = Plan(
        tuple(choose_offsets([(1, 1), (2, 1)], [(7, 6), (4, 6)], each=10**6, last=10**6)), ((1, 1), (2, 1)), 2
    )
    window = Window.of((3, 2), (2, 1), (1, 1), (1, 2))
    planes = torch.randn(3, 7, 6)
    expected = F.conv2d(planes[:, None], torch.ones(1, 1, 3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2))[:, 0]
    torch.testing.assert_close(window_sum(planes, window, expected.shape[1:]), expected)
    inner, outer = coarse.grid((1, 1), (7, 6)), coarse.grid((2, 1), tuple(expected.shape[1:]))
    K, D = _random(inner), _random(outer, 1)
    there, back = convolve(K, window, outer), scatter(D, window, inner)
    left, right = (there * D).values, (K * back).values
    assert float(left.sum()) == pytest.approx(float(right.sum()), rel=1e-12)


@pytest.mark.parametrize("each", [6, 10**6])
def test_weights_count_every_pair_once(each: int) -> None:
    grid = _grid((12, 9), levels=((1, 1), (2, 2), (4, 4)), each=each)
    ones = Banded(torch.ones(grid.pairs, dtype=torch.float64), grid)
    for comb in (False, True):
        ones.comb = comb
        assert float(ones.sum()) == pytest.approx(grid.points**2, rel=1e-12)
        torch.testing.assert_close(
            Banded(ones.values, grid, comb=comb).row_means(), torch.ones(grid.points, dtype=torch.float64)
        )


def test_all_offsets_are_the_whole_matrix() -> None:
    grid = _grid((4, 3), samples=3)
    K = _random(grid)
    full = dense(K)
    torch.testing.assert_close(full, full.T)
    assert float(K.sum()) == pytest.approx(float(full.sum()), rel=1e-12)
    torch.testing.assert_close(K.row_means(), full.mean(1))
    assert float(K.quadrature_error()) == 0.0


def test_offsets_reach_every_level() -> None:
    offsets = choose_offsets([(2, 2), (4, 4), (8, 8)], [(28, 28), (14, 14), (7, 7)], each=8, last=16)
    assert offsets[0] == (0, 0)
    assert len(offsets) == len(set(offsets)) == len({max(o, tuple(-x for x in o)) for o in offsets})
    by_level = [sum(all(x % t == 0 for x in o) for o in offsets) for t in (2, 4, 8)]
    assert by_level == [33, 25, 17]
    assert max(abs(x) for o in offsets for x in o) >= 8 * 5


def test_memory_is_foreseen() -> None:
    torch.manual_seed(0)
    model = Stage().eval()
    program = trace(model, torch.randn(2, 3, 96, 96))
    prediction = predict(program)
    moments = prediction.context.moments
    kernels = [moments.second(v.expr) for v in prediction.context.values.values() if hasattr(v, "expr")]
    held = sum(K.values.nbytes if isinstance(K, Banded) else K.nbytes for K in kernels)
    largest = 2 * 48 * 48
    assert held < predicted_memory(program) < 40 * held
    assert predicted_memory(program) < 4 * largest**2 * len(kernels)  # what full matrices would take
    assert predicted_memory(program, Images(all_pairs=10**9)) > 4 * predicted_memory(program)
