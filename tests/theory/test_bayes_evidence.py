"""The evidence table: numbers that are those of the posterior, maxima that are maxima, and a depth that is found."""

from __future__ import annotations

import json
import math

import pytest
import torch
from rich.console import Console

from leadline.theory.bayes import gp_posterior, model_evidence, network_posterior
from leadline.theory.flow import Layers, kernel_matrices

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = 0.01


def drawn(depth: int, outputs: int, seed: int = 1) -> torch.Tensor:
    """Targets from the prior of a ReLU network."""
    K = kernel_matrices(Layers.of("relu", depth=depth, C_W=2.0, C_b=0.05), X)[-1]
    root = torch.linalg.cholesky(K + NOISE * torch.eye(24))
    return root @ torch.randn(24, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_are_the_evidence_of_each_network() -> None:
    Y = drawn(3, 2)
    table = model_evidence("relu", X, Y, depths=[1, 3], C_W=[1.0, 2.0], C_b=0.05, noise=NOISE)
    assert [(r.depth, r.C_W) for r in table.rows] == [(1, 1.0), (1, 2.0), (3, 1.0), (3, 2.0)]
    for row in table.rows:
        K = kernel_matrices(Layers.of("relu", depth=row.depth, C_W=row.C_W, C_b=row.C_b), X)[-1]
        assert row.log_evidence == pytest.approx(float(gp_posterior(K, Y, NOISE).log_evidence), rel=1e-12)
    assert float(table.probabilities.sum()) == pytest.approx(1)
    assert table.ranked[0][0].log_evidence == max(r.log_evidence for r in table.rows)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_data_drawn_from_a_depth_prefer_it(depth: int) -> None:
    """With many outputs (so much data) the true depth has the highest evidence, by far."""
    table = model_evidence("relu", X, drawn(depth, 200), depths=range(1, 7), C_W=2.0, C_b=0.05, noise=NOISE)
    assert table.best[0].depth == depth
    assert float(table.probabilities[0]) > 0.99


def test_free_variances_are_maximised_and_found_again() -> None:
    Y = drawn(2, 200)
    table = model_evidence("relu", X, Y, depths=[2], noise=NOISE)
    (row,) = table.rows
    assert abs(row.C_W - 2.0) < 0.2
    assert abs(row.C_b - 0.05) < 0.01
    for w, b in ((1.02, 1), (1 / 1.02, 1), (1, 1.05), (1, 1 / 1.05)):
        near = model_evidence("relu", X, Y, depths=[2], noise=NOISE, C_W=row.C_W * w, C_b=row.C_b * b)
        assert near.rows[0].log_evidence < row.log_evidence + 2e-3
    only = model_evidence("relu", X, Y, depths=[2], noise=NOISE, C_W=[1.5, 2.0], C_b=None)
    assert [r.C_W for r in only.rows] == [1.5, 2.0]
    assert all(r.log_evidence <= row.log_evidence + 2e-3 for r in only.rows)


def test_finite_widths_add_their_correction_and_say_where_it_is_not_to_be_trusted() -> None:
    Y = 3 * drawn(3, 1)[:4]
    table = model_evidence("tanh", X[:4], Y, depths=[1, 3], C_W=1.5, C_b=0.1, noise=NOISE, widths=[2, 512])
    posterior = network_posterior(Layers.of("tanh", widths=[3, 9, 9, 1], C_W=1.5, C_b=0.1), X[:4], Y, NOISE)
    one, three = table.rows
    assert three.at(512) == pytest.approx(float(posterior.log_evidence_at(512)), rel=1e-9)
    assert one.correction == 0  # one layer has no hidden units
    assert abs(three.correction) > 2
    assert not three.trusted(2)
    assert (three, 2.0) not in table.ranked
    assert (three, 512.0) in table.ranked
    with pytest.raises(ValueError, match="ask model_evidence for widths"):
        model_evidence("tanh", X[:4], Y, depths=[1], C_W=1.5, C_b=0.1, noise=NOISE).rows[0].at(100)


def test_table_prints_plots_and_serialises() -> None:
    table = model_evidence(
        "relu", X[:4], drawn(2, 1)[:4], depths=[1, 2], C_W=2.0, C_b=[0.05, 0.5], noise=NOISE, widths=[1]
    )
    console = Console(width=100, record=True)
    console.print(table)
    text = console.export_text()
    assert text.count("*") == 2  # the best and its note
    assert "n = 1" in text
    found = json.loads(json.dumps(table.to_dict()))
    assert found["rows"][0]["log_evidence"]["inf"] == table.rows[0].at(math.inf)
    ax = table.plot().axes[0]
    labels = ax.get_legend_handles_labels()[1]
    assert "C_W = 2.00, C_b = 0.0500" in labels
    assert "most probable" in labels
    free = model_evidence("relu", X[:4], drawn(2, 1)[:4], depths=[1, 2], C_W=2.0, noise=NOISE)
    assert "C_W = 2.00, best C_b" in free.plot().axes[0].get_legend_handles_labels()[1]


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="got depths"):
        model_evidence("relu", X, X[:, 0], depths=[0], noise=NOISE)
    with pytest.raises(ValueError, match="got 24 data and widths"):
        model_evidence("relu", X, X[:, 0], depths=[1], noise=NOISE, widths=[10])
