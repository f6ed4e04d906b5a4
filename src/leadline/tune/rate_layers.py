"""One learning rate a layer, so that each layer's curvature takes the same share of stability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.measure.curvature import Objective
from leadline.measure.curvature.top import curvature_of
from leadline.tune.rate_rules import UpdateRule
from leadline.tune.rate_run import Factory, make_optimizer

__all__ = ["LayerRate", "grouped", "layer_rates"]

_LEAST = 1e-3  # a layer's curvature, as a share of the largest, below which its rate is capped


@dataclass(frozen=True)
class LayerRate:
    """A layer's share: its parameters' names, its own largest curvature, its rate relative to the mean of all."""

    layer: str
    parameters: tuple[str, ...]
    curvature: float
    relative: float


def layer_rates(objective: Objective, *, tolerance: float = 0.1, products: int = 8) -> list[LayerRate]:
    r"""Relative learning rates of the layers from the curvature of each on its own.

    .. math:: \eta_l \propto 1/\lambda_l, \qquad \lambda_l = \lambda_{\max}(\text{block } l \text{ of the Gauss-Newton matrix})

    The measured form of the principle that every layer shall contribute alike. Scaled so that their geometric mean is
    one; the rate of the whole is found afterwards, with these in place.

    Args:
        objective: the loss.
        tolerance: on each residual.
        products: the most matrix-vector products a layer.

    Returns:
        One entry a layer, in the order of the module.

    Source: the principle: Roberts, Yaida & Hanin (2022), The Principles of Deep Learning Theory, section 9.4; layer-wise
    smoothness: You et al. (2019), Large batch optimization for deep learning.
    """
    layers: dict[str, list[str]] = {}
    for name in objective.names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    product, found = None, []
    for names in layers.values():
        block = objective.flatten([torch.full_like(w, float(n in names)) for n, w in objective.weights.items()])
        curvature, product = curvature_of(
            objective, kind="ggn", tolerance=tolerance, products=products, scale=block, product=product
        )
        found.append(max(curvature.value, 0.0))
    least = _LEAST * max(found)
    bent = torch.tensor([max(f, least) for f in found], dtype=torch.float64)
    relative = (bent.log().mean() - bent.log()).exp() if float(bent.min()) > 0 else torch.ones_like(bent)
    return [
        LayerRate(layer, tuple(names), value, float(r))
        for (layer, names), value, r in zip(layers.items(), found, relative, strict=True)
    ]


def grouped(rule: UpdateRule, objective: Objective, relative: Mapping[str, float]) -> Factory:
    """An optimizer with a rate a weight.

    Args:
        rule: the optimizer.
        objective: whose weights it will be given, in their order.
        relative: factor on the rate, by name.

    Returns:
        A function of (weights, rate).
    """

    def make(weights: Iterable[Tensor], rate: float) -> torch.optim.Optimizer:
        stepper = make_optimizer(rule, weights, rate)
        (whole,) = stepper.param_groups
        listed = list(whole["params"])
        stepper.param_groups.clear()
        for name, weight in zip(objective.names, listed, strict=True):
            stepper.add_param_group({**whole, "params": [weight], "lr": rate * relative[name]})
        return stepper

    return make
