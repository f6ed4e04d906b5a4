"""Init laws: what is read from one tensor, fan-in, tied names, stated laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from leadline.program.law_draw import draw_law
from leadline.program.law_tests import edge_p_value, fit_entries, goodness_of_fit, matrix_p_values
from leadline.program.laws import Law, fan_in, read_law, stated_law, tied_parameters


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0, std: float = 1.0) -> torch.Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=generator(seed))


def orthogonal(*shape: int, seed: int = 0) -> torch.Tensor:
    return nn.init.orthogonal_(torch.empty(shape), generator=generator(seed))


def delta_orthogonal(out: int, inputs: int) -> torch.Tensor:
    kernel = torch.zeros(out, inputs, 3, 3)
    kernel[:, :, 1, 1] = orthogonal(out, inputs)
    return kernel


# name, tensor, kind, random, second moment of the law
LAWS = [
    ("gaussian", lambda: gaussian(64, 128, std=0.02), "gaussian", True, 4e-4),
    ("gaussian-half", lambda: gaussian(64, 128, std=0.02).half(), "gaussian", True, 4e-4),
    ("gaussian-bfloat16", lambda: gaussian(128, 128).bfloat16(), "gaussian", True, 1.0),
    ("uniform", lambda: torch.empty(64, 64).uniform_(-1, 1, generator=generator()), "uniform", True, 1 / 3),
    (
        "truncated",
        lambda: nn.init.trunc_normal_(torch.empty(64, 64), a=-2, b=2, generator=generator()),
        "truncated",
        True,
        0.7737,
    ),
    (
        "cut-far-out",  # transformers' trunc_normal_(std=.02, a=-2, b=2) cuts at a hundred deviations
        lambda: nn.init.trunc_normal_(torch.empty(64, 64), std=0.02, generator=generator()),
        "gaussian",
        True,
        4e-4,
    ),
    ("orthogonal", lambda: orthogonal(48, 96), "orthogonal", True, 1 / 96),
    ("orthogonal-conv", lambda: orthogonal(16, 8, 3, 3), "orthogonal", True, 1 / 72),
    ("orthogonal-half", lambda: orthogonal(48, 96).half(), "orthogonal", True, 1 / 96),
    ("delta", lambda: delta_orthogonal(16, 8), "delta_orthogonal", True, 1 / 16 / 9),
    ("zeros", lambda: torch.zeros(8), "constant", False, 0.0),
    ("ones", lambda: torch.ones(64), "constant", False, 1.0),
    ("layer-scale", lambda: torch.full((32,), 1e-6), "constant", False, 1e-12),
    ("typed-scalar", lambda: torch.tensor([2.6592]), "constant", False, 2.6592**2),
    ("identity", lambda: torch.eye(32), "structured", False, 1 / 32),
    ("forget-gate", lambda: torch.cat([torch.zeros(8), torch.ones(8)]), "structured", False, 0.5),
    ("low-rank", lambda: gaussian(96, 6) @ gaussian(6, 64, seed=1), "low_rank", False, 6.0),
]


@pytest.mark.parametrize(("build", "kind", "random", "second"), [c[1:] for c in LAWS], ids=[c[0] for c in LAWS])
def test_kind_and_moments(build, kind, random, second):
    tensor = build()
    law = read_law(tensor, fan_in=7, name="w")
    assert (law.kind, law.random) == (kind, random)
    exact = float(tensor.double().square().mean())
    assert law.second_moment == pytest.approx(exact, rel=1e-6)
    assert 7 * law.second_moment == law.C_W
    # The law's own value, within five standard errors of a mean of squares (kurtosis at most 3).
    tolerance = 5 * math.sqrt(2 / tensor.numel()) if random else 1e-6
    if kind != "low_rank":
        assert law.second_moment == pytest.approx(second, rel=tolerance)
    centred = random or kind == "low_rank"
    assert law.mean == (0.0 if centred else pytest.approx(float(tensor.double().mean()), abs=1e-6))
    assert bool(law.reason) == (kind in {"structured", "low_rank"})
    assert law.trained == (kind == "low_rank")


def test_mean_is_kept_where_the_entries_have_one():
    law = read_law(1 + 0.02 * gaussian(256), fan_in=1)
    assert law.mean == pytest.approx(1.0, abs=0.01)
    assert law.std == pytest.approx(0.02, rel=0.2)
    assert not law.trained


def test_rows_of_zeros_are_padding_and_leave_the_law_alone():
    table = gaussian(50, 16)
    table[3] = 0
    law = read_law(table, fan_in=1)
    kept = torch.cat([table[:3], table[4:]])
    assert law.kind == "gaussian"
    assert law.second_moment == pytest.approx(float(kept.square().mean()), rel=1e-6)
    table[:20] = 0  # negative control: that many rows are no padding
    law = read_law(table, fan_in=1)
    assert (law.kind, law.trained) == ("structured", False)
    assert "40% of its entries are exactly zero" in law.reason


def test_kernels_with_a_middle_tap_only():
    kernel = torch.zeros(16, 16, 3, 3)
    kernel[:, :, 1, 1] = gaussian(16, 16)
    law = read_law(kernel, fan_in=144)
    assert (law.kind, law.random, law.trained) == ("structured", True, False)
    assert pytest.approx(16, rel=0.4) == law.C_W
    law = read_law(nn.init.dirac_(torch.empty(16, 16, 3, 3)), fan_in=144)
    assert (law.kind, law.random, law.C_W) == ("structured", False, pytest.approx(1.0))


def test_table_of_sines_is_structured_and_untrained():
    angle = torch.arange(64)[:, None] / 10000 ** (torch.arange(16)[None] / 16)
    law = read_law(torch.cat([angle.sin(), angle.cos()], 1), fan_in=1)
    assert (law.kind, law.random, law.trained) == ("structured", False, False)
    assert "sines" in law.reason


@pytest.mark.parametrize("width", [64, 500], ids=["whole", "thinned"])
def test_blocks_of_different_scale_are_an_init_law(width):
    fused = torch.cat([gaussian(width, 64, seed=i, std=s) for i, s in enumerate((1.0, 3.0, 0.5))])
    law = read_law(fused, fan_in=64)
    assert (law.trained, law.random) == (False, True)
    assert "3 blocks of rows" in law.reason
    fused *= torch.linspace(0.5, 2, 3 * width)[torch.randperm(3 * width)][:, None]  # negative control: no blocks here
    assert read_law(fused, fan_in=64).trained


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda w: w + 0.3 * torch.ones(64, 1) @ gaussian(1, 96, seed=5), "column means"),
        (
            lambda w: w + 3 * nn.functional.normalize(gaussian(64, 1), dim=0) @ gaussian(1, 96, seed=5),
            "singular",
        ),
        (lambda w: w * torch.linspace(0.6, 1.4, 64)[torch.randperm(64)][:, None], "row norms"),
        (lambda w: w * w.abs(), "shape of the gaussian law"),
    ],
    ids=["means", "spike", "norms", "tails"],
)
def test_each_test_has_power(spoil, reason):
    clean = gaussian(64, 96)
    assert not read_law(clean, fan_in=96).trained
    law = read_law(spoil(clean), fan_in=96, name="w")
    assert law.trained
    assert not law.random
    assert law.p_value < 1e-7
    assert "no init law explains" in law.reason
    values = matrix_p_values(spoil(clean).double().numpy())
    if "shape" not in reason:
        assert min(v for k, v in values.items() if reason.removesuffix("s") in k) < 1e-7


@pytest.mark.parametrize("shape", [(8, 8), (16, 9), (64, 27), (10, 64), (64, 64)], ids=str)
@pytest.mark.parametrize("draw", ["gaussian", "uniform", "truncated"])
def test_false_positives_are_as_rare_as_stated(draw, shape):
    """At level 0.01, 200 tensors give 2 hits on average, and more than 10 once in 10^5 cases."""
    source = np.random.default_rng(1)
    hits, smallest = 0, 1.0
    for _ in range(200):
        if draw == "uniform":
            x = source.uniform(-1, 1, shape)
        else:
            x = source.standard_normal((8, *shape))
            # The first of eight normals within two deviations: all eight lie beyond with chance 2e-11.
            x = x[0] if draw == "gaussian" else np.take_along_axis(x, (abs(x) < 2).argmax(0)[None], 0)[0]
        values = list(matrix_p_values(x).values()) + goodness_of_fit(x.ravel(), fit_entries(x.ravel()))
        p = len(values) * min(values)
        hits += p < 0.01
        smallest = min(smallest, p)
    assert hits <= 10
    assert smallest > 1e-7


def test_edge_of_the_spectrum_has_its_stated_chance():
    source = np.random.default_rng(0)
    values = []
    for _ in range(600):
        z = source.standard_normal((40, 60))
        values.append(edge_p_value(float(np.linalg.eigvalsh(z @ z.T)[-1]), 40, 60))
    hits = sum(p < 0.05 for p in values)
    assert 12 <= hits <= 48  # 30 expected, standard deviation 5.3; the tail formula is good to a fifth here
    shifted = [edge_p_value(1.2 * (math.sqrt(40) + math.sqrt(60)) ** 2, 40, 60)]
    assert shifted[0] < 1e-4


def test_small_tensors_raise_no_alarm():
    biases = [torch.empty(8).uniform_(-0.1, 0.1, generator=generator(i)) for i in range(500)]
    laws = [read_law(b, fan_in=1) for b in biases]
    assert not any(law.trained for law in laws)
    assert all(law.random for law in laws)


@pytest.mark.parametrize("case", [c for c in LAWS if c[3]], ids=lambda c: c[0])
def test_a_draw_from_the_law_has_the_law(case):
    law = read_law(case[1](), fan_in=1)
    again = draw_law(law, case[1](), generator=generator(9))
    redone = read_law(again, fan_in=1)
    assert redone.kind == law.kind
    assert again.dtype == case[1]().dtype
    assert redone.second_moment == pytest.approx(law.second_moment, rel=5 * math.sqrt(4 / again.numel()))
    assert not torch.equal(again, case[1]())


def test_fan_in_counts_the_summed_inputs():
    ones = torch.ones(1, 12, 9, 9)
    for groups in (1, 3, 12):
        conv = nn.Conv2d(12, 24, (3, 2), groups=groups, bias=False)
        back = nn.ConvTranspose2d(12, 24, (3, 2), groups=groups, bias=False)
        for layer, op in ((conv, "conv"), (back, "conv_transpose")):
            nn.init.ones_(layer.weight)
            centre = layer(ones)[0, 0, 4, 4]
            assert fan_in(layer.weight.shape, op=op, groups=groups) == round(centre.item())
    assert fan_in((7, 5), op="linear") == 5
    assert fan_in((7, 5), op="linear", transposed=True) == 7
    assert fan_in((100, 8), op="embedding") == 1
    assert fan_in((8,), op="bias") == 1


def test_fan_in_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"got the operator 'lstm': give linear, conv"):
        fan_in((3, 4), op="lstm")
    with pytest.raises(ValueError, match=r"weight of linear has shape \(3,\): at least two axes"):
        fan_in((3,), op="linear")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(30, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.emb.weight


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_names_are_found_by_identity(device):
    with torch.device(device):
        ties = tied_parameters(Tied())
    assert ties["head.weight"] == "emb.weight"
    assert [n for n, first in ties.items() if n != first] == ["head.weight"]


def test_stated_law_replaces_the_strength():
    law = read_law(orthogonal(16, 32), fan_in=32, name="w")
    new = stated_law(law, C_W=2.0)
    assert (new.kind, new.C_W, new.second_moment, new.stated) == ("orthogonal", 2.0, 2 / 32, True)
    bias = stated_law(read_law(torch.zeros(5), fan_in=1), C_W=0.3)
    assert (bias.kind, bias.std, bias.random) == ("gaussian", math.sqrt(0.3), True)
    assert stated_law(law) is law
    assert stated_law(law, C_W=0.0).kind == "constant"
    with pytest.raises(ValueError, match=r"C_b\) = -1.0 for 'w': give a finite number"):
        stated_law(law, C_W=-1.0)


def test_bad_tensors_are_named():
    with pytest.raises(ValueError, match=r"parameter 'a.b' holds NaN or infinite entries"):
        read_law(torch.tensor([1.0, math.nan]), fan_in=1, name="a.b")
    with pytest.raises(ValueError, match="on the meta device"):
        read_law(torch.empty(3, device="meta"), fan_in=1)
    with pytest.raises(ValueError, match="is complex"):
        read_law(torch.zeros(3, dtype=torch.complex64), fan_in=1)


def test_reading_draws_nothing_and_is_repeatable():
    state = torch.get_rng_state()
    big = gaussian(400, 400)
    assert read_law(big, fan_in=400) == read_law(big, fan_in=400)
    assert isinstance(read_law(big, fan_in=400), Law)
    assert torch.equal(state, torch.get_rng_state())
