"""Coefficients of 1/n of the tangent kernel against ensembles of real networks, and what happens if a term is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from leadline.measure.tangent_ensemble import tangent_ensemble
from leadline.theory.flow import Layers
from leadline.theory.tangent import TangentFlow, one, tangent_flow, tangent_tensors
from leadline.theory.tangent.link import Link, links
from theory.tangent_networks import estimate

LAW = {
    "C_b": (0.1, 0.2, 0.05, 0.1),
    "C_W": (1.2, 1.4, 1.1, 1.3),
    "lambda_b": (0.5, 0.8, 0.3, 0.6),
    "lambda_W": (1.0, 0.7, 1.2, 0.9),
}
X = torch.tensor([[0.7, -0.4, 1.1, 0.9], [-0.3, 0.8, 0.6, -0.5]], dtype=torch.float64)
SIGMAS = 4.0


def law(name: str, *widths: int) -> Layers:
    return Layers.of(name, widths=widths, **{k: v[: len(widths) - 1] for k, v in LAW.items()})


def extrapolated(narrow: tuple[Any, Any], wide: tuple[Any, Any]) -> tuple[Any, Any]:
    """2 mc(2n) - mc(n), which removes the next order in 1/n, and its standard error."""
    return 2 * wide[0] - narrow[0], (4 * wide[1] ** 2 + narrow[1] ** 2) ** 0.5


def drawn_fluctuations(name: str, n: int, networks: int) -> dict[str, tuple[float, float]]:
    layers = law(name, 4, n, 3 * n // 2, n, 8)
    found = tangent_ensemble(name, layers.widths, 0.6675, networks, n, **LAW)
    return {k: (v[-1].value, v[-1].error) for k, v in found.values.items()}


def without(change: Callable[[Link], Link], monkeypatch: pytest.MonkeyPatch, layers: Layers) -> TangentFlow:
    """The recursions with a term taken out."""
    with monkeypatch.context() as patched:
        patched.setattr(one, "links", lambda *a, **k: [change(link) for link in links(*a, **k)])
        return tangent_flow(layers, 0.6675)


def no_curvature(link: Link) -> Link:
    return dataclasses.replace(link, m=dataclasses.replace(link.m, d1=0 * link.m.d1))


def no_past(link: Link) -> Link:
    return dataclasses.replace(link, r=0.0)


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_fluctuations_of_one_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = 12_000 if name == "gelu" else 6_000
    narrow, wide = (drawn_fluctuations(name, n, networks) for n in (16, 32))
    layers = law(name, 4, 16, 24, 16, 8)
    right = tangent_flow(layers, 0.6675)
    forgetful = without(no_past, monkeypatch, layers)
    flat = without(no_curvature, monkeypatch, layers)
    for field in ("A", "B", "D", "F"):
        value, error = extrapolated(narrow[field], wide[field])
        assert abs(value - float(getattr(right, field)[-1])) < SIGMAS * error, field
        assert abs(value - float(getattr(forgetful, field)[-1])) > SIGMAS * error, field
        if (name, field) == ("gelu", "A"):
            assert abs(value - float(getattr(flat, field)[-1])) > SIGMAS * error, field


def worst(found: tuple[Tensor, Tensor], wanted: Tensor) -> float:
    """Largest difference over entries, in standard errors."""
    return float(((found[0] - wanted) / found[1]).abs().max())


@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_one_hidden_layer_is_exact_at_any_width(name: str) -> None:
    # every tensor is exactly its coefficient over n, for two inputs in all their places
    layers = law(name, 4, 6, 2)
    found = estimate(layers, X, 2000, seed=1)
    wanted = tangent_tensors(layers, X @ X.T / 4).last
    for field in "ABDFPQRSTU":
        assert worst(found[field], getattr(wanted, field)) < SIGMAS, field
    assert worst(found["H"], wanted.Theta) < SIGMAS
    # controls: k P' left out of R, k B' out of S, 2 k Q' - k^2 F' out of T, k F' out of Q
    k = layers.lambda_W[-1] / layers.C_W[-1]
    assert worst(found["R"], wanted.R - k * wanted.P.permute(0, 3, 1, 2)) > SIGMAS
    assert worst(found["S"], wanted.S - k * wanted.B) > SIGMAS
    assert worst(found["T"], wanted.U) > SIGMAS
    assert worst(found["Q"], wanted.P) > SIGMAS
    # and indices in another order are other numbers
    assert worst(found["Q"], wanted.Q.permute(0, 2, 1, 3)) > SIGMAS
    assert worst(found["S"], wanted.S.permute(1, 0, 2, 3)) > SIGMAS


@pytest.mark.slow
@pytest.mark.parametrize(("name", "remembered"), [("gelu", "AQRST"), ("tanh", "ABPQRSTU")])
def test_two_inputs_through_three_layers(name: str, remembered: str) -> None:
    # a widening layer, so that what is carried over from the one before counts three times
    n = 10
    narrow, wide = (estimate(law(name, 4, w, 3 * w, 2), X, 4000, seed=w) for w in (n, 2 * n))
    wanted = tangent_tensors(law(name, 4, n, 3 * n, 2), X @ X.T / 4).last
    forgetful = tangent_tensors(law(name, 4, 10**12, 1, 2), X @ X.T / 4).last  # n_2/n_1 -> 0
    for field in "ABDFPQRSTU":
        value, error = extrapolated(narrow[field], wide[field])
        assert worst((value, error), getattr(wanted, field)) < SIGMAS, field
        if field in remembered:
            assert worst((value, error), getattr(forgetful, field)) > SIGMAS, field
    # control: without extrapolation the next order in 1/n is seen
    assert worst(wide["S"], wanted.S) > SIGMAS


@pytest.mark.slow
def test_mean_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gelu"
    layers = law(name, 4, 20, 30, 20, 8)
    found = []
    for n in (20, 40):
        wide = law(name, 4, n, 3 * n // 2, n, 8)
        theta = tangent_ensemble(name, wide.widths, 0.6675, 100_000, n, **LAW).values["Theta"][-1]
        right = tangent_flow(layers, 0.6675)
        found.append((n * (theta.value - float(right.Theta[-1])), n * theta.error))
    value, error = extrapolated(*found)
    assert abs(value - float(right.H1[-1])) < SIGMAS * error
    assert abs(value) > SIGMAS * error
    assert abs(value - float(without(no_curvature, monkeypatch, layers).H1[-1])) > SIGMAS * error
