"""Each rule fires on evidence made for it, names the layer where the trouble starts, and is silent on a control."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import leadline.check  # noqa: F401 (registers the rules)
from check.evidence import chain, law, nonlinear, sides, stream
from leadline.check import RULES, Evidence, InputFacts, LossFacts, Pair, Point, Verdict, judge
from leadline.program.laws import TrainedVerdict

HEALTHY = chain([1.0] * 8)


def attention(distances: list[float]) -> Evidence:
    """Attentions in a row after which tokens have these distances 1 - c."""
    points = [
        Point(f"s{i}", f"attn{i}", "scaled_dot_product_attention", sides(kernel=1.0, site_correlation=1 - d),
              inputs=(f"s{i - 1}",) if i else ())
        for i, d in enumerate(distances)
    ]  # fmt: skip
    return Evidence(points=tuple(points))


def embedded(kernel: float, branch: float = 1.0, blocks: int = 6) -> Evidence:
    """A pre-LN stream behind an embedding of this kernel."""
    found = stream(blocks, branch, start=kernel)
    norm = Point("n", "h.0.ln", "layer_norm", sides(kernel=1.0), inputs=("emb",), spine=False, eps=1e-5)
    return replace(found, points=(found.points[0], norm, *found.points[1:]))


TRAINED = TrainedVerdict(
    True, ("fc3.weight",), 8, 1e-30, "1 of 8 tensors is explained by no init law, first 'fc3.weight'"
)
# name of the rule, evidence that it fires on, severity, layer, evidence that it is silent on
# fmt: off
CASES = [
    ("vanishing-signal", chain([1, 1, 1, *(0.01**i for i in range(1, 9))]), "error", "fc3",
     chain([1, 1, 0.5, 0.25, 0.1, 0.05])),
    ("exploding-signal", chain([1, 1, 1, *(100.0**i for i in range(1, 6))]), "error", "fc3", chain([1, 2, 4, 8, 16])),
    ("exploding-signal", chain([1, 1, math.inf, math.inf]), "error", "fc2", HEALTHY),
    ("vanishing-gradient", chain([1.0] * 9, responses=[1e-12, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1, 1]), "error",
     "fc2",
     chain([1.0] * 9, responses=[1e-2] * 4 + [1.0] * 5)),
    ("exploding-gradient", chain([1.0] * 9, responses=[1e8, 1e8, 1e7, 1e6, 1e4, 1e2, 1e1, 1, 1]), "error", "fc2",
     chain([1.0] * 9, responses=[2e5] + [1.0] * 8)),
    ("rank-collapse", chain([1.0] * 9, [0, 0, 0.9, 0.99, 0.9999, 0.999999, 1 - 1e-8, 1 - 1e-9, 1 - 1e-9]), "error",
     "fc2",
     chain([1.0] * 5, [0, 0.3, 0.5, 0.8, 0.99])),
    ("rank-collapse", chain([1.0] * 9, [0, 0, 0, 0, 0.99, 0.9999, 0.999999, 1 - 1e-9, 1 - 1e-9]), "error", "fc4",
     chain([1.0] * 9, [0, 0, 0, 0, 0.99, 0.9999, 1 - 1e-9, 0.0, 0.0])),  # restored
    ("chaos", chain([1.0] * 12, chi_perp=[1, 1, *[8.0] * 10]), "error", "fc2", chain([1.0] * 12, chi_perp=[1.1] * 12)),
    ("chaos", chain([1.0] * 12, chi_perp=[1, 1, 1, 1, *[8.0] * 8]), "error", "fc4",
     chain([4.0**i for i in range(12)], chi_perp=[4.0] * 12)),  # a homogeneous network that only grows
    ("too-deep-for-width", chain([1.0] * 5, spreads=[0, 0.3, 0.9, 3.0, 9.0]), "error", "fc2",
     chain([1.0] * 5, spreads=[0.0, 0.1, 0.2, 0.3, 0.4])),
    ("too-deep-for-width", chain([1.0] * 5, spreads=[0, 0.3, 0.4, 0.8, 1.0]), "warning", "fc3", HEALTHY),
    ("dead-units", nonlinear("one-sided", 0.99, dead=0.95), "error", "act", nonlinear("one-sided", 0.5, dead=0.1)),
    ("saturation", nonlinear("bounded", 0.9), "error", "act", nonlinear("bounded", 0.1)),
    ("saturation", nonlinear("bounded", 0.6), "warning", "act", nonlinear("one-sided", 0.9)),
    ("residual-growth", replace(stream(12, 0.1), residual_scale=24**-0.5), "error", "h.0.proj",
     replace(stream(12, 0.1, stds=0.02 * 24**-0.5), residual_scale=24**-0.5)),
    ("attention-collapse", attention([0.5, 0.5, 1e-2, 1e-5, 1e-9]), "error", "attn2", attention([0.5, 0.3, 0.2, 0.1])),
    ("norm-placement", stream(48, 1.0, post_norm=True), "error", "h.0.norm", stream(48, 1.0)),
    ("norm-placement", stream(18, 1.0, post_norm=True), "warning", "h.0.norm", stream(24, 0.1, post_norm=True)),
    ("input-scale", replace(HEALTHY, inputs=(InputFacts("x", 20.0, 1.0, 20.02, 0.9975),)), "error", "fc0",
     replace(HEALTHY, inputs=(InputFacts("x", 0.5, 0.3, 0.58, 0.7),))),
    ("input-scale", replace(HEALTHY, inputs=(InputFacts("x", 0.0, 100.0, 100.0, 0.0),)), "warning", "fc0", HEALTHY),
    ("embedding-scale", embedded(1e4), "error", "emb", embedded(1.0)),
    ("embedding-scale", embedded(1e-8), "error", "emb", embedded(4e-4)),
    ("output-scale", replace(HEALTHY, loss=LossFacts("cross_entropy", 50.0, 2.3)), "error", "fc7",
     replace(HEALTHY, loss=LossFacts("cross_entropy", 2.6, 2.3))),
    ("output-scale", replace(chain([400.0] * 4), classifier=True), "warning", "fc3", chain([400.0] * 4)),
    ("half-precision", replace(chain([1.0, 1e10, 1.0], responses=[1, 1e10, 1]), half="float16"), "error", "fc1",
     replace(HEALTHY, half="float16")),
    ("half-precision", chain([1.0, 1e10, 1.0], responses=[1, 1e10, 1]), "note", "fc1", HEALTHY),
    ("unused-parameters", replace(HEALTHY, unused=("pooler.weight",)), "note", "pooler", HEALTHY),
    ("tied-parameters", replace(HEALTHY, tied={"head.weight": "emb.weight"}), "note", "head", HEALTHY),
    ("trained-weights", replace(HEALTHY, trained=TRAINED), "note", "fc3", HEALTHY),
    ("untouched-norm", replace(HEALTHY, untouched=("bn1",)), "note", "bn1", HEALTHY),
]
# fmt: on
IDS = [f"{c[0]}-{i}" for i, c in enumerate(CASES)]


@pytest.mark.parametrize(("name", "bad", "severity", "layer", "good"), CASES, ids=IDS)
def test_a_rule_fires_where_it_should_and_only_there(
    name: str, bad: Evidence, severity: str, layer: str, good: Evidence
) -> None:
    fired = RULES[name].judge(bad)
    assert [(v.severity, v.layer) for v in fired] == [(severity, layer)]
    assert RULES[name].judge(good) == []


def test_every_rule_has_a_case() -> None:
    assert {c[0] for c in CASES} == set(RULES)


@pytest.mark.parametrize(("name", "bad"), [(c[0], c[1]) for c in CASES], ids=IDS)
def test_messages_are_one_sentence_with_the_layer_and_a_remedy(name: str, bad: Evidence) -> None:
    (v,) = RULES[name].judge(bad)
    for text in (v.message, v.remedy):
        assert text.endswith(".")
        assert ". " not in text
        assert text.isprintable()
    assert v.layer is not None
    assert v.layer in v.message.replace("`", "")
    assert v.source


def test_a_healthy_chain_has_no_verdict() -> None:
    assert judge(HEALTHY) == []


def test_a_healthy_stream_has_no_verdict() -> None:
    assert judge(stream(12, 0.05)) == []


def test_errors_come_first_and_then_depth() -> None:
    bad = chain([1.0] * 9, spreads=[0.8] * 9, responses=[1e-12, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1, 1])
    found = judge(replace(bad, tied={"a.w": "b.w"}))
    order = [v.severity for v in found]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert set(order) == {"error", "warning", "note"}


def test_a_contradicted_prediction_gives_way_to_the_measurement() -> None:
    point = Point("s", "fc", "linear", {"kernel": Pair(1.0, 100.0, 1.0), "spread": Pair(0.1, 0.2, 0.1)})
    evidence = Evidence((point,))
    assert evidence.value(point, "kernel") == 100.0
    assert evidence.value(point, "spread") == 0.1  # within its error
    assert evidence.value(point, "chi_perp") is None


def test_a_trained_network_is_judged_by_its_measurement() -> None:
    point = Point("s", "fc", "linear", {"kernel": Pair(1.0, 1.1, 0.0)})
    assert Evidence((point,), trained=TRAINED).value(point, "kernel") == 1.1
    assert Evidence((point,)).value(point, "kernel") == 1.0


def test_sizes_are_notes_while_batch_norms_have_seen_no_data() -> None:
    bad = chain([1, 1, 1, *(100.0**i for i in range(1, 6))])
    assert judge(bad)[0].severity == "error"
    assert {v.severity for v in judge(replace(bad, untouched=("bn",)))} == {"note"}


def test_inputs_that_a_norm_centres_are_no_trouble() -> None:
    shifted = (InputFacts("x", 20.0, 1.0, 20.02, 0.9975),)
    norm = Point("n", "bn", "batch_norm", sides(kernel=1.0, correlation=0.0))
    assert RULES["input-scale"].judge(replace(HEALTHY, inputs=shifted, points=(norm, *HEALTHY.points))) == []


def test_the_remedy_of_a_gain_gives_the_weights_that_undo_it() -> None:
    (v,) = RULES["vanishing-signal"].judge(chain([0.5**i for i in range(1, 45)]))
    assert isinstance(v, Verdict)
    assert "C_W = 1.0 to about 2.0" in v.remedy
    assert law(2.0).std == pytest.approx(0.1414, abs=1e-4)
    assert "0.14" in v.remedy


def test_the_spread_is_summed_where_none_is_predicted() -> None:
    deep = chain([1.0] * 60, width=16)
    relu = [replace(p, op="pointwise", shape="one-sided") if i % 2 else p for i, p in enumerate(deep.points)]
    (v,) = RULES["too-deep-for-width"].judge(replace(deep, points=tuple(relu)))
    assert v.value == pytest.approx(5 * 29 / 16)


def test_the_few_units_of_an_output_are_not_depth() -> None:
    """A nonlinearity or a factor after the last layer samples as many units as there are outputs, whatever the depth."""
    net = chain([1.0] * 3, spreads=[0, 0.02, 0.04])
    head = Point("head", "head", "pointwise", sides(kernel=0.5, spread=2.6), inputs=("s2",), width=2, shape="one-sided")
    scaled = Point("mul", "", "mul", sides(kernel=1e48, spread=math.inf), inputs=("head",), width=2)
    assert RULES["too-deep-for-width"].judge(replace(net, points=(*net.points, head, scaled))) == []
    hidden = Point("s3", "fc3", "linear", sides(kernel=1.0, spread=2.6), inputs=("mul",), width=10, weight=law())
    (v,) = RULES["too-deep-for-width"].judge(replace(net, points=(*net.points, head, hidden)))
    assert v.value == pytest.approx(math.log1p(2.6))
