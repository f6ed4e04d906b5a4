"""The figure shows what it is given: lines, points with errors, axes that fit, names as they stand."""

from __future__ import annotations

import builtins
import io
import sys
from typing import Any

import pytest

from leadline.plot import Panel, layer_profile

pytest.importorskip("matplotlib")
NAMES = [f"blocks.{i}" for i in range(6)]
FALLING = [10.0**-i for i in range(6)]
WIDE = Panel("kernel", "value²", FALLING, [1.1 * v for v in FALLING], [0.1 * v for v in FALLING])
NARROW = Panel("correlation", "1", [0.1, 0.2, None, 0.4, 0.5, 0.6], limits=(-0.05, 1.05), log=False)


def test_lines_are_predictions_and_points_measurements() -> None:
    figure = layer_profile(NAMES, [WIDE, NARROW], title="a net", marked=[2])
    kernel, correlation = figure.axes
    line, points = kernel.get_lines()[0], kernel.containers[0]
    assert list(line.get_ydata()) == WIDE.predicted
    assert list(points.lines[0].get_ydata()) == WIDE.measured
    assert list(correlation.get_lines()[0].get_xdata()) == [0, 1, 3, 4, 5]
    assert not correlation.containers
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["predicted", "measured ± one standard error", "trouble starts"]


def test_the_axis_is_logarithmic_where_numbers_span_much() -> None:
    figure = layer_profile(NAMES, [WIDE, NARROW])
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "linear"]
    assert layer_profile(NAMES, [Panel("k", "u", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]).axes[0].get_yscale() == "linear"


def test_zero_and_missing_numbers_are_not_drawn_on_a_logarithmic_axis() -> None:
    panel = Panel("k", "u", [1.0, 0.0, None, 1e-4, float("nan"), 1e-6])
    figure = layer_profile(NAMES, [panel])
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [0, 3, 5]


@pytest.mark.parametrize("count", [1, 2, 14, 15, 29, 200])
def test_names_are_thinned_and_the_last_is_there(count: int) -> None:
    figure = layer_profile([f"l{i}" for i in range(count)], [Panel("k", "u", [1.0] * count)])
    shown = [t.get_text() for t in figure.axes[-1].get_xticklabels()]
    assert len(shown) <= 16
    assert (shown[0], shown[-1]) == ("l0", f"l{count - 1}")


def test_names_are_no_formulas() -> None:
    figure = layer_profile(["$x_", "b"], [Panel("k", "u", [1.0, 2.0])], title="$\\frac")
    figure.savefig(io.BytesIO(), format="png")


def test_empty_and_uneven_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="no number to draw"):
        layer_profile(NAMES, [Panel("k", "u", [None] * 6)])
    with pytest.raises(ValueError, match="2 numbers for 6 layers"):
        layer_profile(NAMES, [Panel("k", "u", [1.0, 2.0])])


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "leadline\[plot\]"'):
        layer_profile(NAMES, [WIDE])
