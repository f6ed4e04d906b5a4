"""Interpolation, padding, crops and broadcast gates on images whose kernels are carried at offsets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import trace
from leadline.rules.banded import Banded, band
from leadline.rules.banded_grid import Grid, Plan
from leadline.rules.banded_move import interpolation_maps
from leadline.rules.banded_offsets import Images, choose_offsets
from leadline.rules.point_map import SiteMean
from leadline.rules.sampling import square_root
from leadline.theory import Prediction, predict

ALL = Images(all_pairs=20, each=10**6, last=10**6)
FULL = Images(all_pairs=10**9)
C = 32


class Between(nn.Module):
    """A convolution and a ReLU, something over sites, another convolution, a global pool and a dense layer."""

    def __init__(self, middle: Callable[[Between, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1)
        self.down = nn.Conv2d(C, C, 3, stride=2, padding=1)
        self.squeeze, self.excite, self.head = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(self, self.enter(x).relu())
        return self.head(self.leave(h).relu().mean((2, 3)))


def gated(net: Between, h: Tensor) -> Tensor:
    """Squeeze and excite."""
    gate = net.excite(net.squeeze(h.mean((2, 3))).relu()).sigmoid()
    return h * gate[:, :, None, None]


MIDDLE: dict[str, Callable[[Between, Tensor], Tensor]] = {
    "bilinear": lambda net, h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    "aligned": lambda net, h: F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True),
    "nearest": lambda net, h: F.interpolate(h, scale_factor=2, mode="nearest"),
    "bicubic": lambda net, h: F.interpolate(h, scale_factor=2, mode="bicubic"),
    "to a size": lambda net, h: F.interpolate(h, size=(9, 7), mode="bilinear"),
    "smaller": lambda net, h: F.interpolate(h, scale_factor=0.5, mode="bilinear"),
    "padded": lambda net, h: F.pad(h, (1, 2, 1, 1)),
    "reflected": lambda net, h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "cropped": lambda net, h: h[:, :, 1:-1, 1:-1],
    "cropped before the activation": lambda net, h: net.down(h)[:, :, 1:, 1:].tanh(),
    "every other": lambda net, h: h[:, :, ::2, ::2],
    "rolled": lambda net, h: h.roll(3, -1),
    "gated": gated,
    "gated with a skip": lambda net, h: gated(net, h) + net.leave(h),
    "decoder": lambda net, h: F.interpolate(net.down(h).relu(), scale_factor=2, mode="bilinear") + h,
}


def batch(pixels: int, samples: int = 2) -> Tensor:
    return 0.3 + torch.randn(samples, 3, pixels, pixels, generator=torch.Generator().manual_seed(3))


def both(name: str, pixels: int, images: Images, samples: int = 2) -> tuple[Prediction, Prediction]:
    torch.manual_seed(0)
    program = trace(Between(MIDDLE[name]), batch(pixels, samples))
    return predict(program, images=FULL), predict(program, images=images)


@pytest.mark.parametrize("name", MIDDLE)
def test_all_offsets_give_the_full_prediction(name: str) -> None:
    full, banded = both(name, 6, ALL)
    assert not banded.drawn
    assert any(
        isinstance(banded.context.moments.second(v.expr), Banded)
        for v in banded.context.values.values()
        if hasattr(v, "expr")
    )
    for one, two in zip(full.rows, banded.rows, strict=True):
        for quantity in ("kernel", "correlation", "site_correlation", "partial_jacobian", "tangent_kernel"):
            a, b = one.get(quantity), two.get(quantity)
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, rel=1e-6, abs=1e-12), (one.layer, one.op, quantity)


@pytest.mark.parametrize("name", ["bilinear", "padded", "gated", "decoder"])
def test_few_offsets_are_within_what_is_stated(name: str) -> None:
    full, banded = both(name, 16 if name != "bilinear" else 12, Images(all_pairs=140))
    for one, two in zip(full.rows, banded.rows, strict=True):
        for quantity in ("kernel", "partial_jacobian", "tangent_kernel"):
            a, b = one.get(quantity), two.get(quantity)
            if a is None or b is None:
                continue
            stated = two.values[quantity].error
            assert abs(a - b) < max(2 * stated, 0.03 * a), (one.layer, one.op, quantity)
            assert stated < 0.3 * a  # an error that covers anything says nothing


def test_few_offsets_keep_a_derivative_that_is_the_same_at_all_pairs() -> None:
    levels, sizes = [(1, 1), (2, 2)], [(24, 24), (12, 12)]
    plan = Plan(tuple(choose_offsets(levels, sizes, each=10, last=24)), tuple(levels), 1)
    fine, coarse = plan.grid(levels[0], sizes[0]), plan.grid(levels[1], sizes[1])
    for mode in ("nearest", "bilinear", "bicubic"):
        D = Banded(torch.ones(fine.pairs, dtype=torch.float64), fine)
        for sites in reversed(interpolation_maps(_interpolate(mode), coarse, fine)):
            D = sites.adjoint(D)
        inside = D.values[: coarse.sites].reshape(12, 12)[3:-3, 3:-3]
        # four pixels, in weight, read each; at the border bicubic weights lean on it
        assert torch.allclose(inside, torch.full_like(inside, 16.0), atol=1e-6)
        assert float(D.sum()) == pytest.approx(24.0**4, rel=2e-3)


def _interpolate(mode: str) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, scale_factor=2, mode=mode)


def test_maps_do_what_their_operator_does() -> None:
    levels = [(1, 1), (2, 2)]
    plan = Plan(((0, 0),), tuple(levels), 2)
    coarse = Grid(plan, (2, 2), (11, 13), ((0, 0),))
    x = torch.randn(4, 2, 11, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mode, out in (("bilinear", (22, 26)), ("bicubic", (22, 26)), ("nearest", (22, 26)), ("bilinear", (17, 9))):
        run = lambda images, m=mode, o=out: F.interpolate(images, size=o, mode=m)  # noqa: E731
        h = x.reshape(4, -1)
        for sites in interpolation_maps(run, coarse, Grid(plan, (1, 1), out, ((0, 0),))):
            h = sites.draws(h)
        assert torch.allclose(h.reshape(4, 2, *out), run(x), atol=1e-10)


def test_the_mean_of_samples_that_are_all_but_the_same_stays_a_covariance() -> None:
    plan = Plan(((0, 0), (0, 1), (1, 0), (1, 1), (1, -1)), ((1, 1),), 2)
    grid = plan.grid((1, 1), (6, 6))
    p, q, _ = grid.index
    # other sites of other samples a little more alike than other sites of one: what a quadrature may make of them
    values = torch.where(p // 36 == q // 36, 0.99, 1.01).double()
    values[p == q] = 1.0
    K = SiteMean(grid).kernel(Banded(values, grid))
    assert float(torch.linalg.eigvalsh(K)[0]) >= -1e-12


class UNet(nn.Module):
    """One scale down and up; a skip beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 96, 3, padding=1), nn.Conv2d(96, 96, 3, padding=1)
        self.mix, self.leave = nn.Conv2d(192, 96, 3, padding=1), nn.Conv2d(96, 96, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enter(x).relu()
        two = self.down(F.avg_pool2d(one, 2)).relu()
        wide = F.interpolate(two, scale_factor=2, mode="bilinear")
        return self.leave(self.mix(torch.cat([wide, one], 1)).relu())


@pytest.mark.slow
def test_a_decoder_on_large_images_against_redrawn_networks() -> None:
    torch.manual_seed(0)
    net, x = UNet(), batch(32)
    program = trace(net, x)
    prediction, measurement = predict(program), measure(net, x, draws=24, seed=1, program=program)
    assert not prediction.drawn
    measured = {row.step: row for row in measurement.rows}
    checked = 0
    for row in prediction.rows:
        for quantity in ("kernel", "partial_jacobian"):
            mine, theirs = row.values.get(quantity), measured[row.step].values.get(quantity)
            if mine is None or theirs is None:
                continue
            allowed = 4 * theirs.error + mine.error + 0.02 * theirs.value
            assert abs(mine.value - theirs.value) < allowed, (row.layer, row.op, quantity)
            checked += abs(1.3 * mine.value - theirs.value) > allowed
    assert checked > 8  # a prediction that is 30 % off would be seen


def test_padding_before_a_maximum_keeps_the_winners_slope() -> None:
    def derivative(middle: Callable[[Tensor], Tensor]) -> float:
        torch.manual_seed(0)
        net = Between(lambda _, h: F.max_pool2d(middle(h), 2))
        return predict(trace(net, batch(6)), images=FULL).row("enter").get("partial_jacobian") or 0.0

    # the padding is of no window
    plain = derivative(lambda h: h)
    assert derivative(lambda h: F.pad(h, (0, 1, 0, 1))) == pytest.approx(plain, rel=0.02)
    assert derivative(lambda h: h[:, :, :-2, :-2]) > 1.2 * plain  # fewer windows share the output


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("smooth", [False, True])
def test_the_tangent_kernel_before_a_maximum_is_within_what_is_stated(samples: int, smooth: bool) -> None:
    torch.manual_seed(0)
    net, x = Between(lambda _, h: F.max_pool2d(h, 2)), batch(6, samples)
    x = F.avg_pool2d(F.pad(x, (2, 2, 2, 2)), 5, 1) * 4 if smooth else x
    program = trace(net, x)
    full, banded = (predict(program, images=i).row("enter").values["tangent_kernel"] for i in (FULL, ALL))
    assert abs(banded.value - full.value) < min(banded.error, 0.08 * full.value)
    assert banded.error < 0.3 * full.value


def test_a_full_matrix_goes_through_a_map_as_its_pairs_do() -> None:
    levels, sizes = [(1, 1), (2, 2)], [(4, 4), (2, 2)]
    plan = Plan(tuple(choose_offsets(levels, sizes, each=10**4, last=10**4)), tuple(levels), 2)
    fine, coarse = plan.grid(levels[0], sizes[0]), plan.grid(levels[1], sizes[1])
    A = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sites in interpolation_maps(_interpolate("bilinear"), coarse, fine)[:1]:
        full, carried = sites.kernel(A @ A.T), sites.kernel(band(A @ A.T, coarse))
        assert torch.equal(full.values, carried.values)


def test_what_is_too_large_to_draw_from_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")

    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert torch.isfinite(square_root(indefinite)).all()
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(ValueError, match="second moment on the way is too large"):
        square_root(indefinite)
