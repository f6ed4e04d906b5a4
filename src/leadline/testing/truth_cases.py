"""The networks on which predictions must be true: each operator at least once, each with what must be rejected."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from leadline.testing.cases import Case, Control, Laws, images, two_inputs
from leadline.testing.init import gaussian_, stated
from leadline.testing.networks import PostNormMLP, PreNormMLP, ReluAfterAdd, SwiGLU, TiedHead, WrittenRMSNorm, mlp
from leadline.testing.networks_attention import Transformer
from leadline.testing.networks_conv import ConcatNet, cnn, separable

__all__ = ["TRUTH"]

WIDTH, FEATURES, OUT = 256, 64, 128
_OFF = Control("C_W 5 % too large", C_W=1.05)


def _case(
    id: str,
    make: Callable[[], nn.Module],
    batch: Callable[[], Any],
    C_W: float,
    C_b: float = 0.0,
    *,
    seed: int = 0,
    wrong: dict[str, Callable[[], nn.Module]] | None = None,
    train: bool = False,
    quick: bool = True,
) -> Case:
    """A case whose dense and convolutional layers are drawn with a stated law, which the prediction is told."""

    def build(of: Callable[[], nn.Module] = make) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return gaussian_(of(), C_W, C_b, seed=seed).train(train)

    controls = (_OFF, *(Control(what, build=partial(build, of)) for what, of in (wrong or {}).items()))
    return Case(
        id,
        build,
        batch,
        seed,
        law=lambda model, factor: stated(model, factor * C_W, C_b),
        controls=controls,
        quick=quick,
    )


# (activation, phase): C_W, C_b, mean square of the input. Critical values: the published half-stable and K* = 0 points.
_PHASES: dict[str, dict[str, tuple[float, float, float]]] = {
    "relu": {"critical": (2.0, 0.0, 1.0), "ordered": (1.2, 0.1, 1.0), "chaotic": (2.6, 0.1, 1.0)},
    "tanh": {"critical": (1.0, 0.0, 1.0), "ordered": (0.6, 0.2, 1.0), "chaotic": (2.5, 0.05, 1.0)},
    "gelu": {"critical": (1.98305826, 0.17292239, 1.7), "ordered": (1.2, 0.2, 1.0), "chaotic": (2.6, 0.1, 1.0)},
    "silu": {"critical": (1.98800468, 0.55514317, 6.9), "ordered": (1.2, 0.3, 1.0), "chaotic": (2.8, 0.2, 1.0)},
    "erf": {"critical": (math.pi / 4, 0.0, 1.0), "ordered": (0.4, 0.2, 1.0), "chaotic": (2.0, 0.05, 1.0)},
    "sin": {"critical": (1.0, 0.0, 1.0), "ordered": (0.6, 0.2, 1.0), "chaotic": (2.5, 0.1, 1.0)},
}

_MLPS = [
    _case(
        f"mlp-{act}-{phase}",
        partial(mlp, [FEATURES, *[WIDTH] * 8, OUT], act),
        partial(two_inputs, FEATURES, scale=square),
        C_W,
        C_b,
        seed=number,
        quick=phase == "critical",
    )
    for number, (act, phase, (C_W, C_b, square)) in enumerate(
        (a, p, v) for a, phases in _PHASES.items() for p, v in phases.items()
    )
]


def _flat(wide: int = FEATURES) -> Tensor:
    return two_inputs(wide)


def _batch_of(count: int) -> Callable[[], Tensor]:
    return partial(two_inputs, FEATURES, copies=count, correlation=0.3)


_pre = partial(PreNormMLP, FEATURES, WIDTH, 5, OUT)
_post = partial(PostNormMLP, FEATURES, WIDTH, 5, OUT)
_plain = [FEATURES, *[WIDTH] * 5, OUT]
_wide = [FEATURES, *[2 * WIDTH] * 3, OUT]

_DENSE = [
    _case(
        "pre-ln-residual",
        partial(_pre, last_norm=nn.LayerNorm),
        _flat,
        1.5,
        0.05,
        seed=31,
        wrong={"one norm left out": partial(_pre, norm=lambda n: nn.Identity(), last_norm=nn.LayerNorm)},
    ),
    _case(
        "post-ln-residual",
        _post,
        _flat,
        1.5,
        0.05,
        seed=32,
        wrong={"the norms left out": partial(_post, norm=lambda n: nn.Identity())},
    ),
    _case(
        "rms-norm-residual",
        partial(_pre, norm=nn.RMSNorm, act="silu"),
        _flat,
        1.5,
        0.1,
        seed=33,
        wrong={"the norms left out in the branches": partial(_pre, norm=lambda n: nn.Identity(), act="silu")},
    ),
    _case(
        "rms-norm-written-out",
        partial(mlp, _plain, "relu", norm=WrittenRMSNorm),
        _flat,
        1.5,
        0.1,
        seed=34,
        wrong={"the norms left out": partial(mlp, _plain, "relu")},
    ),
    _case(
        "batch-norm-8",
        partial(mlp, _plain, "relu", norm=nn.BatchNorm1d),
        _batch_of(8),
        1.5,
        seed=35,
        train=True,
        wrong={"the norms left out": partial(mlp, _plain, "relu")},
    ),
    _case(
        "batch-norm-48",
        partial(mlp, _wide, "tanh", norm=nn.BatchNorm1d),
        _batch_of(48),
        1.5,
        seed=36,
        train=True,
        wrong={"the norms left out": partial(mlp, _wide, "tanh")},
    ),
    _case(
        "swiglu",
        partial(SwiGLU, FEATURES, WIDTH, 1, OUT),
        _flat,
        1.5,
        0.05,
        seed=37,
        wrong={"a linear gate": partial(SwiGLU, FEATURES, WIDTH, 1, OUT, gate=False)},
    ),
    _case("relu-after-add", partial(ReluAfterAdd, FEATURES, WIDTH, 4, OUT), _flat, 0.7, seed=38),
    _case(
        "layer-scale",
        partial(_pre, scale=0.3, gain=True),
        _flat,
        1.5,
        0.05,
        seed=39,
        wrong={"the gain ignored": partial(_pre, scale=1.0, gain=True)},
    ),
    _case(
        "dropout",
        partial(mlp, _plain, "tanh", dropout=0.2),
        _flat,
        1.5,
        0.05,
        seed=40,
        train=True,
        wrong={"the dropout left out": partial(mlp, _plain, "tanh")},
    ),
]


def _weight_norm() -> nn.Module:
    # drawn before the norm is split off, so that the law is the one stated
    net = gaussian_(mlp(_plain, "relu"), 2.0, seed=41)
    for layer in net.children():
        if isinstance(layer, nn.Linear):
            nn.utils.parametrizations.weight_norm(layer)
    return net


def _default(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def _torch_law(model: nn.Module, factor: float) -> Laws:
    """What ``nn.Linear`` draws: uniform weights and biases, both of variance 1 / (3 fan-in)."""
    return {
        name: {"C_W": factor / 3, "C_b": 1 / (3 * layer.in_features)}
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }


def _ids(tokens: int, vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (2, tokens), generator=torch.Generator().manual_seed(5))


_TORCH_DEFAULT = [
    Case(
        "weight-norm",
        _weight_norm,
        _flat,
        41,
        controls=(Control("C_W 5 % too large", build=lambda: gaussian_(mlp(_plain, "relu"), 2.1, seed=41)),),
    ),
    Case(
        "mlp-torch-default",
        partial(_default, partial(mlp, _plain, "gelu"), 42),
        _flat,
        42,
        law=_torch_law,
        controls=(_OFF,),
    ),
    Case(
        "tied-head",
        partial(_default, partial(TiedHead, 300, WIDTH), 43),
        partial(_ids, 10, 300),
        43,
        controls=(
            Control(
                "C_W 5 % too large in two layers",
                build=lambda: gaussian_(_default(partial(TiedHead, 300, WIDTH), 43), 1.05 / 3 * 1.5, seed=43),
            ),
        ),
    ),
]

_PAD = {"padding": 1}
_three = ({**_PAD, "stride": 2}, _PAD, {**_PAD, "stride": 2})
_around = ({**_PAD, "padding_mode": "circular"}, {"padding": 2, "dilation": 2, "groups": 4}, _PAD)


def _ignored(layers: tuple[dict[str, Any], ...], which: int) -> tuple[dict[str, Any], ...]:
    """The same layers, one of which wraps around where it should see zeros."""
    return tuple({**o, "padding_mode": "circular"} if i == which else o for i, o in enumerate(layers))


_CONV = [
    _case(
        "cnn-strides-padding",
        partial(cnn, WIDTH, layers=_three, pixels=2),
        partial(images, 8),
        2.0,
        0.05,
        seed=51,
        wrong={"one padding ignored": partial(cnn, WIDTH, layers=_ignored(_three, 1), pixels=2)},
    ),
    _case(
        "cnn-circular-dilated-groups",
        partial(cnn, WIDTH, act="tanh", layers=_around, pool="global"),
        partial(images, 6),
        1.5,
        0.05,
        seed=52,
        wrong={"one padding ignored": partial(cnn, WIDTH, act="tanh", layers=_ignored(_around, 1), pool="global")},
    ),
    _case(
        "cnn-max-pool",
        partial(cnn, WIDTH, layers=(_PAD, _PAD), between="max", pool="global"),
        partial(images, 6),
        1.5,
        0.05,
        seed=53,
        wrong={"average for maximum": partial(cnn, WIDTH, layers=(_PAD, _PAD), between="avg", pool="global")},
    ),
    _case(
        "cnn-average-pool",
        partial(cnn, WIDTH, layers=(_PAD, _PAD), between="avg", pool="global"),
        partial(images, 6),
        2.0,
        0.05,
        seed=54,
        wrong={"maximum for average": partial(cnn, WIDTH, layers=(_PAD, _PAD), between="max", pool="global")},
    ),
    _case(
        "cnn-group-norm",
        partial(cnn, WIDTH, layers=(_PAD, _PAD), norm="group", pool="global"),
        partial(images, 6),
        1.5,
        0.05,
        seed=55,
        wrong={"the norms left out": partial(cnn, WIDTH, layers=(_PAD, _PAD), pool="global")},
    ),
    _case(
        "separable",
        partial(separable, WIDTH, 2),
        partial(images, 6),
        1.7,
        0.05,
        seed=56,
        wrong={"the paddings ignored": partial(separable, WIDTH, 2, padding_mode="circular")},
    ),
    _case(
        "concat-transposed",
        partial(ConcatNet, WIDTH),
        partial(images, 6),
        1.7,
        0.05,
        seed=57,
        wrong={"the skip left out": partial(ConcatNet, WIDTH, skip=False)},
    ),
]

_former = partial(Transformer, 300, WIDTH, 4, 8, 12)
_post_former = partial(Transformer, 300, 2 * WIDTH, 2, 16, 12)

_ATTENTION = [
    _case(
        "transformer-pre-ln",
        _former,
        partial(_ids, 12, 300),
        1.0,
        0.02,
        seed=61,
        wrong={
            "one norm left out": partial(_former, norm=lambda n: nn.Identity()),
            "the mask left out": partial(_former, causal=False),
            "the positions left out": partial(_former, positions=False),
        },
    ),
    _case(
        "transformer-post-ln",
        partial(_post_former, place="post"),
        partial(_ids, 12, 300),
        1.0,
        0.02,
        seed=62,
        quick=False,
        wrong={"the mask left out": partial(_post_former, place="post", causal=False)},
    ),
    _case(
        "transformer-rms-norm-no-mask",
        partial(_former, norm=nn.RMSNorm, causal=False),
        partial(_ids, 12, 300),
        1.5,
        0.0,
        seed=63,
        quick=False,
        wrong={"the scale of the logits left out": partial(_former, norm=nn.RMSNorm, causal=False, scale=1.0)},
    ),
]

TRUTH: list[Case] = [*_MLPS, *_DENSE, *_TORCH_DEFAULT, *_CONV, *_ATTENTION]
